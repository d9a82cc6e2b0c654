"""The rooms of the house, from the package's own configuration, and what their files define and import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: tuple[str, ...] = tuple(CONFIGURATION["tool"]["setuptools"]["packages"]["find"]["where"])
"""Where the packages lie, one a room; ``benchmarks``, ``model_repository`` and ``tests/load`` are no packages."""

PACKAGES = tuple(sorted(path.parent.name for room in FOLDERS for path in (ROOT / room).glob("cytoserve_*/__init__.py")))


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Yield every Python file below the folders with its syntax tree."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def room_of(path: Path) -> str:
    """Return the package, or the folder, that a file belongs to."""
    parts = path.relative_to(ROOT).parts
    return next((part for part in parts if part.startswith("cytoserve_")), parts[0])
