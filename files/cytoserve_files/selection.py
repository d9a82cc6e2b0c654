"""Which files make a sample: one rule for every command that is given files and folders.

- A **file given** always counts: it is read, or it is a failure with its reason.
- Of a **folder** those files are read that lie directly in it and either have a usual image ending or begin as an
  image of an accepted format does, whatever their ending (``.jfif``, none). Every other entry is named in ``skipped``.
- **Equal contents** count once: the first in order stays, the others are named. Equal means byte for byte; the same
  picture saved again is another file.
- **Annotated pictures** that this program drew carry a mark; they are recognised under any name and never counted.

`UNREAD` holds the reasons that mean an image may be missing; the commands' exit code reports them.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from cytoserve_files.names import shown
from cytoserve_files.pictures import (
    HEAD_BYTES,
    OTHER_SUFFIXES,
    SUFFIXES,
    begins_as,
    begins_as_other,
    is_overlay,
)
from cytoserve_files.reading import open_regular

SYSTEM_NAMES: Final = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}
)
"""What operating systems leave in folders; names with a leading dot count as such too."""

SYSTEM_FILE: Final = "system_file"
DUPLICATE: Final = "duplicate"
OWN_OVERLAY: Final = "own_overlay"
FOLDER: Final = "folder"
NOT_AN_IMAGE: Final = "not_an_image"
NOT_A_FILE: Final = "not_a_file"
UNSUPPORTED: Final = "unsupported_format"
UNREADABLE: Final = "unreadable"
FOLDER_WITH_IMAGES: Final = "folder_with_images"
NOT_MONOLAYER: Final = "not_monolayer"
ENOUGH_CELLS: Final = "enough_cells"
INTERRUPTED: Final = "interrupted"
ENDED: Final = {ENOUGH_CELLS: "enough cells had been found", INTERRUPTED: "the work was interrupted"}
"""Why a film was not read to its end, in words."""
PARTS: Final = frozenset({NOT_MONOLAYER, *ENDED})
"""Reasons that speak of parts of a film rather than of a file that cannot be read."""
UNREAD: Final = frozenset({UNSUPPORTED, UNREADABLE, FOLDER_WITH_IMAGES})

_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Skipped:
    """A file that was not sent to the server."""

    source: str  # its path as `cytoserve_files.shown` writes it
    reason: str  # stable code: duplicate, own_overlay, unsupported_format, folder ... The list is open.
    message: str  # the reason as a sentence


Opener = Callable[[], BinaryIO]
"""Opens a content anew."""


@dataclass(frozen=True)
class Selection:
    """The files to read, in order, and those that are skipped."""

    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]

    @property
    def lost(self) -> bool:
        """Whether a file that looks like an image of the sample was not read."""
        return any_lost(self.skipped)


def any_lost(skipped: Iterable[Skipped]) -> bool:
    """Return whether a file that looks like an image is among those that were not read."""
    return any(item.reason in UNREAD for item in skipped)


def gather(paths: Iterable[Path]) -> Selection:
    """Return the images in files and folders, each content once.

    A path that does not exist stays in: it fails as one image, and the others get their answer.
    """
    files: list[Path] = []
    skipped: list[Skipped] = []
    for path in paths:
        if path.is_dir():
            found = list_folder(path)
            files += found.files
            skipped += found.skipped
        else:
            files.append(path)
    return _once(files, skipped)


def gather_tree(folder: Path) -> Selection:
    """Return the images in a folder and its folders, each content once."""
    files: list[Path] = []
    skipped: list[Skipped] = []
    for part in (folder, *_folders_below(folder)):
        found = list_folder(part)
        files += found.files
        skipped += [item for item in found.skipped if item.reason not in (FOLDER, FOLDER_WITH_IMAGES)]
    return _once(files, skipped)


def _once(files: Sequence[Path], skipped: Sequence[Skipped]) -> Selection:
    kept, repeated = sift([(shown(file), partial(open_regular, file)) for file in files])
    return Selection(tuple(files[i] for i in kept), (*skipped, *repeated))


def list_folder(folder: Path) -> Selection:
    """Return the images directly in a folder, sorted by name, and everything else in it as skipped."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        return Selection((), (_skip(folder, UNREADABLE, f"the folder cannot be read: {error.strerror}"),))
    files, skipped = [], []
    for entry in entries:
        reason = _why_not(entry)
        if reason is None:
            files.append(entry)
        else:
            skipped.append(reason)
    return Selection(tuple(files), tuple(skipped))


