"""What part of a picture shows the film: not the eyepiece's black surround, letterbox, scale bars or drawn marks.

A cell that such a rim cuts looks like another cell, exactly as one cut by the file's own edge; its rim is an edge too.
Works on a grid of at most `GRID_SIDE` points a side, so a field of 50 million pixels costs no more than a small one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from cytoserve_scoring.vision.order_statistics import percentile, percentiles

GRID_SIDE: Final = 1200
"""Most points of the grid along a side."""

DARK_PART: Final = 0.25
"""Darker than this part of the film's background in every channel is no film: nuclei keep half of the blue."""
DARK_LEAST: Final = 45.0
"""And so is what stays below this grey level, however dark the film."""
INK_LEVEL: Final = 25
INK_CHROMA: Final = 20
"""Inside the field only neutral black is ink (scale bars, arrows, text); bcisc's darkest nuclei reach 27."""

FLAT_RANGE: Final = 2
FLAT_WHOLE_RANGE: Final = 4
"""Grey levels by which neighbours in a letterbox, and all of it, may differ (JPEG)."""
FLAT_PART: Final = 0.01
FLAT_CORNERS: Final = 2
"""Each area of a flat surround fills at least this part of the picture, and together they hold two corners or more: the
smooth corner of a film's background does not."""
LEAST_CONVEX: Final = 0.97
LEAST_LIT: Final = 0.25
"""A flat surround leaves one convex area of at least this part of the picture (a disc, an ellipse, a rectangle); the
cells on a burnt-out background do not."""

SURROUND_PART: Final = 0.002
MARK_PART: Final = 0.0001
MARK_POINTS: Final = 24
"""Smallest surround and smallest mark, as parts of the picture, and the least number of grid points of a mark."""

GREEN, YELLOW, CYAN, RED, BLUE = 110, 150, 190, 140, 190
"""How far the channels of a drawn mark stand apart. Stains of nine sources reach 92, 122, 172, 112 and 139, but for a
few fields with marks in them (docs/segmenter.md)."""


