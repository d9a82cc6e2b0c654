"""Write the measured tables into docs/export.md from docs/results: ``python -m benchmarks.export_tables``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from cytoserve_files import write_text

from . import export_precision, export_shortcut

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "docs" / "results"


def full_table(found: dict[str, Any]) -> str:
    """Return the table of the full-size export."""
    lines = ["| stage | wall, s | processor, s | peak memory so far, GiB |", "|---|---|---|---|"]
    for name, stage in found["stages"].items():
        if "wall_s" in stage:
            lines.append(f"| {name} | {stage['wall_s']} | {stage['cpu_s']} | {stage['peak_gib']} |")
    return "\n".join(lines)


TABLES: Final = {
    "shortcut": ("export_shortcut.json", export_shortcut.markdown),
    "precision": ("export_precision.json", export_precision.markdown),
    "full": ("export_full.json", full_table),
}


def fill(text: str) -> str:
    """Return the document with every table whose figures exist written anew between its marks."""
    for name, (file, table) in TABLES.items():
        path = RESULTS / file
        if not path.is_file():
            continue
        body = table(json.loads(path.read_text()))
        text = re.sub(
            rf"(<!-- table: {name} -->\n).*?(<!-- end -->)",
            lambda m, b=body: f"{m[1]}{b}\n{m[2]}",
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    document = ROOT / "docs" / "export.md"
    write_text(document, fill(document.read_text(encoding="utf-8")))
