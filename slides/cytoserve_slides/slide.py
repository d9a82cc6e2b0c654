"""A whole slide on disk: its size, its scale, and regions of it as RGB. Formats are OpenSlide's business.

OpenSlide reads SVS, NDPI, MRXS, SCN, BIF, DICOM, tiled TIFF and others (https://openslide.org/formats/). It reads an
OME-TIFF as the tiled TIFF that it is; the scale in its XML is read here.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from cytoserve_client.images import SYNTHETIC_KEY
from cytoserve_contract.limits import MAX_AREA_UM2, MAX_PIXELS
from cytoserve_files import shown
from numpy.typing import NDArray
from PIL import Image

from cytoserve_slides.errors import RegionUnreadable, SlideUnreadable

if TYPE_CHECKING:
    import openslide

Pixels = NDArray[np.uint8]

SCALES: Final = (0.05, 2.0)
"""Micrometres per pixel between which a scale in a file is believed; microscopes of slide scanners have 0.1 to 0.5."""

ALIKE: Final = 1.02
"""Largest ratio of the scales across and down; other pixels are not square."""

GENERIC: Final = "generic-tiff"
"""OpenSlide's name for a tiled TIFF of no maker."""

OVERVIEW_PIXELS: Final = 40_000_000
"""Most pixels of a level that is read whole for an overview."""

_OME_SIZE: Final = re.compile(r'PhysicalSize([XY])="([0-9.eE+-]+)"')
_OME_UNIT: Final = re.compile(r'PhysicalSize[XY]Unit="([^"]+)"')
_OME_UM: Final = {"µm": 1.0, "um": 1.0, "\u03bcm": 1.0, "nm": 1e-3, "mm": 1e3}


def is_slide(path: Path) -> bool:
    """Return whether a file is a whole slide and no field: it has a scanner's format, or is too large for a field.

    False also where OpenSlide is not installed; `Slide` then says what is missing.
    """
    try:
        import openslide
    except ImportError:
        return path.suffix.lower() in SUFFIXES
    if not path.is_file():
        return False
    try:
        vendor = openslide.OpenSlide.detect_format(str(path))
    except openslide.OpenSlideError:
        return False
    if vendor != GENERIC:
        return vendor is not None
    try:
        with Slide(path) as slide:
            width, height = slide.size
            scale = slide.um_per_pixel
    except SlideUnreadable:
        return False
    return width * height > MAX_PIXELS or (scale is not None and width * height * scale**2 > MAX_AREA_UM2)


SUFFIXES: Final = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi"})
"""Endings of files that only OpenSlide could read."""


