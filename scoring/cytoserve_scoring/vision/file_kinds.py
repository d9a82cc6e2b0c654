"""Name the files that are not read, from their first bytes, so that an error says what to do instead of "damaged".

Nothing is decoded here. Sources: TIFF 6.0 and the registered compression numbers of libtiff's ``tiff.h``; ITU-T T.81,
table B.1 (JPEG's frame markers); ISO/IEC 14496-12 (``ftyp`` brands); DICOM PS3.10, 7.1.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import Any, Final

from PIL import Image, TiffImagePlugin

TIFF_SIGNATURES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Classic TIFF and BigTIFF, little and big endian. Other files begin with ``II`` too (JPEG XR)."""

IMAGE_WIDTH: Final = 256
BITS_PER_SAMPLE: Final = 258
COMPRESSION: Final = 259
IMAGE_DESCRIPTION: Final = 270
SAMPLE_FORMAT: Final = 339

SIGNATURE_NAMES: Final = (
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF document"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 codestream"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"II\xbc", "a JPEG XR picture"),
    (b"8BPS", "a Photoshop document"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE container (Olympus or Zeiss microscope files are of this kind)"),
    (b"ZISRAWFILE", "a Zeiss CZI file"),
    (b"\xda\xce\xbe\n", "a Nikon ND2 file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"<?xml", "an XML or SVG document"),
    (b"<svg", "an SVG drawing"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
)
"""Beginnings of files that are sent by mistake, and what they are."""

BRANDS: Final = {
    b"avif": "an AVIF picture",
    b"avis": "an AVIF picture",
    b"heic": "a HEIC picture",
    b"heix": "a HEIC picture",
    b"heim": "a HEIC picture",
    b"hevc": "a HEIC picture",
    b"mif1": "a HEIF picture",
    b"msf1": "a HEIF picture",
    b"jxl ": "a JPEG XL picture",
    b"jp2 ": "a JPEG 2000 picture",
    b"crx ": "a Canon raw picture",
}
"""``ftyp`` brands of still pictures; any other is called a film."""

COMPRESSIONS: Final = {
    22610: "JPEG XR",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    33007: "camera JPEG",
    34712: "JPEG 2000",
    34892: "lossy camera JPEG",
    34887: "LERC",
    34925: "LZMA",
    34927: "WebP",
    34933: "PNG",
    34934: "JPEG XR",
    48124: "Jetraw",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""TIFF compressions that not every reader has, by the value of tag 259."""

OPTIONAL_CODECS: Final = {34925: "lzma", 50000: "zstd", 50001: "webp"}
"""Pillow's names of those that it knows and that its libtiff may have been built without."""

SAMPLE_FORMATS: Final = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}

JPEG_FRAMES: Final = {
    0xC3: "a lossless JPEG",
    0xC5: "a hierarchical JPEG",
    0xC6: "a hierarchical JPEG",
    0xC7: "a hierarchical lossless JPEG",
    0xC9: "a JPEG with arithmetic coding",
    0xCA: "a progressive JPEG with arithmetic coding",
    0xCB: "a lossless JPEG with arithmetic coding",
    0xCD: "a hierarchical JPEG with arithmetic coding",
    0xCE: "a hierarchical JPEG with arithmetic coding",
    0xCF: "a hierarchical lossless JPEG with arithmetic coding",
}
"""JPEG's rare frame markers (SOF3 and later); libjpeg reads some of them, depending on its build."""


def foreign_name(data: bytes) -> str | None:
    """Return what a file is that no accepted decoder reads ("a HEIC picture"), or None if its signature is unknown."""
    if data[128:132] == b"DICM":
        return "a DICOM file"
    if data[4:8] == b"ftyp":
        return BRANDS.get(data[8:12], "a film or a camera's container file")
    return next((name for signature, name in SIGNATURE_NAMES if data.startswith(signature)), None)


def jpeg_frame(data: bytes) -> tuple[int, int] | None:
    """Return (frame marker 0xC0..0xCF, bits per sample) of a JPEG, or None if no frame header is found."""
    at = 2
    while at + 5 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker, data[at + 4]
        if marker in (0xD9, 0xDA):
            return None
        at += 2 + (0 if marker == 0x01 or 0xD0 <= marker <= 0xD7 else struct.unpack(">H", data[at + 2 : at + 4])[0])
    return None


def tiff_tags(data: bytes) -> dict[int, Any] | None:
    """Return the tags of a TIFF's first picture, or None if its directory is not readable to the end."""
    if not data.startswith(TIFF_SIGNATURES):
        return None
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if big else 8])
        stream = io.BytesIO(data)
        stream.seek(directory.next)
        directory.load(stream)
        tags = dict(directory)
    except Exception:  # a file within the file, with its own ways to be broken
        return None
    return tags if IMAGE_WIDTH in tags else None


def unread_tiff(tags: dict[int, Any]) -> str | None:
    """Return what keeps a TIFF of these tags from being read ("compressed with JPEG 2000"), None if nothing known."""
    compression = tags.get(COMPRESSION, 1)
    known = compression in TiffImagePlugin.COMPRESSION_INFO
    if not known or not codec_is_built_in(compression):
        return f"compressed with {COMPRESSIONS.get(compression, f'method {compression}')}"
    formats = _numbers(tags.get(SAMPLE_FORMAT, 1))
    for value in formats:
        if value in SAMPLE_FORMATS:
            return f"of {SAMPLE_FORMATS[value]} numbers"
    bits = max(_numbers(tags.get(BITS_PER_SAMPLE, 1)), default=1)
    return f"{bits}-bit" if bits > 8 else None


def is_whole_slide(tags: dict[int, Any]) -> bool:
    """Say whether a TIFF is an Aperio whole-slide scan (SVS)."""
    return str(tags.get(IMAGE_DESCRIPTION, "")).lstrip().startswith("Aperio")


@lru_cache
def codec_is_built_in(compression: int) -> bool:
    """Say whether Pillow's libtiff was built with a codec that it may lack; found out by writing one pixel with it."""
    name = OPTIONAL_CODECS.get(compression)
    if name is None:
        return True
    try:
        Image.new("RGB", (1, 1)).save(io.BytesIO(), "TIFF", compression=name)
    except Exception:
        return False
    return True


def _numbers(value: Any) -> tuple[int, ...]:
    """Return a tag's value, one number or several, as numbers."""
    values = value if isinstance(value, tuple) else (value,)
    return tuple(item for item in values if isinstance(item, int))
