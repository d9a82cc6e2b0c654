"""One p-value for the cells of a sample, from the conformal p-values of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def combined_p_value(p_values: Sequence[float], counted: Sequence[int]) -> float:
    """Return the p-value of several conformal p-values together: Fisher's sum, corrected for the cells they share.

    The p-values of a sample count the same calibration cells, so they move together: their sum varies more than that of
    independent ones, by ``sqrt(1 + gamma)``, where gamma is the number of cells judged beside that of those counted.

    Parameters
    ----------
    p_values : sequence of n float
        Above 0, up to 1.
    counted : sequence of n int
        How many calibration cells each counts. Cells of one number count the same ones; gamma is taken over groups.

    Returns
    -------
    float
        Near 0 where the cells are not from where the calibration cells came from. 1 for no cell.

    Raises
    ------
    ValueError
        Lengths that differ, a p-value outside (0, 1], or a count below 1.

    Source: Fisher 1932, "Statistical methods for research workers", section 21.1; the correction: Bates, Candes, Lei,
    Romano & Sesia 2023, "Testing for outliers with conformal p-values", Annals of Statistics 51:149, theorem 3.

    Examples
    --------
    >>> round(combined_p_value([0.5, 0.5], [1000, 1000]), 3)
    0.596
    >>> combined_p_value([0.01] * 20, [1000] * 20) < 1e-12
    True
    """
    count = len(p_values)
    if count != len(counted) or any(not 0 < p <= 1 for p in p_values) or any(n < 1 for n in counted):
        raise ValueError("p-values must lie in (0, 1], each with the number of calibration cells it counts")
    if count == 0:
        return 1.0
    gamma = sum(cells**2 / n for n, cells in Counter(counted).items()) / count
    spread = math.sqrt(1 + gamma)
    total = -math.fsum(math.log(p) for p in p_values)
    return _gamma_tail(count, max(total + count * (spread - 1), 0.0) / spread)


def _gamma_tail(shape: int, value: float) -> float:
    """Return P(G >= value) of a gamma variable of whole shape: the probability of fewer Poisson events than that."""
    if value == 0:
        return 1.0
    logs = [k * math.log(value) - value - math.lgamma(k + 1) for k in range(shape)]
    highest = max(logs)
    return min(1.0, math.exp(highest) * math.fsum(math.exp(log - highest) for log in logs))
