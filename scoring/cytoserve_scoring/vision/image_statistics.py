"""Measure a picture as it came, before white balance and hue normalisation remove what tells sites apart.

Lamp, stain, focus, noise and compression leave their mark in the numbers of :mod:`cytoserve_contract.image_statistics`,
24 a cell. None looks at what kind of cell it is more than it must. All are finite for every picture.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_contract.limits import CROP_SIZE, CROP_UM_PER_PIXEL
from numpy.typing import NDArray
from scipy import ndimage

from cytoserve_scoring.constants import WHITE_LEVEL
from cytoserve_scoring.vision.crops import gain_of, normalised, resample
from cytoserve_scoring.vision.order_statistics import median, percentiles

Floats = NDArray[np.float32]

CENTRE_UM: Final = 6.5
"""Radius of the disc in which nucleus and cytoplasm lie, micrometres."""
CELL_UM: Final = 8.0
"""Beyond this radius lie the neighbours."""
DISC_UM: Final = 11.5
"""Radius of the disc that is measured; the crop's half side is 12 um."""
NUCLEAR_PART: Final = 0.07
CYTOPLASM_PARTS: Final = (0.3, 0.6)
"""Parts of the centre, ordered by optical density, that are taken for nucleus and cytoplasm."""
BANDS: Final = ((0.02, 0.08), (0.08, 0.16), (0.16, 0.28), (0.28, 0.5))
"""Bands of spatial frequency, cycles per pixel of the crop: the first is what the others are compared with."""
DARK_PART_OF_LAMP: Final = 0.3
JPEG_BLOCK: Final = 8
MOST_WINDOW: Final = 400
"""Longest side of the window of source pixels that noise is measured in: bounds the cost at fine scales."""
LUMINANCE: Final = np.array([0.299, 0.587, 0.114], np.float32)


def _radius() -> Floats:
    offset = (np.arange(CROP_SIZE) - (CROP_SIZE - 1) / 2) * CROP_UM_PER_PIXEL
    radius: Floats = np.hypot(offset[:, None], offset[None, :]).astype(np.float32)
    return radius


_RADIUS: Final = _radius()
# Places in the flattened crop: taking them is several times faster than by a mask.
_CENTRE: Final = np.flatnonzero(_RADIUS < CENTRE_UM)
_DISC: Final = np.flatnonzero(_RADIUS < DISC_UM)
_RING: Final = np.flatnonzero((_RADIUS > CELL_UM) & (_RADIUS < DISC_UM))
_TAPER: Final = np.outer(np.hanning(CROP_SIZE), np.hanning(CROP_SIZE)).astype(np.float32)
_FREQUENCY: Final = np.hypot(np.fft.fftfreq(CROP_SIZE)[:, None], np.fft.rfftfreq(CROP_SIZE)[None, :])
_BAND_MASKS: Final = tuple((low < _FREQUENCY) & (high >= _FREQUENCY) for low, high in BANDS)


def measured_crop(
    field: NDArray[np.uint8], center: tuple[float, float], um_per_pixel: float, lamp: Floats
) -> tuple[NDArray[np.uint8], Floats]:
    """Return the normalised crop of one cell, and the statistics of its picture before that; see `image_statistics`.

    Returns
    -------
    (96, 96, 3) ndarray of uint8; (24,) ndarray of float32
    """
    resampled, beyond = resample(field, center, um_per_pixel)
    crop = normalised(resampled, beyond, gain_of(lamp))
    return crop, image_statistics(field, center, um_per_pixel, resampled, lamp)


def image_statistics(
    field: NDArray[np.uint8], center: tuple[float, float], um_per_pixel: float, resampled: Floats, lamp: Floats
) -> Floats:
    """Return the statistics of one cell.

    Parameters
    ----------
    field : (H, W, 3) ndarray of uint8
        The picture as it came.
    center : (x, y)
        The cell's place, pixels of ``field``.
    um_per_pixel : float
        Physical scale of ``field``, micrometres per pixel.
    resampled : (96, 96, 3) ndarray of float32
        The crop at the denoiser's scale, colours as they came (:func:`.crops.resample`).
    lamp : (3,) ndarray of float32
        Level of the empty background (:func:`.crops.background_level`), 1 to 255.

    Returns
    -------
    (24,) ndarray of float32, in the order of ``IMAGE_STATISTICS``; finite.
    """
    found: Floats = np.concatenate(
        [
            np.log(lamp / np.float32(WHITE_LEVEL)),
            _densities(resampled, lamp),
            _sharpness(resampled),
            _source_noise(_window(field, center, um_per_pixel)),
            _bands(resampled),
            _colours(resampled, lamp),
        ]
    ).astype(np.float32, copy=False)
    assert found.shape == (len(IMAGE_STATISTIC_NAMES),)
    return found


