"""On which probes is a near tie evaluated again? Variants of the test-time augmentation, on the calibrating cells.

    python -m benchmarks.test_time_augmentation models/reference --out docs/results/test_time_augmentation.json

The engine evaluates the two best classes of a near tie again in the other three quarter turns. Here its first pass is
replayed on the errors of all probes and classes of the calibrating half of ``pbc/val``, then each variant of that
augmentation. Every variant gets its own temperature and threshold. Rows are counted as a denoiser would receive them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cytoserve_scoring.classifier.augmentation import TURNS, AugmentedPair, TieAugmentation, revised
from cytoserve_scoring.classifier.fitting import RiskGuarantee, accept_threshold, fit_temperature
from cytoserve_scoring.classifier.replay import first_passes
from cytoserve_scoring.classifier.scores import (
    class_scores,
    paired_statistic,
    shared_probes,
    softmax_posterior,
    tied_pair,
)
from cytoserve_scoring.classifier.settings import ScoringConfig
from numpy.typing import NDArray

from benchmarks.place import Measured, Place, ServedGraphs
from benchmarks.results import Benchmark, Inputs, run

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    """What is done about a tie whose two classes were both evaluated on ``shared`` of ``budget`` probes.

    Attributes
    ----------
    used : callable
        (shared, budget) -> probes of the turned cell that count; 0: the first pass stands.
    rows : callable
        (shared, budget) -> rows handed to the denoiser besides the first pass.
    """

    used: Callable[[int, int], int]
    rows: Callable[[int, int], int]


PAIR = 2 * TURNS
"""Rows of the augmentation per probe: both classes in every turn."""

VARIANTS = {
    "none": Variant(lambda shared, budget: 0, lambda shared, budget: 0),
    "all probes; dropped where a class was dropped early (served until 26 November 2026)": Variant(
        lambda shared, budget: budget if shared == budget else 0, lambda shared, budget: PAIR * budget
    ),
    "only where both classes saw all probes": Variant(
        lambda shared, budget: budget if shared == budget else 0,
        lambda shared, budget: PAIR * budget if shared == budget else 0,
    ),
    "over the probes that both classes saw (served)": Variant(
        lambda shared, budget: shared, lambda shared, budget: PAIR * shared
    ),
    "both classes finished first, then all probes": Variant(
        lambda shared, budget: budget, lambda shared, budget: PAIR * budget + 2 * (budget - shared)
    ),
    "over at most eight of the probes that both saw": Variant(
        lambda shared, budget: min(shared, 8), lambda shared, budget: PAIR * min(shared, 8)
    ),
}


@dataclass(frozen=True)
class Ties:
    """The first pass over M cells, and the near ties among them.

    Attributes
    ----------
    evaluated : (M, P, C) ndarray, NaN where a class was dropped
    turned : dict of int to (TURNS, P, 2) ndarray
        Errors of the tied pair of each near tie, the better class first.
    """

    evaluated: NDArray[np.float32]
    turned: dict[int, Doubles]


def ties_of(config: ScoringConfig, look: TieAugmentation, cells: Measured, graphs: ServedGraphs) -> Ties:
    """Replay the first pass and compute the turned errors of the tied pairs."""
    budget = config.probes
    evaluated = first_passes(config, cells.errors, (budget,))[budget]
    tied = [cell for cell in range(len(evaluated)) if look.applies(paired_statistic(evaluated[cell]), budget)]
    latents = look.turned(cells.latents[tied]).reshape(-1, *cells.latents.shape[1:])
    found = graphs.errors(latents, budget, len(config.classes), "near ties, turned")
    found = found.reshape(TURNS, len(tied), budget, -1)
    return Ties(
        evaluated,
        {cell: found[:, row][..., tied_pair(evaluated[cell])].astype(np.float64) for row, cell in enumerate(tied)},
    )


def outcome(cells: Measured, ties: Ties, variant: Variant, promise: RiskGuarantee) -> dict[str, Any]:
    """Return cost, errors and acceptance of one variant."""
    budget = cells.errors.shape[1]
    first, best = class_scores(ties.evaluated)
    scores, label = first.copy(), best.copy()
    rows = np.isfinite(ties.evaluated).sum(axis=(1, 2)).astype(np.float64)
    for cell, turned in ties.turned.items():
        pair = np.array(tied_pair(ties.evaluated[cell]))
        shared = shared_probes(ties.evaluated[cell], pair)
        rows[cell] += variant.rows(shared, budget)
        count = variant.used(shared, budget)
        if count:
            both = np.concatenate([cells.errors[cell][None][..., pair], turned])[:, :count]
            again = AugmentedPair((int(pair[0]), int(pair[1])), both[..., 1] - both[..., 0])
            scores[cell], label[cell], _ = revised(scores[cell], again)
    posterior = softmax_posterior(scores, fit_temperature(scores.astype(np.float64), cells.labels))
    top, right = posterior.max(axis=1), label == cells.labels
    threshold = accept_threshold(top.astype(np.float64), right, promise)
    truth = np.maximum(posterior[np.arange(len(label)), cells.labels], 1e-9)
    return {
        "evaluations": round(float(rows.mean()), 2),
        "wrong": int((~right).sum()),
        "log_loss": round(float(-np.log(truth).mean()), 4),
        "above_threshold": 0.0 if threshold is None else round(float((top >= threshold).mean()), 4),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the outcome of every variant."""
    place = Place.of(args)
    config, look = place.scoring()
    graphs = place.graphs()
    cells, kept = place.calibrating(graphs, config)
    ties = ties_of(config, look, cells, graphs)
    promise = RiskGuarantee(place.pack.bank.tolerated_error, place.pack.bank.confidence)
    return {
        "kept_errors": ["calibrating"] if kept else [],
        "cells": len(cells.labels),
        "near_ties": len(ties.turned),
        "variants": {name: outcome(cells, ties, variant, promise) for name, variant in VARIANTS.items()},
    }


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights and cells."""
    return Place.of(args).inputs()


BENCHMARK = Benchmark(__doc__, Place.add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
