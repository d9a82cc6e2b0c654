"""Risk against coverage: how wrong are the accepted cells, for every threshold on the confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
from cytoserve_scoring.classifier.fitting import error_bound
from numpy.typing import NDArray

from cytoserve_validation.answers import Doubles, Flags

CURVE_POINTS = 120
"""Most points that a curve is written with; between them nothing is interpolated."""


def ranked(confidence: Doubles, right: Flags) -> tuple[Doubles, Doubles, Doubles]:
    """Return threshold, coverage and risk at every distinct confidence, the strictest first.

    Parameters
    ----------
    confidence : (M,) ndarray
    right : (M,) bool ndarray

    Returns
    -------
    thresholds, coverage, risk : (K,) ndarrays
        Accepting every cell with ``confidence >= threshold`` takes the share ``coverage``, of which ``risk`` is wrong.

    Notes
    -----
    Source: El-Yaniv & Wiener 2010, "On the foundations of noise-free selective classification". Cells of one
    confidence are accepted together: no threshold can tell them apart.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    wrong = np.cumsum(~right[order])
    last = np.append(np.flatnonzero(np.diff(sorted_confidence)), len(order) - 1)
    count = last + 1
    return sorted_confidence[last], count / len(order), wrong[last] / count


def area_under_risk(confidence: Doubles, right: Flags) -> float:
    """Return the mean, over cells, of the risk at which each is first accepted (AURC; less is better).

    Source: Geifman & El-Yaniv 2019, "SelectiveNet", section 2; cells of one confidence share the risk of their level.
    """
    _, coverage, risk = ranked(confidence, right)
    width = np.diff(coverage, prepend=0.0)
    return float((width * risk).sum())


def curve(confidence: Doubles, right: Flags, level: float, slides: NDArray[Any] | None = None) -> list[dict[str, Any]]:
    """Return at most ``CURVE_POINTS`` points of the curve, each with the one-sided bound of its risk.

    The bound has confidence ``level`` point by point, not for all of them at once. It is exact for independent cells;
    where (M,) ``slides`` are given, it is one for cells of new slides (`cytoserve_statistics.clusters`).
    """
    thresholds, coverage, risk = ranked(confidence, right)
    chosen = np.unique(np.linspace(0, len(thresholds) - 1, CURVE_POINTS).round().astype(int))
    points = []
    for i in chosen:
        count = round(float(coverage[i] * len(confidence)))
        wrong = round(float(risk[i] * count))
        points.append(
            {
                "threshold": float(thresholds[i]),
                "accepted": count,
                "share": count / len(confidence),
                "wrong": wrong,
                "risk": wrong / count,
                "upper": error_bound(confidence >= thresholds[i], right, level, slides),
            }
        )
    return points
