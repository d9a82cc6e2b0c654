"""The baseline the detector must beat: threshold, distance transform, watershed (scikit-image)."""

from __future__ import annotations

import numpy as np
from cytoserve_scoring.constants import RED_CELL_DIAMETER_UM
from cytoserve_scoring.vision.extraction import Detections
from cytoserve_scoring.vision.scale import cell_masks, guess_um_per_pixel
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.measure import label, regionprops
from skimage.segmentation import watershed
from skimage.transform import rescale

WORK_DIAMETER = 40.0
"""Red-cell diameter to which the field is brought, pixels."""


def find_cells(field: NDArray[np.uint8]) -> Detections:
    """Find cells in an (H, W, 3) uint8 field without learning.

    Nuclei are the dark blue regions, large ones white cells and small ones platelets; what else absorbs green is cut
    by a watershed on the distance transform into red cells. The score is roundness, for want of a probability.
    """
    diameter = RED_CELL_DIAMETER_UM / guess_um_per_pixel(field)
    factor = min(1.0, WORK_DIAMETER / diameter)
    small = rescale(field.astype(np.float32), factor, channel_axis=2, anti_aliasing=factor < 1)
    small = ndimage.gaussian_filter(small, (1, 1, 0))
    background = np.percentile(small.reshape(-1, 3), 95, axis=0)
    cells, dark = cell_masks((-np.log(np.maximum(small, 4) / np.maximum(background, 8))).astype(np.float32))
    red = diameter * factor
    area = np.pi * red**2 / 4
    dark = ndimage.binary_closing(ndimage.binary_opening(dark, iterations=1), iterations=max(1, round(red * 0.12)))
    nuclei = label(dark)
    rows: list[tuple[tuple[float, ...], int, float]] = []
    white = np.zeros_like(dark)
    for region in regionprops(nuclei):
        big = region.area > 0.35 * area
        if not big and 0.01 * area < region.area < 0.35 * area:
            rows.append((region.bbox, 2, float(region.solidity)))
        if big:
            white |= nuclei == region.label
    rows += _split(ndimage.binary_fill_holes(cells | white), white, red)
    if not rows:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.float32))
    box = np.array([(b[1], b[0], b[3], b[2]) for b, _, _ in rows], np.float32) / np.float32(factor)
    score = np.array([s for _, _, s in rows], np.float32)
    return Detections(box, np.array([k for _, k, _ in rows], np.uint8), score)


def _split(
    cells: NDArray[np.bool_], white: NDArray[np.bool_], red: float
) -> list[tuple[tuple[float, ...], int, float]]:
    """Cut the foreground at its necks; a part with a nucleus in it is a white cell."""
    inner = ndimage.gaussian_filter(ndimage.distance_transform_edt(cells), 1.0)
    seeds = peak_local_max(inner, min_distance=round(red * 0.35), threshold_abs=red * 0.2, exclude_border=False)
    markers = np.zeros(cells.shape, np.int32)
    nuclei = label(ndimage.binary_dilation(white, iterations=2))
    for number, (y, x) in enumerate(seeds, start=1):
        if not nuclei[y, x]:
            markers[y, x] = number
    markers[nuclei > 0] = nuclei[nuclei > 0] + len(seeds)
    parts = watershed(-inner, markers, mask=cells)
    rows = []
    for region in regionprops(parts):
        if region.label > len(seeds):
            rows.append((region.bbox, 0, float(region.solidity)))
        elif 0.25 < region.area / (np.pi * red**2 / 4) < 2.5:
            rows.append((region.bbox, 1, float(region.solidity)))
    return rows
