"""What a number of labelled cells can promise, before any of them is sent.

The exact binomial bound says how many errors among the accepted cells still keep a risk guarantee. How many cells would
be accepted depends on how often the model is wrong at the site and on how well its confidence tells, which nobody knows
before the work: it is computed for some error rates, under an assumption that the table names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from cytoserve_scoring.classifier.familiarity import LEAST_CELLS
from cytoserve_scoring.classifier.fitting import RiskGuarantee
from numpy.typing import NDArray
from scipy import special, stats

from cytoserve_validation.answers import Doubles
from cytoserve_validation.calibrate import needed_cells
from cytoserve_validation.errors import TooFewCells

ROUND_NUMBERS: Final = (50, 100, 200, 300, 500, 1000, 2000, 5000)
"""Numbers of cells that the table shows beside that of the folder."""
CONFIDENCES: Final = (0.90, 0.95, 0.99)
"""Confidences at which the table shows the least error, beside the one that was asked for."""
WRONG_IN_ALL: Final = (0.02, 0.05, 0.1, 0.2)
"""Shares of wrong labels among all cells of a site for which acceptance is computed."""
GATHERED: Final = 4
"""How much errors gather among the less sure cells: the surest share u holds the share u ** 4 of them, so the surest
half a sixteenth. At home they gather more: the surest 85 % of the 800 calibration cells hold 5 of 24, an exponent of
10."""


@dataclass(frozen=True)
class CellPlanRow:
    """What n labelled cells can promise."""

    cells: int
    least_error: Mapping[float, float]
    """By confidence, the smallest tolerated error that n accepted cells without any error meet."""
    errors_allowed: int | None
    """Most wrong ones among n accepted cells that keep the guarantee; None: not even none would."""
    expected_acceptance: tuple[float, ...]
    """For each share of `WRONG_IN_ALL`, the expected share accepted; see `expected_acceptance`."""


@dataclass(frozen=True)
class CellPlan:
    """The table that ``cytoserve calibrate`` prints before it starts."""

    guarantee: RiskGuarantee
    needed: int
    """Least number of accepted cells, without any error among them."""
    rows: tuple[CellPlanRow, ...]
    folder: int | None
    """Cells in the folder; None where no folder was given."""


def plan(guarantee: RiskGuarantee, folder: int | None = None, others: Sequence[int] = ROUND_NUMBERS) -> CellPlan:
    """Return what the folder's number of cells, the least number and round ones can promise."""
    needed = needed_cells(guarantee)
    counts = sorted({*others, needed, *([] if folder is None else [folder])} - {0})
    confidences = sorted({*CONFIDENCES, guarantee.confidence})
    allowed = errors_allowed(np.arange(max(counts) + 1), guarantee)
    rows = [
        CellPlanRow(
            cells=n,
            least_error={confidence: float(-np.expm1(np.log1p(-confidence) / n)) for confidence in confidences},
            errors_allowed=int(allowed[n]) if allowed[n] >= 0 else None,
            expected_acceptance=tuple(expected_acceptance(allowed, wrong, n) for wrong in WRONG_IN_ALL),
        )
        for n in counts
    ]
    return CellPlan(guarantee, needed, tuple(rows), folder)


def errors_allowed(accepted: NDArray[np.int64], guarantee: RiskGuarantee) -> NDArray[np.int64]:
    """Return how many of each number of accepted cells may be wrong; -1 where not even none may.

    The exact bound of k wrong among n is at most the tolerated error where ``P(Binomial(n, tolerated error) <= k)`` is
    at most ``1 - confidence``.

    Examples
    --------
    >>> errors_allowed(np.array([298, 299, 1000]), RiskGuarantee(0.01, 0.95)).tolist()
    [-1, 0, 4]
    """
    counts = np.asarray(accepted, np.int64)
    found = stats.binom.ppf(1 - guarantee.confidence, counts, guarantee.tolerated_error).astype(np.int64)
    kept = special.bdtr(found, counts, guarantee.tolerated_error) <= 1 - guarantee.confidence
    allowed: NDArray[np.int64] = np.where(kept, found, found - 1)
    return allowed


def error_rates(cells: int, wrong: float) -> Doubles:
    """Return (N,) the assumed probability that each cell is wrong, the surest first.

    The surest share u of the cells holds the share ``u ** GATHERED`` of all errors, and no cell is wrong more often
    than always.

    Examples
    --------
    >>> rates = error_rates(1000, 0.05)
    >>> round(float(rates.mean()), 3), round(float(rates[:500].mean()), 5)
    (0.05, 0.00625)
    """
    edges = (np.arange(cells + 1) / cells) ** GATHERED
    found: Doubles = np.minimum(cells * wrong * np.diff(edges), 1.0)
    return found


