"""``python -m cytoserve_contract ROOT``: write every file that is generated from the contract.

With ``--check`` nothing is written: the files that are out of date are named and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cytoserve_contract import documents
from cytoserve_contract.models import MODELS
from cytoserve_contract.triton_config import config_text

DOCUMENTS: Final = ("docs/contract.md",)


def generated(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield every generated file below ``root`` with the text that it should have."""
    for model in MODELS.values():
        yield root / model.repository / model.name / "config.pbtxt", config_text(model)
    for name in DOCUMENTS:
        yield root / name, documents.filled((root / name).read_text(encoding="utf-8"))


def out_of_date(root: Path) -> list[tuple[Path, str]]:
    """Return the generated files that are missing or out of date, with their text."""
    return [
        (path, text) for path, text in generated(root) if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cytoserve_contract", description=__doc__)
    parser.add_argument("root", type=Path, help="the checkout")
    parser.add_argument("--check", action="store_true", help="write nothing, name what is out of date")
    chosen = parser.parse_args(arguments)
    stale = out_of_date(chosen.root)
    for path, text in stale:
        print(f"{path} {'is out of date' if chosen.check else 'written'}")
        if not chosen.check:
            path.write_text(text, encoding="utf-8")
    return int(chosen.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
