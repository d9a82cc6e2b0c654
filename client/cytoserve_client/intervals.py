"""Exact binomial intervals without SciPy, so that the base install stays small.

References
----------
.. [1] C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
       binomial", Biometrika 26 (1934) 404-413.
.. [2] W. J. Lentz, "Generating Bessel functions in Mie scattering calculations using continued fractions",
       Applied Optics 15 (1976) 668-671 (evaluation of continued fractions).
.. [3] J. Przyborowski and H. Wilenski, "Homogeneity of results in testing samples from Poisson series",
       Biometrika 31 (1940) 313-323 (two Poisson counts, conditional on their sum).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cytoserve_client._constants import CONFIDENCE

_TINY = 1e-300
_RELATIVE = 1e-15
_MAX_TERMS = 100_000


def regularised_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    Parameters
    ----------
    a, b : float
        Shape parameters, positive.
    x : float
        Upper limit of the integral, 0 to 1.

    Returns
    -------
    float
        Value in [0, 1]; absolute error below 1e-12 for ``a + b`` up to 1e5.
    """
    if not (a > 0 and b > 0 and 0 <= x <= 1):
        raise ValueError(f"regularised_beta needs a, b > 0 and 0 <= x <= 1, not a={a}, b={b}, x={x}")
    if x in (0.0, 1.0):
        return x
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    front = math.exp(log_front)
    # The fraction converges fast only below the mean; above it the symmetry I_x(a, b) = 1 - I_1-x(b, a) serves.
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front * _beta_fraction(a, b, x) / a)
    return max(0.0, 1.0 - front * _beta_fraction(b, a, 1.0 - x) / b)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Evaluate the continued fraction of I_x(a, b) by Lentz's method [2]_."""
    numerator, denominator = 1.0, _not_zero(1.0 - (a + b) * x / (a + 1))
    denominator = 1.0 / denominator
    value = denominator
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            denominator = 1.0 / _not_zero(1.0 + step * denominator)
            numerator = _not_zero(1.0 + step / numerator)
            change = denominator * numerator
            value *= change
        if abs(change - 1.0) < _RELATIVE:
            return value
    raise ArithmeticError(f"incomplete beta did not converge for a={a}, b={b}, x={x}")


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _rising_root(function: Callable[[float], float], target: float) -> float:
    """Return x in [0, 1] where the rising ``function`` takes the value ``target``, by bisection to full precision."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if function(middle) < target:
            low = middle
        else:
            high = middle


def clopper_pearson(count: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact two-sided interval for a proportion [1]_.

    Parameters
    ----------
    count, total : int
        ``count`` of ``total`` trials, ``0 <= count <= total`` and ``total >= 1``.
    confidence : float
        Confidence level, between 0 and 1.

    Returns
    -------
    low, high : float
        Proportions. The interval covers the truth with at least the given confidence.

    Examples
    --------
    >>> low, high = clopper_pearson(5, 100)
    >>> print(f"{100 * low:.1f} {100 * high:.1f}")
    1.6 11.3
    """
    if not (0 <= count <= total and total >= 1):
        raise ValueError(f"need 0 <= count <= total and total >= 1, not {count} of {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _rising_root(lambda p: regularised_beta(count, total - count + 1, p), tail)
    high = 1.0 if count == total else _rising_root(lambda p: regularised_beta(count + 1, total - count, p), 1 - tail)
    return low, high


def ratio_interval(count: int, reference: int, confidence: float = CONFIDENCE) -> tuple[float, float | None]:
    """Return an exact interval for the ratio of two rates, from one count of each [3]_.

    Both counts vary from field to field, so the reference count may not be treated as known. If both are Poisson,
    ``count`` given the sum is binomial with ``q = r / (1 + r)``: the Clopper-Pearson interval for q, mapped by
    ``r = q / (1 - q)``, is exact for the ratio r. Clumping (of platelets above all) makes the truth wider.

    Parameters
    ----------
    count, reference : int
        Numbers counted, not both 0.
    confidence : float
        Confidence level, between 0 and 1.

    Returns
    -------
    low : float
        Lower end of the ratio ``count / reference``.
    high : float or None
        Upper end; None if ``reference`` is 0, when there is no upper end.
    """
    low, high = clopper_pearson(count, count + reference, confidence)
    return (low / (1 - low) if low < 1 else math.inf), (high / (1 - high) if high < 1 else None)
