"""Classes that a denoiser never learned: do they stand out, and how many pass as accepted?

    python -m benchmarks.unseen runs/hidden --out docs/results/unseen.json

The run was trained without some classes (``--leave-out``). Everything is fitted on ``pbc/val`` without them, as the
committed weights are packed, and none of them is offered as an answer: the network's outputs for them are not looked
at. Then every cell of ``pbc/test`` is answered by the engine on recorded errors, the check of its picture included.
Each class that was left out is held against the cells of all classes that were not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from cytoserve_contract.reasons import Reason
from cytoserve_files import read_text
from cytoserve_scoring.classifier.augmentation import TieAugmentation
from cytoserve_scoring.classifier.familiarity import FamiliarPictures
from cytoserve_scoring.classifier.replay import replay
from cytoserve_scoring.classifier.scores import CellScores
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_statistics.ranking import auc
from cytoserve_training.cells import CLASSES, CellSet, cut, left_out, load_cells, without
from cytoserve_training.checkpoint import (
    NOT_SHOWN,
    PackConfig,
    TieErrors,
    fit_familiar,
    fit_scoring,
    part_cells,
    statistics_of,
)
from cytoserve_training.denoiser import build_scheduler
from cytoserve_training.denoiser_train import class_errors, load_average
from cytoserve_training.probes import build_bank, latents_of
from cytoserve_validation.zeta import zeta
from numpy.typing import NDArray

from benchmarks.familiarity import share
from benchmarks.results import Benchmark, DataRead, Inputs, run

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEVELS: Final = (0.05, 0.1, 0.2)
"""Levels of the anomaly check: the served one, and two that refer more."""

ACCEPTED: Final = 0.8
"""Share of ordinary cells accepted at which designs are compared."""


class Denoised:
    """A trained run, asked for its errors under the classes that it learned."""

    def __init__(self, folder: Path, pack: PackConfig) -> None:
        unet, self.autoencoder = load_average(folder)
        self.told = json.loads(read_text(folder / "config.json"))
        self.hidden = left_out(self.told["leave_out"])
        self.names = tuple(name for name in CLASSES if name not in self.hidden)
        self.columns = [CLASSES.index(name) for name in self.names]
        self.unet = unet.half().float().to(memory_format=torch.channels_last)
        deviation = self.autoencoder.inverse.norm(dim=0)
        self.channel_weight, self.mask = deviation / deviation.mean(), self.autoencoder.patch_mask()
        self.alphas_cumprod = build_scheduler().alphas_cumprod
        self.quarter_turn = self.autoencoder.quarter_turn()
        self.pack = pack

    def latents(self, cells: CellSet) -> torch.Tensor:
        """Return the (M, c, h, w) latents of plain crops."""
        return latents_of(cut(cells.images, cells.gains), self.autoencoder.encode)

    def errors(self, latents: torch.Tensor) -> Doubles:
        """Return the (M, P, C) errors under the learned classes."""
        bank = build_bank(self.pack.bank, tuple(latents.shape[1:]))
        found = class_errors(
            self.unet,
            latents,
            bank,
            self.channel_weight,
            self.mask,
            self.alphas_cumprod,
            quarter_turn=self.quarter_turn,
        )
        errors: Doubles = found[:, :, self.columns].double().numpy()
        return errors

    def number(self, cells: CellSet) -> NDArray[np.int64]:
        """Return the (M,) labels as indices into the learned classes, -1 for a hidden one."""
        index = np.full(len(CLASSES), -1)
        index[self.columns] = np.arange(len(self.columns))
        return index[cells.labels.numpy()]


def serve(denoised: Denoised, data: Path, test: CellSet) -> tuple[ScoringConfig, CellScores]:
    """Fit on ``pbc/val`` without the hidden classes, and answer the test cells at the default budget."""
    pack = denoised.pack
    cells = without(load_cells(data / "val"), denoised.hidden)
    rows = part_cells(cells, pack)
    parts = [CellSet(cells.images[r], cells.gains[r], cells.labels[r], ()) for r in rows]
    latents = [denoised.latents(part) for part in (*parts, test)]
    racing, calibrating, asked = (denoised.errors(part) for part in latents)
    matrix, offset = (part.numpy() for part in denoised.quarter_turn)
    augmentation = TieAugmentation(pack.bank.look_again_below, pack.bank.look_again_from, matrix, offset)
    ties = TieErrors(augmentation, tuple(part.numpy() for part in latents), denoised.errors)
    familiar, own = fit_familiar(data / "val", cells)
    fitted = fit_scoring(
        racing,
        calibrating,
        denoised.number(parts[1]),
        tuple(latents[0].shape[1:]),
        pack.bank,
        ties,
        own.take(rows[1].numpy()),
        classes=denoised.names,
    )
    config = ScoringConfig.from_json({**fitted, "familiar": familiar.to_json()})
    turned = ties.turned(config, 2, asked, (config.default_budget,))
    assessed = FamiliarPictures.from_json(familiar.to_json()).assess(statistics_of(data / "test", test))
    answers = replay(config, asked, config.default_budget, turned, assessed)
    return config, answers


def accepted_at(answers: CellScores, level: float) -> Flags:
    """Return which cells would be accepted if the anomaly check had another level, and all else were as served."""
    others = np.array([set(reasons.split(",")) <= {"", Reason.ANOMALOUS.value} for reasons in answers.reasons])
    return others & ~(answers.anomaly[:, 1] < level)


def accepted_from(answers: CellScores, probability: float) -> Flags:
    """Return which cells would be accepted from another probability on, and all else were as served."""
    others = np.array([set(reasons.split(",")) <= {"", Reason.LOW_CONFIDENCE.value} for reasons in answers.reasons])
    return others & (answers.posterior.max(axis=1) >= probability)


def probability_for(answers: CellScores, ordinary: Flags, accepted: float) -> float:
    """Return the probability from which on a share of the ordinary cells is accepted, or the nearest above it.

    It is a point on the curve of the cells it is reported for, not a threshold that was fitted elsewhere. 0 where even
    so fewer are accepted.
    """
    tops = np.sort(np.where(accepted_from(answers, 0.0), answers.posterior.max(axis=1), -1.0)[ordinary])[::-1]
    return max(0.0, float(tops[int(np.ceil(accepted * len(tops))) - 1]))


def share_of(hits: Flags, among: Flags) -> dict[str, Any]:
    """Return the share of ``hits`` among ``among`` with its exact interval."""
    return share(int((hits & among).sum()), int(among.sum()))


def bench(accepted: Flags, right: Flags, strange: Flags, ordinary: Flags) -> dict[str, Any]:
    """Return shares with exact intervals: hidden and ordinary cells accepted, and error among the latter."""
    return {
        "unseen_accepted": share_of(accepted, strange),
        "ordinary_accepted": share_of(accepted, ordinary),
        "wrong_among_ordinary_accepted": share_of(~right, accepted & ordinary),
    }


def scores_of(answers: CellScores) -> dict[str, Doubles]:
    """Return what could tell strange cells, higher for those: the served score, its p-value, zeta, uncertainty."""
    return {
        "anomaly_score": answers.anomaly[:, 0].astype(np.float64),
        "p_value": 1 - answers.anomaly[:, 1].astype(np.float64),
        "zeta": -zeta(answers.scores.astype(np.float64)),
        "uncertainty": answers.uncertainty.astype(np.float64),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return what happened to each hidden class."""
    torch.set_num_threads(args.threads)
    denoised = Denoised(args.run, PackConfig(threads=args.threads))
    test = load_cells(args.data / "test")
    config, answers = serve(denoised, args.data, test)
    label = denoised.number(test)
    ordinary, right = label >= 0, answers.label == label
    recalls = [float(right[label == c].mean()) for c in range(len(denoised.names))]
    scores, accepted = scores_of(answers), answers.decision == 0
    equal = probability_for(answers, ordinary, ACCEPTED)
    hidden = {}
    for name in denoised.hidden:
        strange = test.labels.numpy() == CLASSES.index(name)
        hidden[name] = {
            "cells": int(strange.sum()),
            "auc": {key: auc(values[strange], values[ordinary]).json() for key, values in scores.items()},
            "as_served": bench(accepted, right, strange, ordinary),
            "at_level": {str(level): bench(accepted_at(answers, level), right, strange, ordinary) for level in LEVELS},
            "at_80_percent_accepted": bench(accepted_from(answers, equal), right, strange, ordinary),
            "answered": {
                known: int((answers.label[strange] == c).sum())
                for c, known in enumerate(denoised.names)
                if (answers.label[strange] == c).any()
            },
        }
    return {
        "hidden": hidden,
        "ordinary_cells": int(ordinary.sum()),
        "balanced_accuracy": round(float(np.mean(recalls)), 4),
        "evaluations_per_cell": round(float(answers.evaluations.mean()), 2),
        "probability_at_80_percent_accepted": equal,
        "accept_threshold": config.at(config.default_budget).accept_threshold,
        "training": {key: value for key, value in denoised.told.items() if key not in NOT_SHOWN},
    }


def inputs(args: argparse.Namespace) -> Inputs:
    """Return the run's weights and the cells."""
    sha256 = hashlib.sha256((args.run / "state.pt").read_bytes()).hexdigest()
    data = tuple(DataRead.by_class(args.data / part) for part in ("val", "test"))
    told = json.loads(read_text(args.run / "config.json"))
    return Inputs({"name": args.run.name, "sha256": sha256}, data, {"training": told["seed"]})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", type=Path, help="run of a denoiser trained with --leave-out")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/pbc"))
    parser.add_argument("--threads", type=int, default=2)


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
