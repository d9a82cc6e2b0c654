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
    hits, size = _clusters(count, total)
    groups, whole = len(size), size.sum()
    share = hits.sum() / whole if whole else 0.0
    if groups < 2 or whole == groups or share in (0.0, 1.0):
        return 0.0
    between = (size * (hits / size - share) ** 2).sum() / (groups - 1)
    within = (hits * (1 - hits / size)).sum() / (whole - groups)
    usual = (whole - (size**2).sum() / whole) / (groups - 1)
    return max(0.0, float((between - within) / (between + (usual - 1) * within)))


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
    observations gives (few clusters, or clusters without a hit, show none of it themselves).

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
    An approximation: in simulations it keeps its confidence up to a correlation of about 0.2, and at 0.5 fails several
    times as often as it says where errors are rare and the clusters 20 or fewer: a cluster of another kind must be met
    to be known.
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
