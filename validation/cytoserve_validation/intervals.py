"""Intervals for shares and for differences of shares, cells taken as independent."""

from __future__ import annotations

import math

from scipy import stats

LEVEL = 0.95
"""Confidence of every two-sided interval of the report; each holds by itself, not all of them at once."""


def clopper_pearson(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the exact two-sided interval of a share (Clopper & Pearson 1934, Biometrika 26:404).

    Raises
    ------
    ValueError
        Not ``0 <= count <= total`` with ``total >= 1``.
    """
    if not (0 <= count <= total and total >= 1):
        raise ValueError(f"need 0 <= count <= total and total >= 1, not {count} of {total}")
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(stats.beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(stats.beta.ppf(1 - tail, count + 1, total - count))
    return low, high


def wilson(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22:209)."""
    z = float(stats.norm.ppf((1 + level) / 2))
    share = count / total
    middle = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    scale = 1 + z**2 / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def newcombe(count_a: int, total_a: int, count_b: int, total_b: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the hybrid score interval of the difference ``a - b`` of two independent shares.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17:873, method 10.
    """
    a, b = count_a / total_a, count_b / total_b
    (low_a, high_a), (low_b, high_b) = wilson(count_a, total_a, level), wilson(count_b, total_b, level)
    low = a - b - math.hypot(a - low_a, high_b - b)
    high = a - b + math.hypot(high_a - a, b - low_b)
    return low, high
