"""Bounds of a share whose observations come in clusters, such as the cells of slides: cells of one slide err together.

A bound that takes the cells as independent is too low then: in the slides that ``tests/statistics/test_clusters.py``
simulates, with errors correlated by 0.2, it fails about twice as often as it says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Doubles = NDArray[np.float64]


def intraclass_correlation(count: ArrayLike, total: ArrayLike) -> float:
    """Return how alike the observations of a cluster are: the one-way random-effects correlation, at least 0.

    Source: the analysis-of-variance estimator for binary data, Ridout, Demetrio & Firth 1999, "Estimating intraclass
    correlation for binary data", Biometrics 55:137.

    Parameters
    ----------
    count, total : (G,) array_like of int
        Hits and observations of each cluster. Clusters without observations do not count.

    Returns
    -------
    float : 0 where all observations are the same, or no cluster has two.

    Examples
    --------
    >>> intraclass_correlation([10, 0, 10, 0], [10, 10, 10, 10])
    1.0
    >>> intraclass_correlation([2, 2, 2, 2], [10, 10, 10, 10])
    0.0
    """
    found = _analysis(*_clusters(count, total))
    if found is None:
        return 0.0
    between, within, usual = found
    spread = between + (usual - 1) * within
    return max(0.0, float((between - within) / spread)) if spread > 0 else 0.0


def highest_correlation(count: ArrayLike, total: ArrayLike, confidence: float) -> float:
    """Return a one-sided upper limit of the intraclass correlation: few clusters cannot show that there is none.

    Source: the limit of the one-way analysis of variance, Searle 1971, "Linear models", section 9.7 (exact for normal
    errors and clusters of one size, an approximation here).

    Parameters
    ----------
    count, total : (G,) array_like of int
        Hits and observations of each cluster.
    confidence : float
        One-sided.

    Returns
    -------
    float : 1 where the observations show nothing: all the same, fewer than two clusters, or none with two.

    Examples
    --------
    >>> few, many = ([1, 0, 1, 0, 1], [10] * 5), ([1, 0, 1, 0, 1] * 20, [10] * 100)
    >>> round(highest_correlation(*few, 0.9), 2), round(highest_correlation(*many, 0.9), 2)
    (0.08, 0.0)
    """
    from scipy import special

    hits, size = _clusters(count, total)
    found = _analysis(hits, size)
    if found is None or found[0] == found[1] == 0:
        return 1.0
    between, within, usual = found
    if within == 0:
        return 1.0
    least = special.fdtri(len(size) - 1, size.sum() - len(size), 1 - confidence)
    ratio = between / within / least
    return float(np.clip((ratio - 1) / (ratio + usual - 1), 0.0, 1.0))


def _analysis(hits: Doubles, size: Doubles) -> tuple[float, float, float] | None:
    """Return mean squares between and within clusters, and the usual size of one; None where there are none."""
    groups, whole = len(size), size.sum()
    if groups < 2 or whole == groups:
        return None
    share = hits.sum() / whole
    between = (size * (hits / size - share) ** 2).sum() / (groups - 1)
    within = (hits * (1 - hits / size)).sum() / (whole - groups)
    return float(between), float(within), float((whole - (size**2).sum() / whole) / (groups - 1))


def effective_total(total: ArrayLike, confidence: float, correlation: float) -> float:
    """Return how many independent observations those of some clusters are worth to a bound.

    The number of observations over the design effect of clusters of unequal size (Kish 1965, "Survey sampling"), and
    less for few clusters by the ratio of the normal to Student's quantile, as in `clustered_upper_bound`.

    Examples
    --------
    >>> round(effective_total([10] * 20, 0.95, 0.0)), round(effective_total([10] * 20, 0.95, 0.2))
    (181, 65)
    """
    size = _clusters(np.zeros_like(np.asarray(total)), total)[1]
    if len(size) < 2:
        return 0.0
    effect = 1 + ((size**2).sum() / size.sum() - 1) * correlation
    return float(size.sum() / effect) * _few(len(size), confidence)


def clustered_upper_bound(count: ArrayLike, total: ArrayLike, confidence: float, correlation: float = 0.0) -> float:
    """Return a one-sided upper bound of a share for new clusters.

    The exact bound of Clopper and Pearson for the effective number of observations: their number over the design
    effect, the larger of the one that the clusters' own shares show and the one that a correlation known from more
    observations gives (few clusters, or clusters without a hit, show none of it themselves). Give the correlation's
    upper limit (`highest_correlation`): an estimate of 0 from a few clusters does not say that there is none.

    Source: Korn & Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data", Survey Methodology 24:193; their adjustment for few clusters is used one-sided.

    Parameters
    ----------
    count, total : (G,) array_like of int
        Hits and observations of each cluster.
    confidence : float
        One-sided.
    correlation : float
        Intraclass correlation, see `intraclass_correlation`.

    Returns
    -------
    float : 1 with fewer than two clusters, which show nothing about a third.

    Notes
    -----
    An approximation. With the upper limit of the correlation it keeps its confidence in nearly all simulations up to a
    correlation of 0.5; where errors are rare and clusters few and alike, it fails up to about twice as often as it
    says: a cluster of another kind must be met to be known.
    """
    from scipy import special

    hits, size = _clusters(count, total)
    groups, whole = len(size), size.sum()
    if groups < 2 or hits.sum() >= whole:
        return 1.0
    share = hits.sum() / whole
    effective = effective_total(size, confidence, correlation)
    if share > 0:
        variance = groups / (groups - 1) * ((hits - share * size) ** 2).sum() / whole**2
        shown = variance / (share * (1 - share) / whole)
        effective = min(effective, whole / max(1.0, shown) * _few(groups, confidence))
    return float(special.betaincinv(share * effective + 1, (1 - share) * effective, confidence))


def _few(groups: int, confidence: float) -> float:
    """Return the factor on the number of observations that the clusters' own number costs."""
    from scipy import special

    return float(min(1.0, (special.ndtri(confidence) / special.stdtrit(groups - 1, confidence)) ** 2))


def _clusters(count: ArrayLike, total: ArrayLike) -> tuple[Doubles, Doubles]:
    hits, size = (np.asarray(values, np.float64) for values in (count, total))
    if hits.shape != size.shape or hits.ndim != 1 or (hits < 0).any() or (hits > size).any():
        raise ValueError("clusters need one count of hits and one of observations each, 0 <= hits <= observations")
    there = size > 0
    return hits[there], size[there]


def per_cluster(hit: ArrayLike, cluster: ArrayLike, among: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the (G,) hits and observations of each cluster, counted among some observations.

    Parameters
    ----------
    hit, among : (N,) array_like of bool
    cluster : (N,) array_like
        Name or number of each observation's cluster.
    """
    index = np.unique(np.asarray(cluster), return_inverse=True)[1]
    groups, chosen = int(index.max(initial=-1)) + 1, np.asarray(among, bool)
    hits = np.bincount(index, weights=chosen & np.asarray(hit, bool), minlength=groups)
    return hits.astype(np.int64), np.bincount(index, weights=chosen, minlength=groups).astype(np.int64)
