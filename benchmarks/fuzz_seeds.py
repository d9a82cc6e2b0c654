"""Small image files of every kind that the decoder distinguishes: what fuzzing begins with."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms

SIDE: Final = 33
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def seeds() -> list[bytes]:
    """Return the files; each is a few kilobytes at most, so that a case costs little."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (SIDE // 3, SIDE // 3, 3), dtype=np.uint8).repeat(3, 0).repeat(3, 1)
    colour = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "scale 0.1 um", 254000.0
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = [
        _file(colour, "PNG"),
        _file(colour, "PNG", optimize=True, dpi=(254000, 254000)),
        _file(colour, "PNG", icc_profile=profile),
        _file(colour, "JPEG", quality=80),
        _file(colour, "JPEG", progressive=True, exif=exif, dpi=(300, 300)),
        _file(colour, "JPEG", quality=60, icc_profile=profile),
        _file(colour, "WEBP", lossless=True),
        _file(colour, "WEBP", quality=60, exif=exif),
        _file(colour, "BMP"),
        _file(colour.quantize(16), "PNG"),
        _file(colour.quantize(16), "BMP"),
        _file(colour.convert("RGBA"), "PNG"),
        _file(colour.convert("RGBA"), "WEBP", lossless=True),
        _file(colour.convert("RGBA"), "TIFF"),
        _file(colour.convert("L"), "PNG"),
        _file(colour.convert("LA"), "PNG"),
        _file(colour.convert("CMYK"), "JPEG"),
        _file(colour.convert("CMYK"), "TIFF"),
        _file(Image.new("I;16", (SIDE, SIDE), 999), "PNG"),
        _file(Image.new("F", (SIDE, SIDE)), "TIFF"),
        _file(colour, "GIF"),
        _file(colour, "TIFF", save_all=True, append_images=[colour]),
        _file(colour, "WEBP", save_all=True, append_images=[colour.rotate(90)]),
        _file(colour, "MPO", save_all=True, append_images=[colour]),
    ]
    files += [
        _file(colour, "TIFF", compression=name)
        for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ]
    return [*files, _file(colour, "TIFF", description="<OME><Pixels PhysicalSizeX='0.1'/></OME>"), b"", b"\0" * 64]


def _file(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def with_right_sums(data: bytes) -> bytes:
    """Return a PNG with the checksums of its chunks put right, else the file as it is.

    Without it nearly every changed PNG is refused for a checksum and nothing behind that is reached.
    """
    if not data.startswith(PNG_SIGNATURE):
        return data
    out, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body = data[place + 4 : place + 8 + length]
        if len(body) < 4 + length:
            break
        out.append(data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join([*out, data[place:]])


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return a file with a few changes: bits, bytes, numbers at their limits, pieces cut out, doubled or swapped."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        if not out:
            break
        at, length = draw.randrange(len(out)), draw.choice((1, 2, 4, 16))
        change = draw.randrange(6)
        if change == 0:
            out[at] ^= 1 << draw.randrange(8)
        elif change == 1:
            out[at : at + length] = draw.randbytes(length)
        elif change == 2:
            out[at : at + length] = draw.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif change == 3:
            del out[at : at + length]
        elif change == 4:
            out[at:at] = out[at : at + length]
        else:
            del out[at:]
    return with_right_sums(bytes(out)) if draw.random() < 0.8 else bytes(out)
