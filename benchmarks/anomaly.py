"""A class that the model never saw: does it stand out, and is it referred? Leave-one-class-out evidence.

    python -m benchmarks.anomaly runs/leave_erythroblast --peer runs/peer_without_erythroblast

The run was trained without one class (``leave_out`` in its ``config.json``), and so was the peer. Everything is fitted
on ``pbc/val`` without that class: one half (by hash) chooses probes, weights, elimination and the statistic, the other
calibrates. The class is never offered as an answer. The statistic is chosen by *pseudo* leave-out on the choosing half:
each seen class in turn is no longer offered, and its cells are to stand out. The model did learn those classes, so this
is a stand-in that needs no training, no measure of the real thing. ``pbc/test`` is only reported.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_files import write_text
from cytoserve_scoring.classifier.fitting import RiskGuarantee, accept_threshold, fit, fit_profiles, fit_temperature
from cytoserve_scoring.classifier.racing_calibration import calibrate_racing
from cytoserve_scoring.classifier.replay import replay
from cytoserve_scoring.classifier.scores import CellScores
from cytoserve_scoring.classifier.settings import BudgetSettings, ScoringConfig
from cytoserve_training.cells import CLASSES, load_cells
from cytoserve_validation.ranking import auc, auc_difference, placements
from numpy.typing import NDArray
from scipy import special

from benchmarks.outputs import output_path

from .denoiser import crops_of, without
from .leave_out import AnomalyConfig, Part, measure, seen_classes
from .peer import Peer
from .statistics import share
from .strangeness import STATISTICS, level_power, p_values, peer_scores

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Compared = tuple[Doubles, Integers, Doubles, Integers]
"""Values and answers of the test cells, values and answers of the calibrating cells."""

SERVED_PROFILE = "profile_of_served_scores"
"""The profile as it is served: from the scores that the service answers with, classes leaving early."""

LEVELS = (0.05, 0.1, 0.2)
"""Levels of the anomaly p-value: the engine's own, and two stricter ones."""


