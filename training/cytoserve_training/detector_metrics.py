"""Detection figures: average precision, F1, and their bootstrap intervals over fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cytoserve_scoring.vision.extraction import overlaps
from numpy.typing import NDArray

KIND_COUNT = 3


@dataclass(frozen=True)
class FieldMatch:
    """One kind in one field, after matching.

    Parameters
    ----------
    score : (N,) ndarray of float32
        Of every detection.
    hit : (N,) ndarray of bool
        True where the detection was matched to a labelled cell of its own.
    labelled : int
        Number of labelled cells.
    """

    score: NDArray[np.float32]
    hit: NDArray[np.bool_]
    labelled: int


def match(
    box: NDArray[np.float32], score: NDArray[np.float32], labelled: NDArray[np.float32], least: float = 0.5
) -> FieldMatch:
    """Match detections to labelled boxes, strongest first, each to the free box it overlaps most.

    Parameters
    ----------
    box : (N, 4), score : (N,), labelled : (M, 4)
    least : float
        Smallest intersection over union of a match.
    """
    order = np.argsort(-score, kind="stable")
    free = np.ones(len(labelled), bool)
    hit = np.zeros(len(order), bool)
    for place, row in enumerate(order):
        if not free.any():
            break
        shared = np.where(free, overlaps(box[row], labelled), -1.0)
        best = int(shared.argmax())
        if shared[best] >= least:
            free[best], hit[place] = False, True
    return FieldMatch(score[order].astype(np.float32), hit, len(labelled))


def average_precision(matches: Sequence[FieldMatch]) -> float:
    """Return the area under the precision-recall curve, all-point interpolation (PASCAL VOC 2010 and later).

    Returns
    -------
    float : NaN if nothing is labelled.
    """
    total = sum(item.labelled for item in matches)
    if total == 0:
        return float("nan")
    score = np.concatenate([item.score for item in matches])
    hit = np.concatenate([item.hit for item in matches])[np.argsort(-score, kind="stable")]
    right = np.cumsum(hit)
    precision = right / np.arange(1, len(hit) + 1)
    # The envelope: precision at a recall is the best at that recall or any higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hit].sum() / total)


def f1_score(matches: Sequence[FieldMatch], threshold: float) -> float:
    """Return F1 of the detections with at least ``threshold``."""
    right = sum(int(item.hit[item.score >= threshold].sum()) for item in matches)
    found = sum(int((item.score >= threshold).sum()) for item in matches)
    total = sum(item.labelled for item in matches)
    return 2 * right / max(found + total, 1)


def interval(
    figure: Callable[[NDArray[np.int64]], float], count: int, rounds: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Return (value, low, high): the figure over all fields and its 95 % percentile bootstrap over fields."""
    rng = np.random.default_rng(seed)
    values = [figure(rng.integers(0, count, count)) for _ in range(rounds)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return figure(np.arange(count)), float(low), float(high)


def summary(matches: Sequence[Sequence[FieldMatch]], white_threshold: float) -> dict[str, tuple[float, float, float]]:
    """Return the figures of a set of fields, each as (value, low, high).

    Parameters
    ----------
    matches : per field, per kind
    white_threshold : float
        Operating threshold of the white cells' F1.
    """

    def ap(kind: int, rows: NDArray[np.int64]) -> float:
        return average_precision([matches[row][kind] for row in rows])

    def mean_ap(rows: NDArray[np.int64]) -> float:
        return float(np.nanmean([ap(kind, rows) for kind in range(KIND_COUNT)]))

    count = len(matches)
    out = {
        f"ap50_{name}": interval(lambda rows, kind=kind: ap(kind, rows), count)  # type: ignore[misc]
        for kind, name in enumerate(("white_cell", "red_cell", "platelet"))
    }
    out["map50"] = interval(mean_ap, count)
    out["f1_white_cell"] = interval(lambda rows: f1_score([matches[row][0] for row in rows], white_threshold), count)
    return out
