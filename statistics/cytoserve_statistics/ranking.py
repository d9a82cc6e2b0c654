"""Does a score separate two groups of cells? The ROC curve, and the area under it with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cytoserve_statistics.resampling import Doubles, Interval, Resampler, percentiles, ratio
from cytoserve_statistics.shares import clopper_pearson, normal_quantile


@dataclass(frozen=True)
class Placements:
    """What the variance of an AUC is made of (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837, section 3)."""

    of_anomalies: Doubles  # (m,) for each anomaly, the share of ordinary cells that score lower (ties count half)
    of_ordinary: Doubles  # (n,) for each ordinary cell, the share of anomalies that score higher

    @property
    def auc(self) -> float:
        """Area under the ROC curve: the probability that an anomaly scores higher than an ordinary cell."""
        return float(self.of_anomalies.mean())


def placements(anomalies: Doubles, ordinary: Doubles) -> Placements:
    """Compare every anomaly with every ordinary cell; anomalies are expected to score higher."""
    return Placements(_placed(anomalies, ordinary), 1 - _placed(ordinary, anomalies))


def _placed(values: Doubles, among: Doubles) -> Doubles:
    """Return, for each value, the share of ``among`` below it, ties counted half."""
    ordered = np.sort(among)
    below, not_above = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    out: Doubles = (below + not_above) / (2 * len(among))
    return out


def auc_variance(found: Placements) -> float:
    """Return DeLong's variance of the AUC; infinite with fewer than two anomalies or two ordinary cells."""
    m, n = len(found.of_anomalies), len(found.of_ordinary)
    if min(m, n) < 2:
        return math.inf
    return float(found.of_anomalies.var(ddof=1) / m + found.of_ordinary.var(ddof=1) / n)


def auc(anomalies: Doubles, ordinary: Doubles, resampler: Resampler | None = None) -> Interval:
    """Return the AUC with its interval.

    Parameters
    ----------
    anomalies, ordinary : ndarrays
        Scores of anomalies and of ordinary cells, higher for anomalies.
    resampler : Resampler, optional
        Draws of the *ordinary* cells' slides. The interval is then never narrower than theirs; anomalies are always
        taken as independent.

    Notes
    -----
    Wald interval on DeLong's variance. Where every anomaly scores above every ordinary cell that variance is zero;
    ``min(m, n)`` disjoint pairs were then all ordered rightly, and the exact interval of that is given instead.
    """
    m, n = len(anomalies), len(ordinary)
    if min(m, n) == 0:
        return Interval(None, None, None, m + n, "none")
    found = placements(anomalies, ordinary)
    value, spread = found.auc, math.sqrt(auc_variance(found))
    pairs = min(m, n)
    if value in (0.0, 1.0) or pairs < 2:
        low, high = clopper_pearson(round(value * pairs), pairs)
        method = "exact on disjoint pairs"
    else:
        z = normal_quantile()
        low, high, method = max(0.0, value - z * spread), min(1.0, value + z * spread), "DeLong"
    if resampler is not None and resampler.slides is not None:
        drawn = ratio(resampler.weights @ found.of_ordinary, resampler.weights.sum(axis=1))
        low_slides, high_slides = percentiles(drawn)
        low, high, method = min(low, low_slides), max(high, high_slides), "slides"
    return Interval(value, low, high, m + n, method)


def auc_difference(first: Placements, second: Placements) -> tuple[float, float, float]:
    """Return ``first - second`` of two scores of the same cells, with its interval (DeLong et al. 1988, equation 5)."""
    m, n = len(first.of_anomalies), len(first.of_ordinary)
    value = first.auc - second.auc
    if min(m, n) < 2:
        return value, -1.0, 1.0
    variance = (first.of_anomalies - second.of_anomalies).var(ddof=1) / m
    variance += (first.of_ordinary - second.of_ordinary).var(ddof=1) / n
    half = normal_quantile() * math.sqrt(variance)
    return value, value - half, value + half


def roc(anomalies: Doubles, ordinary: Doubles) -> tuple[Doubles, Doubles]:
    """Return the false and true positive rates at every threshold, from none called to all called."""
    values = np.concatenate([anomalies, ordinary])
    is_anomaly = np.concatenate([np.ones(len(anomalies)), np.zeros(len(ordinary))])
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    true = np.cumsum(is_anomaly[order])[last] / len(anomalies)
    false = np.cumsum(1 - is_anomaly[order])[last] / len(ordinary)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])
