"""Files of the command line: which images are meant, and results that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cytoserve_client.images import SUFFIXES


def expand(paths: Iterable[Path]) -> list[Path]:
    """Return the images meant: files as given, folders as the image files directly in them, sorted by name.

    A path that does not exist stays in the list: it fails as one image, and the others get their answer.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(item for item in path.iterdir() if item.is_file() and item.suffix.lower() in SUFFIXES)
        else:
            found.append(path)
    return found


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file aside and rename it, so that a reader sees the old one or the whole new one, never a part.

    Raises
    ------
    OSError
        If the folder cannot be made or written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())  # mkstemp makes private files; a result has the usual rights
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def overlay_names(sources: Iterable[str]) -> list[str]:
    """Return one file name per source, told apart by a number where two files of different folders are named alike."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for source in sources:
        stem = Path(source).stem or "field"
        seen[stem] = seen.get(stem, 0) + 1
        names.append(f"{stem}.overlay.png" if seen[stem] == 1 else f"{stem}-{seen[stem]}.overlay.png")
    return names