@dataclass(frozen=True)
class Outside:
    """Where a picture shows no film."""

    mask: NDArray[np.bool_]
    """(h, w) bool. True where there is no film, on a grid of every ``step``-th pixel."""
    step: int

    def touches(self, box: NDArray[np.float32], margin: float) -> bool:
        """Say whether the ellipse inscribed in a box (x0, y0, x1, y1 in pixels), grown by a margin, reaches it."""
        x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
        across = max(float(box[2] - box[0]) / 2 + margin, self.step)
        down = max(float(box[3] - box[1]) / 2 + margin, self.step)
        low_y, low_x = max(0, int((y - down) // self.step)), max(0, int((x - across) // self.step))
        part = self.mask[low_y : int((y + down) // self.step) + 2, low_x : int((x + across) // self.step) + 2]
        rows, columns = np.nonzero(part)
        at_y, at_x = (rows + low_y) * self.step + 0.5, (columns + low_x) * self.step + 0.5
        return bool((((at_x - x) / across) ** 2 + ((at_y - y) / down) ** 2 <= 1).any())


def find_outside(field: NDArray[np.uint8]) -> Outside | None:
    """Return where a picture shows no film; None where all of it does, as in ordinary pictures.

    Parameters
    ----------
    field : (H, W, 3) ndarray of uint8
    """
    step = -(-max(field.shape[:2]) // GRID_SIDE)
    sample = field[::step, ::step]
    red, green, blue = (sample[..., channel] for channel in range(3))
    brightest, darkest = (of(of(red, green), blue) for of in (np.maximum, np.minimum))
    mask = _surround(brightest) | _flat_surround(sample) | _marks(sample, brightest, darkest)
    # a picture without any film has no rim: `quality` judges dark pictures
    return Outside(mask, step) if mask.any() and not mask.all() else None


def _surround(brightest: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the dark areas that reach the picture's edge."""
    limit = max(DARK_LEAST, DARK_PART * float(percentile(brightest, 90)))
    dark = brightest < limit
    if dark.all() or not any(side.any() for side in (dark[0], dark[-1], dark[:, 0], dark[:, -1])):
        return np.zeros(brightest.shape, np.bool_)
    pieces, count = ndimage.label(dark)
    area = np.bincount(pieces.ravel(), minlength=count + 1)
    large = area >= SURROUND_PART * brightest.size
    large[0] = False
    edge = np.zeros(count + 1, np.bool_)
    edge[np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])] = True
    return np.asarray((large & edge)[pieces], np.bool_)


def _flat_surround(sample: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return areas of one colour that fill corners and leave one convex area (white letterbox, round cut-outs)."""
    nothing = np.zeros(sample.shape[:2], np.bool_)
    if min(sample.shape[:2]) > 1 and _flat_corners(sample) < FLAT_CORNERS:
        return nothing  # ordinary pictures: what follows costs more than all other checks
    pieces, _ = ndimage.label(_spread(sample) <= FLAT_RANGE)
    corners = pieces[[0, 0, -1, -1], [0, -1, 0, -1]]
    flat = np.isin(pieces, [piece for piece in np.unique(corners) if piece and _is_flat(sample, pieces == piece)])
    if np.count_nonzero(flat[[0, 0, -1, -1], [0, -1, 0, -1]]) < FLAT_CORNERS or flat.mean() > 1 - LEAST_LIT:
        return nothing
    flat = ndimage.binary_dilation(flat)  # the 3 x 3 window took one point from it
    parts, _ = ndimage.label(~flat)
    lit = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    if lit.mean() < LEAST_LIT or ndimage.binary_fill_holes(lit).sum() < LEAST_CONVEX * _hull_area(lit):
        return nothing
    return np.asarray(flat, np.bool_)


def _spread(sample: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the (h, w) largest range of a channel in the 3 x 3 neighbourhood; quicker than SciPy's filters."""
    padded = np.pad(sample, ((1, 1), (1, 1), (0, 0)), mode="edge")

    def extreme(of: Callable[..., NDArray[np.uint8]]) -> NDArray[np.uint8]:
        rows = of(of(padded[:-2], padded[1:-1]), padded[2:])
        return of(of(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])

    apart = extreme(np.maximum) - extreme(np.minimum)
    return np.maximum(np.maximum(apart[..., 0], apart[..., 1]), apart[..., 2])


def _flat_corners(sample: NDArray[np.uint8]) -> int:
    """Return in how many corners the outermost 2 x 2 pixels differ by no more than `FLAT_RANGE` in any channel."""
    ends = np.array([0, 1, -2, -1])
    four = sample[ends[:, None], ends].reshape(2, 2, 2, 2, 3)
    apart = four.max(axis=(1, 3)) - four.min(axis=(1, 3))
    return int(np.count_nonzero((apart <= FLAT_RANGE).all(axis=2)))


def _is_flat(sample: NDArray[np.uint8], area: NDArray[np.bool_]) -> bool:
    """Say whether an area is large and of one colour throughout."""
    if area.mean() < FLAT_PART:
        return False
    inside = sample[area]
    spans = (percentiles(inside[:, channel], 1, 99) for channel in range(3))
    return all(high - low <= FLAT_WHOLE_RANGE for low, high in spans)


def _hull_area(lit: NDArray[np.bool_]) -> float:
    """Return the number of points that the convex hull of an area covers."""
    rows = np.flatnonzero(lit.any(axis=1))
    first, last = lit.argmax(axis=1)[rows], lit.shape[1] - lit[:, ::-1].argmax(axis=1)[rows]
    corners = [np.stack([rows + down, ends], axis=1) for ends in (first, last) for down in (0, 1)]
    try:
        return float(ConvexHull(np.concatenate(corners).astype(np.float64)).volume)
    except QhullError:
        return float("inf")


def _marks(sample: NDArray[np.uint8], brightest: NDArray[np.uint8], darkest: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return drawn marks: neutral black, or a colour that no stain has."""
    red, green, blue = (sample[..., channel].astype(np.int16) for channel in range(3))
    drawn = (brightest < INK_LEVEL) & (brightest - darkest <= INK_CHROMA)
    drawn |= green - np.maximum(red, blue) > GREEN
    drawn |= np.minimum(red, green) - blue > YELLOW
    drawn |= np.minimum(green, blue) - red > CYAN
    drawn |= red - np.maximum(green, blue) > RED
    drawn |= blue - np.maximum(red, green) > BLUE
    if not drawn.any():
        return drawn
    pieces, count = ndimage.label(drawn, structure=np.ones((3, 3)))
    area = np.bincount(pieces.ravel(), minlength=count + 1)
    large = area >= max(MARK_POINTS, MARK_PART * drawn.size)
    large[0] = False
    return np.asarray(large[pieces], np.bool_)
