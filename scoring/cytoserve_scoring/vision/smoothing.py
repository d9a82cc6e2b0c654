"""A Gaussian over rows and columns: ``scipy.ndimage.gaussian_filter`` to the last bit, with its kernel kept.

A cell is smoothed half a dozen times; SciPy makes the kernel anew for each axis of each call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TRUNCATE = 4.0
"""Radius of the kernel in standard deviations, as SciPy's default is."""


def smoothed(picture: NDArray[Any], sigma: float, mode: Literal["reflect", "nearest"] = "reflect") -> NDArray[Any]:
    """Return an (h, w) or (h, w, channels) picture smoothed along its first two axes, in its own precision.

    Parameters
    ----------
    sigma : float
        Standard deviation, pixels, > 0.
    mode : str
        What lies beyond the picture.
    """
    kernel = _kernel(sigma)
    rows = ndimage.correlate1d(picture, kernel, axis=0, mode=mode)
    found: NDArray[Any] = ndimage.correlate1d(rows, kernel, axis=1, mode=mode)
    return found


@lru_cache(maxsize=64)
def _kernel(sigma: float) -> NDArray[np.float64]:
    radius = int(TRUNCATE * sigma + 0.5)
    at = np.arange(-radius, radius + 1)
    weight = np.exp(-0.5 / (sigma * sigma) * at**2)
    kernel: NDArray[np.float64] = weight / weight.sum()
    kernel.flags.writeable = False
    return kernel
