"""Elimination that may be looked at after every probe: tests whose level holds at any time, over a random order.

A bank of N probes is asked in an order drawn anew for each cell. The class with the least mean error over the whole
bank is the *full-budget answer*. It can only be lost to one of its C - 1 rivals, so testing every pair at level
``alpha / (C - 1)`` keeps it with probability ``1 - alpha`` over the order, whenever one looks (Ville's inequality and
the union bound). What is promised is agreement with the full-budget answer, not that the answer is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

Evidence = Callable[[Doubles, int], Doubles]
"""(..., n) differences seen, in order, and N, the whole bank -> (...) e-values against "their mean is at most zero"."""

BETS = tuple(float(x) for x in np.linspace(0.05, 0.95, 10))
"""Shares of the largest safe bet; the capital of all of them is averaged."""


def t_test_e_value(differences: Doubles, total: int = 0, effect_variance: float = 1.0) -> Doubles:
    """Return the e-value of a sequential t-test.

    With ``T`` the t statistic of ``n`` differences and ``g`` the variance of the effect size under the alternative::

        E = (1 + n g)^(-1/2) * [ (1 + T^2 / (n - 1)) / (1 + T^2 / ((n - 1)(1 + n g))) ]^(n / 2)

    the Bayes factor under the right Haar prior on the scale, which is a test martingale of the scale-invariant
    statistics (Wang & Ramdas, arXiv 2310.03722; formula: Rouder et al. 2009, appendix). Zero where the mean is not
    positive: only "worse than the best" is evidence here.

    Parameters
    ----------
    differences : (..., n) ndarray
        Taken as Gaussian and independent. Drawing without replacement from a finite bank varies less than that.
    total : int
        Not looked at.
    """
    n = differences.shape[-1]
    if n < 2:
        return np.ones(differences.shape[:-1])
    mean, deviation = differences.mean(axis=-1), differences.std(axis=-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t2 = np.where(deviation > 0, n * (mean / deviation) ** 2, np.where(mean == 0, 0.0, np.inf))
        growth = 1 + n * effect_variance
        ratio = np.where(np.isinf(t2), growth, (1 + t2 / (n - 1)) / (1 + t2 / ((n - 1) * growth)))
    found: Doubles = np.where(mean > 0, growth**-0.5 * ratio ** (n / 2), 0.0)
    return found


def betting(bound: float) -> Evidence:
    """Return the betting e-process for draws without replacement from N differences, each within ``bound`` of zero.

    With ``X = (D + bound) / (2 bound)`` in 0..1 and ``m_i`` what the mean of the rest would have to be if the mean of
    all were zero, the capital is the average over fixed shares of ``prod(1 + lambda_i (X_i - m_i))`` with ``lambda_i``
    a share of ``1 / m_i`` (Waudby-Smith & Ramdas, JRSSB 2023, section 5.1 and appendix on sampling without
    replacement). Infinite as soon as no rest can bring the mean back to zero. Nothing is assumed but the bound.
    """

    def evidence(differences: Doubles, total: int) -> Doubles:
        x = (np.clip(differences, -bound, bound) + bound) / (2 * bound)
        n = x.shape[-1]
        before = np.cumsum(x, axis=-1) - x
        rest = (total * 0.5 - before) / (total - np.arange(n))
        capital = np.zeros(x.shape[:-1])
        safe = np.maximum(rest, 1e-9)
        # A rest that would have to exceed 1 cannot be: the null is then true and nothing is bet.
        for share in BETS:
            factor = np.where(rest < 1, 1 + share / safe * (x - rest), 1.0)
            capital += np.prod(np.maximum(factor, 0.0), axis=-1) / len(BETS)
        settled = (before[..., -1] + x[..., -1] > total * 0.5) & (
            before[..., -1] + x[..., -1] - total * 0.5 > 1e-12 * total
        )
        found: Doubles = np.where(settled, np.inf, capital)
        return found

    return evidence


def published_p(level: float = 2e-3, first: int = 20, every: int = 5) -> Evidence:
    """Return the published rule as evidence: infinite where its paired t-test drops the class, else zero.

    Looked at from trial ``first + 1`` on at every ``every``-th, two-sided, uncorrected: no level is promised.
    """

    def evidence(differences: Doubles, total: int) -> Doubles:
        n = differences.shape[-1]
        if n <= first or (n - 1 - first) % every:
            return np.zeros(differences.shape[:-1])
        mean, error = differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / np.sqrt(n)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = 2 * stats.t.sf(np.abs(mean / error), n - 1)
        return np.where((p < level) & (mean > 0), np.inf, 0.0)

    return evidence


@dataclass(frozen=True)
class Outcome:
    """What a rule said about M cells.

    Attributes
    ----------
    label : (M,) ndarray
    spent : (M,) ndarray
        Evaluations.
    open : (M,) bool ndarray
        More than one class was left when the bank was through.
    """

    label: Integers
    spent: Integers
    open: NDArray[np.bool_]


def eliminate(errors: Doubles, evidence: Evidence, alpha: float) -> Outcome:
    """Ask probe by probe, in the order given, and drop every class whose e-value against the best reaches its bound.

    Parameters
    ----------
    errors : (M, N, C) ndarray
        Errors of M cells, each cell's probes in its own random order.
    alpha : float
        Share of orders for which the answer may differ from the full-budget answer.

    Notes
    -----
    Only the current best is held against the others. It may change, and a pair that was looked at before is then looked
    at as a whole again: the e-process of a pair does not depend on when it is looked at.
    """
    cells, total, classes = errors.shape
    bound = (classes - 1) / alpha
    live = np.ones((cells, classes), bool)
    spent = np.zeros(cells, np.int64)
    label = np.zeros(cells, np.int64)
    running = np.ones(cells, bool)
    for n in range(1, total + 1):
        at = np.flatnonzero(running)
        if at.size == 0:
            break
        spent[at] += live[at].sum(axis=1)
        seen = errors[at, :n]
        best = np.where(live[at], seen.mean(axis=1), np.inf).argmin(axis=1)
        label[at] = best
        apart = (seen - np.take_along_axis(seen, best[:, None, None], axis=2)).transpose(0, 2, 1)
        dropped = evidence(apart, total) >= bound
        dropped[np.arange(len(at)), best] = False
        live[at] &= ~dropped
        running[at] = live[at].sum(axis=1) > 1
    return Outcome(label, spent, live.sum(axis=1) > 1)


def shuffled(errors: Doubles, rng: np.random.Generator) -> Doubles:
    """Return the errors with the probes of every cell in a random order of its own."""
    order = rng.permuted(np.broadcast_to(np.arange(errors.shape[1]), errors.shape[:2]), axis=1)
    return np.take_along_axis(errors, order[..., None], axis=1)


def tied_bank(cells: int, probes: int, classes: int, gap: float, rng: np.random.Generator) -> Doubles:
    """Return (M, N, C) errors that are hard to tell apart: Gaussian, each class's bank mean ``gap`` deviations apart.

    The bank means are exact, not only expected: class 0 is the full-budget answer by ``gap`` standard deviations.
    """
    errors = rng.normal(size=(cells, probes, classes))
    errors -= errors.mean(axis=1, keepdims=True)
    errors /= errors.std(axis=1, keepdims=True)
    errors += gap * np.arange(classes)
    return errors
