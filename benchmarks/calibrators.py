"""Is a temperature enough? Calibrators of the posterior side by side, on the scores that the service answers with.

    python -m benchmarks.calibrators --out docs/results/calibrators.json

The calibrating half of ``pbc/val`` (:func:`cytoserve_training.checkpoint.part_cells`) and all of ``pbc/test`` go
through the server once; only their scores are taken. Every calibrator is fitted on ``pbc/val`` alone: ten-fold cross-
fitting judges and chooses there, one fit on the whole half is then reported on ``pbc/test``. Another calibrator would
take the temperature's place if its cross-fitted log-loss were lower beyond a paired interval widened for the number
of candidates (Bonferroni).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_client import CellsAnalysis
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_files import write_text
from cytoserve_scoring.classifier.fitting import fit_temperature
from cytoserve_training.cells import load_cells
from cytoserve_training.checkpoint import PackConfig, part_cells
from numpy.typing import NDArray
from scipy import optimize, special

from benchmarks.outputs import output_path

from .accuracy import classify
from .statistics import expected_calibration_error

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Posterior = Callable[[Doubles], Doubles]
"""(M, C) scores, lower is better, to (M, C) log-probabilities."""

Fit = Callable[[Doubles, Integers], Posterior]
"""(M, C) scores and (M,) labels to a posterior."""

SERVED = "temperature"
FOLDS, INNER_FOLDS = 10, 5
RIDGES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Penalties on the squared parameters among which an inner cross-fitting chooses."""


def lags(scores: Doubles) -> Doubles:
    """Return how far every class stands behind the best."""
    found: Doubles = scores - scores.min(axis=1, keepdims=True)
    return found


def temperature(scores: Doubles, labels: Integers) -> Posterior:
    """One temperature (Guo et al. 2017): what is served."""
    chosen = fit_temperature(scores, labels)
    return lambda values: special.log_softmax(-lags(values) / chosen, axis=1)


def relative_temperature(scores: Doubles, labels: Integers) -> Posterior:
    """One temperature over the logs of the scores: lags in units of the cell's own error."""
    chosen = fit_temperature(np.log(scores), labels)
    return lambda values: special.log_softmax(-lags(np.log(values)) / chosen, axis=1)


def _penalised(power: bool, slopes: bool, bias: bool) -> Fit:
    """Return a fit of ``-slope_c (lag / T)^power + bias_c`` about the temperature T, with a ridge on all parameters."""

    def log_posterior(parameters: Doubles, relative: Doubles) -> Doubles:
        classes = relative.shape[1]
        exponent = np.exp(parameters[0]) if power else 1.0
        slope = np.exp(parameters[1 : 1 + classes] if slopes else parameters[1])
        shift = parameters[-classes:] if bias else 0.0
        found: Doubles = special.log_softmax(-slope * relative**exponent + shift, axis=1)
        return found

    def fit(relative: Doubles, labels: Integers, ridge: float) -> Doubles:
        classes = relative.shape[1]
        count = 1 + (classes if slopes else 1) + (classes if bias else 0)

        def loss(parameters: Doubles) -> float:
            told = log_loss(log_posterior(parameters, relative), labels).mean()
            return float(told + ridge * (parameters**2).sum())

        found: Doubles = optimize.minimize(loss, np.zeros(count), method="L-BFGS-B").x
        return found

    def with_ridge(ridge: float) -> Fit:
        def fitted(relative: Doubles, labels: Integers) -> Posterior:
            parameters = fit(relative, labels, ridge)
            return lambda rows: log_posterior(parameters, rows)

        return fitted

    def calibrator(scores: Doubles, labels: Integers) -> Posterior:
        unit = fit_temperature(scores, labels)
        relative = lags(scores) / unit
        fits = [with_ridge(ridge) for ridge in RIDGES]
        held_out = [log_loss(crossed(one, relative, labels, INNER_FOLDS), labels).mean() for one in fits]
        posterior = fits[int(np.argmin(held_out))](relative, labels)
        return lambda values: posterior(lags(values) / unit)

    return calibrator


