"""Intervals for the figures that are printed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval (Clopper & Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.ppf(1 - tail, successes + 1, trials - successes))
    return low, high


def balanced_accuracy(guess: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the mean of the recalls of the classes present in ``truth``."""
    return float(np.mean([(guess[truth == c] == c).mean() for c in np.unique(truth)]))


def balanced_accuracy_interval(
    guess: NDArray[np.int64], truth: NDArray[np.int64], draws: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval, cells resampled within each class and taken as independent."""
    rng = np.random.default_rng(seed)
    recalls = [
        rng.binomial(n, (guess[truth == c] == c).mean(), draws) / n
        for c, n in zip(*np.unique(truth, return_counts=True), strict=True)
    ]
    low, high = np.percentile(np.mean(recalls, axis=0), [2.5, 97.5])
    return float(low), float(high)


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width, weighted by their cells.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation (3).
    """
    at = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[at == b].mean() - right[at == b].mean()) * (at == b).sum() for b in np.unique(at)]
    return float(np.sum(gaps) / len(confidence))


def share(count: int, total: int) -> dict[str, Any]:
    """Return a share with its exact 95 % interval as the result files hold it; None where there is nothing to count."""
    if total == 0:
        return {"of": 0, "count": 0, "value": None, "interval": None}
    low, high = clopper_pearson(count, total)
    return {"of": total, "count": count, "value": round(count / total, 4), "interval": [round(low, 4), round(high, 4)]}


def recalls(guess: NDArray[np.int64], truth: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the recall of every class present, with its exact interval."""
    return {
        names[c]: share(int((guess[truth == c] == c).sum()), int((truth == c).sum())) for c in np.unique(truth).tolist()
    }


def paired_difference(
    first: NDArray[np.bool_], second: NDArray[np.bool_], draws: int = 4000, seed: int = 0
) -> dict[str, Any]:
    """Return the difference in accuracy of two answers to the same cells, in points, with its 95 % interval.

    Percentile bootstrap over cells, taken as independent (Efron & Tibshirani 1993, chapter 13).
    """
    gap = 100.0 * (first.astype(float) - second.astype(float))
    at = np.random.default_rng(seed).integers(0, len(gap), (draws, len(gap)))
    low, high = np.percentile(gap[at].mean(axis=1), [2.5, 97.5])
    return {"points": round(float(gap.mean()), 2), "interval": [round(float(low), 2), round(float(high), 2)]}
