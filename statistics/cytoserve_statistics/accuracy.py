"""Accuracy where classes differ in size, and where two answers are given to the same cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve_statistics.resampling import Figure, Weights, ratio
from cytoserve_statistics.shares import CONFIDENCE

Labels = NDArray[np.integer[Any]]
"""(M,) class numbers."""

DRAWS = 4000


def balanced_accuracy(label: Labels, truth: Labels) -> float:
    """Return the mean of the recalls of the classes that occur in ``truth``.

    Parameters
    ----------
    label, truth : (M,) integer ndarrays
        Class numbers; a label of -1 (no answer) is never right.
    """
    return float(balanced_accuracy_figure(label, truth)(np.ones((1, len(truth))))[0])


def balanced_accuracy_figure(label: Labels, truth: Labels) -> Figure:
    """Return the balanced accuracy as a figure of `Resampler.figure`: its value under weights of the cells.

    Where slides are drawn, a class of very few slides is missing from some draws, which widens the interval.
    """
    present = np.unique(truth)
    members = (truth[:, None] == present).astype(float)
    hits = members * (label == truth)[:, None]

    def figure(weights: Weights) -> NDArray[np.float64]:
        recalls = ratio(weights @ hits, weights @ members)
        known = ~np.isnan(recalls)
        return ratio(np.where(known, recalls, 0.0).sum(axis=1), known.sum(axis=1))

    return figure


def balanced_accuracy_interval(
    label: Labels, truth: Labels, draws: int = DRAWS, seed: int = 0, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the balanced accuracy, cells drawn within each true class.

    Drawing n cells with replacement, of which a share p is right, is a binomial draw: no cell needs to be drawn.
    Cells are taken as independent. Source: Efron & Tibshirani 1993, chapter 13.
    """
    rng = np.random.default_rng(seed)
    recalls = [
        rng.binomial(n, (label[truth == c] == c).mean(), draws) / n
        for c, n in zip(*np.unique(truth, return_counts=True), strict=True)
    ]
    return _central(np.mean(recalls, axis=0), confidence)


def paired_difference(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[float, float, float]:
    """Return the difference in accuracy of two answers to the same cells, with its interval.

    Percentile bootstrap over cells, taken as independent (Efron & Tibshirani 1993, chapter 13).

    Parameters
    ----------
    first, second : (M,) bool ndarrays
        Whether each cell was answered rightly.

    Returns
    -------
    difference, low, high : float
        Shares, ``first`` minus ``second``.
    """
    gap = first.astype(float) - second.astype(float)
    at = np.random.default_rng(seed).integers(0, len(gap), (draws, len(gap)))
    return (float(gap.mean()), *_central(gap[at].mean(axis=1), confidence))


def _central(drawn: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)