def _one_against_the_rest(fit: Callable[[Doubles, NDArray[np.bool_]], Callable[[Doubles], Doubles]]) -> Fit:
    """Return a calibrator that maps each class's tempered probability by a fit of its own, then makes them sum to 1."""

    def calibrator(scores: Doubles, labels: Integers) -> Posterior:
        first = temperature(scores, labels)
        rows = np.exp(first(scores))
        maps = [fit(rows[:, c], labels == c) for c in range(rows.shape[1])]

        def posterior(values: Doubles) -> Doubles:
            told = np.exp(first(values))
            mapped = np.stack([one(told[:, c]) for c, one in enumerate(maps)], axis=1)
            found: Doubles = np.log(mapped / mapped.sum(axis=1, keepdims=True))
            return found

        return posterior

    return calibrator


def _isotonic(probability: Doubles, truth: NDArray[np.bool_]) -> Callable[[Doubles], Doubles]:
    """Fit a rising step function (Zadrozny & Elkan 2002), kept from 0 and 1 by one pseudo-cell of either kind."""
    order = np.argsort(probability, kind="stable")
    steps = optimize.isotonic_regression(truth[order].astype(float)).x
    kept = (steps * len(truth) + 1) / (len(truth) + 2)
    return lambda values: np.interp(values, probability[order], kept)


