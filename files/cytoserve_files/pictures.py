"""What a file is by its first bytes and its marks: an accepted image, another one, a picture that we annotated."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from cytoserve_files.reading import open_regular

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

OVERLAY_KEY: Final = "cytoserve:overlay"
"""Mark of an annotated picture that this program drew: a PNG text key. Such a picture is no field of a sample."""

HEAD_BYTES: Final = 64
"""What is read of a file to see how it begins."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_MOST_PNG_CHUNKS: Final = 100_000
_MOST_TEXT: Final = 1 << 16
_BMP_HEADERS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})


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


def begins_as_other(head: bytes) -> bool:
    """Return whether a file begins as an image of a format that is not accepted."""
    return (
        head.startswith((b"GIF8", b"8BPS", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL "))
        or head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftypavif", b"ftyphevc", b"ftypcrx ")
    )  # fmt: skip


def is_overlay(opened: Callable[[], BinaryIO]) -> bool:
    """Return whether the content carries the mark of an annotated picture; False where it cannot be read."""
    try:
        with opened() as file:
            return _is_overlay(file)
    except (OSError, ValueError):
        return False


def is_overlay_file(path: Path) -> bool:
    """Return whether a file is an annotated picture that this program drew."""
    return is_overlay(lambda: open_regular(path))


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
