"""Decode image files from untrusted senders.

Accepted: JPEG, PNG, TIFF, WebP and BMP with one picture in 8-bit colour. The header is judged before a pixel is
decoded, so a small file that unpacks to gigabytes costs nothing. What would need invention is refused: colour is the
evidence here, so greyscale (stored as RGB too), CMYK and transparency are not turned into RGB; 16 bit is not cut to 8.

Applied silently, because it is exact: palettes are looked up, a fully opaque alpha channel is dropped, EXIF
orientation is applied. An embedded colour profile other than sRGB is applied (`colour_profile`); without one the
colours are sRGB. Profiles of BMP files and PNG's ``gAMA``, ``cHRM`` and ``cICP`` chunks are not read. Of a JPEG with
further pictures behind it (phones add previews) the first, which is the picture, is read.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from cytoserve_contract.limits import IMAGE_FORMATS, MAX_FILE_BYTES, MAX_PIXELS, MIN_SIDE
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from cytoserve_scoring.errors import (
    EmptyImage,
    InvalidImage,
    NotAnImage,
    TooManyBytes,
    TooManyPixels,
    TooSmall,
    TruncatedImage,
    UnsupportedMode,
)
from cytoserve_scoring.vision.colour_profile import to_srgb
from cytoserve_scoring.vision.file_kinds import (
    BITS_PER_SAMPLE,
    JPEG_FRAMES,
    TIFF_SIGNATURES,
    foreign_name,
    is_whole_slide,
    jpeg_frame,
    tiff_tags,
    unread_tiff,
)
from cytoserve_scoring.vision.file_scale import file_um_per_pixel

FORMATS: Final = IMAGE_FORMATS
"""Pillow's names of the formats that are read; no other decoder is ever tried."""

JPEG_SIGNATURE: Final = b"\xff\xd8\xff"
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
SIGNATURES: Final = (JPEG_SIGNATURE, PNG_SIGNATURE, *TIFF_SIGNATURES, b"RIFF", b"BM")
MODE_NAMES: Final = {
    "1": "black and white",
    "L": "greyscale",
    "LA": "greyscale with alpha",
    "La": "greyscale with alpha",
    "I": "32-bit greyscale",
    "F": "floating-point greyscale",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "Lab",
    "RGBX": "four-channel",
}
TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the operation that undoes it (EXIF 2.32, tag 0x0112)."""

TIFF_TILE_WIDTH: Final = 322
TIFF_TILE_LENGTH: Final = 323
ORIENTATION: Final = 0x0112

GREY_CHROMA: Final = 8
"""Grey levels that the channels of a greyscale picture stored as RGB may differ by (a slight cast, coarsened by JPEG).
In 1,852 real pictures of four sources the most coloured 0.1 % of the pixels differ by 34 levels at least."""
GREY_PART: Final = 0.999
"""Part of the pixels that must be as grey as that; a stained film has colour in far more than the rest."""
LEAST_RANGE: Final = 16
"""A picture that varies by no more grey levels shows nothing, whatever its colour: it is an empty field."""
_GREY_ROWS: Final = 32
"""Rows checked at a time: nearly every picture shows its colour in the first."""


@dataclass(frozen=True)
class Picture:
    """A decoded image file."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) uint8, contiguous. sRGB in displayed orientation."""
    um_per_pixel: float | None
    """The scale that the file carries, where it can be that of a microscope."""


def decode_picture(data: bytes) -> Picture:
    """Decode one image file to sRGB in displayed orientation, and read the scale that it carries.

    Parameters
    ----------
    data : bytes
        The file's content.

    Raises
    ------
    InvalidImage
        One of its subclasses (see `errors`), whose message says what to do. Nothing else is raised for bad data.
    """
    _check_bytes(data)
    _check_raw_header(data)
    with warnings.catch_warnings():
        # Pillow warns of large images, odd metadata and truncated EXIF; the limits here are our own
        warnings.simplefilter("ignore")
        image = _open(data)
        try:
            _check_header(image)
            um_per_pixel = file_um_per_pixel(image)
            pixels = np.array(_to_rgb(image), dtype=np.uint8)
        except (InvalidImage, MemoryError):
            raise
        except Exception as error:
            unread = _unread(data)
            if unread is not None:
                raise unread from error
            raise TruncatedImage(
                f"the {image.format} file is truncated or damaged ({type(error).__name__}); send it again whole"
            ) from error
        finally:
            image.close()
    _check_colour(pixels)
    return Picture(pixels, um_per_pixel)


def _check_colour(pixels: NDArray[np.uint8]) -> None:
    """Raise if a picture that shows something has no colour: greyscale stored in three equal channels."""
    coloured, low, high = 0, 255, 0
    for start in range(0, pixels.shape[0], _GREY_ROWS):
        part = pixels[start : start + _GREY_ROWS]
        brightest, darkest = part.max(axis=2), part.min(axis=2)
        coloured += int(np.count_nonzero(brightest - darkest > GREY_CHROMA))
        low, high = min(low, int(darkest.min())), max(high, int(brightest.max()))
        if coloured > (1 - GREY_PART) * pixels.shape[0] * pixels.shape[1]:
            return
    if high - low > LEAST_RANGE:
        raise _unsupported("greyscale (its three channels are equal)")


