"""What the test-time augmentation of near ties is worth, on the calibrating cells.

    python -m benchmarks.test_time_augmentation models/reference --out docs/results/test_time_augmentation.json

The engine evaluates a near tie again in the other three quarter turns, over the noise samples that it has seen. The
race is replayed here on the errors of all noise samples of the calibrating half of ``pbc/val``, with and without.
Either way gets its own temperature and threshold. Evaluations are counted as a denoiser would receive them.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from cytoserve_scoring.classifier.fitting import RiskGuarantee, accept_threshold, fit_temperature
from cytoserve_scoring.classifier.judge import judge
from cytoserve_scoring.classifier.replay import race_recorded
from cytoserve_scoring.classifier.scores import softmax_posterior
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_training.checkpoint import TieErrors
from numpy.typing import NDArray

from benchmarks.place import Measured, Place
from benchmarks.results import Benchmark, Inputs, run

Doubles = NDArray[np.float64]


def outcome(config: ScoringConfig, cells: Measured, turned: Doubles | None, promise: RiskGuarantee) -> dict[str, Any]:
    """Return cost, errors and acceptance, with test-time augmentation where there are ``turned`` errors."""
    terms = config.terms(config.probes)
    raced = race_recorded(cells.errors, terms, turned)
    found = judge(raced, np.zeros(len(cells.labels), np.int32), config, terms)
    posterior = softmax_posterior(found.scores, fit_temperature(found.scores.astype(np.float64), cells.labels))
    top, right = posterior.max(axis=1), found.label == cells.labels
    threshold = accept_threshold(top.astype(np.float64), right, promise)
    truth = np.maximum(posterior[np.arange(len(right)), cells.labels], 1e-9)
    return {
        "evaluations": round(float(found.evaluations.mean()), 2),
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

    def measure_turned(rows: torch.Tensor) -> Any:
        return graphs.errors(rows.numpy(), config.probes, len(config.classes), "near ties, turned")

    turned = TieErrors(look, (cells.latents,), measure_turned).turned(config, 0, cells.errors, (config.probes,))
    promise = RiskGuarantee(place.pack.bank.tolerated_error, place.pack.bank.confidence)
    return {
        "kept_errors": ["calibrating"] if kept else [],
        "cells": len(cells.labels),
        "near_ties": int(np.isfinite(turned[0, :, 0, 0]).sum()),
        "variants": {
            "none": outcome(config, cells, None, promise),
            "near ties in the other quarter turns": outcome(config, cells, turned, promise),
        },
    }


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights and cells."""
    return Place.of(args).inputs()


BENCHMARK = Benchmark(__doc__, Place.add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
