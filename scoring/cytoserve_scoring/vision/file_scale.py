"""The physical scale that a file carries: OME-TIFF, ImageJ, TIFF resolution, PNG ``pHYs``, BMP, JPEG density.

Most files carry a print density (72, 96, 300 dots per inch) that says nothing about the specimen. Such a value is far
outside the scales of a microscope and is ignored. What lies within them is used where the caller gave no scale, and
held against the caller's and the red cells. EXIF resolution is not read: cameras write print densities there.
"""

from __future__ import annotations

import re
from typing import Any, Final

from cytoserve_contract.limits import MAX_UM_PER_PIXEL, MIN_UM_PER_PIXEL
from PIL import Image, TiffImagePlugin

from cytoserve_scoring.errors import UnsupportedMode
from cytoserve_scoring.vision.file_kinds import IMAGE_DESCRIPTION

X_RESOLUTION: Final = 282
Y_RESOLUTION: Final = 283
RESOLUTION_UNIT: Final = 296
UM_PER_INCH: Final = 25_400.0
UM_PER_RESOLUTION_UNIT: Final = {2: UM_PER_INCH, 3: 10_000.0}
"""TIFF's ResolutionUnit: 2 inch, 3 centimetre. 1 (none) gives no scale but with ImageJ, which names its unit."""
UM_PER_JFIF_UNIT: Final = {1: UM_PER_INCH, 2: 10_000.0}

UM_PER_UNIT: Final = {
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometre"), 1.0),
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "inch": UM_PER_INCH,
}
"""Units of OME-XML and ImageJ; another one (``pixel``, ``reference frame``) gives no scale."""

MAX_DESCRIPTION: Final = 1_000_000
"""Characters of a description that are searched; OME-XML of one picture has a few thousand."""

SQUARE_TOLERANCE: Final = 0.02
"""Pixels whose sides differ by more than this part are not square."""

_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b([^<>]*)>")
_ATTRIBUTE = re.compile(r"""\b(PhysicalSize[XY](?:Unit)?)\s*=\s*["']([^"']*)["']""")
_IMAGEJ_UNIT = re.compile(r"^unit=(.+)$", re.MULTILINE)

Sides = tuple[float, float]


def file_um_per_pixel(image: Image.Image) -> float | None:
    """Return the scale in micrometres per pixel that an opened file carries, None if it is none of a microscope.

    Raises
    ------
    UnsupportedMode
        The file says that its pixels are not square: cells would be measured and judged distorted.
    """
    sides = _tiff(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else _density(image)
    if sides is None or not all(MIN_UM_PER_PIXEL <= side <= MAX_UM_PER_PIXEL for side in sides):
        return None
    width, height = sides
    if abs(width / height - 1) > SQUARE_TOLERANCE:
        raise UnsupportedMode(
            f"the file says that a pixel is {width:.4g} um wide and {height:.4g} um high; send square pixels"
        )
    return (width + height) / 2


def _density(image: Image.Image) -> Sides | None:
    """Return the sides of a pixel by a JPEG's, PNG's or BMP's density, in micrometres."""
    if image.format in ("JPEG", "MPO"):
        unit = UM_PER_JFIF_UNIT.get(image.info.get("jfif_unit", 0))
        return None if unit is None else _sides(unit, image.info.get("jfif_density"))
    return _sides(UM_PER_INCH, image.info.get("dpi")) if image.format in ("PNG", "BMP") else None


def _sides(unit_um: float, density: Any) -> Sides | None:
    """Return micrometres per pixel of pixels per unit, given for both sides."""
    try:
        across, down = (float(value) for value in density)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (unit_um / across, unit_um / down) if across > 0 and down > 0 else None


def _tiff(image: TiffImagePlugin.TiffImageFile) -> Sides | None:
    """Return the sides of a pixel by OME-XML, ImageJ or the resolution tags, the first that has them."""
    tags = image.tag_v2
    text = _utf8(str(tags.get(IMAGE_DESCRIPTION, "")))[:MAX_DESCRIPTION]
    ome = _ome(text)
    if ome is not None:
        return ome
    unit = UM_PER_RESOLUTION_UNIT.get(tags.get(RESOLUTION_UNIT, 2))
    if text.startswith("ImageJ="):
        named = _IMAGEJ_UNIT.search(text)
        if named:
            # ImageJ writes the micro sign as an escape
            unit = UM_PER_UNIT.get(named[1].strip().replace("\\u00B5", "\u00b5"))
    return None if unit is None else _sides(unit, (tags.get(X_RESOLUTION), tags.get(Y_RESOLUTION)))


def _utf8(text: str) -> str:
    """Return a tag's text as the UTF-8 that OME-XML is; Pillow reads it as Latin-1."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _ome(text: str) -> Sides | None:
    """Return PhysicalSizeX and PhysicalSizeY of the first picture of OME-XML; the default unit is the micrometre."""
    found = _PIXELS.search(text) if "PhysicalSizeX" in text else None
    if found is None:
        return None
    values = dict(_ATTRIBUTE.findall(found[1]))
    try:
        width = float(values["PhysicalSizeX"]) * UM_PER_UNIT[_unit(values.get("PhysicalSizeXUnit"))]
        if "PhysicalSizeY" not in values:
            return width, width
        return width, float(values["PhysicalSizeY"]) * UM_PER_UNIT[_unit(values.get("PhysicalSizeYUnit"))]
    except (KeyError, ValueError):
        return None


def _unit(text: str | None) -> str:
    """Return the name of a unit; XML may write the micro sign as a reference."""
    return "um" if text is None else re.sub(r"&#(?:181|x0*[bB]5|956|x0*3[bB][cC]);", "\u00b5", text).strip()
