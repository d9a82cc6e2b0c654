"""What a file that is made for each field is called: its annotated picture, its GeoJSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from cytoserve_files import path_of
from cytoserve_files.pictures import is_overlay_file

_ENDING: Final = ".overlay.png"
_MOST_STEM_BYTES: Final = 200
"""A file name holds 255 bytes at most; the ending and a number must fit too."""


def overlay_names(sources: Iterable[str], folder: Path) -> list[str]:
    """Return one unused name in ``folder`` for the annotated picture of each source; see `names_of_fields`."""
    return names_of_fields(sources, folder, _ENDING, is_overlay_file)


def names_of_fields(sources: Iterable[str], folder: Path, ending: str, is_ours: Callable[[Path], bool]) -> list[str]:
    """Return one unused name in ``folder`` per source of the results.

    Files of different folders with the same name get a number. A file that this program wrote there (``is_ours``) may
    be written again under its name; any other file keeps its name.
    """
    names: list[str] = []
    used: set[str] = set()
    for source in sources:
        stem = os.fsdecode(os.fsencode(path_of(source).stem or "field")[:_MOST_STEM_BYTES])
        number = 1
        while True:
            name = f"{stem}{ending}" if number == 1 else f"{stem}-{number}{ending}"
            # Some file systems take names for equal that differ in case only.
            if name.casefold() not in used and not _taken(folder / name, is_ours):
                break
            number += 1
        used.add(name.casefold())
        names.append(name)
    return names


def _taken(path: Path, is_ours: Callable[[Path], bool]) -> bool:
    return os.path.lexists(path) and not (path.is_file() and is_ours(path))
