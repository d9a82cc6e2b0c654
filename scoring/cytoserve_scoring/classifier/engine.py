"""Per-class scoring of cells by a diffusion model, and what follows from the scores.

A cell belongs to the class under which the model predicts the added noise best (Deltadahl et al. 2025; Li et al. 2023;
Clark & Jaini 2023). Every cell and class sees the same probes (timestep, noise), so differences between classes are
paired and the answer for a cell does not depend on what it was batched with.

Probes are asked in rounds; between rounds classes that can hardly win any more leave (:mod:`.elimination`), and a cell
of which one class is left is done. A near tie is then looked at again, turned (:mod:`.second_look`). The live rows of
all cells of a request travel together. The engine knows nothing of Triton: it is given a function that evaluates rows
of (latent, probe, class), and a function that is called between rounds and may stop it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_files import read_text
from numpy.typing import NDArray

from cytoserve_scoring.classifier.augmentation import TURNS, Again, SecondLook, revised
from cytoserve_scoring.classifier.probe_interval import posterior_interval, probe_lags
from cytoserve_scoring.classifier.racing import round_ends, survivors
from cytoserve_scoring.classifier.scores import (
    CellScores,
    Floats,
    class_scores,
    conformal_p_value,
    nonconformity,
    paired_statistic,
    shared_probes,
    softmax_posterior,
    tied_pair,
)
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.constants import (
    FLAG_INVALID,
    FLAG_OUT_OF_SCALE,
    FLAG_POOR_IMAGE,
    FLAG_SEGMENTED_WHITE_CELL,
    FLAG_TOUCHES_BORDER,
)
from cytoserve_scoring.errors import BadParameter, BadShape

Evaluate = Callable[[Floats, NDArray[np.int32], NDArray[np.int32]], Floats]
"""``(R, c, h, w)`` latents, ``(R,)`` probe indices, ``(R,)`` class indices -> ``(R,)`` errors."""

PROBES_PER_ROUND = 4
"""Between two rounds the deadline is looked at; a round of one cell is this many probes times the classes."""

ROWS_PER_CALL = 256
"""Most rows handed to one evaluation call: the denoiser's ``max_batch_size``."""


@dataclass(frozen=True)
class Request:
    """What one request asks of the engine, checked.

    Attributes
    ----------
    budget : int
        Most probes per class.
    alpha : float, or None
        Level of the elimination; None takes the default.
    classes : (C,) bool ndarray
        Classes that may win.
    calibrated : bool
        Whether temperature and thresholds were measured for a request like this; if not, nothing is accepted.
    """

    budget: int
    alpha: float | None
    classes: NDArray[np.bool_]
    calibrated: bool