class Slide:
    """An open slide. Not for several threads at once.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    path : Path
    name : str
        The path as people read it.
    origin, size : tuple of int
        Upper left corner (x, y) and size (width, height) of the scanned area, pixels at full resolution.
    um_per_pixel : float or None
        From the file; None where it does not tell, or tells something that cannot be.
    synthetic : bool
        Whether the file says that it was generated.
    identity : str or None
        Equal for files that are one slide, such as the levels of a DICOM series; None where OpenSlide tells none.

    Raises
    ------
    SlideUnreadable
        It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, shown(path)
        self._open: openslide.OpenSlide | None = self._opened()
        properties = dict(self._open.properties)
        self.vendor: str = properties.get("openslide.vendor", "")
        self.origin, self.size = _bounds(properties, self._open.dimensions)
        self.um_per_pixel = scale_of(properties)
        self.synthetic = any(SYNTHETIC_KEY in value for value in properties.values())
        self.identity: str | None = properties.get("openslide.quickhash-1")
        self._background = _colour(properties.get("openslide.background-color", "FFFFFF"))
        if min(self.size) < 1:
            raise SlideUnreadable(f"{self.name} has no image at full resolution; scan or export it again")

    def _opened(self) -> openslide.OpenSlide:
        try:
            import openslide
        except ImportError as error:
            raise SlideUnreadable(
                f'{self.name}: whole slides need OpenSlide; install it: pip install "cytoserve[slides]"'
            ) from error
        if not self.path.exists():
            raise SlideUnreadable(f"{self.name}: no such file. Check the path.")
        try:
            return openslide.OpenSlide(str(self.path))
        except openslide.OpenSlideUnsupportedFormatError:
            raise SlideUnreadable(
                f"{self.name} is no whole slide that OpenSlide reads; convert it to a tiled TIFF, or give fields"
            ) from None
        except openslide.OpenSlideError as error:
            raise SlideUnreadable(f"{self.name} cannot be read: {error}; copy or export it again") from error

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def region(self, x: int, y: int, width: int, height: int) -> Pixels:
        """Return (height, width, 3) uint8 RGB at full resolution; what was not scanned has the slide's background.

        Raises
        ------
        RegionUnreadable
        """
        return self._read((x, y), 0, (width, height))

    def overview(self) -> tuple[Pixels, float] | None:
        """Return the smallest level of the pyramid as RGB, and how many pixels at full resolution one of it is wide.

        None where the slide has no pyramid, or no level that is small enough to be read whole.
        """
        assert self._open is not None
        level = self._open.level_count - 1
        width, height = self._open.level_dimensions[level]
        if level == 0 or width * height > OVERVIEW_PIXELS:
            return None
        downsample = float(self._open.level_downsamples[level])
        size = (max(1, int(self.size[0] / downsample)), max(1, int(self.size[1] / downsample)))
        try:
            return self._read(self.origin, level, size), downsample
        except RegionUnreadable:
            return None

    def _read(self, at: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        import openslide

        if self._open is None:
            self._open = self._opened()
        try:
            read = self._open.read_region(at, level, size)
        except openslide.OpenSlideError as error:
            # OpenSlide answers nothing more after an error: the next region is read from the file opened anew.
            self.close()
            raise RegionUnreadable(f"{self.name}: the region at {at} cannot be read: {error}") from error
        whole = Image.new("RGB", size, self._background)
        whole.paste(read, mask=read.getchannel("A"))
        return np.asarray(whole)


def scale_of(properties: dict[str, Any]) -> float | None:
    """Return micrometres per pixel from a slide's properties, None where they do not tell, or contradict themselves."""
    across, down = properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y")
    if across is None or down is None:
        across, down = _ome_scale(str(properties.get("openslide.comment", "")))
    try:
        x, y = float(across or "nan"), float(down or "nan")
    except ValueError:
        return None
    low, high = SCALES
    if not (low <= x <= high and low <= y <= high) or max(x, y) / min(x, y) > ALIKE:
        return None
    return math.sqrt(x * y)


def _ome_scale(comment: str) -> tuple[str | None, str | None]:
    """Return the scale across and down from the XML of an OME-TIFF, micrometres per pixel."""
    unit = _OME_UNIT.search(comment)
    factor = 1.0 if unit is None else _OME_UM.get(unit.group(1))
    sizes = {axis: value for axis, value in reversed(_OME_SIZE.findall(comment))}
    if factor is None or "<OME" not in comment or set(sizes) != {"X", "Y"}:
        return None, None
    return str(float(sizes["X"]) * factor), str(float(sizes["Y"]) * factor)


def _bounds(properties: dict[str, Any], whole: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return origin and size of the scanned area; some formats have a canvas that is mostly empty."""
    names = ("bounds-x", "bounds-y", "bounds-width", "bounds-height")
    try:
        x, y, width, height = (int(properties[f"openslide.{name}"]) for name in names)
    except (KeyError, ValueError):
        return (0, 0), whole
    return (x, y), (width, height)


def _colour(text: str) -> tuple[int, int, int]:
    """Return RGB from six hexadecimal digits; white where they are none."""
    if not re.fullmatch(r"[0-9A-Fa-f]{6}", text):
        return (255, 255, 255)
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)
