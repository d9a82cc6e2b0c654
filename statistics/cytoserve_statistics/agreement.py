"""How far two readers agree beyond chance: Cohen's kappa with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cytoserve_statistics.shares import CONFIDENCE, normal_quantile

ROUNDING = 1e-12
"""What is left of two equal numbers near 1 that are subtracted; a variance below it is none. Its root, 1e-8 of such
rounding, would otherwise be printed as an interval."""


@dataclass(frozen=True)
class CohensKappa:
    """Agreement of two readers on the same items."""

    items: int
    observed: float
    """Share of items with one class by both."""
    expected: float
    """Share expected of two readers who use the classes as often, each without looking."""
    value: float | None
    """Kappa, at most 1; None where both readers used one and the same class only, which shows nothing."""
    low: float | None
    high: float | None
    """Ends of the interval; None where there is no kappa, or where the readers never differed: the method's error is
    then 0, which no sample proves."""


def cohens_kappa(table: ArrayLike, confidence: float = CONFIDENCE) -> CohensKappa:
    """Return Cohen's kappa of a table of two readings, with a large-sample interval.

    Sources: Cohen 1960, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement
    20:37; the standard error is equation 13 of Fleiss, Cohen & Everitt 1969, "Large sample standard errors of kappa and
    weighted kappa", Psychological Bulletin 72:323, which also holds where kappa is not 0.

    Parameters
    ----------
    table : (C, C) array_like of int
        Items by class of the first reader (rows) and of the second (columns).
    confidence : float
        Of the two-sided interval.

    Raises
    ------
    ValueError
        The table is not square, holds negative numbers, or is empty.

    Examples
    --------
    >>> found = cohens_kappa([[20, 5], [10, 15]])
    >>> round(found.observed, 2), round(found.value, 2)
    (0.7, 0.4)
    """
    counts = np.asarray(table, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any() or counts.sum() == 0:
        raise ValueError("kappa needs a square table of counts with at least one item")
    n = counts.sum()
    p = counts / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed, expected = float(np.trace(p)), float(rows @ columns)
    if math.isclose(expected, 1.0):
        return CohensKappa(int(n), observed, expected, None, None, None)
    kappa = (observed - expected) / (1 - expected)
    # The two sums of equation 13: items on the diagonal, items off it; then the square that is taken away.
    agreeing = (np.diagonal(p) * (1 - (rows + columns) * (1 - kappa)) ** 2).sum()
    both = p * (columns[:, None] + rows[None, :]) ** 2
    differing = (1 - kappa) ** 2 * (both.sum() - np.trace(both))
    spread = agreeing + differing - (kappa - expected * (1 - kappa)) ** 2
    if spread < ROUNDING:
        spread = 0.0
    if math.isclose(observed, 1.0):
        return CohensKappa(int(n), observed, expected, kappa, None, None)
    half = normal_quantile(confidence) * math.sqrt(spread / n) / (1 - expected)
    return CohensKappa(int(n), observed, expected, kappa, max(-1.0, kappa - half), min(1.0, kappa + half))
