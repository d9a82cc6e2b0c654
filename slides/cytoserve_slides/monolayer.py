"""Is a part of a film one layer of cells that lie apart? Elsewhere shapes are not what they are judged by.

Near the beginning of a film cells lie on each other; at its end they are few and torn. In between is the monolayer,
where people read. It is told by how much of the field is covered, and by how much of that hangs together in clumps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

LOOK_UM: Final = 1.0
"""Micrometres per pixel at which a layer is judged: a red cell is seven wide."""

BLOCK: Final = 6
"""Side of the squares, of those pixels, whose brightest tenth tells the light that falls on them."""

AROUND: Final = 5
"""Squares across the neighbourhood that the light at a place is taken from: one of them is glass."""

CONTRAST: Final = 0.95
"""Light that covered pixels pass over that of the others; above it there are no cells. Real fields: 0.25 to 0.93."""

THICK: Final = 0.85
"""Light of the uncovered pixels over that of the slide's glass, below which they are covered as well."""

COVERED: Final = (0.04, 0.65)
"""Share of the field that cells cover in a monolayer; in fields that people photographed 0.3 to 0.6."""

CLUMP_UM2: Final = 600.0
"""Larger patches are clumps: a red cell measures 40, a large white cell 500."""

CLUMPED: Final = 0.95
"""Most of the covered area that may lie in clumps."""


@dataclass(frozen=True)
class Layer:
    """How cells lie in a field.

    Attributes
    ----------
    covered : float
        Share of the field that cells cover.
    clumped : float
        Share of that in patches that are larger than any cell; 0 where nothing is covered.
    """

    covered: float
    clumped: float

    @property
    def single(self) -> bool:
        """Whether it is a monolayer."""
        return COVERED[0] <= self.covered <= COVERED[1] and self.clumped <= CLUMPED


def background_of(pixels: Pixels) -> float:
    """Return the green of empty glass: its 99th percentile."""
    return float(np.percentile(pixels[..., 1], 99))


def layer_of(pixels: Pixels, um_per_pixel: float, background: float | None = None) -> Layer:
    """Judge a field.

    Parameters
    ----------
    pixels : (H, W, 3) ndarray of uint8
        RGB.
    um_per_pixel : float
    background : float, optional
        Green of the slide's empty glass, 0 to 255. Without it a field that is covered all over cannot be told from one
        that is not.

    Notes
    -----
    Pixels are covered where they are darker than the light around them, by Otsu's threshold (1979, IEEE Transactions
    on Systems, Man, and Cybernetics 9:62); holes, such as the pale middle of a red cell, are filled.
    """
    step = max(1, round(LOOK_UM / um_per_pixel))
    seen = _means(pixels[..., 1].astype(np.float32), step)
    if min(seen.shape) < BLOCK:
        return Layer(0.0, 0.0)
    relative = seen / _light(seen)
    threshold = _otsu(relative)
    covered = relative < threshold
    if not covered.any() or seen[covered].mean() > CONTRAST * seen[~covered].mean():
        return Layer(0.0, 0.0)
    if background is not None and seen[~covered].mean() < THICK * background:
        return Layer(1.0, 1.0)
    covered = ndimage.binary_fill_holes(covered)
    patches, _ = ndimage.label(covered)
    areas = np.bincount(patches.reshape(-1))[1:]
    large = areas[areas * (step * um_per_pixel) ** 2 > CLUMP_UM2].sum()
    return Layer(float(covered.mean()), float(large / areas.sum()))


def _means(values: Floats, side: int) -> Floats:
    """Return the means of squares; what is left at the edges is left out."""
    means: Floats = _squares(values, side).mean(axis=(1, 3))
    return means


def _squares(values: Floats, side: int) -> Floats:
    height, width = (length - length % side for length in values.shape)
    return values[:height, :width].reshape(height // side, side, width // side, side)


def _light(seen: Floats) -> Floats:
    """Return the light at each pixel, from the brightest places around it."""
    bright = np.percentile(_squares(seen, BLOCK), 90, axis=(1, 3))
    smooth = ndimage.uniform_filter(ndimage.maximum_filter(bright, AROUND), AROUND)
    rows, columns = (
        np.minimum(np.arange(length) // BLOCK, limit - 1)
        for length, limit in zip(seen.shape, smooth.shape, strict=True)
    )
    light: Floats = np.maximum(smooth[rows][:, columns], 1.0)
    return light


def _otsu(values: Floats) -> float:
    """Return the threshold that parts values into the two groups that differ most."""
    counts, edges = np.histogram(values, 64)
    share = np.cumsum(counts) / counts.sum()
    sums = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2) / counts.sum()
    inside = (share > 0) & (share < 1)
    between = np.zeros(len(share))
    between[inside] = (sums[-1] * share[inside] - sums[inside]) ** 2 / (share[inside] * (1 - share[inside]))
    return float(edges[int(between.argmax()) + 1])
