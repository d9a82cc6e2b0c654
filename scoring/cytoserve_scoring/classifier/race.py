"""The race of the classes over noise samples, for cells that are known by their index only.

A cell belongs to the class under which the model predicts the added noise best (Deltadahl et al. 2025; Li et al. 2023;
Clark & Jaini 2023). Every cell and class sees the same noise samples, so differences between classes are paired and the
answer for a cell does not depend on what it was batched with.

Noise samples are evaluated in rounds. Between rounds the classes that can hardly win any more are dropped
(:mod:`.racing_rule`), and a cell with one class left is finished. Where one evaluation answers all classes, none is
dropped, since that would save nothing: every class is seen at every noise sample, and a cell is finished once a single
class can win. A near tie is then evaluated in the other quarter turns (:mod:`.augmentation`). The rows of all
unfinished cells travel together. A denoiser supplies the errors, or a record of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cytoserve_contract.models import MAX_BATCH
from numpy.typing import NDArray

from cytoserve_scoring.classifier.augmentation import TURNS, AugmentedPair, TieAugmentation
from cytoserve_scoring.classifier.racing_rule import round_ends, survivors
from cytoserve_scoring.classifier.scores import Floats, paired_statistic, shared_probes, tied_pair
from cytoserve_scoring.classifier.settings import RaceTerms
from cytoserve_scoring.errors import BadShape

Indices = NDArray[np.int64]

PROBES_PER_ROUND = 4
"""Between two rounds the deadline is checked; a round of one cell is this many noise samples times the classes."""


EvaluateRows = Callable[[Indices], Floats]
"""``(R, 4)`` rows (cell, quarter turns, noise sample, class) -> ``(R,)`` errors. Where one evaluation answers all
classes (`RaceTerms.all_classes`): ``(R, 3)`` rows (cell, quarter turns, noise sample) -> ``(R, C)`` errors."""


@dataclass(frozen=True)
class Raced:
    """What the race of M cells gave."""

    errors: Floats
    """(M, P, C) float32. Of the cells as they came, NaN where not evaluated; all NaN for a cell that was given up."""
    scored: Indices
    """(S,) int64. Cells all of whose errors are numbers."""
    augmented: dict[int, AugmentedPair]
    """By cell, the near ties that were evaluated in the other quarter turns."""
    evaluations: NDArray[np.int32]
    """(M,) int32. What each cell cost, given up or not."""


def race(
    evaluate: EvaluateRows, sound: NDArray[np.bool_], terms: RaceTerms, check: Callable[[], None] = lambda: None
) -> Raced:
    """Race the classes of M cells.

    Parameters
    ----------
    evaluate : callable
        See :data:`EvaluateRows`; called with at most ``MAX_BATCH`` rows.
    sound : (M,) bool ndarray
        Cells to evaluate.
    check : callable
        Called before every round; what it raises ends the race.

    Raises
    ------
    BadShape
        An evaluation's answer has the wrong shape.
    """
    errors = np.full((len(sound), terms.budget, len(terms.classes)), np.nan, np.float32)
    counted = _Counted(evaluate, len(sound), terms)
    _run_rounds(counted, sound, terms, check, errors)
    scored = np.flatnonzero(np.isfinite(errors[:, 0]).any(axis=1))
    augmented: dict[int, AugmentedPair] = {}
    if terms.augmentation is not None:
        tied = tied_cells(errors, scored, terms.augmentation, None if terms.rule is None else terms.rule.spread)
        if tied:
            check()
            augmented = _augment(counted, tied, errors)
    return Raced(errors, scored, augmented, counted.evaluations)


def tied_cells(errors: Floats, scored: Indices, augmentation: TieAugmentation, usual_spread: float | None) -> list[int]:
    """Return the cells among ``scored`` whose (M, P, C) errors are a near tie after a budget of P.

    ``usual_spread`` is that of the racing rule (:func:`.scores.paired_t`).
    """
    budget = errors.shape[1]
    return [int(cell) for cell in scored if augmentation.applies(paired_statistic(errors[cell], usual_spread), budget)]


def _run_rounds(
    counted: _Counted, sound: NDArray[np.bool_], terms: RaceTerms, check: Callable[[], None], errors: Floats
) -> None:
    """Fill ``errors`` round by round."""
    budget = terms.budget
    rule = terms.rule if np.isfinite(terms.threshold) else None
    ends = (*range(PROBES_PER_ROUND, budget, PROBES_PER_ROUND), budget)
    if rule is not None:
        ends = round_ends(budget, min(budget, rule.minimum))
    live = sound[:, None] & terms.classes
    before = 0
    for end in ends:
        cell, label = np.nonzero(live)
        if not len(cell):
            break
        rows = _rows(cell[:, None], 0, np.arange(before, end), label[:, None])
        check()
        errors[rows[:, 0], rows[:, 2], rows[:, 3]] = counted.errors(rows)
        # A cell for which the denoiser answered something that is no number is given up; the others go on.
        broken = (live & ~np.isfinite(errors[:, before:end]).all(axis=1)).any(axis=1)
        live[broken] = False
        errors[broken] = np.nan
        unfinished = np.flatnonzero(live.any(axis=1))
        if rule is not None and end < budget and unfinished.size:
            left = survivors(errors[unfinished], live[unfinished], end, budget, rule, terms.threshold)
            if terms.all_classes:
                left = left.any(axis=1, keepdims=True) & terms.classes
            live[unfinished] = left
        before = end


def _augment(counted: _Counted, cells: list[int], errors: Floats) -> dict[int, AugmentedPair]:
    """Evaluate the tied classes of near ties in the other quarter turns; answers that are no numbers do not count.

    Only the noise samples that both classes saw are evaluated again: the rest has nothing to be compared with.
    """
    pairs = [np.array(tied_pair(errors[cell])) for cell in cells]
    shared = [shared_probes(errors[cell], pair) for cell, pair in zip(cells, pairs, strict=True)]
    rows = np.concatenate(
        [
            _rows(cell, turn, np.arange(count)[:, None], pair)
            for turn in range(1, TURNS + 1)
            for cell, pair, count in zip(cells, pairs, shared, strict=True)
        ]
    )
    turned = np.full((1 + TURNS, *errors.shape), np.nan, np.float32)
    turned[0] = errors
    turned[tuple(rows[:, [1, 0, 2, 3]].T)] = counted.errors(rows)
    augmented = {}
    for cell, pair, count in zip(cells, pairs, shared, strict=True):
        both = turned[:, cell, :count][..., pair].astype(np.float64)
        if np.isfinite(both).all():
            augmented[cell] = AugmentedPair((int(pair[0]), int(pair[1])), both[..., 1] - both[..., 0])
    return augmented


def _rows(cell: Indices | int, turn: int, sample: Indices, label: Indices) -> Indices:
    """Return the (R, 4) rows of columns that broadcast against each other."""
    rows: Indices = np.stack(np.broadcast_arrays(cell, turn, sample, label), axis=-1).reshape(-1, 4)
    return rows


class _Counted:
    """What evaluates, and how many evaluations each cell took: cost is counted where it arises."""

    def __init__(self, evaluate: EvaluateRows, cells: int, terms: RaceTerms) -> None:
        self._ask = evaluate
        self._answer = (len(terms.classes),) if terms.all_classes else ()
        self.evaluations = np.zeros(cells, np.int32)

    def errors(self, rows: Indices) -> Floats:
        """Return the (R,) errors of (R, 4) rows."""
        if not self._answer:
            return self._evaluate(rows)
        evaluations, at = np.unique(rows[:, :3], axis=0, return_inverse=True)
        errors: Floats = self._evaluate(evaluations)[at.reshape(-1), rows[:, 3]]
        return errors

    def _evaluate(self, rows: Indices) -> Floats:
        answers = []
        for part in np.array_split(rows, -(-len(rows) // MAX_BATCH)):
            np.add.at(self.evaluations, part[:, 0], 1)
            answer = self._ask(part)
            if answer.shape != (len(part), *self._answer):
                expected = f"one number for each of {len(part)} rows" + (" and every class" if self._answer else "")
                raise BadShape(f"the denoiser answered {answer.shape}, expected {expected}")
            answers.append(answer)
        return np.concatenate(answers)
