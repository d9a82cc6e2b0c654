"""Which probes a near tie is evaluated on again: variants of the second look on the cells that calibrate.

    python -m benchmarks.second_look models/reference --out docs/results/second_look.json

Errors of all probes and classes of the calibrating half of ``pbc/val`` under the served graphs (kept by ``cytoserve
train refit``), the tied classes turned; the engine's first look is replayed on them, then each variant. A variant gets
its own temperature and threshold. Rows are counted as a denoiser would receive them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cytoserve_files import write_text
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
from cytoserve_training.refit import Measured, ServedGraphs
from numpy.typing import NDArray

from .outputs import output_path
from .place import Place

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    """What is done about a tie of which both classes saw ``shared`` of ``budget`` probes.

    Attributes
    ----------
    used : callable
        (shared, budget) -> probes of the second look that count; 0: the first look stands.
    rows : callable
        (shared, budget) -> rows handed to the denoiser besides the first look.
    """

    used: Callable[[int, int], int]
    rows: Callable[[int, int], int]


PAIR = 2 * TURNS
"""Rows of a second look per probe: both classes in every turn."""

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
    """The first look at M cells, and the near ties among them.

    Attributes
    ----------
    asked : (M, P, C) ndarray, NaN where a class had left
    turned : dict of int to (TURNS, P, 2) ndarray
        Errors of the tied pair of each near tie, the better class first.
    """

    asked: NDArray[np.float32]
    turned: dict[int, Doubles]


def ties_of(config: ScoringConfig, look: TieAugmentation, cells: Measured, graphs: ServedGraphs) -> Ties:
    """Replay the first look and compute the turned errors of the tied pairs."""
    budget = config.probes
    asked = first_passes(config, cells.errors, (budget,))[budget]
    tied = [cell for cell in range(len(asked)) if look.applies(paired_statistic(asked[cell]), budget)]
    latents = look.turned(cells.latents[tied]).reshape(-1, *cells.latents.shape[1:])
    found = graphs.errors(latents, budget, len(config.classes), "near ties, turned")
    found = found.reshape(TURNS, len(tied), budget, -1)
    return Ties(
        asked, {cell: found[:, row][..., tied_pair(asked[cell])].astype(np.float64) for row, cell in enumerate(tied)}
    )


def outcome(cells: Measured, ties: Ties, variant: Variant, promise: RiskGuarantee) -> dict[str, Any]:
    """Return cost, errors and acceptance of one variant."""
    budget = cells.errors.shape[1]
    scores, label = (part.copy() for part in class_scores(ties.asked))
    rows = np.isfinite(ties.asked).sum(axis=(1, 2)).astype(np.float64)
    for cell, turned in ties.turned.items():
        pair = np.array(tied_pair(ties.asked[cell]))
        shared = shared_probes(ties.asked[cell], pair)
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


def report(place: Place) -> dict[str, Any]:
    """Return the outcome of every variant."""
    config, look = place.scoring()
    graphs = place.graphs()
    cells = place.calibrating(graphs, config)
    ties = ties_of(config, look, cells, graphs)
    promise = RiskGuarantee(place.pack.bank.tolerated_error, place.pack.bank.confidence)
    return {
        "model": place.version(),
        "cells": len(cells.labels),
        "near_ties": len(ties.turned),
        "variants": {name: outcome(cells, ties, variant, promise) for name, variant in VARIANTS.items()},
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Place.add_arguments(parser)
    parser.add_argument("--out", type=output_path)
    args = parser.parse_args()
    text = json.dumps(report(Place.of(args)), indent=1) + "\n"
    print(text, end="")
    if args.out:
        write_text(args.out, text)


if __name__ == "__main__":
    main()