def choose_statistic(choosing: Part, calibrating: Part, names: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Choose by pseudo leave-out: the statistic of the highest mean AUC over the seen classes, and the table.

    Each class in turn is not offered; references are calibrating cells of the others, and its choosing cells are to
    stand out from the choosing cells of the others. (The final reference is the other way round, so no cell judges
    itself.)
    """
    table: dict[str, dict[str, float]] = {name: {} for name in STATISTICS}
    for column, hidden in enumerate(names):
        reference = calibrating.errors.drop(column, calibrating.label != column)
        strange = choosing.errors.drop(column, choosing.label == column)
        ordinary = choosing.errors.drop(column, choosing.label != column)
        for name, statistic in STATISTICS.items():
            found = placements(statistic(strange, reference), statistic(ordinary, reference))
            table[name][hidden] = round(found.auc, 4)
    mean = {name: float(np.mean(list(row.values()))) for name, row in table.items()}
    rows = {name: {"mean": round(mean[name], 4), "least": min(row.values()), **row} for name, row in table.items()}
    return max(mean, key=lambda name: mean[name]), rows


def serve(parts: dict[str, Part], classes: tuple[str, ...], promise: RiskGuarantee) -> tuple[ScoringConfig, CellScores]:
    """Fit the service on the two halves and return its configuration and its answers on the test cells."""
    choosing, calibrating = parts["choosing"], parts["calibrating"]
    probes = choosing.errors.values.shape[1]
    elimination = calibrate_racing(choosing.errors.values, default_alpha=0.01, confidence=promise.confidence)
    bare = ScoringConfig(
        classes=classes,
        latent_shape=(1, 1, 1),
        budgets=(BudgetSettings(),) * probes,
        default_budget=probes,
        racing=elimination,
    )
    profiles = fit_profiles(bare, choosing.errors.values, (probes,))
    bare = replace(bare, budgets=tuple(BudgetSettings(profile=profile) for profile in profiles))
    fitted = fit(bare, calibrating.errors.values, calibrating.label, promise, (probes,))
    config = ScoringConfig.from_json(
        {
            "classes": list(classes),
            "latent_shape": [1, 1, 1],
            "probes": probes,
            "default_budget": probes,
            "elimination": elimination.to_json(),
            "anomaly_profile": [None if profile is None else profile.to_json() for profile in profiles],
            **fitted,
        }
    )
    return config, replay(config, parts["test"].errors.values, probes)


def among(hits: Flags, cells: Flags) -> dict[str, Any]:
    """Return the share of ``hits`` among ``cells`` with its exact interval."""
    return share(int((hits & cells).sum()), int(cells.sum()))


def bench(accepted: Flags, right: Flags, unseen: Flags) -> dict[str, Any]:
    """Return what matters at the bench: unseen cells accepted, ordinary cells accepted, and error among those."""
    return {
        "unseen_accepted": among(accepted, unseen),
        "ordinary_accepted": among(accepted, ~unseen),
        "wrong_among_ordinary_accepted": among(~right, accepted & ~unseen),
    }


def ranked(scores: dict[str, Doubles], unseen: Flags) -> dict[str, Any]:
    """Return AUC with DeLong's interval, and the share found at 5 % false alarms, of every score."""
    out = {}
    for name, values in scores.items():
        found = auc(values[unseen], values[~unseen])
        out[name] = {
            "auc": _round(found.value),
            "interval": [_round(found.low), _round(found.high)],
            "found_at_5_percent_false_alarms": round(level_power(values[unseen], values[~unseen]), 4),
        }
    return out


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def difference(first: Doubles, second: Doubles, unseen: Flags) -> dict[str, Any]:
    """Return the paired difference of two AUCs with its interval (DeLong et al. 1988)."""
    value, low, high = auc_difference(
        placements(first[unseen], first[~unseen]), placements(second[unseen], second[~unseen])
    )
    return {"value": round(value, 4), "interval": [round(low, 4), round(high, 4)]}


def denoiser_side(
    parts: dict[str, Part], chosen: str, promise: RiskGuarantee, names: tuple[str, ...]
) -> dict[str, Any]:
    """Return scores, and acceptance by the engine as it is and with the chosen statistic in place of its own."""
    choosing, calibrating, test = parts["choosing"], parts["calibrating"], parts["test"]
    config, answers = serve(parts, names, promise)
    unseen = test.label < 0
    scores = {name: statistic(test.errors, choosing.errors) for name, statistic in STATISTICS.items()}
    served = 1 - answers.anomaly[:, 1].astype(np.float64)
    right = answers.label == test.label
    accepted = answers.decision == 0
    # Every reason but the engine's own anomaly stays when another statistic takes its place.
    others = np.array([set(reasons.split(",")) <= {"", "anomalous"} for reasons in answers.reasons])
    rows: dict[str, Any] = {
        "as_served": bench(accepted, right, unseen),
        "no_anomaly_check": bench(others, right, unseen),
    }
    references: dict[str, Compared] = {
        name: (
            *(scores[name], test.errors.label),
            *(STATISTICS[name](calibrating.errors, choosing.errors), calibrating.errors.label),
        )
        for name in dict.fromkeys(("absolute", chosen))
    }
    scores[SERVED_PROFILE] = answers.anomaly[:, 0].astype(np.float64)
    for name, compared in references.items():
        p = p_values(*compared)
        for level in LEVELS:
            rows[f"{name}_at_{level}"] = bench(others & (p >= level), right, unseen)
    for level in LEVELS:
        rows[f"{SERVED_PROFILE}_at_{level}"] = bench(others & (answers.anomaly[:, 1] >= level), right, unseen)
    return {
        "scores": {**scores, "served_p_value": served},
        "bench": rows,
        "answered_for_unseen": {
            name: int((answers.label[unseen] == c).sum())
            for c, name in enumerate(names)
            if (answers.label[unseen] == c).any()
        },
        "accuracy_on_seen": among(right, ~unseen),
        "evaluations_per_cell": round(float(answers.evaluations.mean()), 2),
        "accept_threshold": config.budgets[-1].accept_threshold,
    }


def peer_side(config: AnomalyConfig, parts: dict[str, Part], promise: RiskGuarantee) -> dict[str, Any]:
    """Return the peer's scores, and its acceptance by a threshold on the top posterior that keeps the same promise.

    Raises
    ------
    ValueError
        The peer was trained with another class left out.
    """
    peer = Peer.load(Path(config.peer))
    if peer.config.leave_out != config.left_out:
        raise ValueError(f"{config.peer} was trained without {peer.config.leave_out!r}, not {config.left_out!r}")
    train = without(load_cells(Path(config.data) / "train", 400), config.left_out)
    _, train_features = peer.answers(crops_of(train))
    asked = [CLASSES.index(name) for name in seen_classes(config.left_out)]
    found = {name: peer.answers(crops_of(part.cells)) for name, part in parts.items() if name != "choosing"}
    logits = {name: answer[0][:, asked] for name, answer in found.items()}
    scores = {
        name: peer_scores(logits[name], answer[1], train_features, train.labels.numpy())
        for name, answer in found.items()
    }
    truth = parts["calibrating"].label
    temperature = fit_temperature(-logits["calibrating"], truth)
    top = {name: special.softmax(z / temperature, axis=1).max(axis=1) for name, z in logits.items()}
    threshold = accept_threshold(top["calibrating"], logits["calibrating"].argmax(axis=1) == truth, promise)
    unseen = parts["test"].label < 0
    guess = logits["test"].argmax(axis=1)
    right = guess == parts["test"].label
    confident = top["test"] >= (np.inf if threshold is None else threshold)
    rows = {"posterior_threshold": bench(confident, right, unseen)}
    for name in ("energy", "mahalanobis", "neighbours"):
        p = p_values(scores["test"][name], guess, scores["calibrating"][name], logits["calibrating"].argmax(axis=1))
        for level in LEVELS:
            rows[f"posterior_and_{name}_at_{level}"] = bench(confident & (p >= level), right, unseen)
    return {
        "scores": {f"peer_{name}": values for name, values in scores["test"].items()},
        "bench": rows,
        "accuracy_on_seen": among(right, ~unseen),
        "steps": peer.config.steps,
    }


TOLD = ("out", "start_from", "steps", "margin_from", "learning_rate", "seed")
"""What a reader needs to train a run again."""


def training_of(run: Path) -> list[dict[str, Any]]:
    """Return what tells the runs apart that led to this one, the first of them first."""
    config = json.loads((run / "config.json").read_text())
    before = training_of(Path(config["start_from"])) if config["start_from"] else []
    return [*before, {key: config[key] for key in TOLD}]


def report(config: AnomalyConfig) -> dict[str, Any]:
    """Return the whole evidence."""
    torch.set_num_threads(config.threads)
    trained = json.loads((Path(config.run) / "config.json").read_text())
    trained_without = trained.get("leave_out", "")
    promise, names = RiskGuarantee(), seen_classes(config.left_out)
    parts, bank = measure(config)
    chosen, table = choose_statistic(parts["choosing"], parts["calibrating"], names)
    unseen = parts["test"].label < 0
    ours = denoiser_side(parts, chosen, promise, names)
    peer = peer_side(config, parts, promise) if config.peer else None
    scores: dict[str, Doubles] = ours.pop("scores")
    rivals = {"relative_zeta": scores["relative_zeta"], **(peer.pop("scores") if peer else {})}
    # The rivals' best is taken on the test cells themselves: it flatters them, not us.
    rows = ranked({**scores, **rivals}, unseen)
    best = max(rivals, key=lambda name: rows[name]["auc"] or 0.0)
    return {
        "left_out": config.left_out,
        "trained_without": trained_without,
        "is_evidence": trained_without == config.left_out,
        "cells": {
            "choosing": len(parts["choosing"].cells),
            "calibrating": len(parts["calibrating"].cells),
            "test_ordinary": int((~unseen).sum()),
            "test_unseen": int(unseen.sum()),
        },
        "probes": config.probes,
        "bank": bank,
        "pseudo_leave_out_on_val": table,
        "chosen_statistic": chosen,
        "auc": rows,
        "rivals": list(rivals),
        "best_rival": best,
        "chosen_minus_best_rival": difference(scores[chosen], rivals[best], unseen),
        "served": SERVED_PROFILE,
        "served_minus_best_rival": difference(scores[SERVED_PROFILE], rivals[best], unseen),
        "served_minus_zeta": difference(scores[SERVED_PROFILE], scores["relative_zeta"], unseen),
        "training": training_of(Path(config.run)),
        "chosen_minus_zeta": difference(scores[chosen], scores["relative_zeta"], unseen),
        "denoiser": ours,
        "peer": peer,
        "promise": {"tolerated_error": promise.tolerated_error, "confidence": promise.confidence},
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run of a denoiser trained with leave_out")
    parser.add_argument("--peer", default="", help="run of a peer trained without the same class")
    parser.add_argument("--left-out", choices=CLASSES, help="only to try this on a run that saw every class")
    parser.add_argument("--data", default=AnomalyConfig.data)
    parser.add_argument("--probes", type=int, default=AnomalyConfig.probes)
    parser.add_argument("--candidates", type=int, default=AnomalyConfig.candidates)
    parser.add_argument("--choosing-per-class", type=int, default=AnomalyConfig.choosing_per_class)
    parser.add_argument("--calibrating", type=int, default=AnomalyConfig.calibrating)
    parser.add_argument("--test-per-class", type=int)
    parser.add_argument("--threads", type=int, default=AnomalyConfig.threads)
    parser.add_argument(
        "--out", type=output_path, help="default: docs/results/anomaly_CLASS.json, for real evidence only"
    )
    args = vars(parser.parse_args())
    out: Path | None = args.pop("out")
    left_out = args.pop("left_out") or json.loads((Path(args["run"]) / "config.json").read_text())["leave_out"]
    if not left_out:
        parser.error(f"{args['run']} was trained with every class; name one by --left-out to try this out")
    result = report(replace(AnomalyConfig(args.pop("run"), left_out), **args))
    print(json.dumps(result, indent=1))
    if out is None and result["is_evidence"]:
        out = Path("docs/results") / f"anomaly_{left_out}.json"
    if out is not None:
        write_text(out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
