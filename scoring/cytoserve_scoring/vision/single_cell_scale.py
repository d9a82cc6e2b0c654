"""Physical scale of an image that an analyser cut around one cell: given and held against the picture, or measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from cytoserve_contract.values import FLAG_OUT_OF_SCALE, FLAG_POOR_IMAGE
from numpy.typing import NDArray
from scipy import ndimage

from cytoserve_scoring.constants import RED_CELL_DIAMETER_UM
from cytoserve_scoring.vision.crops import background_level
from cytoserve_scoring.vision.image_statistics import measured_crop
from cytoserve_scoring.vision.quality import poor_image
from cytoserve_scoring.vision.scale import (
    GUESS_FALLBACK_UM,
    GUESS_RANGE,
    SCALE_BY_FILE,
    SCALE_CONTRADICTED,
    checked_field,
    given_scale,
    nuclear_matter,
    optical_density,
    red_radii_of,
    typical_diameter,
)

SINGLE_TO_DIAMETER: Final = 1.11
"""`scale.GUESS_TO_DIAMETER` for single-cell images, whose scale is not refined later: calibrated on
pbc/train to 0.18 um per pixel."""

LEAST_RED_DISCS: Final = 2
"""A single-cell image needs this many like-sized discs without a nucleus before they count as red cells."""

NUCLEUS_DIAMETER_UM: Final = 10.5
"""Diameter of the disc that has the area of a white cell's nucleus; median of pbc/train (docs/segmenter.md)."""

NUCLEUS_RANGE_UM: Final = (3.0, 17.0)
"""Plausible diameters of a nucleus (or of a platelet's body): red discs that say otherwise are no red cells."""

GIVEN_NUCLEUS_UM: Final = (4.0, 24.0)
"""A nucleus (or a platelet's body) of another diameter under a scale that was given contradicts that scale; pbc/val has
4.2 to 17.5 um."""

GIVEN_RED_RATIO: Final = (0.78, 1.25)
"""Red discs contradict a scale that was given when they measure one outside this range of it, `SURE_RED_DISCS` of them
or more. Chosen on pbc/val (docs/segmenter.md)."""

GIVEN_RED_RATIO_FEW: Final = (0.65, 1.6)
"""The same with fewer discs."""

SURE_RED_DISCS: Final = 3

FITTING_DISCS: Final = 2
FITTING_RADIUS: Final = 0.15
"""This many discs whose radius fits the given scale within this part confirm it, whatever the others measure."""


@dataclass(frozen=True)
class SingleCellScale:
    """Scale of a single-cell image."""

    um_per_pixel: float
    """Never NaN: where nothing can be measured it is ``GUESS_FALLBACK_UM``, flagged."""
    source: str
    """``caller``, ``file``, ``red_cells``, ``cell_itself`` or ``none``."""
    flags: int
    """Bits ``FLAG_OUT_OF_SCALE`` and ``FLAG_POOR_IMAGE``."""
    crop: NDArray[np.uint8]
    """(96, 96, 3) uint8. Cut about the middle at that scale."""
    statistics: NDArray[np.float32]
    """(S,) float32. See :mod:`.image_statistics`."""


def scale_of_single_cell(
    image: NDArray[np.uint8], um_per_pixel: float | None = None, file_um_per_pixel: float | None = None
) -> SingleCellScale:
    """Return the scale of an image that an analyser cut around one cell.

    The caller's scale wins, then the file's; ``FLAG_OUT_OF_SCALE`` says that the picture contradicts it. Else the red
    cells around the nucleus, if at least ``LEAST_RED_DISCS`` show. Else the cell itself, held against the usual size of
    a nucleus: a last resort, because size is evidence for the class.

    Raises
    ------
    BadScale, BadShape
    """
    checked_field(image)
    given, origin = given_scale(um_per_pixel, file_um_per_pixel)
    sizes = _single_sizes(image)
    if given is not None:
        value, source = given, "file" if origin == SCALE_BY_FILE else "caller"
        doubtful = origin == SCALE_CONTRADICTED or _contradicts(sizes, given)
    else:
        value, source = _measured_single_scale(sizes)
        doubtful = source in ("cell_itself", "none")
    center = (image.shape[1] / 2, image.shape[0] / 2)
    crop, statistics = measured_crop(image, center, value, background_level(image))
    flags = (FLAG_OUT_OF_SCALE if doubtful else 0) | (FLAG_POOR_IMAGE if poor_image(crop) else 0)
    return SingleCellScale(value, source, flags, crop, statistics)


@dataclass(frozen=True)
class _SingleSizes:
    """What can be measured in an image of one cell, pixels: discs that look like red cells, and dark nuclear matter."""

    radii: NDArray[np.float64]
    nucleus: float
    largest_nucleus: float

    @property
    def alike(self) -> int:
        """How many discs are near the typical one; others are bits of a cell's plasm or of a clump."""
        if len(self.radii) == 0:
            return 0
        typical = typical_diameter(self.radii) / 2
        return int(np.count_nonzero(np.abs(self.radii / typical - 1) < 0.25))

    def red_scale(self) -> float | None:
        """Return the scale by the red discs, None if there are too few or the nucleus would have an impossible size."""
        if self.alike < LEAST_RED_DISCS:
            return None
        value = RED_CELL_DIAMETER_UM / (typical_diameter(self.radii) * SINGLE_TO_DIAMETER)
        low, high = NUCLEUS_RANGE_UM
        possible = self.largest_nucleus < 8 or low <= self.largest_nucleus * value <= high
        return value if GUESS_RANGE[0] <= value <= GUESS_RANGE[1] and possible else None


def _single_sizes(image: NDArray[np.uint8]) -> _SingleSizes:
    if min(image.shape[:2]) < 16:
        return _SingleSizes(np.zeros(0), 0.0, 0.0)
    density, step = optical_density(image)
    nucleus = nuclear_matter(density)
    pieces = np.bincount(ndimage.label(nucleus)[0].ravel())[1:]
    own, largest = (2 * step * float(np.sqrt(area / np.pi)) for area in (nucleus.sum(), pieces.max(initial=0)))
    return _SingleSizes(red_radii_of(density) * step, own, largest)


def _contradicts(sizes: _SingleSizes, given: float) -> bool:
    """Say whether red discs or the nucleus of a single-cell image contradict a scale that was given."""
    low, high = GIVEN_NUCLEUS_UM
    if sizes.largest_nucleus >= 8 and not low <= sizes.largest_nucleus * given <= high:
        return True
    measured = sizes.red_scale()
    if measured is None:
        return False
    expected = RED_CELL_DIAMETER_UM / (2 * given * SINGLE_TO_DIAMETER)
    fitting = np.abs(np.log(sizes.radii / expected)) < np.log(1 + FITTING_RADIUS)
    if np.count_nonzero(fitting) >= FITTING_DISCS:
        return False
    low, high = GIVEN_RED_RATIO if sizes.alike >= SURE_RED_DISCS else GIVEN_RED_RATIO_FEW
    return not low <= measured / given <= high


def _measured_single_scale(sizes: _SingleSizes) -> tuple[float, str]:
    """Return (um per pixel, source) of a single-cell image without a given scale."""
    value = sizes.red_scale()
    if value is not None:
        return value, "red_cells"
    if sizes.nucleus >= 8:
        return float(np.clip(NUCLEUS_DIAMETER_UM / sizes.nucleus, *GUESS_RANGE)), "cell_itself"
    return GUESS_FALLBACK_UM, "none"
