"""Single-cell image files to crops at the denoiser's scale; a bad file costs its own cell only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_contract.limits import CROP_SIZE, MAX_CELLS
from cytoserve_contract.values import FLAG_INVALID, FLAG_TOUCHES_BORDER
from numpy.typing import NDArray

from cytoserve_scoring.errors import BadShape, CytoserveError
from cytoserve_scoring.vision.imaging import decode_picture
from cytoserve_scoring.vision.lit_area import find_outside
from cytoserve_scoring.vision.single_cell_scale import scale_of_single_cell

SINGLE_CELL_UM = 14.0
"""Diameter of the disc around the centre of a single-cell image that no rim or mark may enter: an ordinary white
cell's; micrometres."""


@dataclass(frozen=True)
class DecodedCells:
    """The cells of one request."""

    crop: NDArray[np.uint8]
    """(M, 96, 96, 3) uint8. Black where the file was bad."""
    flags: NDArray[np.int32]
    """(M,) int32. Bits ``FLAG_*``; ``FLAG_INVALID`` where the file was bad."""
    scale: NDArray[np.float32]
    """(M,) float32. Micrometres per pixel that were used; NaN where the file was bad."""
    statistics: NDArray[np.float32]
    """(M, S) float32. See :mod:`.image_statistics`; 0 where the file was bad."""
    error: list[str]
    """Empty, or the wire text of what was wrong with the file."""


def decode_cells(
    files: Sequence[bytes], um_per_pixel: NDArray[np.float32], check: Callable[[], None] = lambda: None
) -> DecodedCells:
    """Decode image files of one cell each and cut each cell's crop at its physical scale.

    Parameters
    ----------
    files : sequence of M bytes
        Encoded images.
    um_per_pixel : (M,) ndarray of float32
        Micrometres per pixel, 0 = not known.
    check : callable
        Called before each file; may raise, which ends the whole request.

    Raises
    ------
    BadShape
        If there are more than ``MAX_CELLS`` files.
    """
    count = len(files)
    if count > MAX_CELLS:
        raise BadShape(f"{count} images in one request, the limit is {MAX_CELLS}; send them in several requests")
    cells = DecodedCells(
        crop=np.zeros((count, CROP_SIZE, CROP_SIZE, 3), np.uint8),
        flags=np.full(count, FLAG_INVALID, np.int32),
        scale=np.full(count, np.nan, np.float32),
        statistics=np.zeros((count, len(IMAGE_STATISTIC_NAMES)), np.float32),
        error=[""] * count,
    )
    for row, data in enumerate(files):
        check()
        try:
            picture = decode_picture(data)
            image = picture.pixels
            found = scale_of_single_cell(image, float(um_per_pixel[row]), picture.um_per_pixel)
        except CytoserveError as error:
            cells.error[row] = error.wire()
            continue
        cells.crop[row] = found.crop
        cells.flags[row] = found.flags | (FLAG_TOUCHES_BORDER if _cut(image, found.um_per_pixel) else 0)
        cells.scale[row] = found.um_per_pixel
        cells.statistics[row] = found.statistics
    return cells


def _cut(image: NDArray[np.uint8], um_per_pixel: float) -> bool:
    """Say whether an eyepiece's rim, a letterbox or a drawn mark reaches the cell in the middle of an image."""
    outside = find_outside(image)
    if outside is None:
        return False
    center = np.array([image.shape[1], image.shape[0], image.shape[1], image.shape[0]], np.float32) / 2
    half = SINGLE_CELL_UM / um_per_pixel / 2
    return outside.touches(center + np.array([-half, -half, half, half], np.float32), 0.0)
