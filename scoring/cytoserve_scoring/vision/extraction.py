"""The detector's maps -> cells: boxes, kinds, the final physical scale, and the crops of the white cells.

Channels of ``SEGMENTER_MAPS`` (K = 15, stride 2): 0..2 the centre score of white cell, red cell and platelet;
``3 + 4 k`` .. ``6 + 4 k`` the distances (left, top, right, bottom) from a pixel's centre to the sides of the cell of
kind ``k``, in pixels of the detector's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Final

import numpy as np
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_contract.limits import CROP_SIZE, MAX_CELLS
from cytoserve_contract.values import (
    FLAG_OUT_OF_SCALE,
    FLAG_POOR_IMAGE,
    FLAG_SEGMENTED_WHITE_CELL,
    FLAG_TOUCHES_BORDER,
    KINDS,
)
from numpy.typing import NDArray
from scipy import ndimage

from cytoserve_scoring.constants import RED_CELL_DIAMETER_UM, WHITE_LEVEL
from cytoserve_scoring.errors import BadShape
from cytoserve_scoring.vision.crops import background_level
from cytoserve_scoring.vision.image_statistics import measured_crop
from cytoserve_scoring.vision.lit_area import find_outside
from cytoserve_scoring.vision.quality import poor_image
from cytoserve_scoring.vision.scale import (
    BOX_TO_DIAMETER,
    GUESS_FALLBACK_UM,
    MAP_STRIDE,
    SCALE_BY_FILE,
    SCALE_CONTRADICTED,
    SCALE_GUESSED,
    SegmenterGeometry,
    checked_field,
    checked_scale,
    guess_um_per_pixel,
    segmenter_geometry,
)

WHITE, RED, PLATELET = range(len(KINDS))
MAP_CHANNELS: Final = 5 * len(KINDS)


@dataclass(frozen=True)
class ExtractionSettings:
    """Thresholds of the extraction, chosen on the validation fields (docs/segmenter.md)."""

    thresholds: tuple[float, float, float] = (0.3, 0.15, 0.35)
    """Least centre score of a white cell, a red cell and a platelet."""
    same_kind_overlap: tuple[float, float, float] = (0.45, 0.55, 0.4)
    """Intersection over union above which the weaker of two cells of one kind goes, per kind."""
    cross_kind_overlap: float = 0.6
    """The same between kinds."""
    max_detections: int = 20_000
    """Peaks kept per kind, strongest first."""
    least_red_cells: int = 3
    """Fewer red cells than this are no ruler."""
    most_red_cells: int = 1000
    """At most this many are measured, the strongest first."""
    agreement: float = 0.2
    """Fewer than ``least_red_cells`` count if they differ from the classical guess by less than this part."""
    white_cell_um: float = 14.0
    """Usual box side of a white cell: the ruler of last resort."""
    comfortable: tuple[float, float] = (0.65, 1.5)
    """Range of (true scale / scale used for resampling) in which the detector was trained."""
    border_px: float = 1.5
    """A box nearer than this to the field's edge, in pixels of the field, is cut."""
    plausible_red_um: tuple[float, float] = (6.4, 9.0)
    """Median red cell, micrometres, that does not contradict a scale that was given. Real fields at their true scale
    have 6.7 to 8.8; those of chula_rbc, whose scale is nominal, 6.3 to 9.7 (docs/segmenter.md)."""
    plausible_white_um: tuple[float, float] = (7.0, 27.0)
    """The same for the median box side of the white cells, where too few red cells show."""
    classical_ratio: tuple[float, float] = (0.6, 1.6)
    """The same for the classical guess over the scale that was given."""
    odd_red_cells: int = 15
    """Fewer whole red cells than this are never called odd."""
    most_red_spread: float = 0.25
    """Interquartile range of their diameters over the median above which they are no ruler."""
    most_elongated: float = 0.33
    """Part of them longer than 1.25 times their width above which they are no ruler."""
    rim_part: float = 0.06
    """A rim or mark nearer than this part of the box's side cuts the cell."""
    empty_range: float = 16.0
    """A field whose channels all vary by no more grey levels than this is empty."""


@dataclass(frozen=True)
class Detections:
    """Cells found in one field, strongest first."""

    box: NDArray[np.float32]
    """(N, 4) float32. x0, y0, x1, y1 in pixels of the field."""
    kind: NDArray[np.uint8]
    """(N,) uint8. Rows of ``KINDS``."""
    score: NDArray[np.float32]
    """(N,) float32 in 0..1."""


