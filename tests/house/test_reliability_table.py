"""Every test that docs/reliability.md names is there: a row whose test is gone proves nothing."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(test_\w+\.py)?(?:::(\w+))?`")


def test_every_named_test_exists() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    rows = [
        line for line in (ROOT / "docs/reliability.md").read_text(encoding="utf-8").splitlines() if "| met: " in line
    ]
    assert len(rows) > 30
    lacking = []
    for row in rows:
        file, named = "", 0
        for found in NAMED.finditer(row.split("| met: ")[1]):
            file = found[1] or file
            named += 1
            there = file in sources and (found[2] is None or re.search(rf"(def|class) {found[2]}\b", sources[file]))
            if not there:
                lacking.append(f"{file}::{found[2]}")
        assert named or "`benchmarks." in row, row
    assert lacking == []
