"""Which classes can still win: elimination between rounds, with a level that was calibrated over cells.

Probes are asked in one fixed order, the most telling first, so there is no randomness left within a cell that an
anytime-valid test could lean on. What is claimed is therefore a statement over *cells*: for cells exchangeable with
those of the calibration, the answer with elimination differs from the answer of the whole budget for at most a share
``alpha`` of cells, with probability at least ``confidence`` over the draw of the calibration cells (Learn-then-Test,
Angelopoulos et al., Annals of Applied Statistics 19(2), 2025). Cells of another site are not exchangeable with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cytoserve_scoring.errors import BadParameter, CytoserveError

Doubles = NDArray[np.float64]

THRESHOLDS = tuple(float(x) for x in np.round(np.geomspace(40.0, 0.6, 64), 4))
"""Candidate thresholds, the most careful first: the order in which Learn-then-Test walks them."""


@dataclass(frozen=True)
class Elimination:
    """When a class leaves.

    A class leaves when ``statistic >= threshold`` after any round of at least ``minimum`` probes.

    Attributes
    ----------
    levels : tuple of (alpha, threshold)
        Calibrated thresholds, the strictest level first.
    default_alpha : float
        The level used when a request names none.
    spread : float
        Usual standard deviation, over probes, of the error difference between a rival and the best class: what is
        believed before a cell has shown its own.
    prior : float
        Weight of that belief, in probes.
    minimum : int
        Probes before the first look.
    confirm : int
        Until this many probes the best two classes stay, however clear it looks: the margin over the runner-up is what
        the confidence is made of, and it should not rest on two numbers.
    confidence : float
        Probability with which the claim holds.
    cells : int
        Calibration cells.
    """

    levels: tuple[tuple[float, float], ...]
    default_alpha: float
    spread: float
    prior: float = 3.0
    minimum: int = 2
    confirm: int = 8
    confidence: float = 0.95
    cells: int = 0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Elimination:
        """Read the object ``elimination`` of ``scoring.json``.

        Raises
        ------
        CytoserveError
            A key is missing or a number cannot be.
        """
        try:
            levels = tuple((float(row["alpha"]), float(row["threshold"])) for row in data["levels"])
            found = cls(
                levels=tuple(sorted(levels)),
                default_alpha=float(data["default_alpha"]),
                spread=float(data["spread"]),
                prior=float(data["prior"]),
                minimum=int(data["minimum"]),
                confirm=int(data["confirm"]),
                confidence=float(data["confidence"]),
                cells=int(data["cells"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CytoserveError(
                f"scoring.json: elimination is not usable ({error!r}); export the model again"
            ) from error
        if not (found.spread > 0 and found.prior > 0 and found.minimum >= 1 and found.confirm >= 1):
            raise CytoserveError("scoring.json: elimination needs positive numbers; export the model again")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the object that :meth:`from_json` reads."""
        return {
            "levels": [{"alpha": alpha, "threshold": threshold} for alpha, threshold in self.levels],
            "default_alpha": self.default_alpha,
            "spread": self.spread,
            "prior": self.prior,
            "minimum": self.minimum,
            "confirm": self.confirm,
            "confidence": self.confidence,
            "cells": self.cells,
        }

    def threshold(self, alpha: float | None) -> float:
        """Return the threshold that keeps level ``alpha``; infinite (nobody leaves) where none was calibrated.

        Raises
        ------
        BadParameter
            ``alpha`` is outside [0, 1).
        """
        wanted = self.default_alpha if alpha is None else alpha
        if not 0 <= wanted < 1:
            raise BadParameter(f"alpha must be from 0 (no class leaves early) to below 1, it is {wanted}")
        kept = [threshold for level, threshold in self.levels if level <= wanted]
        return min(kept, default=float("inf"))


def round_ends(budget: int, minimum: int) -> tuple[int, ...]:
    """Return after how many probes classes may leave: every one at first, then in growing steps, at last the budget.

    Looking costs a call of the denoiser, so looks are dense only where most cells are decided.
    """
    ends, at = [], minimum
    while at < budget:
        ends.append(at)
        at += 1 if at < 4 else 2 if at < 12 else 4
    return (*ends, budget)


