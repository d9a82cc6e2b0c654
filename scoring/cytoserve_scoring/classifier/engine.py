"""Latents in, answers out: the face of the classifier towards the scorer.

The engine knows nothing of Triton: it takes a function that evaluates rows of (latent, noise sample, class), or of
(latent, noise sample) where one evaluation answers all classes, and a function that is called between rounds and may
stop it. Race and judge know no latents (:mod:`.race`, :mod:`.judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from cytoserve_contract.values import FLAG_INVALID
from numpy.typing import NDArray

from cytoserve_scoring.classifier.augmentation import TieAugmentation
from cytoserve_scoring.classifier.familiarity import Assessment
from cytoserve_scoring.classifier.judge import judge
from cytoserve_scoring.classifier.race import Indices, race
from cytoserve_scoring.classifier.scores import CellScores, Floats
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.errors import BadShape

Evaluate = Callable[[Floats, NDArray[np.int32], NDArray[np.int32] | None], Floats]
"""``(R, c, h, w)`` latents, ``(R,)`` indices of noise samples, ``(R,)`` class indices -> ``(R,)`` errors. Where one
evaluation answers all classes, None stands for the classes and the errors are ``(R, C)``."""


def denoiser_inputs(
    latents: Floats, samples: NDArray[np.int32], labels: NDArray[np.int32] | None
) -> dict[str, NDArray[Any]]:
    """Return the denoiser's input tensors, as the contract declares them, for what `Evaluate` is given."""
    inputs: dict[str, NDArray[Any]] = {
        "LATENT": np.ascontiguousarray(latents, np.float32),
        "PROBE": np.ascontiguousarray(samples, np.int32).reshape(-1, 1),
    }
    if labels is not None:
        inputs["CLASS"] = np.ascontiguousarray(labels, np.int32).reshape(-1, 1)
    return inputs


class ScoringEngine:
    """Score latents with the settings of one model."""

    def __init__(self, config: ScoringConfig) -> None:
        self.config = config

    def score(
        self,
        latents: Floats,
        flags: NDArray[np.int32],
        evaluate: Evaluate,
        budget: int | None = None,
        alpha: float | None = None,
        classes: Sequence[str] | None = None,
        check: Callable[[], None] = lambda: None,
        statistics: Floats | None = None,
    ) -> CellScores:
        """Score M cells.

        Parameters
        ----------
        latents : (M, c, h, w) ndarray of float32
        flags : (M,) ndarray of int32
            Bits of ``CELL_FLAGS``. A cell flagged invalid, or whose latent or errors are not finite, is not scored.
        evaluate : callable
            See :data:`Evaluate`; called with at most ``MAX_BATCH`` rows (`cytoserve_contract.models`).
        budget : int, optional
            Most noise samples of a cell, 1 to ``config.probes``.
        alpha : float, optional
            Share of cells whose answer may differ from that of the whole budget; 0 spends it.
        classes : sequence of str, optional
            Only these may win; at least one. The posterior of the others is 0.
        check : callable
            Called before every round; what it raises ends the scoring.
        statistics : (M, S) ndarray of float32, optional
            ``IMAGE_STATISTICS`` of the cells. Where the settings know what is familiar, a cell without them is not.

        Raises
        ------
        BadShape
            Latents, flags, statistics or an evaluation's answer of the wrong shape.
        BadParameter
            A budget outside the bank, an alpha outside [0, 1), an unknown class.
        """
        terms = self.config.terms(budget, alpha, classes)
        self._check_shapes(latents, flags)
        assessment = self._assess(statistics, len(latents))
        sound = ((flags & FLAG_INVALID) == 0) & np.isfinite(latents).all(axis=(1, 2, 3))

        def evaluate_rows(rows: Indices) -> Floats:
            cell, turn, sample = rows[:, :3].T
            label = None if terms.all_classes else rows[:, 3].astype(np.int32)
            return evaluate(turned_latents(latents, cell, turn, terms.augmentation), sample.astype(np.int32), label)

        return judge(race(evaluate_rows, sound, terms, check), flags, self.config, terms, assessment)

    def _assess(self, statistics: Floats | None, cells: int) -> Assessment | None:
        if self.config.familiar is None:
            return None
        if statistics is None:
            return Assessment.unmeasured(cells)
        if len(statistics) != cells:
            raise BadShape(f"IMAGE_STATISTICS has {len(statistics)} rows for {cells} latents")
        return self.config.familiar.assess(statistics)

    def _check_shapes(self, latents: Floats, flags: NDArray[np.int32]) -> None:
        if latents.ndim != 4 or latents.shape[1:] != self.config.latent_shape:
            raise BadShape(f"LATENT is {latents.shape}, expected (M, {', '.join(map(str, self.config.latent_shape))})")
        if flags.shape != (len(latents),):
            raise BadShape(f"CELL_FLAGS is {flags.shape}, expected ({len(latents)},): one number per latent")


def turned_latents(latents: Floats, cell: Indices, turn: Indices, augmentation: TieAugmentation | None) -> Floats:
    """Return the (R, c, h, w) latents of R rows: by the (R,) index ``cell``, turned by the (R,) quarters ``turn``."""
    rows = latents[cell]
    is_turned = turn > 0
    if augmentation is not None and is_turned.any():
        cells, at = np.unique(cell[is_turned], return_inverse=True)
        rows[is_turned] = augmentation.turned(latents[cells])[turn[is_turned] - 1, at]
    return rows
