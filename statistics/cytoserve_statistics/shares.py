"""Intervals of shares and of ratios of counts, the observations taken as independent."""

from __future__ import annotations

import math
from typing import Final

CONFIDENCE: Final = 0.95
"""Confidence of every two-sided interval unless the caller says otherwise; each holds by itself, not all at once."""


def normal_quantile(confidence: float = CONFIDENCE) -> float:
    """Return the half width, in standard deviations, of the central normal interval of this confidence.

    >>> round(normal_quantile(0.95), 4)
    1.96
    """
    from scipy import special

    return float(special.ndtri((1 + _checked(confidence)) / 2))


def clopper_pearson(count: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact two-sided interval of a share.

    Source: Clopper & Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26:404.

    Parameters
    ----------
    count, total : int
        ``count`` of ``total`` trials, ``0 <= count <= total`` and ``total >= 1``.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    low, high : float
        Shares. The interval covers the truth with at least the given confidence.

    Raises
    ------
    ValueError
        For counts or a confidence outside these ranges.

    Examples
    --------
    >>> low, high = clopper_pearson(5, 100)
    >>> print(f"{100 * low:.1f} {100 * high:.1f}")
    1.6 11.3
    """
    from scipy import special

    _check_counts(count, total)
    tail = (1 - _checked(confidence)) / 2
    low = 0.0 if count == 0 else float(special.betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(special.betaincinv(count + 1, total - count, 1 - tail))
    return low, high


def upper_bound(count: int, total: int, confidence: float = CONFIDENCE) -> float:
    """Return the exact one-sided upper bound of a share (Clopper & Pearson 1934); 1 where ``count`` reaches ``total``.

    >>> round(upper_bound(0, 299), 4)  # the 299 cells without an error that a bound of 1 % needs
    0.01
    """
    from scipy import special

    if count >= total:
        return 1.0
    return float(special.betaincinv(count + 1, total - count, _checked(confidence)))


def ratio_interval(count: int, reference: int, confidence: float = CONFIDENCE) -> tuple[float, float | None]:
    """Return an exact interval for the ratio of two rates, from one Poisson count of each.

    Both counts vary from field to field, so the reference may not be treated as known. Given their sum, ``count`` is
    binomial with ``q = r / (1 + r)``: the Clopper-Pearson interval for q, mapped by ``r = q / (1 - q)``, is exact for
    the ratio r. Clumping (of platelets above all) makes the truth wider.

    Source: Przyborowski & Wilenski 1940, "Homogeneity of results in testing samples from Poisson series", Biometrika
    31:313.

    Parameters
    ----------
    count, reference : int
        Numbers counted, not both 0.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    low : float
        Lower end of the ratio ``count / reference``.
    high : float or None
        Upper end; None if ``reference`` is 0, when there is no upper end.
    """
    low, high = clopper_pearson(count, count + reference, confidence)
    return (low / (1 - low) if low < 1 else math.inf), (high / (1 - high) if high < 1 else None)


def wilson(count: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22:209)."""
    _check_counts(count, total)
    z = normal_quantile(confidence)
    share = count / total
    middle = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    scale = 1 + z**2 / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def newcombe(
    count_a: int, total_a: int, count_b: int, total_b: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the hybrid score interval of the difference ``a - b`` of two independent shares.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17:873, method 10.
    """
    a, b = count_a / total_a, count_b / total_b
    (low_a, high_a), (low_b, high_b) = wilson(count_a, total_a, confidence), wilson(count_b, total_b, confidence)
    low = a - b - math.hypot(a - low_a, high_b - b)
    high = a - b + math.hypot(high_a - a, b - low_b)
    return low, high


def _check_counts(count: int, total: int) -> None:
    if not (0 <= count <= total and total >= 1):
        raise ValueError(f"need 0 <= count <= total and total >= 1, not {count} of {total}")


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return confidence
