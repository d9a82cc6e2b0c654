"""Per-class scoring of cells by a diffusion model, and what follows from the scores.

A cell belongs to the class under which the model predicts the added noise best (Deltadahl et al. 2025; Li et al. 2023;
Clark & Jaini 2023). Every cell and class sees the same probes (timestep, noise), so differences between classes are
paired and the answer for a cell does not depend on what it was batched with.

This engine spends a fixed budget of probes on every class. It knows nothing of Triton: it is given a function that
evaluates rows of (latent, probe, class), and a function that is called between rounds and may stop it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .constants import (
    FLAG_INVALID,
    FLAG_OUT_OF_SCALE,
    FLAG_POOR_IMAGE,
    FLAG_SEGMENTED_WHITE_CELL,
    FLAG_TOUCHES_BORDER,
)
from .errors import BadParameter, BadShape, CytoserveError

Floats = NDArray[np.float32]
Evaluate = Callable[[Floats, NDArray[np.int32], NDArray[np.int32]], Floats]
"""``(R, c, h, w)`` latents, ``(R,)`` probe indices, ``(R,)`` class indices -> ``(R,)`` errors."""

PROBES_PER_ROUND = 4
"""Between two rounds the deadline is looked at; a round of one cell is this many probes times the classes."""

ROWS_PER_CALL = 256
"""Most rows handed to one evaluation call: the denoiser's ``max_batch_size``."""


