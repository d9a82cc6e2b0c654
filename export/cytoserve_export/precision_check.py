"""What a precision costs, on real cells: the error of the score, the decisions it changes, and processor time.

A decision is what the scorer answers: the label, and accept or refer. Both denoisers score the same cells with the
same probes through the scorer's own engine (:class:`cytoserve_scoring.classifier.engine.ScoringEngine`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_scoring.classifier.engine import ScoringEngine, denoiser_inputs
from cytoserve_scoring.classifier.settings import ScoringConfig
from numpy.typing import NDArray

from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.decisions import CheckCells, read_cells
from cytoserve_export.parity import session
from cytoserve_export.precision import Calibration, offered
from cytoserve_export.progress import Report

CALIBRATION_CELLS_PER_CLASS = 4
"""Cells of each class for the quantiser; the first and the last file of a class are also compared on."""


@dataclass(frozen=True)
class PrecisionReport:
    """A precision compared with single precision.

    ``budget`` is the most probes of a cell. ``labels_changed`` cells got another class, ``decisions_changed`` another
    class or another of accept and refer. Score errors are absolute differences of a mean error; times are processor
    seconds of this process, of this precision and of fp32. ``offered``: at most 0.5 % of the decisions changed.
    """

    precision: str
    cells: int
    budget: int
    labels_changed: int
    decisions_changed: int
    max_score_error: float
    mean_score_error: float
    cpu_s_per_evaluation: float
    exact_cpu_s_per_evaluation: float
    offered: bool


@dataclass(frozen=True)
class Scored:
    """(N, C) scores, (N,) labels and decisions, and processor seconds of one evaluation."""

    scores: NDArray[np.float32]
    label: NDArray[np.int32]
    decision: NDArray[np.uint8]
    cpu_s: float


def latents_of(crops: NDArray[np.uint8], encoder: Path, threads: int) -> NDArray[np.float32]:
    """Return (N, C, H, W) latents of (N, S, S, 3) crops by the encoder's graph."""
    run = session(encoder, threads)
    rows = [run.run(["LATENT"], {"CROP": crops[at : at + 16]})[0] for at in range(0, len(crops), 16)]
    return np.concatenate(rows)


def calibration(cells: CheckCells | None, checkpoint: Checkpoint, encoder: Path, threads: int) -> Calibration | None:
    """Return the quantiser's rows from the folder's first cells, or None without cells."""
    if cells is None:
        return None
    crops, _ = read_cells(replace(cells, per_class=CALIBRATION_CELLS_PER_CLASS), checkpoint)
    latents = latents_of(crops, encoder, threads)
    return Calibration.spread(latents, len(checkpoint.probes()), checkpoint.geometry.told_classes)


def score(latents: NDArray[np.float32], denoiser: Path, checkpoint: Checkpoint, budget: int, threads: int) -> Scored:
    """Score latents with the first ``budget`` probes through the scorer's engine."""
    run = session(denoiser, threads)
    engine = ScoringEngine(ScoringConfig.from_json(checkpoint.scoring))
    spent = 0.0

    def evaluate(latent: Any, probe: Any, label: Any) -> NDArray[np.float32]:
        nonlocal spent
        feed = denoiser_inputs(latent, probe, label)
        start = time.process_time()
        answer: NDArray[np.float32] = run.run(["ERROR"], feed)[0]
        spent += time.process_time() - start
        return answer if label is None else answer[:, 0]

    found = engine.score(latents, np.zeros(len(latents), np.int32), evaluate, budget)
    return Scored(found.scores, found.label, found.decision, spent / max(1, int(found.evaluations.sum())))


def compare_scored(precision: str, exact: Scored, reduced: Scored, budget: int) -> PrecisionReport:
    """Compare two scorings of the same cells; a cell that is no number on one side counts as changed."""
    labels = exact.label != reduced.label
    changed = int((labels | (exact.decision != reduced.decision)).sum())
    error = np.abs(exact.scores.astype(np.float64) - reduced.scores)
    return PrecisionReport(
        precision,
        len(exact.label),
        budget,
        int(labels.sum()),
        changed,
        float(np.nanmax(error)),
        float(np.nanmean(error)),
        reduced.cpu_s,
        exact.cpu_s,
        offered(changed, len(exact.label)),
    )


def measure_precision(
    precision: str,
    cells: CheckCells,
    checkpoint: Checkpoint,
    encoder: Path,
    graphs: tuple[Path, Path],
    threads: int,
    report: Report,
) -> PrecisionReport:
    """Score real cells by (fp32, reduced) ``graphs`` and compare.

    Raises
    ------
    MissingFile
        Too few cells.
    """
    budget = cells.probes or int(checkpoint.scoring["default_budget"])
    crops, _ = read_cells(cells, checkpoint)
    latents = latents_of(crops, encoder, threads)
    scored = []
    for done, graph in enumerate(graphs):
        report(f"decisions in {precision}", done, len(graphs))
        scored.append(score(latents, graph, checkpoint, budget, threads))
    report(f"decisions in {precision}", len(graphs), len(graphs))
    return compare_scored(precision, scored[0], scored[1], budget)