def statistics(errors: Doubles, total: int, rule: Elimination) -> Doubles:
    """Return how surely each class is behind the best one, given what the probes still to come may say.

    Parameters
    ----------
    errors : (M, n, K) ndarray of float64
        Errors of M cells under the same n probes; NaN in columns of classes that have left.
    total : int
        Probes of the whole budget, ``n <= total``.

    Returns
    -------
    (M, K) ndarray : ``sqrt(n) mean(d) / s * sqrt(total / (total - n))`` with ``d`` the differences to the best class:
        the predicted final difference over its standard error (the finite-population correction: at ``n = total``
        nothing is left to say). Zero for the best class, infinite for classes that have left.

    Notes
    -----
    ``s`` mixes the cell's own spread with the usual one, ``s^2 = (prior spread^2 + (n-1) sd^2) / (prior + n - 1)``,
    because a standard deviation of two or three numbers may be almost nothing by chance.
    """
    count = errors.shape[1]
    mean = errors.mean(axis=1)
    best = np.nanargmin(mean, axis=1)
    difference = errors - np.take_along_axis(errors, best[:, None, None], axis=2)
    centred = difference - difference.mean(axis=1, keepdims=True)
    squares = (centred**2).sum(axis=1)
    spread = np.sqrt((rule.prior * rule.spread**2 + squares) / (rule.prior + count - 1))
    left = total - count
    factor = np.sqrt(count * total / left) if left else np.inf
    gap = difference.mean(axis=1)
    with np.errstate(invalid="ignore"):
        out: Doubles = np.where(np.isnan(gap), np.inf, np.where(gap > 0, gap / spread * factor, 0.0))
    out[np.arange(len(out)), best] = 0.0
    return out


def survivors(
    errors: NDArray[Any], live: NDArray[np.bool_], end: int, total: int, rule: Elimination, threshold: float
) -> NDArray[np.bool_]:
    """Return the (M, C) classes still in the race after ``end`` probes; none once a single one is left.

    Parameters
    ----------
    errors : (M, P, C) ndarray
        Errors so far; only the first ``end`` probes of live classes are looked at.
    live : (M, C) ndarray of bool
        Classes in the race, at least one per cell.
    """
    seen = np.where(live[:, None, :], errors[:, :end], np.nan).astype(np.float64)
    behind = statistics(seen, total, rule)
    stay = live & (behind < threshold)
    if end < rule.confirm:
        best_two = np.argsort(behind, axis=1)[:, :2]
        kept = np.zeros_like(live)
        np.put_along_axis(kept, best_two, True, axis=1)
        return stay | (kept & live)
    stay[stay.sum(axis=1) == 1] = False
    return stay


def replay(errors: Doubles, rule: Elimination, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Run elimination on (M, P, C) errors that are all known.

    Returns
    -------
    (M,) winning classes and (M,) evaluations spent.
    """
    cells, total, classes = errors.shape
    live = np.ones((cells, classes), bool)
    spent = np.zeros(cells, np.int64)
    label = np.zeros(cells, np.int64)
    before = 0
    for end in round_ends(total, min(rule.minimum, total)):
        open_ = np.flatnonzero(live.any(axis=1))
        if open_.size == 0:
            break
        spent[open_] += live[open_].sum(axis=1) * (end - before)
        seen = np.where(live[open_], errors[open_, :end].mean(axis=1), np.inf)
        label[open_] = seen.argmin(axis=1)
        live[open_] = survivors(errors[open_], live[open_], end, total, rule, threshold)
        before = end
    return label, spent


def calibrate(
    errors: Doubles,
    alphas: Sequence[float] = (0.005, 0.01, 0.02, 0.05),
    default_alpha: float = 0.02,
    confidence: float = 0.95,
    prior: float = 3.0,
    minimum: int = 2,
    confirm: int = 8,
) -> Elimination:
    """Find, per level, the boldest threshold that Learn-then-Test allows.

    Parameters
    ----------
    errors : (M, P, C) ndarray of float64
        Errors of M calibration cells under the whole bank, in the bank's order.

    Notes
    -----
    The hypotheses "the share of changed answers exceeds alpha" are tested from the most careful threshold on by the
    exact binomial tail, and the walk ends at the first that is not rejected (fixed-sequence testing). With so few
    cells that even no change at all rejects nothing, a level is left out and nobody leaves early at that level.
    """
    errors = np.asarray(errors, np.float64)
    full = errors.mean(axis=1).argmin(axis=1)
    rule = Elimination((), default_alpha, usual_spread(errors), prior, minimum, confirm, confidence, len(errors))
    allowed: dict[float, float] = {}
    walking = sorted(float(alpha) for alpha in alphas)
    for threshold in THRESHOLDS:
        changed = int((replay(errors, rule, threshold)[0] != full).sum())
        walking = [alpha for alpha in walking if stats.binom.cdf(changed, len(errors), alpha) <= 1 - confidence]
        if not walking:
            break
        allowed.update(dict.fromkeys(walking, threshold))
    levels = sorted(allowed.items())
    return Elimination(tuple(levels), default_alpha, rule.spread, prior, minimum, confirm, confidence, len(errors))


def usual_spread(errors: Doubles) -> float:
    """Return the median over cells of the spread, over probes, of the difference between the best two classes."""
    if errors.shape[1] < 2 or errors.shape[2] < 2:
        return 1.0
    order = np.argsort(errors.mean(axis=1), axis=1)[:, :2]
    pair = np.take_along_axis(errors, order[:, None, :], axis=2)
    return float(np.median((pair[..., 1] - pair[..., 0]).std(axis=1, ddof=1)))
