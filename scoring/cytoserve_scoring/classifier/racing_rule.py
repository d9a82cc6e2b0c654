"""Which classes can still win: a class is dropped between rounds, at a level that was calibrated over cells.

Noise samples come from one fixed bank in one fixed order, so there is no randomness left within a cell that an
anytime-valid test could use. The guarantee is therefore over *cells*: for cells exchangeable with those of the
calibration, the answer of the race differs from that of the whole budget for at most a share ``alpha`` of cells, with
probability at least ``confidence`` over the draw of the calibration cells (Learn-then-Test, Angelopoulos et al., Annals
of Applied Statistics 19(2), 2025). Cells of another site are not exchangeable with them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve_scoring.errors import BadParameter, CytoserveError

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class RacingRule:
    """A class is dropped when ``statistic >= threshold`` after any round of at least ``minimum`` noise samples."""

    levels: tuple[tuple[float, float], ...]
    """Calibrated thresholds, the strictest level first."""
    default_alpha: float
    """The level used when a request names none."""
    spread: float
    """Usual standard deviation, over noise samples, of the error difference between a rival and the best class: the
    prior for a cell of which few samples are known."""
    prior: float = 3.0
    """Weight of that prior, in noise samples."""
    minimum: int = 2
    """Noise samples before the first class may be dropped."""
    confirm: int = 8
    """Until this many noise samples the best two classes stay, however far apart: the margin over the runner-up is what
    the confidence rests on, and two numbers are too few for it."""
    clear: float = 0.0
    """Mean error difference between the best two classes below which both stay to the end: the label of such a cell may
    be settled, its probability is not, and it is this cell that a person will look at."""
    confidence: float = 0.95
    """Probability that the guarantee holds."""
    cells: int = 0
    """Calibration cells."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RacingRule:
        """Read the object ``elimination`` of ``scoring.json``.

        Raises
        ------
        CytoserveError
            A key is missing or a number cannot be.
        """
        try:
            levels = tuple((float(row["alpha"]), float(row["threshold"])) for row in data["levels"])
            rule = cls(
                levels=tuple(sorted(levels)),
                default_alpha=float(data["default_alpha"]),
                spread=float(data["spread"]),
                prior=float(data["prior"]),
                minimum=int(data["minimum"]),
                confirm=int(data["confirm"]),
                clear=float(data.get("clear", 0.0)),
                confidence=float(data["confidence"]),
                cells=int(data["cells"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CytoserveError(
                f"scoring.json: elimination is not usable ({error!r}); export the model again"
            ) from error
        if not (rule.spread > 0 and rule.prior > 0 and rule.minimum >= 1 and rule.confirm >= 1 and rule.clear >= 0):
            raise CytoserveError(
                "scoring.json: elimination needs positive numbers, and clear at least 0; export the model again"
            )
        return rule

    def to_json(self) -> dict[str, Any]:
        """Return the object that :meth:`from_json` reads."""
        return {**asdict(self), "levels": [{"alpha": alpha, "threshold": level} for alpha, level in self.levels]}

    def threshold(self, alpha: float | None) -> float:
        """Return the threshold that keeps level ``alpha``; infinite (no class is dropped) where none was calibrated.

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
    """Return after how many noise samples classes may be dropped: every one at first, then in growing steps.

    Each round costs a call of the denoiser, so rounds are short only where most cells are decided. The last ends with
    the budget.
    """
    ends, at = [], minimum
    while at < budget:
        ends.append(at)
        at += 1 if at < 4 else 2 if at < 12 else 4
    return (*ends, budget)


def statistics(errors: Doubles, total: int, rule: RacingRule) -> Doubles:
    """Return how surely each class is behind the best one, given what the noise samples still to come may add.

    Parameters
    ----------
    errors : (M, n, K) ndarray of float64
        Errors of M cells under the same n noise samples; NaN in columns of classes that were dropped.
    total : int
        Noise samples of the whole budget, ``n <= total``.

    Returns
    -------
    (M, K) ndarray : ``sqrt(n) mean(d) / s * sqrt(total / (total - n))`` with ``d`` the differences to the best class:
        the predicted final difference over its standard error (the finite-population correction: at ``n = total``
        nothing is left to add). Zero for the best class, infinite for classes that were dropped.

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
    errors: NDArray[Any], live: NDArray[np.bool_], end: int, total: int, rule: RacingRule, threshold: float
) -> NDArray[np.bool_]:
    """Return the (M, C) classes still in the race after ``end`` noise samples; none once a single one is left.

    Parameters
    ----------
    errors : (M, P, C) ndarray
        Errors so far; only the first ``end`` noise samples of live classes are used.
    live : (M, C) ndarray of bool
        Classes in the race, at least one per cell.
    """
    seen = np.where(live[:, None, :], errors[:, :end], np.nan).astype(np.float64)
    behind = statistics(seen, total, rule)
    stay = live & (behind < threshold)
    best_two = np.argsort(behind, axis=1)[:, :2]
    means = np.take_along_axis(seen.mean(axis=1), best_two, axis=1)
    apart = means[:, -1:] - means[:, :1]
    goes_on = (apart < rule.clear) | (end < rule.confirm)
    kept = np.zeros_like(live)
    np.put_along_axis(kept, best_two, goes_on, axis=1)
    stay |= kept & live
    stay[(stay.sum(axis=1) == 1) & ~goes_on[:, 0]] = False
    return stay
