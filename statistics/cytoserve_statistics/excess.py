"""Does a sample hold more strange cells than it should? An exact test on the number of small conformal p-values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Excess:
    """What was counted, what was to be expected, and how probable so many are among ordinary cells."""

    cells: int
    small: int
    """Cells with a p-value of at most the level."""
    expected: float
    """Their mean number among as many ordinary cells."""
    p_value: float
    """Probability of at least ``small`` among as many ordinary cells; 1 for no cell."""


def excess_of_small(
    p_values: Sequence[float], groups: Sequence[Hashable], counted: Sequence[int], level: float
) -> Excess:
    """Count the conformal p-values up to a level, and compare with what ordinary cells would give.

    Cells of a group count the same n calibration cells, so their p-values move together: given the a-th largest of
    those n, with a = floor(level (n + 1)), each cell of the group lies beyond it independently, with a probability
    that is Beta(a, n + 1 - a) distributed over the draw of the calibration cells. The number of them is therefore
    beta-binomial, and the number over independent groups its convolution. Equal scores make the test conservative.

    Parameters
    ----------
    p_values : sequence of n float
        Above 0, up to 1.
    groups : sequence of n hashable
        Whose calibration cells each counts, such as those of a class.
    counted : sequence of n int
        How many those are; the same for every cell of a group.
    level : float
        Between 0 and 1.

    Raises
    ------
    ValueError
        Lengths that differ, a p-value outside (0, 1], a count below 1, or two counts in one group.

    Source: the conditional law, Vovk 2012, "Conditional validity of inductive conformal predictors", proposition 2a;
    counting instead of summing p-values because few strange cells among many ordinary ones hardly move a sum.

    Examples
    --------
    >>> ordinary = excess_of_small([0.5] * 95 + [0.04] * 5, ["a"] * 100, [199] * 100, 0.05)
    >>> ordinary.small, round(ordinary.expected, 1), ordinary.p_value > 0.3
    (5, 5.0, True)
    >>> excess_of_small([0.5] * 80 + [0.02] * 20, ["a"] * 100, [199] * 100, 0.05).p_value < 0.001
    True
    """
    if not len(p_values) == len(groups) == len(counted):
        raise ValueError("p-values, groups and counts must be as many")
    if any(not 0 < p <= 1 for p in p_values) or any(n < 1 for n in counted):
        raise ValueError("p-values must lie in (0, 1], each with the number of calibration cells it counts")
    sizes: dict[Hashable, set[int]] = defaultdict(set)
    members: dict[Hashable, int] = defaultdict(int)
    for group, n in zip(groups, counted, strict=True):
        sizes[group].add(n)
        members[group] += 1
    if any(len(found) > 1 for found in sizes.values()):
        raise ValueError("cells of one group count the same calibration cells")
    law, expected = np.ones(1), 0.0
    for group, cells in members.items():
        (n,) = sizes[group]
        beyond = math.floor(level * (n + 1) + 1e-9)
        expected += cells * beyond / (n + 1)
        law = np.convolve(law, _beta_binomial(cells, beyond, n + 1 - beyond))
    small = sum(p <= level + 1e-9 for p in p_values)
    return Excess(len(p_values), small, expected, min(1.0, math.fsum(law[small:].tolist())))


def _beta_binomial(cells: int, a: int, b: int) -> Doubles:
    """Return the probabilities of 0 to ``cells`` successes; none can be where ``a`` is 0, all are where ``b`` is."""
    from scipy import special

    k = np.arange(cells + 1)
    if 0 in (a, b):
        certain: Doubles = np.where(k == (0 if a == 0 else cells), 1.0, 0.0)
        return certain
    ways = -special.betaln(cells - k + 1, k + 1) - np.log(cells + 1)
    law: Doubles = np.exp(ways + special.betaln(k + a, cells - k + b) - special.betaln(a, b))
    return law