class ScoringEngine:
    """Score latents with shared probes, in rounds, letting classes leave that cannot win."""

    def __init__(self, config: ScoringConfig) -> None:
        self.config = config

    @classmethod
    def from_file(cls, path: str | Path) -> ScoringEngine:
        """Read ``scoring.json``."""
        return cls(ScoringConfig.from_json(json.loads(read_text(path))))

    def with_config(self, **changes: Any) -> ScoringEngine:
        """Return an engine with some settings changed."""
        return ScoringEngine(replace(self.config, **changes))

    def score(
        self,
        latents: Floats,
        flags: NDArray[np.int32],
        evaluate: Evaluate,
        budget: int | None = None,
        alpha: float | None = None,
        classes: Sequence[str] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> CellScores:
        """Score M cells.

        Parameters
        ----------
        latents : (M, c, h, w) ndarray of float32
        flags : (M,) ndarray of int32
            Bits of ``CELL_FLAGS``. A cell flagged invalid, or whose latent or errors are not finite, is not scored.
        evaluate : callable
            See :data:`Evaluate`; called with at most :data:`ROWS_PER_CALL` rows.
        budget : int, optional
            Most probes per class, 1 to ``config.probes``.
        alpha : float, optional
            Share of cells whose answer may differ from that of the whole budget; 0 lets no class leave.
        classes : sequence of str, optional
            Only these may win; at least one. The posterior of the others is 0.
        check : callable
            Called before every round; what it raises ends the scoring.

        Raises
        ------
        BadShape
            Latents, flags or an evaluation's answer of the wrong shape.
        BadParameter
            A budget outside the bank, an alpha outside [0, 1), an unknown class.
        """
        request = self._checked(budget, alpha, classes)
        self._check_shapes(latents, flags)
        sound = ((flags & FLAG_INVALID) == 0) & np.isfinite(latents).all(axis=(1, 2, 3))
        errors = np.full((len(latents), request.budget, len(self.config.classes)), np.nan, np.float32)
        denoiser = _Counted(evaluate, len(latents))
        scored = self._run(latents, np.flatnonzero(sound), request, denoiser, check, errors)
        statistic = {int(cell): paired_statistic(errors[cell]) for cell in scored}
        again = self._look_again(latents, statistic, request, denoiser, check, errors)
        return self._summarise(errors, scored, statistic, again, denoiser.spent, flags, request)

    def _checked(self, budget: int | None, alpha: float | None, classes: Sequence[str] | None) -> Request:
        config = self.config
        spent = config.default_budget if budget is None else budget
        if not 1 <= spent <= config.probes:
            raise BadParameter(f"budget {budget} is outside 1..{config.probes}, the probes of this model's bank")
        if config.elimination is not None:
            config.elimination.threshold(alpha)
        elif alpha is not None and not 0 <= alpha < 1:
            raise BadParameter(f"alpha must be from 0 to below 1, it is {alpha}")
        chosen = np.ones(len(config.classes), bool)
        if classes is not None:
            unknown = sorted(set(classes) - set(config.classes))
            if unknown or not classes:
                raise BadParameter(f"classes {unknown or 'is empty'}: choose from {', '.join(config.classes)}")
            chosen = np.array([name in classes for name in config.classes])
        usual = alpha is None or (config.elimination is not None and alpha == config.elimination.default_alpha)
        measured = config.calibrated is None or spent in config.calibrated
        return Request(spent, alpha, chosen, bool(usual and measured and chosen.all()))

    def _check_shapes(self, latents: Floats, flags: NDArray[np.int32]) -> None:
        if latents.ndim != 4 or latents.shape[1:] != self.config.latent_shape:
            raise BadShape(f"LATENT is {latents.shape}, expected (M, {', '.join(map(str, self.config.latent_shape))})")
        if flags.shape != (len(latents),):
            raise BadShape(f"CELL_FLAGS is {flags.shape}, expected ({len(latents)},): one number per latent")

    def _run(
        self,
        latents: Floats,
        cells: NDArray[np.int64],
        request: Request,
        denoiser: _Counted,
        check: Callable[[], None],
        errors: Floats,
    ) -> NDArray[np.int64]:
        """Fill ``errors`` round by round; return the cells all of whose answers were numbers."""
        rule, budget = self.config.elimination, request.budget
        threshold = float("inf") if rule is None else rule.threshold(request.alpha)
        minimum = min(budget, PROBES_PER_ROUND if rule is None else rule.minimum)
        ends = round_ends(budget, minimum) if np.isfinite(threshold) else _even_ends(budget)
        live = np.zeros((len(latents), len(self.config.classes)), bool)
        live[cells] = request.classes
        before = 0
        for end in ends:
            rows = _rows(live, before, end)
            if not len(rows):
                break
            check()
            denoiser.fill(latents, rows, errors)
            # A cell for which the denoiser answered something that is no number is given up; the others go on.
            broken = (live & ~np.isfinite(errors[:, before:end]).all(axis=1)).any(axis=1)
            live[broken] = False
            errors[broken] = np.nan
            open_ = np.flatnonzero(live.any(axis=1))
            if rule is not None and np.isfinite(threshold) and end < budget and open_.size:
                live[open_] = survivors(errors[open_], live[open_], end, budget, rule, threshold)
            before = end
        return np.flatnonzero(np.isfinite(errors[:, 0]).any(axis=1))

    def first_look(self, latents: Floats, evaluate: Evaluate, budget: int) -> Floats:
        """Return the (M, budget, C) errors of the first look at sound latents, NaN where a class had left."""
        errors = np.full((len(latents), budget, len(self.config.classes)), np.nan, np.float32)
        denoiser = _Counted(evaluate, len(latents))
        self._run(latents, np.arange(len(latents)), self._checked(budget, None, None), denoiser, lambda: None, errors)
        return errors

    def turned(self, latents: Floats, look: SecondLook) -> Floats:
        """Return (TURNS, M, c, h, w) latents for the second look."""
        return look.turned(latents)

    def _look_again(
        self,
        latents: Floats,
        statistic: dict[int, float],
        request: Request,
        denoiser: _Counted,
        check: Callable[[], None],
        errors: Floats,
    ) -> dict[int, Again]:
        """Ask the tied classes of near ties in the other quarter turns; answers that are no numbers do not count.

        Only the probes that the first look asked are asked again: where both classes left early the rest has nothing
        to be compared with.
        """
        look, budget = self.config.second_look, request.budget
        if look is None:
            return {}
        cells = [cell for cell, found in statistic.items() if look.asks(found, budget)]
        if not cells:
            return {}
        check()
        pairs = np.array([tied_pair(errors[cell]) for cell in cells])
        shared = np.array([shared_probes(errors[cell], pair) for cell, pair in zip(cells, pairs, strict=True)])
        turned = self.turned(latents[cells], look).reshape(-1, *latents.shape[1:])
        found = np.full((len(turned), budget, errors.shape[2]), np.nan, np.float32)
        rows = _pair_rows(np.tile(pairs, (TURNS, 1)), np.tile(shared, TURNS))
        denoiser.fill(turned, rows, found, np.tile(cells, TURNS))
        found = found.reshape(TURNS, len(cells), budget, -1)
        again = {}
        for row, (cell, pair, count) in enumerate(zip(cells, pairs, shared, strict=True)):
            both = np.concatenate([errors[cell][None], found[:, row]])[:, :count, pair].astype(np.float64)
            if np.isfinite(both).all():
                again[cell] = Again((int(pair[0]), int(pair[1])), both[..., 1] - both[..., 0])
        return again

    def _summarise(
        self,
        errors: Floats,
        scored: NDArray[np.int64],
        statistic: dict[int, float],
        again: dict[int, Again],
        spent: NDArray[np.int32],
        flags: NDArray[np.int32],
        request: Request,
    ) -> CellScores:
        cells, _, classes = errors.shape
        out = CellScores(
            label=np.full(cells, -1, np.int32),
            posterior=np.full((cells, classes), np.nan, np.float32),
            interval=np.full((cells, 2), np.nan, np.float32),
            scores=np.full((cells, classes), np.nan, np.float32),
            uncertainty=np.full(cells, np.nan, np.float32),
            anomaly=np.full((cells, 2), np.nan, np.float32),
            conformal=np.full((cells, classes), np.nan, np.float32),
            decision=np.ones(cells, np.uint8),
            reasons=["poor_image"] * cells,
            evaluations=spent,
        )
        if scored.size == 0:
            return out
        out.scores[scored], out.label[scored] = class_scores(errors[scored])
        statistic = dict(statistic)
        for cell, look in again.items():
            out.scores[cell], out.label[cell], statistic[cell] = revised(out.scores[cell], look)
        temperature = self.config.temperature[request.budget - 1]
        out.posterior[scored] = softmax_posterior(out.scores[scored], temperature)
        out.uncertainty[scored] = 1.0 - out.posterior[scored].max(axis=1)
        for cell in scored:
            best = int(out.label[cell])
            lags = probe_lags(errors[cell], best, again.get(int(cell)))
            out.interval[cell] = posterior_interval(out.scores[cell], best, lags, temperature, self.config.usual_spread)
            out.anomaly[cell] = self._anomaly(out.scores[cell], best, request.budget)
            out.conformal[cell] = self._conformal(out.scores[cell], request.budget)
            reasons = self._reasons(out, int(cell), statistic[int(cell)], int(flags[cell]), request)
            out.reasons[cell] = ",".join(reasons)
            out.decision[cell] = 1 if reasons else 0
        return out

    def _anomaly(self, scores: Floats, label: int, budget: int) -> tuple[float, float]:
        """Return the distance to the ordinary patterns of the answered class and its p-value; NaN where unknown."""
        config, name = self.config, self.config.classes[label]
        profile = config.anomaly_profile[budget - 1] if config.anomaly_profile else None
        distance = float("nan") if profile is None else profile.distance(scores, name)
        reference = config.anomaly_reference[budget - 1].get(name) if config.anomaly_reference else None
        if not reference or np.isnan(distance):
            return distance, float("nan")
        return distance, conformal_p_value(float(np.float32(distance)), reference)

    def _conformal(self, scores: Floats, budget: int) -> list[float]:
        """Return the class-conditional p-values; a class without reference cells can never be excluded (p = 1)."""
        if self.config.conformal_reference is None:
            return [float("nan")] * len(scores)
        reference = self.config.conformal_reference[budget - 1]
        return [
            conformal_p_value(float(value), reference.get(name, ()))
            for name, value in zip(self.config.classes, nonconformity(scores[None])[0], strict=True)
        ]

    def _reasons(self, out: CellScores, cell: int, statistic: float, flags: int, request: Request) -> list[str]:
        config = self.config
        ranked = np.sort(out.posterior[cell])[::-1]
        threshold = config.accept_threshold[request.budget - 1]
        p_value = float(out.anomaly[cell, 1])
        # Where strangeness is looked at, a class without reference cells must not pass for want of them.
        unchecked = config.anomaly_reference is not None and np.isnan(p_value)
        found = {
            "anomalous": p_value < config.anomaly_level,
            "kind_conflict": bool(flags & FLAG_SEGMENTED_WHITE_CELL) and config.classes[out.label[cell]] == "platelet",
            "near_tie": statistic < config.tie_statistic,
            "ambiguous": len(ranked) > 1 and ranked[1] >= config.ambiguous_from,
            "low_confidence": threshold is None or ranked[0] < threshold,
            "not_calibrated": not request.calibrated or unchecked,
            "poor_image": bool(flags & FLAG_POOR_IMAGE),
            "out_of_scale": bool(flags & FLAG_OUT_OF_SCALE),
            "touches_border": bool(flags & FLAG_TOUCHES_BORDER),
        }
        return [name for name, present in found.items() if present]


def _even_ends(budget: int) -> tuple[int, ...]:
    return (*range(PROBES_PER_ROUND, budget, PROBES_PER_ROUND), budget)


def _rows(live: NDArray[np.bool_], before: int, end: int) -> NDArray[np.int64]:
    """Return the (R, 3) rows (cell, probe, class) of a round, a cell's rows together."""
    cell, label = np.nonzero(live)
    probes = np.arange(before, end)
    rows: NDArray[np.int64] = np.stack(
        [np.repeat(cell, len(probes)), np.tile(probes, len(cell)), np.repeat(label, len(probes))], axis=1
    )
    return rows


def _pair_rows(pairs: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the (R, 3) rows (cell, probe, class) of two classes a cell over that cell's first ``counts`` probes."""
    rows = [
        np.stack(np.broadcast_arrays(cell, np.arange(count)[:, None], pair), axis=-1).reshape(-1, 3)
        for cell, (pair, count) in enumerate(zip(pairs, counts, strict=True))
    ]
    return np.concatenate(rows)


class _Counted:
    """The denoiser, and how many rows of each cell it was handed: cost is counted where it arises."""

    def __init__(self, evaluate: Evaluate, cells: int) -> None:
        self._evaluate = evaluate
        self.spent = np.zeros(cells, np.int32)

    def fill(
        self, latents: Floats, rows: NDArray[np.int64], errors: Floats, owner: NDArray[np.int64] | None = None
    ) -> None:
        """Evaluate (R, 3) rows (index of a latent, probe, class) and write the answers into ``errors``.

        ``owner`` tells the cell that pays for each latent; without it a latent's index is its cell.
        """
        for part in np.array_split(rows, -(-len(rows) // ROWS_PER_CALL)):
            at, probe, label = part[:, 0], part[:, 1].astype(np.int32), part[:, 2].astype(np.int32)
            np.add.at(self.spent, at if owner is None else owner[at], 1)
            answer = self._evaluate(latents[at], probe, label)
            if answer.shape != (len(part),):
                raise BadShape(
                    f"the denoiser answered {answer.shape}, expected one number for each of {len(part)} rows"
                )
            errors[at, probe, label] = answer
