"""Embedded colour profiles: a picture in another RGB space is brought to sRGB, which the models were trained on.

The stain's colour is the evidence. Numbers of a wide-gamut space (Adobe RGB, Display P3) read as sRGB look paler than
the stain is, so they are converted; an sRGB picture is left alone to the last bit.
"""

from __future__ import annotations

import io
import struct
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms

from cytoserve_scoring.errors import UnsupportedMode

MAX_PROFILE_BYTES: Final = 4 * 1024 * 1024
"""Largest profile that is read; RGB profiles have 0.5 to 600 KiB."""

SAME_COLOUR: Final = 3
"""A profile that changes no colour of the probe by more than so many grey levels is sRGB; its variants (version 2 and
4, black point, rounded curves) differ by up to 2."""

_COLOUR_SPACE = slice(16, 20)
_SIGNATURE = slice(36, 40)


def to_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """Return an RGB image converted from its embedded profile to sRGB; the image itself if it is sRGB already.

    Parameters
    ----------
    image : Image, mode RGB
    profile : bytes or None
        The ICC profile as the file carries it; None or empty: none, which means sRGB.

    Raises
    ------
    UnsupportedMode
        The profile is damaged, too large, or not one of RGB colours.
    """
    if not profile:
        return image
    _check(profile)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = _probe()
        change = np.asarray(_applied(probe, transform), int) - np.asarray(probe, int)
        return image if np.abs(change).max() <= SAME_COLOUR else _applied(image, transform)
    except MemoryError:
        raise
    except Exception as error:  # littlecms and Pillow raise errors of several kinds for one cause
        raise _unusable("is damaged") from error


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise ValueError("nothing was converted")
    return converted


def _check(profile: Any) -> None:
    """Raise unless the header is that of a profile of RGB colours (ICC.1:2022, 7.2)."""
    if not isinstance(profile, bytes) or len(profile) < 132 or profile[_SIGNATURE] != b"acsp":
        raise _unusable("is damaged")
    if len(profile) > MAX_PROFILE_BYTES or struct.unpack(">I", profile[:4])[0] > len(profile):
        raise _unusable(f"is damaged or larger than {MAX_PROFILE_BYTES // 2**20} MiB")
    if profile[_COLOUR_SPACE] != b"RGB ":
        space = profile[_COLOUR_SPACE].decode("ascii", "replace").strip()
        raise _unusable(f"is for {space!r} colours, not RGB")


def _unusable(why: str) -> UnsupportedMode:
    return UnsupportedMode(
        f"the embedded colour profile {why}, so the stain's colours are not known: export the original as 8-bit sRGB"
    )


def _probe() -> Image.Image:
    """Return every colour of a 9 x 9 x 9 grid, as one image."""
    level = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(level, level, level, indexing="ij"), axis=-1)
    return Image.fromarray(grid.reshape(27, 27, 3))
