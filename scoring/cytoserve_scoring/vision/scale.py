"""Physical scale: micrometres per pixel from the caller, the file, the red cells, or as a last resort the cell itself.

A scale that was given is held against the picture: red cells, nuclei, and what the file says of itself.

The ruler is the red cell. A classical guess of its diameter (threshold, distance transform) is good enough to bring a
field near the detector's scale; the detector's own red-cell boxes then give the final value (`refine_scale`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from cytoserve_contract.limits import (
    COARSEST,
    MAX_AREA_UM2,
    MAX_SEGMENTER_PIXELS,
    MAX_UM_PER_PIXEL,
    MIN_UM_PER_PIXEL,
    SEGMENTER_UM_PER_PIXEL,
)
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from cytoserve_scoring.constants import RED_CELL_DIAMETER_UM
from cytoserve_scoring.errors import BadScale, BadShape, TooManyPixels
from cytoserve_scoring.vision.order_statistics import percentile
from cytoserve_scoring.vision.smoothing import smoothed

GUESS_RANGE: Final = (0.035, 0.45)
"""A guess is bounded to this range, micrometres per pixel."""

GUESS_FALLBACK_UM: Final = 0.1
"""Guess for a field in which nothing looks like a cell (100x oil objective, common camera)."""

MAP_STRIDE: Final = 2
INPUT_MULTIPLE: Final = 32
BOX_TO_DIAMETER: Final = 0.95
"""Red-cell diameter over the side of its detected box, calibrated on pbc/train (docs/segmenter.md)."""

GUESS_TO_DIAMETER: Final = 1.13
"""Red-cell diameter over the raw guess (a thresholded cell looks smaller): mean over the labelled sources."""

SAME_SCALE: Final = 0.02
"""Part by which the caller's scale and the file's may differ: rounding, not a contradiction."""

SCALE_GUESSED, SCALE_BY_CALLER, SCALE_BY_FILE, SCALE_CONTRADICTED = range(4)
"""Second number of ``SCALE_GUESS``: no scale was given, the caller gave it, the file did, or both did and disagree (the
caller's is used)."""

LARGEST_HOLE: Final = 0.012
LARGEST_HOLE_PX: Final = 800
"""A hole in the foreground larger than this part of the image, and than this many pixels, is never a pale centre."""

_PEAK_MARGIN: Final = 2
_BINS: Final = 128
"""Of the histogram that a threshold is taken from."""
_TILE: Final = 1024


@dataclass(frozen=True)
class SegmenterGeometry:
    """How a field lies in the detector's input."""

    factor: float
    """Input pixels per field pixel."""
    width: int
    height: int
    """Part of the input that shows the field, pixels."""
    padded_width: int
    padded_height: int
    """The whole input, multiples of 32."""


def checked_scale(um_per_pixel: float | None) -> float | None:
    """Return the caller's scale, or None if not given (None or 0).

    Raises
    ------
    BadScale
        If it is not a finite number within ``MIN_UM_PER_PIXEL`` .. ``MAX_UM_PER_PIXEL``.
    """
    if um_per_pixel is None or um_per_pixel == 0:
        return None
    if not np.isfinite(um_per_pixel) or not MIN_UM_PER_PIXEL <= um_per_pixel <= MAX_UM_PER_PIXEL:
        raise BadScale(
            f"{um_per_pixel} um per pixel is not plausible: give {MIN_UM_PER_PIXEL} to {MAX_UM_PER_PIXEL}, "
            "or 0 to have it estimated from the red cells"
        )
    return float(um_per_pixel)


def checked_field(field: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the field if it is an (H, W, 3) ndarray of uint8 with pixels.

    Raises
    ------
    BadShape
    """
    if field.ndim != 3 or field.shape[2] != 3 or field.dtype != np.uint8 or min(field.shape[:2]) < 1:
        raise BadShape(f"a field is (H, W, 3) uint8 with at least one pixel; got {field.shape} {field.dtype}")
    return field


def segmenter_geometry(shape: tuple[int, ...], um_per_pixel: float) -> SegmenterGeometry:
    """Return where a field of ``shape`` (H, W, ...) lies in the detector's input.

    A field that would be larger than ``MAX_SEGMENTER_PIXELS`` is brought in coarser, down to ``COARSEST``.

    Raises
    ------
    TooManyPixels
        If it would be too large even then.
    """
    height, width = shape[:2]
    factor = um_per_pixel / SEGMENTER_UM_PER_PIXEL
    pixels = height * width * factor**2
    if pixels > MAX_SEGMENTER_PIXELS:
        if pixels * COARSEST**2 > MAX_SEGMENTER_PIXELS:
            across, down = width * um_per_pixel, height * um_per_pixel
            raise TooManyPixels(
                f"a field of {width} x {height} px at {um_per_pixel:.3f} um per pixel covers {across:.0f} x "
                f"{down:.0f} um = {across * down / 1e6:.3f} mm2, the limit is {MAX_AREA_UM2 / 1e6:.3f} mm2: cut it "
                f"into several fields of at most {MAX_AREA_UM2 / um_per_pixel**2 / 1e6:.1f} million pixels each"
            )
        factor *= float(np.sqrt(MAX_SEGMENTER_PIXELS / pixels))
    inner = (max(1, round(width * factor)), max(1, round(height * factor)))
    outer = [-(-side // INPUT_MULTIPLE) * INPUT_MULTIPLE for side in inner]
    return SegmenterGeometry(factor, inner[0], inner[1], outer[0], outer[1])


def _weights(source: int, target: int, factor: float) -> sparse.csr_matrix:
    """Return the (target, source) matrix of triangle-filter resampling, anti-aliased when it shrinks."""
    support = max(1.0, 1.0 / factor)
    centers = (np.arange(target) + 0.5) / factor
    first = np.floor(centers - support).astype(np.int64)
    taps = first[:, None] + np.arange(int(np.ceil(2 * support)) + 2)[None, :]
    value = np.maximum(0.0, 1.0 - np.abs(taps + 0.5 - centers[:, None]) / support)
    # Taps beyond the edge have no pixel: leaving them out and normalising is what common image libraries do.
    value[(taps < 0) | (taps >= source)] = 0.0
    empty = value.sum(axis=1) == 0
    value[empty, 0], taps[empty, 0] = 1.0, np.clip(np.floor(centers[empty]), 0, source - 1)
    value /= value.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(target), taps.shape[1])
    columns = np.clip(taps, 0, source - 1).ravel()
    return sparse.csr_matrix((value.ravel().astype(np.float32), (rows, columns)), shape=(target, source))


def resample(field: NDArray[np.uint8], width: int, height: int, factor: float) -> NDArray[np.float32]:
    """Resample a field by ``factor``; the triangle filter of `PIL.Image.resize` with ``BILINEAR``, which training uses.

    Works in blocks of rows, so that beside the result only a few rows are held in floating point.

    Returns
    -------
    (height, width, 3) ndarray of float32 in 0..1.
    """
    rows, columns = _weights(field.shape[0], height, factor), _weights(field.shape[1], width, factor)
    out = np.empty((height, width, 3), np.float32)
    for start in range(0, height, 128):
        block = rows[start : start + 128]
        used = np.unique(block.indices)
        low, high = int(used[0]), int(used[-1]) + 1
        part = field[low:high].reshape(high - low, -1).astype(np.float32)
        tall = (block[:, low:high] @ part).reshape(-1, field.shape[1], 3)
        flat = np.ascontiguousarray(tall.transpose(1, 0, 2)).reshape(field.shape[1], -1)
        out[start : start + 128] = (columns @ flat).reshape(width, -1, 3).transpose(1, 0, 2)
    out /= 255.0
    return np.clip(out, 0.0, 1.0, out=out)


@dataclass(frozen=True)
class PreparedField:
    """A field as the detector takes it."""

    segmenter_input: NDArray[np.float32]
    """(1, 3, h, w) float32. RGB in 0..1 near 0.15 um per pixel, padded right and below with edge pixels to multiples of
    32."""
    scale_guess: NDArray[np.float32]
    """(2,) float32. Micrometres per pixel of the field that were used; where they come from (``SCALE_GUESSED`` and
    following)."""


def given_scale(um_per_pixel: float | None, file_um_per_pixel: float | None) -> tuple[float | None, int]:
    """Return the scale that was given, or None, and who gave it (``SCALE_GUESSED`` and following); the caller's wins.

    Raises
    ------
    BadScale
    """
    given = checked_scale(um_per_pixel)
    if given is None:
        return file_um_per_pixel, SCALE_GUESSED if file_um_per_pixel is None else SCALE_BY_FILE
    agree = file_um_per_pixel is None or abs(given / file_um_per_pixel - 1) <= SAME_SCALE
    return given, SCALE_BY_CALLER if agree else SCALE_CONTRADICTED


def prepare_field(
    field: NDArray[np.uint8], um_per_pixel: float | None, file_um_per_pixel: float | None = None
) -> PreparedField:
    """Bring a field to the detector's scale.

    Parameters
    ----------
    field : (H, W, 3) ndarray of uint8, RGB
    um_per_pixel : float or None
        The caller's scale; None or 0 to have the file's used, or a guess.
    file_um_per_pixel : float or None
        The scale that the file carries.

    Raises
    ------
    BadScale, BadShape, TooManyPixels
    """
    checked_field(field)
    given, origin = given_scale(um_per_pixel, file_um_per_pixel)
    used = float(np.float32(guess_um_per_pixel(field) if given is None else given))
    place = segmenter_geometry(field.shape, used)
    inner = resample(field, place.width, place.height, place.factor).transpose(2, 0, 1)
    pad = ((0, 0), (0, place.padded_height - place.height), (0, place.padded_width - place.width))
    padded = np.ascontiguousarray(np.pad(inner, pad, mode="edge")[None])
    return PreparedField(padded, np.array([used, origin], np.float32))


def guess_um_per_pixel(field: NDArray[np.uint8]) -> float:
    """Guess the scale of a field from the size of its red cells, without a model.

    Parameters
    ----------
    field : (H, W, 3) ndarray of uint8

    Returns
    -------
    float : micrometres per pixel within ``GUESS_RANGE``; ``GUESS_FALLBACK_UM`` where no cell shows.
    """
    radii = np.concatenate([red_radii(tile) for tile in _tiles(field)])
    diameter = typical_diameter(radii)
    if not np.isfinite(diameter):
        return GUESS_FALLBACK_UM
    return float(np.clip(RED_CELL_DIAMETER_UM / (diameter * GUESS_TO_DIAMETER), *GUESS_RANGE))


def _tiles(field: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the field, or up to four windows of it when it is large."""
    starts = []
    for side in field.shape[:2]:
        room = side - _TILE
        starts.append([0] if room <= 256 else [room // 4, room - room // 4] if room >= _TILE else [room // 2])
    sizes = [side if len(s) == 1 and s[0] == 0 else _TILE for side, s in zip(field.shape[:2], starts, strict=True)]
    return [field[y : y + sizes[0], x : x + sizes[1]] for y in starts[0] for x in starts[1]]


def typical_diameter(radii: NDArray[np.float64]) -> float:
    """Return twice the 40 % point of the radii, each weighted by its area: robust to debris and giant cells."""
    if len(radii) == 0:
        return float("nan")
    radii = np.sort(radii)
    weight = np.cumsum(radii**2)
    return float(2.0 * radii[np.searchsorted(weight, 0.4 * weight[-1])])


def optical_density(tile: NDArray[np.uint8]) -> tuple[NDArray[np.float32], int]:
    """Return the (h, w, 2) optical density of red and green against the background, and the reduction used (1 or 2).

    Lightly smoothed. Of blue light nothing is asked.
    """
    step = 2 if min(tile.shape[:2]) >= 400 else 1
    rows, columns = tile.shape[0] // step, tile.shape[1] // step
    density = np.empty((2, rows, columns), np.float32)
    for channel, plane in enumerate(density):
        part = tile[: rows * step, : columns * step, channel]
        if step > 1:
            part = part.reshape(rows, step, columns, step).mean(axis=(1, 3), dtype=np.float32)
        small = smoothed(part.astype(np.float32), 1.0)
        background = np.full((1, 1), percentile(small, 95))  # an array: double precision from here on
        plane[...] = -np.log(np.maximum(small, 4.0) / np.maximum(background, 8.0))
    return density.transpose(1, 2, 0), step


def _histogram(values: NDArray[np.float32], high: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return counts and edges of `_BINS` equal bins of values in 0..high, as ``numpy.histogram`` does, quicker."""
    edges = np.linspace(0.0, high, _BINS + 1, dtype=np.float32)
    at = np.minimum((values * np.float32(_BINS / high)).astype(np.intp), _BINS - 1)
    # rounding may have put a value beside its bin: the edges decide, and the last bin has both of its own
    at -= values < edges.take(at)
    at += (values >= edges.take(at + 1)) & (at < _BINS - 1)
    return np.bincount(at, minlength=_BINS), edges


def _otsu(values: NDArray[np.float32], high: float) -> float:
    """Return Otsu's threshold of values in 0..high."""
    counts, edges = _histogram(np.clip(values, 0, high).ravel(), high)
    centers = (edges[1:] + edges[:-1]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * centers)
    above = below[-1] - below
    between = (mass[-1] * below / below[-1] - mass) ** 2 / np.maximum(below * above, 1)
    return float(centers[int(between.argmax())])


def cell_masks(density: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (any cell, nucleus or other dark blue matter) of an (h, w, 2 or 3) optical density."""
    calm = density[..., 0] < 0.6
    green = density[..., 1]
    level = _otsu(green[calm] if calm.mean() > 0.3 else green, 0.6)
    cells = green > max(0.75 * level, 0.03)
    if not cells.any():
        return cells, cells
    # Haemoglobin hardly absorbs red light, nuclear stain does.
    usual = percentile(density[..., 0][cells], 30)
    return cells, density[..., 0] > max(0.32, 2.2 * float(usual))


def nuclear_matter(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return what absorbs most red light in an image of one cell, by a threshold of its own (pale stains too)."""
    red_light = smoothed(density[..., 0], 1.0)
    return np.asarray(red_light > max(_otsu(red_light, 1.2), 0.15), np.bool_)


class _Holes:
    """The holes in a mask of cells, none of which reaches the picture's edge."""

    def __init__(self, cells: NDArray[np.bool_]) -> None:
        self._cells = cells
        self._of, count = ndimage.label(~cells)
        self._area = np.bincount(self._of.ravel(), minlength=count + 1).astype(np.float64)
        self._area[0] = np.inf
        self._area[np.concatenate([self._of[0], self._of[-1], self._of[:, 0], self._of[:, -1]])] = np.inf

    def filled(self, radius: float) -> NDArray[np.bool_]:
        """Fill those no larger than a disc of ``radius``: pale centres, but not the gaps between cells."""
        most = max(LARGEST_HOLE * self._cells.size, LARGEST_HOLE_PX)
        small = self._area <= min(np.pi * radius**2, most)
        return np.asarray(self._cells | small[self._of], np.bool_) if small.any() else self._cells


def _peaks(cells: NDArray[np.bool_], nucleus: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the radii of the discs inscribed in ``cells`` that hold no ``nucleus`` and lie clear of the edge."""
    inner = smoothed(_depth(cells), 1.0)
    peak = (inner == ndimage.maximum_filter(inner, size=9)) & (inner > 4)
    edge = np.zeros_like(peak)
    edge[_PEAK_MARGIN + 1 : -_PEAK_MARGIN - 1, _PEAK_MARGIN + 1 : -_PEAK_MARGIN - 1] = True
    peak &= edge
    peak &= ~nucleus
    radii = inner[peak]
    if len(radii) and nucleus.any():
        # asked at the few peaks only: a distance at every pixel takes four times as long
        away, _ = cKDTree(np.argwhere(_rim(nucleus))).query(np.argwhere(peak))
        radii = radii[away > 0.8 * radii]
    return np.asarray(radii + 0.5, np.float64)


def _depth(area: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how far each pixel of an area is from the nearest outside, pixels.

    ``scipy.ndimage.distance_transform_edt``, but that the squares are summed in whole numbers, which is quicker.
    """
    if area.all():
        return np.asarray(ndimage.distance_transform_edt(area), np.float64)
    y, x = ndimage.distance_transform_edt(area, return_distances=False, return_indices=True)
    y -= np.arange(area.shape[0], dtype=np.int32)[:, None]
    x -= np.arange(area.shape[1], dtype=np.int32)
    return np.asarray(np.sqrt(y * y + x * x), np.float64)


def _rim(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of an area that have one beside them that is not of it: the nearest to any outside."""
    padded = np.pad(area, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(area & ~inner, np.bool_)


def red_radii(tile: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the radii (pixels of ``tile``) of discs that look like red cells."""
    if min(tile.shape[:2]) < 16:
        return np.zeros(0)
    density, step = optical_density(tile)
    return red_radii_of(density) * step


def red_radii_of(density: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the radii (pixels of ``density``) of discs that look like red cells in an (h, w, 2) optical density."""
    cells, nucleus = cell_masks(density)
    nucleus = ndimage.binary_opening(nucleus, iterations=2)
    # Start from filling every hole and come down: starting from none, a hollow cell would count as its own rim.
    radius = float("inf")
    before, radii, holes = None, np.zeros(0), _Holes(cells)
    for _ in range(3):
        filled = holes.filled(0.7 * radius)
        if before is not None and np.array_equal(filled, before):
            break
        radii = _peaks(filled, nucleus)
        if len(radii) == 0:
            break
        before, radius = filled, typical_diameter(radii) / 2
    return radii