def _beta(probability: Doubles, truth: NDArray[np.bool_]) -> Callable[[Doubles], Doubles]:
    """Fit ``logit = a ln p - b ln(1 - p) + c`` with a, b >= 0 (Kull, Silva Filho & Flach 2017)."""

    def parts(values: Doubles) -> Doubles:
        inside = np.clip(values, 1e-9, 1 - 1e-9)
        return np.stack([np.log(inside), -np.log1p(-inside), np.ones_like(inside)], axis=1)

    rows, sign = parts(probability), np.where(truth, 1.0, -1.0)

    def loss(parameters: Doubles) -> tuple[float, Doubles]:
        margin = sign * (rows @ parameters)
        slope = -(sign * special.expit(-margin)) @ rows / len(sign)
        return float(np.logaddexp(0, -margin).mean()), slope

    bounds = [(0, None), (0, None), (None, None)]
    found = optimize.minimize(loss, np.array([1.0, 1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return lambda values: np.clip(special.expit(parts(values) @ found), 1e-9, 1.0)


CALIBRATORS: dict[str, Fit] = {
    SERVED: temperature,
    "temperature of log scores": relative_temperature,
    "power of the lag": _penalised(power=True, slopes=False, bias=False),
    "bias a class": _penalised(power=False, slopes=False, bias=True),
    "power and bias a class": _penalised(power=True, slopes=False, bias=True),
    "vector scaling": _penalised(power=False, slopes=True, bias=True),
    "isotonic, one against the rest": _one_against_the_rest(_isotonic),
    "beta, one against the rest": _one_against_the_rest(_beta),
}


def log_loss(log_posterior: Doubles, labels: Integers) -> Doubles:
    """Return the (M,) negative log-likelihoods."""
    found: Doubles = -log_posterior[np.arange(len(labels)), labels]
    return found


def crossed(fit: Fit, scores: Doubles, labels: Integers, folds: int) -> Doubles:
    """Return (M, C) log-probabilities, each cell's by a fit on the other folds."""
    fold = np.random.default_rng(0).permutation(len(labels)) % folds
    out = np.empty_like(scores)
    for one in range(folds):
        out[fold == one] = fit(scores[fold != one], labels[fold != one])(scores[fold == one])
    return out


def described(log_posterior: Doubles, labels: Integers, base: Doubles, candidates: int) -> dict[str, Any]:
    """Return log-loss, Brier score, ECE and accuracy, and the paired difference of the log-loss to ``base``'s.

    The second interval is widened for the number of candidates (percentile bootstrap over cells, as independent).
    """
    posterior, loss = np.exp(log_posterior), log_loss(log_posterior, labels)
    gap = loss - log_loss(base, labels)
    at = np.random.default_rng(0).integers(0, len(gap), (20_000, len(gap)))
    means = gap[at].mean(axis=1)
    wide = 5 / candidates / 2
    right = posterior.argmax(axis=1) == labels
    return {
        "log_loss": round(float(loss.mean()), 4),
        "brier": round(float(((posterior - np.eye(posterior.shape[1])[labels]) ** 2).sum(axis=1).mean()), 4),
        "expected_calibration_error": round(expected_calibration_error(posterior.max(axis=1), right), 4),
        "accuracy": round(float(right.mean()), 4),
        "log_loss_minus_served": {
            "value": round(float(gap.mean()), 4),
            "interval": [round(float(x), 4) for x in np.percentile(means, [2.5, 97.5])],
            "interval_for_all_candidates": [round(float(x), 4) for x in np.percentile(means, [wide, 100 - wide])],
        },
    }


def compare(val: tuple[Doubles, Integers], test: tuple[Doubles, Integers]) -> dict[str, Any]:
    """Return the table, and which calibrator the rule at the top of this module takes."""
    rivals = len(CALIBRATORS) - 1
    held_out = {name: crossed(fit, *val, FOLDS) for name, fit in CALIBRATORS.items()}
    tested = {name: fit(*val)(test[0]) for name, fit in CALIBRATORS.items()}
    rows = {
        name: {
            "val_cross_fitted": described(held_out[name], val[1], held_out[SERVED], rivals),
            "test": described(tested[name], test[1], tested[SERVED], rivals),
        }
        for name in CALIBRATORS
    }
    found = {name: row["val_cross_fitted"] for name, row in rows.items() if name != SERVED}
    better = [n for n, row in found.items() if row["log_loss_minus_served"]["interval_for_all_candidates"][1] < 0]
    taken = min(better, key=lambda name: found[name]["log_loss"]) if better else SERVED
    return {"served": SERVED, "taken": taken, "cells": {"val": len(val[1]), "test": len(test[1])}, "rows": rows}


def scored(analysis: CellsAnalysis, files: list[Path]) -> tuple[Doubles, Integers]:
    """Return (M, C) scores as answered and (M,) labels from the names of the folders.

    Raises
    ------
    SystemExit
        A cell was not scored.
    """
    if analysis.failures or any(cell.scores is None for cell in analysis.cells):
        raise SystemExit(f"{len(analysis.failures)} cells failed, or some were not scored: {analysis.failures[:1]}")
    names = list(analysis.model.classes)
    scores = np.array([[(cell.scores or {})[name] for name in names] for cell in analysis.cells])
    return scores, np.array([names.index(file.parent.name) for file in files])


def files_of(data: Path, packing: PackConfig) -> dict[str, list[Path]]:
    """Return the files of the calibrating half of ``val``, and of ``test``."""
    val = load_cells(data / "val")
    rows = part_cells(val, packing)[1].tolist()
    return {
        "val": [data / "val" / val.names[row] for row in rows],
        "test": [file for folder in sorted((data / "test").iterdir()) for file in sorted(folder.iterdir())],
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/pbc"))
    parser.add_argument("--um-per-pixel", type=float, default=0.18, help="of the cells in --data")
    parser.add_argument("--out", type=output_path)
    args = parser.parse_args()
    parts = files_of(args.data, PackConfig())
    with LocalServer() as server:
        answers = {name: classify(server.grpc_url, files, args.um_per_pixel, None) for name, files in parts.items()}
    scores = {name: scored(answer, parts[name]) for name, answer in answers.items()}
    result = {
        "data": args.data.name,
        "um_per_pixel": args.um_per_pixel,
        "model": answers["val"].model.model_dump(),
        **compare(scores["val"], scores["test"]),
    }
    print(json.dumps({**result, "model": None}, indent=1))
    if args.out:
        write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