@dataclass(frozen=True)
class ScoringConfig:
    """What the scorer knows about its model, read from ``scoring.json``.

    Attributes
    ----------
    classes : tuple of str
    latent_shape : (c, h, w)
    probes : int
        Probes in the bank; a budget of ``b`` uses the first ``b``.
    default_budget : int
        Probes per class when the caller names none.
    temperature : tuple of float
        Softmax temperature for each budget from 1 to ``probes``, in units of the error.
    accept_threshold : tuple of (float or None)
        For each budget, the least top posterior that is accepted; None accepts nothing.
    ambiguous_from : float
        A second posterior at or above this adds the reason ``ambiguous``.
    tie_statistic : float
        A paired t statistic between the best two classes below this adds ``near_tie``.
    anomaly_level : float
        A p-value below this adds ``anomalous``.
    anomaly_reference : tuple of dict, or None
        For each budget, sorted errors of validation cells under their own predicted class, by class name.
    """

    classes: tuple[str, ...]
    latent_shape: tuple[int, int, int]
    probes: int
    default_budget: int
    temperature: tuple[float, ...]
    accept_threshold: tuple[float | None, ...]
    ambiguous_from: float = 0.2
    tie_statistic: float = 2.0
    anomaly_level: float = 0.02
    anomaly_reference: tuple[dict[str, tuple[float, ...]], ...] | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ScoringConfig:
        """Build from the parsed file.

        Raises
        ------
        CytoserveError
            A key is missing or the numbers contradict each other.
        """
        try:
            probes = int(data["probes"])
            config = cls(
                classes=tuple(data["classes"]),
                latent_shape=tuple(data["latent_shape"]),
                probes=probes,
                default_budget=int(data["default_budget"]),
                temperature=tuple(float(t) for t in data["temperature"]),
                accept_threshold=tuple(None if t is None else float(t) for t in data["accept_threshold"]),
                ambiguous_from=float(data.get("ambiguous_from", 0.2)),
                tie_statistic=float(data.get("tie_statistic", 2.0)),
                anomaly_level=float(data.get("anomaly_level", 0.02)),
                anomaly_reference=_reference(data.get("anomaly_reference")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CytoserveError(f"scoring.json is not usable ({error!r}); export the model again") from error
        per_budget = [config.temperature, config.accept_threshold, config.anomaly_reference or config.temperature]
        if any(len(values) != probes for values in per_budget) or not 1 <= config.default_budget <= probes:
            raise CytoserveError(
                "scoring.json: temperature, accept_threshold and anomaly_reference need one entry for each of "
                f"{probes} budgets, and default_budget must be one of them; export the model again"
            )
        return config


def _reference(data: list[dict[str, list[float]]] | None) -> tuple[dict[str, tuple[float, ...]], ...] | None:
    if data is None:
        return None
    return tuple({name: tuple(sorted(values)) for name, values in budget.items()} for budget in data)


@dataclass(frozen=True)
class CellScores:
    """Answers for M cells and C classes; rows of cells that could not be scored hold NaN and label -1.

    Attributes
    ----------
    label : (M,) int32
    posterior : (M, C) float32
    scores : (M, C) float32, mean weighted error per class, lower is better
    uncertainty : (M,) float32, one minus the top posterior
    anomaly : (M, 2) float32, error under the best class and its p-value (NaN where no reference is given)
    decision : (M,) uint8, 0 accept, 1 review
    reasons : list of str, comma-joined reasons, empty for an accepted cell
    evaluations : (M,) int32
    """

    label: NDArray[np.int32]
    posterior: Floats
    scores: Floats
    uncertainty: Floats
    anomaly: Floats
    decision: NDArray[np.uint8]
    reasons: list[str]
    evaluations: NDArray[np.int32]


def softmax_posterior(scores: Floats, temperature: float) -> Floats:
    """Turn (M, C) mean errors into (M, C) posteriors: ``softmax(-scores / temperature)``, equal priors."""
    logits = -(scores.astype(np.float64) - scores.min(axis=1, keepdims=True)) / temperature
    weights = np.exp(logits)
    posterior: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return posterior


def conformal_p_value(error: float, reference: tuple[float, ...]) -> float:
    """Return ``(1 + #{reference >= error}) / (n + 1)``, valid in finite samples under exchangeability.

    Source: Vovk, Gammerman & Shafer 2005, section 2.2; Bates et al. 2023, "Testing for outliers with conformal
    p-values", equation (2).
    """
    above = len(reference) - int(np.searchsorted(np.asarray(reference), error, side="left"))
    return (1.0 + above) / (len(reference) + 1.0)


def paired_statistic(errors: Floats) -> float:
    """Return the paired t statistic between the best two classes of one cell.

    Parameters
    ----------
    errors : (P, C) ndarray
        Errors of one cell under P probes and C classes. One probe or one class gives infinity: nothing to pair.
    """
    probes, classes = errors.shape
    if probes < 2 or classes < 2:
        return float("inf")
    best, second = np.argsort(errors.mean(axis=0))[:2]
    difference = (errors[:, second] - errors[:, best]).astype(np.float64)
    spread = difference.std(ddof=1)
    return float("inf") if spread == 0 else float(difference.mean() / (spread / np.sqrt(probes)))


class ScoringEngine:
    """Score latents with a fixed budget of shared probes."""

    def __init__(self, config: ScoringConfig) -> None:
        self.config = config

    @classmethod
    def from_file(cls, path: str | Path) -> ScoringEngine:
        """Read ``scoring.json``."""
        return cls(ScoringConfig.from_json(json.loads(Path(path).read_text())))

    def score(
        self,
        latents: Floats,
        flags: NDArray[np.int32],
        evaluate: Evaluate,
        budget: int | None = None,
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
            Probes per class, 1 to ``config.probes``.
        check : callable
            Called before every round; what it raises ends the scoring.

        Raises
        ------
        BadShape
            Latents, flags or an evaluation's answer of the wrong shape.
        BadParameter
            A budget outside the bank.
        """
        spent = self._checked_budget(budget)
        self._check_shapes(latents, flags)
        cells = len(latents)
        alive = np.flatnonzero(((flags & FLAG_INVALID) == 0) & np.isfinite(latents).all(axis=(1, 2, 3))).astype(
            np.int64
        )
        errors = np.full((cells, spent, len(self.config.classes)), np.nan, np.float32)
        for start in range(0, spent if alive.size else 0, PROBES_PER_ROUND):
            check()
            self._round(latents, alive, range(start, min(start + PROBES_PER_ROUND, spent)), evaluate, errors)
        return self._summarise(errors, alive, flags, spent)

    def _checked_budget(self, budget: int | None) -> int:
        if budget is None:
            return self.config.default_budget
        if not 1 <= budget <= self.config.probes:
            raise BadParameter(f"budget {budget} is outside 1..{self.config.probes}, the probes of this model's bank")
        return budget

    def _check_shapes(self, latents: Floats, flags: NDArray[np.int32]) -> None:
        if latents.ndim != 4 or latents.shape[1:] != self.config.latent_shape:
            raise BadShape(f"LATENT is {latents.shape}, expected (M, {', '.join(map(str, self.config.latent_shape))})")
        if flags.shape != (len(latents),):
            raise BadShape(f"CELL_FLAGS is {flags.shape}, expected ({len(latents)},): one number per latent")

    def _round(
        self, latents: Floats, alive: NDArray[np.int64], probes: range, evaluate: Evaluate, errors: Floats
    ) -> None:
        classes = len(self.config.classes)
        grid = np.stack(np.meshgrid(alive, np.asarray(probes), np.arange(classes), indexing="ij"), axis=-1).reshape(
            -1, 3
        )
        for rows in np.array_split(grid, -(-len(grid) // ROWS_PER_CALL)):
            cell, probe, label = rows[:, 0], rows[:, 1].astype(np.int32), rows[:, 2].astype(np.int32)
            answer = evaluate(latents[cell], probe, label)
            if answer.shape != (len(rows),):
                raise BadShape(
                    f"the denoiser answered {answer.shape}, expected one number for each of {len(rows)} rows"
                )
            errors[cell, probe, label] = answer

    def _summarise(self, errors: Floats, alive: NDArray[np.int64], flags: NDArray[np.int32], spent: int) -> CellScores:
        cells, _, classes = errors.shape
        out = CellScores(
            label=np.full(cells, -1, np.int32),
            posterior=np.full((cells, classes), np.nan, np.float32),
            scores=np.full((cells, classes), np.nan, np.float32),
            uncertainty=np.full(cells, np.nan, np.float32),
            anomaly=np.full((cells, 2), np.nan, np.float32),
            decision=np.ones(cells, np.uint8),
            reasons=["poor_image"] * cells,
            evaluations=np.zeros(cells, np.int32),
        )
        # A cell for which the denoiser answered something that is no number is not scored; the others are.
        alive = alive[np.isfinite(errors[alive]).all(axis=(1, 2))]
        if alive.size == 0:
            return out
        out.scores[alive] = errors[alive].mean(axis=1)
        out.posterior[alive] = softmax_posterior(out.scores[alive], self.config.temperature[spent - 1])
        out.label[alive] = out.scores[alive].argmin(axis=1)
        out.uncertainty[alive] = 1.0 - out.posterior[alive].max(axis=1)
        out.evaluations[alive] = spent * classes
        for cell in alive:
            best = int(out.label[cell])
            out.anomaly[cell] = self._anomaly(float(out.scores[cell, best]), best, spent)
            reasons = self._reasons(
                out.posterior[cell], errors[cell], float(out.anomaly[cell, 1]), best, int(flags[cell])
            )
            out.reasons[cell] = ",".join(reasons)
            out.decision[cell] = 1 if reasons else 0
        return out

    def _anomaly(self, error: float, label: int, spent: int) -> tuple[float, float]:
        of_budget = self.config.anomaly_reference[spent - 1] if self.config.anomaly_reference else {}
        reference = of_budget.get(self.config.classes[label])
        return error, float("nan") if not reference else conformal_p_value(error, reference)

    def _reasons(self, posterior: Floats, errors: Floats, p_value: float, label: int, flags: int) -> list[str]:
        config = self.config
        ranked = np.sort(posterior)[::-1]
        threshold = config.accept_threshold[len(errors) - 1]
        found = {
            "anomalous": p_value < config.anomaly_level,
            "kind_conflict": bool(flags & FLAG_SEGMENTED_WHITE_CELL) and config.classes[label] == "platelet",
            "near_tie": paired_statistic(errors) < config.tie_statistic,
            "ambiguous": len(ranked) > 1 and ranked[1] >= config.ambiguous_from,
            "low_confidence": threshold is None or ranked[0] < threshold,
            "poor_image": bool(flags & FLAG_POOR_IMAGE),
            "out_of_scale": bool(flags & FLAG_OUT_OF_SCALE),
            "touches_border": bool(flags & FLAG_TOUCHES_BORDER),
        }
        return [name for name, present in found.items() if present]