@dataclass(frozen=True)
class Extraction:
    """What the model ``cell_extractor`` answers; shapes and meaning as in `cytoserve_contract.models`."""

    box: NDArray[np.float32]
    kind: NDArray[np.uint8]
    detection_score: NDArray[np.float32]
    scale: NDArray[np.float32]
    scale_source: str
    cell_index: NDArray[np.int32]
    crop: NDArray[np.uint8]
    cell_flags: NDArray[np.int32] = dataclass_field(repr=False)
    statistics: NDArray[np.float32] = dataclass_field(repr=False)


def overlaps(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of one box (4,) with each of (N, 4)."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = area + (box[2] - box[0]) * (box[3] - box[1]) - shared
    return np.asarray(shared / np.maximum(union, 1e-6), np.float32)


def detect(
    maps: NDArray[np.float32], place: SegmenterGeometry, settings: ExtractionSettings = ExtractionSettings()
) -> Detections:
    """Turn the detector's maps into cells.

    Parameters
    ----------
    maps : (1, 15, h, w) ndarray of float32
    place : SegmenterGeometry
        Where the field lies in the detector's input.

    Raises
    ------
    BadShape
        If the maps do not belong to a field of this geometry.
    """
    expected = (1, MAP_CHANNELS, place.padded_height // MAP_STRIDE, place.padded_width // MAP_STRIDE)
    if maps.shape != expected:
        raise BadShape(f"segmenter maps of this field are {expected}, got {maps.shape}")
    rows, columns = -(-place.height // MAP_STRIDE), -(-place.width // MAP_STRIDE)
    parts = [_peaks_of_kind(maps[0, :, :rows, :columns], kind, place, settings) for kind in range(len(KINDS))]
    box, score = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    kind = np.concatenate([np.full(len(part[1]), k, np.uint8) for k, part in enumerate(parts)])
    order = np.argsort(-score, kind="stable")
    box, score, kind = box[order], score[order], kind[order]
    keep = _suppress(box, kind, settings)
    scaled = box[keep] / np.float32(place.factor)
    return Detections(scaled.astype(np.float32), kind[keep], score[keep])


def _peaks_of_kind(
    maps: NDArray[np.float32], kind: int, place: SegmenterGeometry, settings: ExtractionSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return boxes (input pixels, clipped at the field) and scores at the local maxima of one kind's score."""
    score = maps[kind]
    # NaN compares false, so a broken map gives no cells rather than cells without a place.
    row, column = np.nonzero((score >= settings.thresholds[kind]) & (score == ndimage.maximum_filter(score, size=3)))
    value = score[row, column]
    if len(value) > settings.max_detections:
        best = np.argsort(-value, kind="stable")[: settings.max_detections]
        row, column, value = row[best], column[best], value[best]
    left, top, right, bottom = maps[3 + 4 * kind : 7 + 4 * kind, row, column]
    x, y = (column + 0.5) * MAP_STRIDE, (row + 0.5) * MAP_STRIDE
    box = np.stack([x - left, y - top, x + right, y + bottom], axis=1)
    low, high = np.zeros(4), np.tile([place.width, place.height], 2)
    box = np.clip(box, low, high).astype(np.float32).reshape(-1, 4)
    good = np.isfinite(box).all(axis=1) & (box[:, 2] - box[:, 0] > 1) & (box[:, 3] - box[:, 1] > 1)
    return box[good], value[good].astype(np.float32)


def _suppress(box: NDArray[np.float32], kind: NDArray[np.uint8], settings: ExtractionSettings) -> NDArray[np.int64]:
    """Return the rows that survive greedy non-maximum suppression; rows come strongest first.

    Boxes are sorted by their left side, so each is compared only with those that can reach it: time and memory stay
    small with ten thousand cells in a wide field.
    """
    by_left = np.argsort(box[:, 0], kind="stable")
    lefts = box[by_left, 0]
    widest = float((box[:, 2] - box[:, 0]).max(initial=0))
    alive = np.ones(len(box), bool)
    same = np.asarray(settings.same_kind_overlap, np.float32)
    for row in range(len(box)):
        if not alive[row]:
            continue
        first, last = np.searchsorted(lefts, [box[row, 0] - widest, box[row, 2]])
        near = by_left[first:last]
        near = near[(near > row) & alive[near]]
        limit = np.where(kind[near] == kind[row], same[kind[row]], settings.cross_kind_overlap)
        alive[near[overlaps(box[row], box[near]) > limit]] = False
    return np.flatnonzero(alive)


def _inside(box: NDArray[np.float32], shape: tuple[int, ...], margin: float) -> NDArray[np.bool_]:
    height, width = shape[:2]
    clear = (box[:, 0] > margin) & (box[:, 1] > margin)
    return np.asarray(clear & (box[:, 2] < width - margin) & (box[:, 3] < height - margin), np.bool_)


def red_cell_diameters(found: Detections, shape: tuple[int, ...], settings: ExtractionSettings) -> NDArray[np.float64]:
    """Return the diameters in pixels of the field of the red cells that can serve as a ruler.

    Whole cells (clear of the edge, nearly as wide as high), and of these those that overlap no other cell if there
    are enough: a box in a clump is the network's guess of what lies beneath.
    """
    chosen = np.flatnonzero((found.kind == RED) & _inside(found.box, shape, settings.border_px))
    size = found.box[:, 2:] - found.box[:, :2]
    ratio = size[chosen, 0] / size[chosen, 1]
    chosen = chosen[(ratio > 0.75) & (ratio < 1 / 0.75)][: settings.most_red_cells]
    alone = [row for row in chosen if np.count_nonzero(overlaps(found.box[row], found.box) > 0.08) <= 1]
    rows = alone if len(alone) >= settings.least_red_cells else chosen
    return np.asarray(np.sqrt(size[rows].prod(axis=1)) * BOX_TO_DIAMETER, np.float64)


def odd_red_cells(found: Detections, shape: tuple[int, ...], settings: ExtractionSettings) -> bool:
    """Say whether the red cells of a field differ so much in size or shape that their median is no ruler.

    Sick blood: elliptocytes, fragments beside large cells. Fewer than ``odd_red_cells`` whole ones prove nothing.
    """
    box = found.box[(found.kind == RED) & _inside(found.box, shape, settings.border_px)]
    diameters = red_cell_diameters(found, shape, settings)
    if len(box) < settings.odd_red_cells or len(diameters) < settings.least_red_cells:
        return False
    size = box[:, 2:] - box[:, :2]
    elongated = float((size.max(axis=1) > 1.25 * size.min(axis=1)).mean())
    low, middle, high = np.percentile(diameters, (25, 50, 75))
    return elongated > settings.most_elongated or float((high - low) / middle) > settings.most_red_spread


def _contradicted(
    found: Detections, field: NDArray[np.uint8], um_per_pixel: float, red_um: float, settings: ExtractionSettings
) -> bool:
    """Say whether a field contradicts the scale that was given for it.

    Its red cells decide. Without enough of them (a scale far off hides them from the detector) the classical guess
    and the size of the white cells do, with wide limits.
    """
    if np.isfinite(red_um):
        return not settings.plausible_red_um[0] <= red_um <= settings.plausible_red_um[1]
    guess = guess_um_per_pixel(field)
    low, high = settings.classical_ratio
    if guess != GUESS_FALLBACK_UM and not low <= guess / um_per_pixel <= high:
        return True
    white = found.box[(found.kind == WHITE) & _inside(found.box, field.shape, settings.border_px)]
    if len(white) == 0:
        return False
    side = float(np.median(np.sqrt((white[:, 2:] - white[:, :2]).prod(axis=1)))) * um_per_pixel
    return not settings.plausible_white_um[0] <= side <= settings.plausible_white_um[1]


def refine_scale(
    found: Detections,
    shape: tuple[int, ...],
    scale_guess: NDArray[np.float32],
    settings: ExtractionSettings = ExtractionSettings(),
) -> tuple[float, float, str, bool]:
    """Return the final scale of a field.

    Parameters
    ----------
    shape : (H, W, ...)
        Of the field.
    scale_guess : (2,) ndarray of float32
        What `cytoserve_scoring.vision.scale.prepare_field` answered.

    Returns
    -------
    um_per_pixel : float
        NaN if unknown.
    red_cell_um : float
        Median red-cell diameter under that scale, NaN if too few red cells were found. A caller whose scale wins can
        hold it against the site's usual value.
    source : str
        ``caller``, ``file``, ``red_cells``, ``cell_itself`` or ``none``.
    doubtful : bool
        True where crops must carry ``FLAG_OUT_OF_SCALE``. For a scale that was given: whether caller and file
        disagree; `extract_cells` checks it against the field.
    """
    diameters = red_cell_diameters(found, shape, settings)
    pixels = float(np.median(diameters)) if len(diameters) else float("nan")
    used, origin = float(scale_guess[0]), int(scale_guess[1])
    if origin != SCALE_GUESSED:
        enough = len(diameters) >= settings.least_red_cells
        source = "file" if origin == SCALE_BY_FILE else "caller"
        return used, used * pixels if enough else float("nan"), source, origin == SCALE_CONTRADICTED
    if 0 < len(diameters) < settings.least_red_cells:
        # Too few alone, but where they agree with the classical guess the two together will do.
        together = [RED_CELL_DIAMETER_UM / used, *diameters.tolist()]
        agree = abs(pixels * used / RED_CELL_DIAMETER_UM - 1) < settings.agreement
        pixels = float(np.median(together)) if agree else float("nan")
    if np.isfinite(pixels):
        value = RED_CELL_DIAMETER_UM / pixels
        low, high = settings.comfortable
        far = not low <= value / used <= high
        return value, RED_CELL_DIAMETER_UM, "red_cells", far or odd_red_cells(found, shape, settings)
    white = found.box[found.kind == WHITE]
    whole = white[_inside(white, shape, settings.border_px)]
    white = whole if len(whole) else white
    if len(white) == 0:
        return float("nan"), float("nan"), "none", True
    side = float(np.median(np.sqrt((white[:, 2:] - white[:, :2]).prod(axis=1))))
    return settings.white_cell_um / side, float("nan"), "cell_itself", True


def is_empty(field: NDArray[np.uint8], settings: ExtractionSettings) -> bool:
    """Return whether a field holds nothing but background: no channel varies by more than ``empty_range`` grey levels.

    On such a field the detector's scores are an extrapolation: it never saw one without a cell.
    """
    stride = max(1, int(np.sqrt(field.shape[0] * field.shape[1] / 250_000)))
    sample = field[::stride, ::stride].reshape(-1, field.shape[2])
    low, high = np.percentile(sample, (0.2, 99.8), axis=0)
    return bool((high - low).max() <= settings.empty_range)


def extract_cells(
    field: NDArray[np.uint8],
    maps: NDArray[np.float32],
    scale_guess: NDArray[np.float32],
    settings: ExtractionSettings = ExtractionSettings(),
) -> Extraction:
    """Find the cells of one field and cut the white ones out.

    Parameters
    ----------
    field : (H, W, 3) ndarray of uint8
    maps : (1, 15, h, w) ndarray of float32
        The detector's answer for `cytoserve_scoring.vision.scale.prepare_field` of this field.
    scale_guess : (2,) ndarray of float32
        The scale that was used there, and where it comes from.

    Returns
    -------
    Extraction : arrays with zero rows where nothing was found. At most ``MAX_CELLS`` white cells, strongest first, are
        cut out.

    Raises
    ------
    BadShape, BadScale
    """
    checked_field(field)
    scale_guess = np.asarray(scale_guess, np.float32).reshape(-1)
    known = range(SCALE_GUESSED, SCALE_CONTRADICTED + 1)
    if scale_guess.shape != (2,) or checked_scale(float(scale_guess[0])) is None or scale_guess[1] not in known:
        raise BadShape("SCALE_GUESS is (um per pixel > 0, origin 0 to 3): see docs/contract.md")
    place = segmenter_geometry(field.shape, float(scale_guess[0]))
    found = detect(maps, place, settings)
    if is_empty(field, settings):
        found = Detections(found.box[:0], found.kind[:0], found.score[:0])
    value, red_um, source, doubtful = refine_scale(found, field.shape, scale_guess, settings)
    index = np.flatnonzero(found.kind == WHITE)[:MAX_CELLS]
    if source in ("caller", "file") and len(index):
        doubtful = doubtful or _contradicted(found, field, value, red_um, settings)
    crops = np.zeros((len(index), CROP_SIZE, CROP_SIZE, 3), np.uint8)
    flags = np.full(len(index), FLAG_SEGMENTED_WHITE_CELL | (FLAG_OUT_OF_SCALE if doubtful else 0), np.int32)
    lamp = background_level(field) if len(index) else np.full(3, WHITE_LEVEL, np.float32)
    statistics = np.zeros((len(index), len(IMAGE_STATISTIC_NAMES)), np.float32)
    clear = _inside(found.box[index], field.shape, settings.border_px)
    outside = find_outside(field) if len(index) else None
    for row, box in enumerate(found.box[index]):
        center = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
        crops[row], statistics[row] = measured_crop(field, center, value, lamp)
        flags[row] |= FLAG_POOR_IMAGE if poor_image(crops[row]) else 0
        margin = settings.border_px + settings.rim_part * float(box[2] - box[0] + box[3] - box[1]) / 2
        cut = not clear[row] or (outside is not None and outside.touches(box, margin))
        flags[row] |= FLAG_TOUCHES_BORDER if cut else 0
    return Extraction(
        box=found.box,
        kind=found.kind,
        detection_score=found.score,
        scale=np.array([value, red_um], np.float32),
        scale_source=source,
        cell_index=index.astype(np.int32),
        crop=crops,
        cell_flags=flags,
        statistics=statistics,
    )
