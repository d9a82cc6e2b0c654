"""Do anomalies stand out? ROC, AUC with its interval, and the published score for comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cytoserve_validation.answers import Doubles
from cytoserve_validation.intervals import LEVEL, clopper_pearson
from cytoserve_validation.resampling import Interval, Resampler, percentiles, ratio

MOST_NEIGHBOURS = 10


@dataclass(frozen=True)
class Placements:
    """What the variance of an AUC is made of (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837, section 3).

    Attributes
    ----------
    of_strange : (m,) ndarray
        For each anomaly, the share of ordinary cells that it is stranger than (ties count half).
    of_ordinary : (n,) ndarray
        For each ordinary cell, the share of anomalies that are stranger.
    """

    of_strange: Doubles
    of_ordinary: Doubles

    @property
    def auc(self) -> float:
        """Area under the ROC curve: the probability that an anomaly scores higher than an ordinary cell."""
        return float(self.of_strange.mean())


def placements(strange: Doubles, ordinary: Doubles) -> Placements:
    """Compare every anomaly with every ordinary cell; higher scores are stranger."""
    return Placements(_placed(strange, ordinary), 1 - _placed(ordinary, strange))


def _placed(values: Doubles, among: Doubles) -> Doubles:
    """Return, for each value, the share of ``among`` below it, ties counted half."""
    ordered = np.sort(among)
    below, not_above = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    out: Doubles = (below + not_above) / (2 * len(among))
    return out


def auc_variance(found: Placements) -> float:
    """Return DeLong's variance of the AUC; infinite with fewer than two anomalies or two ordinary cells."""
    m, n = len(found.of_strange), len(found.of_ordinary)
    if min(m, n) < 2:
        return math.inf
    return float(found.of_strange.var(ddof=1) / m + found.of_ordinary.var(ddof=1) / n)


def auc(strange: Doubles, ordinary: Doubles, resampler: Resampler | None = None) -> Interval:
    """Return the AUC with its interval.

    Parameters
    ----------
    strange, ordinary : ndarrays
        Scores of anomalies and of ordinary cells, higher is stranger.
    resampler : Resampler, optional
        Draws of the *ordinary* cells' slides. The interval is then never narrower than theirs; anomalies are always
        taken as independent.

    Notes
    -----
    Wald interval on DeLong's variance. Where every anomaly is stranger than every ordinary cell that variance is zero;
    ``min(m, n)`` disjoint pairs were then all ordered rightly, and the exact interval of that is given instead.
    """
    m, n = len(strange), len(ordinary)
    if min(m, n) == 0:
        return Interval(None, None, None, m + n, "none")
    found = placements(strange, ordinary)
    value, spread = found.auc, math.sqrt(auc_variance(found))
    pairs = min(m, n)
    if value in (0.0, 1.0) or pairs < 2:
        low, high = clopper_pearson(round(value * pairs), pairs)
        method = "exact on disjoint pairs"
    else:
        z = float(stats.norm.ppf((1 + LEVEL) / 2))
        low, high, method = max(0.0, value - z * spread), min(1.0, value + z * spread), "DeLong"
    if resampler is not None and resampler.slides is not None:
        drawn = ratio(resampler.weights @ found.of_ordinary, resampler.weights.sum(axis=1))
        low_slides, high_slides = percentiles(drawn)
        low, high, method = min(low, low_slides), max(high, high_slides), "slides"
    return Interval(value, low, high, m + n, method)


def auc_difference(first: Placements, second: Placements) -> tuple[float, float, float]:
    """Return ``first - second`` of two scores of the same cells, with its interval (DeLong et al. 1988, equation 5)."""
    m, n = len(first.of_strange), len(first.of_ordinary)
    value = first.auc - second.auc
    if min(m, n) < 2:
        return value, -1.0, 1.0
    variance = (first.of_strange - second.of_strange).var(ddof=1) / m
    variance += (first.of_ordinary - second.of_ordinary).var(ddof=1) / n
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt(variance)
    return value, value - half, value + half


def roc(strange: Doubles, ordinary: Doubles) -> tuple[Doubles, Doubles]:
    """Return the false and true positive rates at every threshold, from none called to all called."""
    values = np.concatenate([strange, ordinary])
    is_strange = np.concatenate([np.ones(len(strange)), np.zeros(len(ordinary))])
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    true = np.cumsum(is_strange[order])[last] / len(strange)
    false = np.cumsum(1 - is_strange[order])[last] / len(ordinary)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def zeta(scores: Doubles) -> Doubles:
    """Return the anomaly score of the published method for (M, C) class errors; *low* is strange.

    With errors ``e_0 <= e_1 <= ...`` less their smallest, divided by the mean error over classes, and
    ``k = min(C - 1, 10)``::

        zeta = sum over j = 1..k-1 of [ (e_j - e_0) / k - sum over l = 1..k-1 of |e_l - e_j| / (k (k - 1)) ]

    Source: the code published with Deltadahl et al. 2025 (Nature Machine Intelligence 7, 1791), as described by its
    readers; that the mean is over the classes of the cell is our reading. It knows no absolute error. Classes that
    left early enter with the error that the server estimates for them.

    Raises
    ------
    ValueError
        Fewer than three classes.
    """
    if scores.shape[1] < 3:
        raise ValueError(f"zeta needs three classes or more, not {scores.shape[1]}")
    errors: NDArray[np.float64] = np.sort(scores, axis=1)
    errors = (errors - errors[:, :1]) / errors.mean(axis=1, keepdims=True)
    k = min(scores.shape[1] - 1, MOST_NEIGHBOURS)
    inner = errors[:, 1:k]
    apart = np.abs(inner[:, :, None] - inner[:, None, :]).sum(axis=(1, 2))
    out: Doubles = inner.sum(axis=1) / k - apart / (k * (k - 1))
    return out