def _unread(data: bytes) -> InvalidImage | None:
    """Return the error for a whole file of a kind that is not read, or None: it is damaged, as far as one can see."""
    tags = tiff_tags(data)
    if tags is not None:
        if is_whole_slide(tags):
            return _foreign("an Aperio whole-slide scan (SVS)")
        what = unread_tiff(tags)
        if what is not None:
            return UnsupportedMode(f"the TIFF is {what}, which is not read; save it as 8-bit RGB, uncompressed or LZW")
    frame = jpeg_frame(data) if data.startswith(JPEG_SIGNATURE) else None
    if frame is not None and frame[0] in JPEG_FRAMES:
        return UnsupportedMode(f"the file is {JPEG_FRAMES[frame[0]]}, which is not read; save it as PNG")
    return None


def _foreign(what: str) -> NotAnImage:
    return NotAnImage(
        f"the file is {what}, not an image of the formats {', '.join(FORMATS)}; "
        "export one field of view as PNG or uncompressed TIFF"
    )


def _check_bytes(data: bytes) -> None:
    if len(data) == 0:
        raise EmptyImage("the file is empty (0 bytes); send an image")
    if len(data) > MAX_FILE_BYTES:
        raise TooManyBytes(
            f"the file has {len(data) / 2**20:.1f} MiB, the limit is {MAX_FILE_BYTES / 2**20:.0f} MiB; "
            "send one field of view, or compress without loss (PNG)"
        )


def _check_raw_header(data: bytes) -> None:
    """Check what Pillow does not report, or reports only after allocating memory.

    Pillow silently reads 16-bit RGB PNG as 8 bit, and the WebP decoder allocates its canvas when the file
    is opened. The offsets are those of the PNG specification (11.2.2) and of RFC 9649 (2.5 to 2.7).
    """
    if data.startswith(PNG_SIGNATURE) and data[12:16] == b"IHDR" and len(data) >= 26:
        width, height, depth = struct.unpack(">IIB", data[16:25])
        _check_size(width, height)
        if depth == 16:
            raise _unsupported("16-bit")
    if data.startswith(JPEG_SIGNATURE):
        frame = jpeg_frame(data)
        if frame is not None and frame[1] in (10, 12, 16):
            raise _unsupported(f"a {frame[1]}-bit JPEG")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        size = _webp_size(data)
        if size is not None:
            _check_size(*size)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a WebP file's canvas, or None if its header is not readable."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _open(data: bytes) -> Image.Image:
    """Read the header with Pillow, by the decoders of `FORMATS` only."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        raise TooManyPixels(_too_many("more than it allows")) from None
    except Exception as error:
        unread, kind = _unread(data), foreign_name(data)
        if unread is not None:
            raise unread from error
        if data.startswith(SIGNATURES):
            raise TruncatedImage("the file's header is truncated or damaged; send it again whole") from error
        if kind is not None:
            raise _foreign(kind) from error
        raise NotAnImage(f"the file is not an image of the formats {', '.join(FORMATS)}; convert it to PNG") from error


def _check_header(image: Image.Image) -> None:
    """Judge size, number of pictures and mode; nothing is decoded yet."""
    _check_size(*image.size)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)
    elif image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise UnsupportedMode("the file holds several pictures (an animation); send one picture a file")
    if image.mode.startswith("I;"):
        raise _unsupported("16-bit greyscale")
    if image.mode not in ("RGB", "RGBA", "P", "PA"):
        raise _unsupported(MODE_NAMES.get(image.mode, image.mode))


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Judge what is particular to TIFF: pages, bits per sample, tiles larger than the picture."""
    if is_whole_slide(dict(image.tag_v2)):
        raise _foreign("an Aperio whole-slide scan (SVS)")
    if image.is_animated:
        raise UnsupportedMode("the TIFF holds several pictures; send one picture a file")
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
    if max(bits) > 8:
        raise _unsupported(f"{max(bits)}-bit")
    tile = image.tag_v2.get(TIFF_TILE_WIDTH, 1) * image.tag_v2.get(TIFF_TILE_LENGTH, 1)
    if tile > MAX_PIXELS:
        # libtiff allocates a whole tile, whatever the picture's own size
        raise TooManyPixels(_too_many(f"a tile of {tile / 1e6:.0f} million"))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise TooManyPixels(_too_many(f"{width} x {height}, {width * height / 1e6:.0f} million"))
    if min(width, height) < MIN_SIDE:
        raise TooSmall(f"the image is {width} x {height} pixels; the shortest side must be at least {MIN_SIDE}")


def _too_many(found: str) -> str:
    return (
        f"the image announces {found} pixels, the limit is {MAX_PIXELS / 1e6:.0f} million; cut it into fields of view"
    )


def _unsupported(what: str) -> UnsupportedMode:
    return UnsupportedMode(f"the image is {what}; colour is the evidence: send the original as 8-bit RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decode, look up palettes, drop an opaque alpha channel, apply the colour profile and the orientation."""
    image.load()
    transparent = "transparency" in image.info
    if image.mode in ("P", "PA", "RGBA") or transparent:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            raise _unsupported("transparent in places")
        rgb = rgba.convert("RGB")
    else:
        rgb = image
    rgb = to_srgb(rgb, image.info.get("icc_profile"))
    turn = TURNS.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or it cannot be read.

    Of a TIFF Pillow applies it on loading and forgets it.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF is a file within the file, with its own ways to be broken; the pixels are fine
        return 1
    return value if isinstance(value, int) else 1