def _densities(crop: Floats, lamp: Floats) -> Floats:
    """Return the mean optical density (R, G, B) of nucleus, cytoplasm and the denser half of the surroundings."""
    pixels = crop.reshape(-1, 3)
    centre, ring = (-np.log(np.clip(pixels[part], 1.0, 255.0) / lamp) for part in (_CENTRE, _RING))
    order = np.argsort(centre.sum(axis=1), kind="stable")
    low, high = (int(part * len(order)) for part in CYTOPLASM_PARTS)
    total = ring.sum(axis=1)
    found: Floats = np.concatenate(
        [
            centre[order[-int(NUCLEAR_PART * len(order)) :]].mean(axis=0),
            centre[order[low:high]].mean(axis=0),
            ring[total >= median(total)].mean(axis=0),
        ]
    )
    return found


def _sharpness(crop: Floats) -> Floats:
    grey = crop @ LUMINANCE
    laplacian = np.abs(ndimage.laplace(grey).ravel()[_DISC]).mean()
    return np.log(np.array([laplacian + 1e-3, grey.ravel()[_DISC].std() + 1e-3], np.float32))


def _window(field: NDArray[np.uint8], center: tuple[float, float], um_per_pixel: float) -> Floats:
    """Return the source pixels around the cell; it begins on a corner of an 8 x 8 block of the picture."""
    half = min(CROP_SIZE * CROP_UM_PER_PIXEL / 2 / um_per_pixel, MOST_WINDOW / 2)
    spans = []
    for middle, length in ((center[1], field.shape[0]), (center[0], field.shape[1])):
        # At least two blocks, so that there is something to compare; no more than there is.
        first = max(0, min(int(middle - half), length - 2 * JPEG_BLOCK)) // JPEG_BLOCK * JPEG_BLOCK
        spans.append(slice(first, min(length, max(int(middle + half), first + 2 * JPEG_BLOCK))))
    return field[spans[0], spans[1]].astype(np.float32)


def _source_noise(window: Floats) -> Floats:
    """Return noise, edges, colour noise of blue and of red (log grey levels), and the blocks of compression (log)."""
    grey = window @ LUMINANCE
    rough = _roughness(grey)
    blue, red = (_roughness(window[..., c] - window[..., 1]) for c in (2, 0))
    levels: list[np.floating[Any]] = [*percentiles(rough, 50, 99), median(blue), median(red)]
    columns, rows = (np.abs(np.diff(grey, axis=axis)).mean(axis=1 - axis) for axis in (1, 0))
    at_blocks = median(columns[JPEG_BLOCK - 1 :: JPEG_BLOCK]) + median(rows[JPEG_BLOCK - 1 :: JPEG_BLOCK])
    everywhere = median(columns) + median(rows)
    blocks = (at_blocks + 0.05) / (everywhere + 0.05)
    return np.log(np.array([*(level + 0.05 for level in levels), blocks], np.float32))


def _roughness(plane: Floats) -> Floats:
    """Return how far each inner pixel is from the mean of its four neighbours, grey levels."""
    around = plane[:-2, 1:-1] + plane[2:, 1:-1] + plane[1:-1, :-2] + plane[1:-1, 2:]
    rough: Floats = np.abs(plane[1:-1, 1:-1] - 0.25 * around)
    return rough


def _bands(crop: Floats) -> Floats:
    """Return the log power of coarse, medium and fine detail beside that of the cell's shape."""
    grey = crop @ LUMINANCE
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * _TAPER)) ** 2
    shape, *details = (float(power[mask].mean()) for mask in _BAND_MASKS)
    return np.log(np.array([(detail + 1e-3) / (shape + 1.0) for detail in details], np.float32))


def _colours(crop: Floats, lamp: Floats) -> Floats:
    inside = crop.reshape(-1, 3)[_DISC]
    dark = (inside @ LUMINANCE < DARK_PART_OF_LAMP * lamp.mean()).mean()
    red, green, blue = inside.T
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return np.array([np.log(dark + 1e-2), spread.mean() / 255.0], np.float32)
