"""Write every measured figure of the documents from ``docs/results``, and nothing else.

    python -m benchmarks.render            # README.md, docs/*.md, the model card
    python -m benchmarks.render --check    # exit code 1 where a document is not what would be written

docs/evidence.md is written whole. In the other documents a marked part begins with ``<!-- figures: NAME -->`` and ends
with ``<!-- end -->``; what stands between is replaced by the figures of that name (`PARTS`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cytoserve_files import write_text

from benchmarks import evidence_page, figures, limits_figures, long_figures, model_card
from benchmarks.results import ROOT

MARKED: Final = (
    "README.md",
    "docs/benchmarks.md",
    "docs/reliability.md",
    "docs/export.md",
    "docs/scale.md",
    "models/reference/MODEL_CARD.md",
)
EVIDENCE: Final = "docs/evidence.md"
PARTS: Final = {**figures.PARTS, **limits_figures.PARTS, **long_figures.PARTS, **model_card.PARTS}
MARK: Final = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return the text with every marked part written anew.

    Raises
    ------
    KeyError
        A mark names no part.
    """
    return MARK.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", text)


def documents() -> Iterator[tuple[Path, str]]:
    """Yield every document with the text that it should have."""
    yield ROOT / EVIDENCE, evidence_page.page(evidence_page.load())
    for name in MARKED:
        yield ROOT / name, filled((ROOT / name).read_text(encoding="utf-8"))


def stale() -> list[str]:
    """Return the documents that do not show the results."""
    return [
        path.relative_to(ROOT).as_posix()
        for path, text in documents()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def write_documents() -> None:
    """Write the documents that are out of date."""
    texts = dict(documents())
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            print(f"written: {path.relative_to(ROOT)}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a document is out of date")
    if not parser.parse_args().check:
        write_documents()
    elif found := stale():
        sys.exit(f"out of date: {', '.join(found)}; run `python -m benchmarks.render`")


if __name__ == "__main__":
    main()
