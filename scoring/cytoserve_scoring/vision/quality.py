"""Whether a crop is good enough to be judged: measurable reasons for ``poor_image``."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cytoserve_scoring.vision.order_statistics import percentile, percentiles
from cytoserve_scoring.vision.smoothing import smoothed

DARK_LEVEL: Final = 60.0
"""A crop whose 95th percentile of luminance (its background) stays below this is too dark."""

BURNT_PART: Final = 0.5
"""A crop is burnt out when this part of the central disc (the cell's place) is white in every channel."""
BURNT_LEVEL: Final = 252

LEAST_CONTRAST: Final = 20.0
"""Smallest spread (95th minus 5th percentile of luminance) of a crop that shows a cell."""

LEAST_SHARPNESS: Final = 0.16
"""Smallest edge slope, see `sharpness`. The 1402 crops of pbc/val have 0.175 at least; blurred by 0.72 um (4 px of
their 0.18 um) all fall below this, by 0.54 um 90 % (docs/segmenter.md)."""


def luminance(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the luminance (ITU-R BT.601) of an (h, w, 3) uint8 crop as (h, w) float32 in 0..255."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(crop.astype(np.float32) @ weights, np.float32)


def sharpness(grey: NDArray[np.float32]) -> float:
    """Return the slope of the steepest edges of a crop's `luminance`, as a part of its contrast per pixel.

    The 99th percentile of the luminance gradient (central differences) over the spread of the luminance, so that
    neither a pale stain nor a dim lamp changes it. 0 for an empty crop.
    """
    grey = smoothed(grey, 0.5)
    low, high = percentiles(grey, 1, 99)
    spread = float(high - low)
    if spread < 1.0:
        return 0.0
    rows, columns = np.gradient(grey)
    return float(percentile(np.hypot(rows, columns), 99)) / spread


def poor_image(crop: NDArray[np.uint8]) -> bool:
    """Say whether a crop is too dark, burnt out, empty or too blurred to be judged.

    Parameters
    ----------
    crop : (h, w, 3) ndarray of uint8, at the denoiser's scale
    """
    grey = luminance(crop)
    low, high = percentiles(grey, 5, 95)
    if high < DARK_LEVEL or high - low < LEAST_CONTRAST:
        return True
    center = crop[_middle(crop.shape[0], crop.shape[1])]
    if (center.min(axis=1) >= BURNT_LEVEL).mean() > BURNT_PART:
        return True
    return sharpness(grey) < LEAST_SHARPNESS


@lru_cache
def _middle(height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:height, :width] - (height - 1) / 2
    middle: NDArray[np.bool_] = np.hypot(y, x) < height / 6
    return middle
