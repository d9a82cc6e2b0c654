"""Cut a cell out of a field at the physical scale and in the colours the denoiser was trained on.

Training and serving cut with this one function, so a crop made by either is the same to the last bit.
"""

from __future__ import annotations

import numpy as np
from cytoserve_contract.limits import CROP_SIZE, CROP_UM_PER_PIXEL
from numpy.typing import NDArray

from cytoserve_scoring.constants import BACKGROUND_PERCENTILE, WHITE_GAIN_LIMITS, WHITE_LEVEL
from cytoserve_scoring.vision.order_statistics import percentile
from cytoserve_scoring.vision.smoothing import smoothed
from cytoserve_scoring.vision.stain import normalise_stain

_SAMPLES = 40_000
"""Pixels sampled for the background colour: enough for a percentile, bounded for a 50-million-pixel field."""


def background_level(field: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the (3,) float32 level, 1 to 255, of the empty background of a field.

    Both dyes of a blood film absorb green, so the background is where green is brightest: the median of each channel
    over the pixels above the 90th percentile of green, on a regular grid. A percentile of each channel alone would take
    its blue from nuclei, which in some laboratories are brighter in blue than a yellowish background.

    Parameters
    ----------
    field : (H, W, 3) ndarray of uint8
    """
    stride = max(1, int(np.sqrt(field.shape[0] * field.shape[1] / _SAMPLES)))
    sample = field[::stride, ::stride].reshape(-1, 3)
    green = sample[:, 1]
    background = sample[green >= percentile(green, BACKGROUND_PERCENTILE)]
    level: NDArray[np.float32] = np.maximum(np.median(background, axis=0), 1.0)
    return level


def gain_of(level: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the (3,) float32 gains that bring a background level to one neutral white.

    They are bounded, so a field without background is changed little rather than spoilt.
    """
    gain: NDArray[np.float32] = np.clip(WHITE_LEVEL / level, *WHITE_GAIN_LIMITS).astype(np.float32)
    return gain


def background_gain(field: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the (3,) float32 gains that bring the empty background of a field to one neutral white.

    Parameters
    ----------
    field : (H, W, 3) ndarray of uint8
    """
    return gain_of(background_level(field))


def cut_crop(
    field: NDArray[np.uint8],
    center: tuple[float, float],
    um_per_pixel: float,
    size: int = CROP_SIZE,
    crop_um_per_pixel: float = CROP_UM_PER_PIXEL,
    gain: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Cut one square crop: resampled to ``crop_um_per_pixel``, white-balanced, its nuclear hue normalised.

    Parameters
    ----------
    field : (H, W, 3) ndarray of uint8
        RGB image.
    center : (x, y) in pixels of ``field``; pixel centres are at integer + 0.5.
    um_per_pixel : float
        Physical scale of ``field``, micrometres per pixel, > 0.
    size : int
        Side of the crop in pixels.
    crop_um_per_pixel : float
        Physical scale of the crop.
    gain : (3,) ndarray of float32, optional
        Colour gains; :func:`background_gain` of ``field`` when not given (give it to cut many cells of one field).

    Returns
    -------
    (size, size, 3) ndarray of uint8. Beyond the field's edge it is the white of an empty background: repeated edge
    pixels would draw streaks that no cell has.

    Notes
    -----
    A Gaussian of sigma ``(step - 1) / 2`` source pixels removes what the coarser grid cannot carry, where
    ``step = crop_um_per_pixel / um_per_pixel`` (the rule of ``skimage.transform.rescale``); then bilinear sampling.
    """
    if gain is None:
        gain = background_gain(field)
    resampled, beyond = resample(field, center, um_per_pixel, size, crop_um_per_pixel)
    return normalised(resampled, beyond, gain)


def resample(
    field: NDArray[np.uint8],
    center: tuple[float, float],
    um_per_pixel: float,
    size: int = CROP_SIZE,
    crop_um_per_pixel: float = CROP_UM_PER_PIXEL,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a (size, size, 3) float32 crop in the colours of the field, and which of its pixels lie beyond the field.

    Pixels beyond the field repeat its edge. See :func:`cut_crop`.
    """
    step = crop_um_per_pixel / um_per_pixel
    sigma = max(0.0, (step - 1.0) / 2.0)
    half = step * size / 2.0
    margin = int(np.ceil(4 * sigma)) + 2
    x0, y0 = int(np.floor(center[0] - half)) - margin, int(np.floor(center[1] - half)) - margin
    x1, y1 = int(np.ceil(center[0] + half)) + margin, int(np.ceil(center[1] + half)) + margin
    rows = np.clip(np.arange(y0, y1), 0, field.shape[0] - 1)
    cols = np.clip(np.arange(x0, x1), 0, field.shape[1] - 1)
    window = field.take(rows, axis=0).take(cols, axis=1).astype(np.float32)
    if sigma > 0:
        window = smoothed(window, sigma, "nearest")
    grid = (np.arange(size) + 0.5) * step - half
    at_y = center[1] + grid - 0.5 - y0
    at_x = center[0] + grid - 0.5 - x0
    out = _bilinear(window, at_y, at_x)
    beyond_y = (center[1] + grid < 0) | (center[1] + grid > field.shape[0])
    beyond_x = (center[0] + grid < 0) | (center[0] + grid > field.shape[1])
    return out, beyond_y[:, None] | beyond_x[None, :]


def _bilinear(window: NDArray[np.float32], at_y: NDArray[np.float64], at_x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the (Y, X, C) samples of an (H, W, C) window at every pair of places within it, bilinear.

    What ``scipy.ndimage.map_coordinates`` of order 1 returns, to the last bit: the same products in double, added in
    the same order. On a grid of rows and columns, all channels at once, it takes half the time.
    """
    y, x = np.floor(at_y).astype(np.intp), np.floor(at_x).astype(np.intp)
    down, right = (at_y - y)[:, None, None], (at_x - x)[None, :, None]
    out = np.zeros((len(y), len(x), window.shape[2]))
    for rows, weight in ((y, 1 - down), (y + 1, down)):
        line = window.take(rows, axis=0).astype(np.float64)
        line *= weight
        for columns, share in ((x, 1 - right), (x + 1, right)):
            part = line.take(columns, axis=1)
            part *= share
            out += part
    return out.astype(np.float32)


def normalised(
    resampled: NDArray[np.float32], beyond: NDArray[np.bool_], gain: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Return a resampled crop white-balanced, its nuclear hue normalised, white beyond the field."""
    balanced = resampled * gain
    balanced[beyond] = WHITE_LEVEL
    crop: NDArray[np.uint8] = np.rint(normalise_stain(balanced)).astype(np.uint8)
    return crop
