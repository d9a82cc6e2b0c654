"""What the file of each annotated picture is called."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cytoserve_files import path_of
from cytoserve_files.pictures import is_overlay_file

_ENDING: Final = ".overlay.png"
_MOST_STEM_BYTES: Final = 200
"""A file name holds 255 bytes at most; the ending and a number must fit too."""


def overlay_names(sources: Iterable[str], folder: Path) -> list[str]:
    """Return one unused name in ``folder`` per source of the results.

    Files of different folders with the same name get a number. An annotated picture of this program may be drawn again
    under its name; any other file keeps its name.
    """
    names: list[str] = []
    used: set[str] = set()
    for source in sources:
        stem = os.fsdecode(os.fsencode(path_of(source).stem or "field")[:_MOST_STEM_BYTES])
        number = 1
        while True:
            name = f"{stem}{_ENDING}" if number == 1 else f"{stem}-{number}{_ENDING}"
            # Some file systems take names for equal that differ in case only.
            if name.casefold() not in used and not _taken(folder / name):
                break
            number += 1
        used.add(name.casefold())
        names.append(name)
    return names


def _taken(path: Path) -> bool:
    return os.path.lexists(path) and not (path.is_file() and is_overlay_file(path))
