"""From what a caller has (path, bytes, array) to encoded bytes with a name, checked before anything is sent.

Files travel as they are: decoding them is the server's business, with the server's limits. Arrays travel as PNG,
which is lossless.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Union

import numpy as np
from cytoserve_contract.limits import IMAGE_FORMATS
from cytoserve_files import NotRegularFile, open_regular, shown, writable_text
from numpy.typing import NDArray
from PIL import Image

from cytoserve_client import _constants as c
from cytoserve_client.errors import (
    BadParameter,
    BadScale,
    EmptyImage,
    InvalidArray,
    InvalidInput,
    TooManyBytes,
    TooManyPixels,
    TooSmall,
    UnreadableFile,
)

SYNTHETIC_KEY = "cytoserve:synthetic"
"""Mark of a generated image: a PNG text key of this name (or ``Synthetic``), or this word in the EXIF software or
description tag or in the XMP packet."""

_EXIF_TAGS = (0x0131, 0x010E)  # Software, ImageDescription


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image file in memory.

    Parameters
    ----------
    name : str
        What answers and errors call it.
    data : bytes
        The file's content.
    synthetic : bool
        Whether its metadata says that it was generated.
    """

    name: str
    data: bytes
    synthetic: bool = False

    def __repr__(self) -> str:
        return f"EncodedImage({self.name!r}, {len(self.data)} bytes)"


ImageLike = Union[str, "os.PathLike[str]", bytes, NDArray[Any], EncodedImage]
"""One image: a path, the bytes of a file, a uint8 array (H, W, 3) in RGB, or bytes with a name."""


@dataclass(frozen=True)
class Source:
    """An image that is read only when its turn comes, so that a thousand paths do not fill the memory."""

    name: str
    load: Callable[[], EncodedImage]
    opened: Callable[[], BinaryIO] | None = None
    """Opens the content anew, to compare it; None where there is none to compare."""


def sources_of(images: ImageLike | Sequence[ImageLike]) -> tuple[list[Source], bool]:
    """Return the sources of a call, and whether the caller gave a single image rather than a list.

    Raises
    ------
    InvalidInput
        If ``images`` is none of the accepted types.
    InvalidArray, TooSmall, TooManyPixels
        If the single image is an array that cannot be sent.
    """
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, EncodedImage)):
        return [source_of(images, None)], True
    if isinstance(images, Sequence):
        return [source_of(image, i) for i, image in enumerate(images)], False
    raise InvalidInput(
        f"an image is a path, bytes, a uint8 array (H, W, 3), or a list of those; not {type(images).__name__}"
    )


def source_of(image: Any, index: int | None) -> Source:
    """Return the source of one image of a list, or of the only one (None); of what is no image, one that raises."""
    where = "" if index is None else f"[{index}]"
    if isinstance(image, EncodedImage):
        name = writable_text(image.name)
        return Source(name, lambda: checked(name, image.data), lambda: io.BytesIO(image.data))
    if isinstance(image, (bytes, bytearray, memoryview)):
        data, name = bytes(image), f"bytes{where}"
        return Source(name, lambda: checked(name, data), lambda: io.BytesIO(data))
    if isinstance(image, np.ndarray):
        name = f"array{where}"
        pixels = lambda: io.BytesIO(f"{image.dtype} {image.shape} ".encode() + image.tobytes())  # noqa: E731
        return Source(name, lambda: EncodedImage(name, encode_array(image, name)), pixels)
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return Source(shown(path), lambda: read_file(path), lambda: open_regular(path))
    name = f"item{where}"
    kind = type(image).__name__

    def refuse() -> EncodedImage:
        raise InvalidInput(f"is a {kind}; give a path, bytes or a uint8 array (H, W, 3)", source=name)

    return Source(name, refuse)


def read_file(path: Path) -> EncodedImage:
    """Read an image file whole; its size is checked before it is read.

    Raises
    ------
    UnreadableFile, EmptyImage, TooManyBytes
        With the path as ``source``, as `cytoserve_files.shown` writes it. A named pipe, a device or a socket is
        refused at once: it could keep the call waiting past its deadline.
    """
    name = shown(path)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > c.MAX_FILE_BYTES:
                raise _too_many_bytes(name, size)
            data = file.read(c.MAX_FILE_BYTES + 1)  # it may have grown since
    except FileNotFoundError:
        raise UnreadableFile("no such file. Check the path.", source=name) from None
    except (NotRegularFile, IsADirectoryError) as error:
        kind = getattr(error, "kind", "a folder")
        cure = "give the image files in it" if kind == "a folder" else "save the image to a file and give that"
        raise UnreadableFile(f"is {kind}; {cure}.", source=name) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableFile(f"cannot be read: {reason}.", source=name) from error
    return checked(name, data)


