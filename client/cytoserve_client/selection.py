"""Which files make a sample: one rule for every command that is given files and folders.

- A **file given** is always meant: it is read, or it is a failure with its reason.
- Of a **folder** those files are read that lie directly in it and either have a usual image ending or begin as an
  image of an accepted format does, whatever their ending (``.jfif``, none). Every other entry is named in ``skipped``.
- **Equal contents** count once: the first in order stays, the others are named. Equal means byte for byte; the same
  picture saved again is another file.
- **Annotated pictures** that this program drew are recognised by their mark, under any name, and never counted.

`UNREAD` are the reasons by which something was lost that looks like an image; commands tell that by their exit code.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cytoserve_files import open_regular, shown

from cytoserve_client.errors import OwnOverlay
from cytoserve_client.images import OVERLAY_KEY, Source, sources_of
from cytoserve_client.results import Skipped

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".dib"})
"""Endings of the formats that the service reads; such a file is sent even if it does not begin as one."""

# fmt: off
OTHER_SUFFIXES: Final = frozenset({
    ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".gif", ".psd", ".svg", ".ico", ".tga",
    ".pcx", ".ppm", ".pgm", ".pnm", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
    ".raw", ".dcm", ".svs", ".ndpi", ".ndpis", ".mrxs", ".scn", ".bif", ".vms", ".vsi", ".czi", ".lif", ".nd2",
    ".oir", ".qptiff",
})
# fmt: on
"""Endings of image formats that the service does not read, those of microscopes and slide scanners among them."""

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
UNREAD: Final = frozenset({UNSUPPORTED, UNREADABLE, FOLDER_WITH_IMAGES})

HEAD_BYTES: Final = 64
"""What is read of a file to see how it begins."""

_CHUNK: Final = 1 << 20
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_MOST_PNG_CHUNKS: Final = 100_000
_MOST_TEXT: Final = 1 << 16
_BMP_HEADERS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})


@dataclass(frozen=True)
class Selection:
    """The files that are meant, in order, and what was passed over.

    Attributes
    ----------
    files : tuple of Path
    skipped : tuple of Skipped
    """

    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]

    @property
    def lost(self) -> bool:
        """Whether something was passed over that looks like an image of the sample."""
        return any(item.reason in UNREAD for item in self.skipped)


def gather(paths: Iterable[Path]) -> Selection:
    """Return the images meant by files and folders, each content once.

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
    kept, repeated = sift(sources_of(files)[0])
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


def list_tree(folder: Path) -> Selection:
    """Return the images in a folder and its folders; see `list_folder`."""
    files: list[Path] = []
    skipped: list[Skipped] = []
    for part in (folder, *_folders_below(folder)):
        found = list_folder(part)
        files += found.files
        skipped += [item for item in found.skipped if item.reason not in (FOLDER, FOLDER_WITH_IMAGES)]
    return Selection(tuple(files), tuple(skipped))


def sift(sources: Sequence[Source]) -> tuple[list[int], list[Skipped]]:
    """Return which sources count, and the others: repeated contents and annotated pictures.

    Only files of equal size are read for it; one that cannot be read stays in and fails as an image.
    """
    sizes = [_size(source) for source in sources]
    alike = Counter(sizes)
    first: dict[str, str] = {}
    kept: list[int] = []
    skipped: list[Skipped] = []
    for i, source in enumerate(sources):
        if is_overlay(source):
            skipped.append(Skipped(source=source.name, reason=OWN_OVERLAY, message=_OVERLAY))
            continue
        digest = _digest(source) if sizes[i] is not None and alike[sizes[i]] > 1 else None
        if digest is not None and digest in first:
            text = f"the same content as {first[digest]}; it counts once"
            skipped.append(Skipped(source=source.name, reason=DUPLICATE, message=text))
            continue
        if digest is not None:
            first[digest] = source.name
        kept.append(i)
    return kept, skipped


_OVERLAY: Final = "an annotated picture that cytoserve drew; it is not counted (give the original)"


def refuse_overlay(source: Source) -> None:
    """Refuse a single image that is an annotated picture.

    Raises
    ------
    OwnOverlay
    """
    if is_overlay(source):
        raise OwnOverlay("is an annotated picture that cytoserve drew; give the original.", source=source.name)


def is_overlay(source: Source) -> bool:
    """Return whether the content carries the mark of an annotated picture."""
    if source.opened is None:
        return False
    try:
        with source.opened() as file:
            return _is_overlay(file)
    except (OSError, ValueError):
        return False


def is_overlay_file(path: Path) -> bool:
    """Return whether a file is an annotated picture that this program drew."""
    try:
        with open_regular(path) as file:
            return _is_overlay(file)
    except (OSError, ValueError):
        return False


def overlay_skipped(path: Path) -> Skipped:
    """Return the entry of a file that is such a picture."""
    return _skip(path, OWN_OVERLAY, _OVERLAY)


def begins_as(head: bytes) -> str | None:
    """Return the accepted format that a file begins as, or None.

    Examples
    --------
    >>> begins_as(b"II*\\x00 ...."), begins_as(b"BM, a text about matters"), begins_as(b"GIF89a")
    ('TIFF', None, None)
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(_PNG):
        return "PNG"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return None


def _begins_as_other(head: bytes) -> bool:
    """Return whether a file begins as an image of a format that is not accepted."""
    return (
        head.startswith((b"GIF8", b"8BPS", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL "))
        or head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftypavif", b"ftyphevc", b"ftypcrx ")
    )  # fmt: skip


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
    if looks or _begins_as_other(head):
        return _skip(entry, UNSUPPORTED, "an image format that is not read; convert it to PNG or TIFF without loss")
    return _skip(entry, NOT_AN_IMAGE, "no image")


def _holds_images(folder: Path) -> bool:
    """Return whether anything below a folder would be read, or looks like an image."""
    for part in (folder, *_folders_below(folder)):
        found = _files_in(part)
        if any(item.suffix.lower() in SUFFIXES or item.suffix.lower() in OTHER_SUFFIXES for item in found):
            return True
        if any(_head_is_image(item) for item in found):
            return True
    return False


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
    return begins_as(head) is not None or _begins_as_other(head)


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


def _size(source: Source) -> int | None:
    if source.opened is None:
        return None
    try:
        with source.opened() as file:
            return file.seek(0, os.SEEK_END)
    except (OSError, ValueError):
        return None


def _digest(source: Source) -> str | None:
    assert source.opened is not None
    whole = hashlib.sha256()
    try:
        with source.opened() as file:
            while block := file.read(_CHUNK):
                whole.update(block)
    except (OSError, ValueError):
        return None
    return whole.hexdigest()


def _is_overlay(file: BinaryIO) -> bool:
    """Look through the text chunks of a PNG file; pixels are passed over unread."""
    if file.read(len(_PNG)) != _PNG:
        return False
    texts: dict[bytes, bytes] = {}
    for _ in range(_MOST_PNG_CHUNKS):
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            break
        if kind in (b"tEXt", b"iTXt", b"zTXt") and length <= _MOST_TEXT:
            key, _, value = file.read(length).partition(b"\0")
            texts[key] = value
            file.seek(4, os.SEEK_CUR)
        else:
            file.seek(length + 4, os.SEEK_CUR)
    # Earlier releases set no mark of their own, but signed what they drew.
    signed = texts.get(b"Software") == b"cytoserve" and b"Disclaimer" in texts
    return OVERLAY_KEY.encode() in texts or signed
