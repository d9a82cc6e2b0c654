"""The race over recorded errors: what the server would have answered for cells all of whose errors are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve_scoring.classifier.augmentation import TieAugmentation
from cytoserve_scoring.classifier.familiarity import Assessment
from cytoserve_scoring.classifier.judge import judge
from cytoserve_scoring.classifier.race import Raced, race, tied_cells
from cytoserve_scoring.classifier.scores import CellScores, Floats
from cytoserve_scoring.classifier.settings import RaceTerms, ScoringConfig


def race_recorded(errors: NDArray[Any], terms: RaceTerms, turned: NDArray[Any] | None = None) -> Raced:
    """Race the classes of M cells whose errors are known.

    Parameters
    ----------
    errors : (M, P, C) ndarray
    turned : (TURNS, M, P, C) ndarray, optional
        Errors of the turned cells, NaN for cells that are no near tie; without, no tie is augmented.
    """
    known = errors[None] if turned is None else np.concatenate([errors[None], turned])
    known = known.astype(np.float32)
    sound = np.ones(len(errors), bool)
    terms = terms if turned is not None else replace(terms, augmentation=None)
    return race(lambda rows: known[tuple(rows[:, [1, 0, *range(2, rows.shape[1])]].T)], sound, terms)


def replay(
    config: ScoringConfig,
    errors: NDArray[Any],
    budget: int,
    turned: NDArray[Any] | None = None,
    assessment: Assessment | None = None,
) -> CellScores:
    """Return the answers under ``config`` for M cells whose errors are known; see :func:`race_recorded`.

    ``assessment`` says how familiar their pictures are; without, they are answered as if nobody knew, and referred.
    """
    terms = config.terms(budget)
    return judge(race_recorded(errors, terms, turned), np.zeros(len(errors), np.int32), config, terms, assessment)


def first_passes(config: ScoringConfig, errors: NDArray[Any], budgets: Sequence[int]) -> dict[int, Floats]:
    """Return the errors that the race uses before augmentation, by budget: (M, budget, C), NaN where not evaluated."""
    return {budget: race_recorded(errors, config.terms(budget)).errors for budget in budgets}


def near_ties(
    config: ScoringConfig, errors: NDArray[Any], budgets: Sequence[int], augmentation: TieAugmentation
) -> NDArray[np.int64]:
    """Return the rows of (M, P, C) errors that ``augmentation`` would apply to at any of ``budgets``, sorted."""
    every = np.arange(len(errors))
    passes = first_passes(config, errors, [budget for budget in budgets if budget >= augmentation.least_budget])
    spread = config.usual_spread
    tied = {cell for errors in passes.values() for cell in tied_cells(errors, every, augmentation, spread)}
    return np.array(sorted(tied), np.int64)