def sift(sources: Sequence[tuple[str, Opener | None]]) -> tuple[list[int], list[Skipped]]:
    """Return the indices of the sources that count, and the others: repeated contents and annotated pictures.

    A source is its name and its opener, None where there is nothing to compare. Only files of equal size are read for
    it; one that cannot be read stays in and fails as an image.
    """
    sizes = [None if opened is None else _size(opened) for _, opened in sources]
    alike = Counter(sizes)
    first: dict[str, str] = {}
    kept: list[int] = []
    skipped: list[Skipped] = []
    for i, (name, opened) in enumerate(sources):
        if opened is not None and is_overlay(opened):
            skipped.append(annotated(name))
            continue
        digest = None if opened is None or sizes[i] is None or alike[sizes[i]] == 1 else digest_of(opened)
        if digest is not None and digest in first:
            skipped.append(repeated(name, first[digest]))
            continue
        if digest is not None:
            first[digest] = name
        kept.append(i)
    return kept, skipped


def overlay_skipped(path: Path) -> Skipped:
    """Return the entry of a file that is an annotated picture."""
    return annotated(shown(path))


def annotated(name: str) -> Skipped:
    """Return the entry of a source that is an annotated picture."""
    return Skipped(name, OWN_OVERLAY, "an annotated picture that cytoserve drew; it is not counted (give the original)")


def repeated(name: str, first: str) -> Skipped:
    """Return the entry of a source whose content came before."""
    return Skipped(name, DUPLICATE, f"the same content as {first}; it counts once")


def _why_not(entry: Path) -> Skipped | None:
    """Return why a folder's entry is not read; None where it is."""
    suffix = entry.suffix.lower()
    if is_system(entry.name):
        return _skip(entry, SYSTEM_FILE, "the system's, not a picture")
    looks = suffix in SUFFIXES or suffix in OTHER_SUFFIXES
    try:
        mode = entry.stat().st_mode
        if stat.S_ISDIR(mode):
            if _holds_images(entry):
                return _skip(entry, FOLDER_WITH_IMAGES, "a folder inside the folder; its images were not read: give it")
            return _skip(entry, FOLDER, "a folder without images")
        if not stat.S_ISREG(mode):
            return _skip(entry, UNREADABLE if looks else NOT_A_FILE, "no file, but a pipe, a device or a socket")
        if suffix in SUFFIXES:
            return None
        with open_regular(entry) as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return _skip(entry, UNREADABLE, f"cannot be read: {error.strerror or error}")
    # Raw formats of cameras and scanners begin as TIFF does; their ending says that they are something else.
    if begins_as(head) is not None and suffix not in OTHER_SUFFIXES:
        return None
    if looks or begins_as_other(head):
        return _skip(entry, UNSUPPORTED, "an image format that is not read; convert it to PNG or TIFF without loss")
    return _skip(entry, NOT_AN_IMAGE, "no image")


def _holds_images(folder: Path) -> bool:
    """Return whether anything below a folder would be read, or looks like an image."""
    return any(
        any(item.suffix.lower() in SUFFIXES | OTHER_SUFFIXES for item in files) or any(map(_head_is_image, files))
        for files in map(_files_in, (folder, *_folders_below(folder)))
    )


def _files_in(folder: Path) -> list[Path]:
    """Return the regular files directly in a folder, the system's left out; none where it cannot be read."""
    try:
        return [item for item in folder.iterdir() if not is_system(item.name) and item.is_file()]
    except OSError:
        return []


def _head_is_image(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return begins_as(head) is not None or begins_as_other(head)


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield the folders below a folder, sorted; links are not followed, so there is an end."""
    for where, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not is_system(name))
        yield from (Path(where) / name for name in names if not (Path(where) / name).is_symlink())


def is_system(name: str) -> bool:
    """Return whether a file or folder of this name is the operating system's, or hidden."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _skip(path: Path, reason: str, message: str) -> Skipped:
    return Skipped(source=shown(path), reason=reason, message=message)


def _size(opened: Opener) -> int | None:
    try:
        with opened() as file:
            return file.seek(0, os.SEEK_END)
    except (OSError, ValueError):
        return None


def digest_of(opened: Opener) -> str | None:
    """Return the SHA-256 of a content, in hexadecimal; None where it cannot be read."""
    whole = hashlib.sha256()
    try:
        with opened() as file:
            while block := file.read(_BLOCK):
                whole.update(block)
    except (OSError, ValueError):
        return None
    return whole.hexdigest()
