"""Make docs/images/review_page.png, the README's picture of the review page: `make page-picture`.

Without an argument it shows the recorded demo; with the path of an analysis (``out/analysis.json`` of ``make demo``)
that one. Run it from the checkout, where ``examples/`` is.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import conftest
import page_samples
from cytoserve_files import write_bytes
from cytoserve_reports.page import StatedGuarantee, review_page
from cytoserve_reports.page.binding import read_analysis
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "review_page.png"
SIZE = {"width": 1200, "height": 1500}
COLOURS = 200
"""Of the palette: enough for stained cells, and under 200 kB."""


def guarantee_of_the_demo() -> StatedGuarantee | None:
    """Return the guarantee that the demo's site states."""
    return StatedGuarantee.of(json.loads((ROOT / "examples" / "sites" / "demo.json").read_text())["promise"])


def photograph(page: str) -> bytes:
    """Return the beginning of a page as a PNG file."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "film.html"
        path.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=conftest.QUIET)
        tab = browser.new_page(viewport=SIZE)
        tab.goto(path.as_uri())
        tab.fill("#reviewer", "AB")
        tab.click("#agree")
        tab.evaluate("window.scrollTo(0, 0)")  # familiar, synthetic and for research use must be seen
        shot = tab.screenshot()
        browser.close()
    buffer = io.BytesIO()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Write the picture."""
    report, digest = read_analysis(Path(sys.argv[1])) if len(sys.argv) > 1 else page_samples.recorded()
    page = review_page(report, page_samples.settings(guarantee=guarantee_of_the_demo()), digest)
    data = photograph(page.html)
    write_bytes(PICTURE, data)
    print(f"{PICTURE.relative_to(ROOT)}: {len(data) // 1000} kB")


if __name__ == "__main__":
    main()