def expected_acceptance(allowed: NDArray[np.int64], wrong: float, cells: int) -> float:
    """Return the expected share of calibration cells that is accepted.

    Exact under the assumption of `error_rates`, the cells being independent. Thresholds are tested from strict to lax
    until the first failure, as the fit does; here after every further cell.

    Parameters
    ----------
    allowed : (N + 1,) ndarray of int64
        Of `errors_allowed`, for 0 to N accepted cells or more.
    wrong : float
        Share of wrong labels among all cells.
    cells : int
        From 1 to N.
    """
    # The state is the probability of each number of errors so far among those whose walk has not ended.
    state, ended = np.zeros(int(max(allowed[: cells + 1].max(), 0)) + 2), 0.0
    state[0] = 1.0
    for n, rate in enumerate(error_rates(cells, wrong), 1):
        state[1:] = state[1:] * (1 - rate) + state[:-1] * rate
        state[0] *= 1 - rate
        if allowed[n] >= 0:
            if allowed[n - 1] >= 0:
                ended += (n - 1) * float(state[allowed[n] + 1 :].sum())
            state[allowed[n] + 1 :] = 0.0
    return (ended + (cells * float(state.sum()) if allowed[cells] >= 0 else 0.0)) / cells


def check_enough(cells: int) -> None:
    """Refuse a folder of which no reference of familiar pictures can be made.

    Raises
    ------
    TooFewCells
    """
    if cells < LEAST_CELLS:
        raise TooFewCells(
            f"{cells} labelled cells; {LEAST_CELLS} are needed at least to learn what this site's pictures look like, "
            "and a cell whose picture is not known to be familiar is never accepted: label more cells"
        )


def table(found: CellPlan) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the plan as text."""
    confidences = list(found.rows[0].least_error)
    header = ["labelled cells"]
    header += [f"least error, {100 * confidence:g} %" for confidence in confidences]
    header += ["wrong ones allowed"]
    header += [f"accepted, {_percent(wrong)} wrong" for wrong in WRONG_IN_ALL]
    rows = []
    for row in found.rows:
        own = " (yours)" if row.cells == found.folder else " (least)" if row.cells == found.needed else ""
        rows.append(
            [
                f"{row.cells}{own}",
                *(_percent(row.least_error[confidence]) for confidence in confidences),
                "too few" if row.errors_allowed is None else str(row.errors_allowed),
                *(f"{100 * share:.0f} %" for share in row.expected_acceptance),
            ]
        )
    return header, rows


def explained(found: CellPlan) -> list[str]:
    """Return what the table says about the guarantee that was asked for, as sentences."""
    asked = found.guarantee
    out = [
        f"Asked: at most {_percent(asked.tolerated_error)} wrong among accepted cells, with confidence "
        f"{100 * asked.confidence:g} %. That needs {found.needed} accepted cells without an error, or more with some.",
        "Least error: what n accepted cells without any error can promise. Wrong ones allowed: among n accepted cells, "
        "at the guarantee asked for.",
        "Accepted: expected share of cells if the model is wrong on so many of all cells of the site. Assumed: the "
        f"surest share u of the cells holds u^{GATHERED} of the errors, and cells are independent. Cells of one slide "
        "are alike, and the other reasons for review take cells out too, so expect less.",
    ]
    if found.folder is None:
        return out
    if found.folder < LEAST_CELLS:
        return [*out, f"{found.folder} cells are too few for any calibration: {LEAST_CELLS} are needed at least."]
    if found.folder < found.needed:
        best = -np.expm1(np.log1p(-asked.confidence) / found.folder)
        out.append(
            f"These {found.folder} cells cannot promise that: every cell of the site would go to review. Label more "
            f"({found.needed} do only if none is wrong), or ask for --tolerated-error {_rounded_up(best):g} or more: "
            f"{found.folder} cells, all accepted and right, promise {_percent(best)}. Going on makes a file that "
            "accepts nothing, and still knows the site's pictures, anomalies and prediction sets."
        )
    return out


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _rounded_up(share: float) -> float:
    """Return a share rounded up to a thousandth."""
    return float(np.ceil(1000 * share) / 1000)