def checked(name: str, data: bytes) -> EncodedImage:
    """Return the image if its size in bytes can be served, with its synthetic mark.

    Raises
    ------
    EmptyImage, TooManyBytes
        With ``name`` as ``source``.
    """
    if not data:
        raise EmptyImage("has no bytes. The copy or the export of this file failed; fetch it again.", source=name)
    if len(data) > c.MAX_FILE_BYTES:
        raise _too_many_bytes(name, len(data))
    return EncodedImage(name, data, is_synthetic(data))


def _too_many_bytes(name: str, size: int) -> TooManyBytes:
    limit = c.MAX_FILE_BYTES // 2**20
    return TooManyBytes(f"has {size / 2**20:.0f} MiB, the limit is {limit} MiB. Send one field of view.", source=name)


def encode_array(array: NDArray[Any], name: str = "array") -> bytes:
    """Return a uint8 RGB array as a PNG file, bit for bit the same pixels.

    Parameters
    ----------
    array : (H, W, 3) ndarray of uint8
        RGB. Any memory layout.
    name : str
        What errors call it.

    Raises
    ------
    InvalidArray
        If type or shape differ, or float values are not finite. Nothing is converted: a float array may mean 0..1
        or 0..255, and guessing would change the picture.
    TooSmall, TooManyPixels
        If the size is outside the service's limits.
    """
    if array.dtype != np.uint8:
        extra = ""
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            extra = " and holds NaN or infinity"
        raise InvalidArray(
            f"has dtype {array.dtype}{extra}; give uint8 (scale and round it yourself, nothing is guessed).",
            source=name,
        )
    if array.ndim != 3 or array.shape[2] != 3:
        raise InvalidArray(f"has shape {array.shape}; give (height, width, 3), RGB.", source=name)
    height, width = int(array.shape[0]), int(array.shape[1])
    if min(height, width) < c.MIN_SIDE:
        raise TooSmall(f"is {width} x {height} pixels; each side needs {c.MIN_SIDE} at least.", source=name)
    if height * width > c.MAX_PIXELS:
        raise TooManyPixels(f"is {width} x {height} pixels; the limit is {c.MAX_PIXELS} in all.", source=name)
    buffer = io.BytesIO()
    # Level 1: the network is near and the processor busy; higher levels gain a few per cent on noisy images.
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", compress_level=1)
    data = buffer.getvalue()
    if len(data) > c.MAX_FILE_BYTES:
        raise _too_many_bytes(name, len(data))
    return data


def is_synthetic(data: bytes) -> bool:
    """Return whether the metadata of an encoded image marks it as generated. Only the header is read."""
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            for key, value in image.info.items():
                if str(key).lower() in (SYNTHETIC_KEY, "synthetic"):
                    return str(value).strip().lower() not in ("", "0", "false", "no")
                if str(key).lower() == "xmp" and SYNTHETIC_KEY.encode() in _as_bytes(value):
                    return True
            exif = image.getexif()
            return any(SYNTHETIC_KEY in str(exif.get(tag, "")).lower() for tag in _EXIF_TAGS)
    except Exception:
        # Whatever is wrong with the file, the server says it better, and the mark cannot be there.
        return False


def _as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


def check_scale(um_per_pixel: float | None) -> float:
    """Return micrometres per pixel as it travels: 0 for "not given".

    Raises
    ------
    BadScale
        If it is not a finite, positive number.
    """
    if um_per_pixel is None:
        return 0.0
    try:
        value = float(um_per_pixel)
    except (TypeError, ValueError):
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise BadScale(f"um_per_pixel must be a finite, positive number of micrometres, not {um_per_pixel!r}")
    return value


def check_scales(um_per_pixel: float | Sequence[float | None] | None, count: int) -> list[float]:
    """Return one scale per image from one for all, one each, or none.

    Raises
    ------
    BadScale
        If a value is not a finite, positive number.
    BadParameter
        If there are more or fewer values than images.
    """
    if isinstance(um_per_pixel, (Sequence, np.ndarray)) and not isinstance(um_per_pixel, str):
        if len(um_per_pixel) != count:
            raise BadParameter(f"{len(um_per_pixel)} values of um_per_pixel for {count} images; give one each, or one")
        return [check_scale(value) for value in um_per_pixel]
    return [check_scale(um_per_pixel)] * count
