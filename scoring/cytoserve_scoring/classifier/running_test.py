r"""Do the cells of a site, as they come, still look like those it was calibrated with? A test that never ends.

A sample is judged where it is known, at the client. The server sees a stream, and this test may be read after every
cell of it. It changes no answer: it raises a metric (:mod:`cytoserve_scoring.serving.metrics`).

**Statistic.** Shiryaev and Roberts': ``R_t = (1 + R_{t-1}) f(q_t)``, with ``R_0 = 0``. The bet ``f`` is large where
``q``, the p-value of a cell, is small, and its mean over uniform ``q`` is 1: the average of ``k q^(k-1)`` over
`POWERS`. An alarm is raised when ``R`` reaches a bound ``B``. Above it, ``R`` is capped at `CAP` times ``B``, so that
the alarm ends soon after ordinary cells return; when ``R`` has fallen to `CLEARED` times ``B``, the alarm is over and
the test begins anew at 0.

**False alarms.** If ``P(q_t <= x | past) <= x`` for all x, then ``E[f(q_t) | past] <= 1``, because ``f`` falls. So
``E[R_t - t | past] <= R_{t-1} - (t - 1)``, and at the first time T at which ``R`` reaches ``B``, optional stopping
gives ``B <= E[R_T] <= E[T]``: on ordinary cells at least ``B`` cells pass in the mean before an alarm, and as the test
begins anew after each one, between any two.

**Few calibration cells.** The p-values of a stream count the same n calibration cells. Given these, the probability of
one at or below ``k / (n + 1)`` is not that number, but itself distributed as Beta(k, n + 1 - k). Taking p-values as
they are would raise false alarms too often for three to five calibrations in a hundred. So ``q`` is the upper
`CONFIDENCE` bound of that probability. With it, ``E[f(q) | calibration cells] <= 1`` for at least 999 of
1,000 calibrations of 40 to 2,000 cells (tests/scoring/test_running_test.py draws them).

**What is assumed**: cells that are independent given the calibration. Those of one slide are alike, so a single odd
slide may raise an alarm; then it is worth a look as well.

References
----------
Shiryaev 1963, "On optimum methods in quickest detection problems", Theory Probab. Appl. 8:22. Volkhonskiy, Burnaev,
Nouretdinov, Gammerman & Vovk 2017, "Inductive conformal martingales for change-point detection", PMLR 60:132. Vovk,
Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman 2021, "Retrain or not retrain: conformal test martingales for
change-point detection", PMLR 152:191. Conditional law of conformal p-values: Vovk 2012, "Conditional validity of
inductive conformal predictors", PMLR 25:475.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

MEAN_CELLS_BETWEEN_ALARMS: Final = 1e6
"""Least mean number of ordinary cells from one false alarm to the next: ten thousand samples of a hundred cells."""

POWERS: Final = (0.25, 0.5, 0.75)
"""Of the bets: the smaller, the more is won by very small p-values alone."""

CONFIDENCE: Final = 0.9
CAP: Final = 10.0
CLEARED: Final = 1e-3


class RunningTest:
    """The test of one stream of cells of one site.

    Parameters
    ----------
    bound : float
        Least mean number of ordinary cells from one false alarm to the next.
    """

    def __init__(self, bound: float = MEAN_CELLS_BETWEEN_ALARMS) -> None:
        self._bound = bound
        self._statistic = 0.0
        self._alarmed = False

    @property
    def is_alarmed(self) -> bool:
        """Whether an alarm was raised and ordinary cells have not ended it."""
        return self._alarmed

    @property
    def evidence(self) -> float:
        """How far the statistic is on its way to an alarm, on a logarithmic scale: 0 none, 1 and more an alarm."""
        return math.log1p(self._statistic) / math.log1p(self._bound)

    def update(self, p_values: NDArray[Any], counted: NDArray[Any]) -> int:
        """Take the cells of one request, in their order, and return how many alarms they raised.

        Parameters
        ----------
        p_values : (M,) ndarray
            Conformal p-values among cells of one kind, column ``p_value_of_kind`` of ``DOMAIN``. A cell without one
            (NaN) is passed over.
        counted : (M,) ndarray
            How many calibration cells each counts, column ``cells_of_kind``.
        """
        known = np.isfinite(p_values) & np.isfinite(counted)
        return sum(self._take(float(bet)) for bet in bets(p_values[known], counted[known]))

    def _take(self, bet: float) -> bool:
        self._statistic = min((1.0 + self._statistic) * bet, CAP * self._bound)
        if self._alarmed:
            if self._statistic <= CLEARED * self._bound:
                self._alarmed, self._statistic = False, 0.0
            return False
        self._alarmed = self._statistic >= self._bound
        return self._alarmed


def bets(p_values: NDArray[Any], counted: NDArray[Any]) -> NDArray[np.float64]:
    """Return (M,) the factors by which the cells multiply the statistic; see `RunningTest.update`."""
    probability = bounded(p_values, counted)
    found: NDArray[np.float64] = np.mean([power * probability ** (power - 1.0) for power in POWERS], axis=0)
    return found


def bounded(p_values: NDArray[Any], counted: NDArray[Any]) -> NDArray[np.float64]:
    """Return (M,) the upper bounds of the probabilities of p-values so small or smaller, given the calibration."""
    n = np.asarray(counted, np.float64)
    # A p-value below the least of its kind (a cell beyond all of them, told by all kinds) counts as that least one.
    rank = np.clip(np.round(np.asarray(p_values, np.float64) * (n + 1)), 1, n + 1)
    inside = rank <= n
    return np.where(inside, betaincinv(np.where(inside, rank, 1), np.where(inside, n + 1 - rank, 1), CONFIDENCE), 1.0)
