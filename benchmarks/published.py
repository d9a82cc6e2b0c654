"""The published procedure as baseline: same weights, same cells, same machine, same run.

    python -m benchmarks.published ../shared/data/pbc/test --cells 300 --out docs/results/published.json

CytoDiffusion's inference as its authors describe and publish it (Deltadahl et al. 2025): one image at a time, a fresh
augmentation and a fresh noise each trial shared by all classes, timesteps drawn without replacement, a paired t-test
of every live class against the best from trial 21 on at every fifth trial (p < 0.002, not corrected), at most 2,000
trials, least mean weighted error. Its weights over the timesteps are a reciprocal polynomial of degree four, refitted
here to this model's errors, so that the baseline is a fair one. The network answers all classes at once, so a trial
costs one evaluation, whatever classes are live; the published network needs one for each. It runs in PyTorch,
as published, on crops cut and augmented by the loader of training (`cytoserve_training`).

Our side is the service: the same cells through gRPC, Triton and the ensemble ``cell_analysis``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_networks.autoencoder import PatchPCAAutoencoder
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_training.augment import Augmentation
from cytoserve_training.cells import CLASSES, CellSet, cut, load_cells
from cytoserve_training.denoiser import build_scheduler, class_errors_of, diffuse, predict_all
from cytoserve_training.scanner_faults import NO_FAULTS
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy import stats
from torch import Tensor

from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights

MILD = Augmentation(
    scale=0.0,
    shift_um=0.0,
    strong=0.0,
    narrow=0.1,
    brightness=0.02,
    channel_gain=0.02,
    occlude=0.0,
    faults=NO_FAULTS,
)
"""Rotation, flip and a slight colour jitter, as the published loop augments every trial."""

BOOTSTRAP_SEED = 0

VALIDATION_EACH = 40
"""Validation cells of each class that the weights over the timesteps are refitted on."""


@dataclass(frozen=True)
class Procedure:
    """Constants of the published loop."""

    trials: int = 2000
    first_test: int = 20
    every: int = 5
    level: float = 2e-3
    seed: int = 0


class PublishedLoop:
    """The published loop on a checkpoint in the ``diffusers`` layout."""

    def __init__(self, checkpoint: Path, procedure: Procedure) -> None:
        self.procedure = procedure
        self.unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet").float().eval()
        self.unet = self.unet.to(memory_format=torch.channels_last)
        self.autoencoder = PatchPCAAutoencoder.load(checkpoint / "vae")
        deviation = self.autoencoder.inverse.norm(dim=0)
        self.channel_weight, self.mask = deviation / deviation.mean(), self.autoencoder.patch_mask()
        self.alphas_cumprod = build_scheduler().alphas_cumprod
        self.weight = np.ones(1000)

    @torch.no_grad()
    def errors(self, latent: Tensor, timestep: int, noise: Tensor) -> NDArray[np.float64]:
        """Return the (C,) unweighted errors of one noisy latent under every class: one evaluation."""
        at = torch.full((1,), timestep)
        noisy, target = diffuse(latent, noise, at, self.alphas_cumprod)
        with torch.autocast("cpu", torch.bfloat16):
            out = predict_all(self.unet, noisy.to(memory_format=torch.channels_last), at, len(CLASSES))
        return class_errors_of(out, target, self.channel_weight, self.mask)[0].double().numpy()

    def refit_weights(self, cells: CellSet, draws: int = 400) -> None:
        """Fit ``weight(t) = 1 / poly4(1 - t/1000)`` to the mean error of validation cells under their own class."""
        generator = torch.Generator().manual_seed(self.procedure.seed)
        at, seen = [], []
        for row in torch.randint(len(cells), (draws,), generator=generator).tolist():
            latent = self.autoencoder.encode(cut(cells.images[row : row + 1], cells.gains[row : row + 1]))
            timestep = int(torch.randint(1, 1000, (1,), generator=generator))
            noise = torch.randn(latent.shape, generator=generator)
            at.append(1 - timestep / 1000)
            seen.append(self.errors(latent, timestep, noise)[int(cells.labels[row])])
        fitted = np.polynomial.Polynomial.fit(at, seen, 4)
        level = fitted(1 - np.arange(1000) / 1000)
        self.weight = 1.0 / np.maximum(level, 0.05 * np.median(level))

    def classify(self, cells: CellSet, row: int) -> tuple[list[int], list[int]]:
        """Return the answer and the evaluations spent after every trial of one cell."""
        rule = self.procedure
        generator = torch.Generator().manual_seed(rule.seed * 100_003 + row)
        timesteps = (
            torch.linspace(1, 999, rule.trials).long()[torch.randperm(rule.trials, generator=generator)].tolist()
        )
        live = list(range(len(CLASSES)))
        scores = np.full((rule.trials, len(CLASSES)), np.nan)
        answers: list[int] = []
        costs: list[int] = []
        for trial, timestep in enumerate(timesteps):
            crop = cut(cells.images[row : row + 1], cells.gains[row : row + 1], MILD, generator)
            latent = self.autoencoder.encode(crop)
            noise = torch.randn(latent.shape, generator=generator)
            scores[trial, live] = self.errors(latent, timestep, noise)[live] * self.weight[timestep]
            best = live[int(np.argmin(scores[: trial + 1, live].mean(axis=0)))]
            answers.append(best)
            costs.append(trial + 1)
            if trial >= rule.first_test and (trial - rule.first_test) % rule.every == 0:
                live = [
                    c for c in live if c == best or not beaten(scores[: trial + 1, c], scores[: trial + 1, best], rule)
                ]
                if len(live) == 1:
                    break
        return answers, costs


def beaten(rival: NDArray[np.float64], best: NDArray[np.float64], rule: Procedure) -> bool:
    """Return whether the two-sided paired t-test drops the rival."""
    test = stats.ttest_rel(rival, best)
    return bool(test.pvalue < rule.level and rival.mean() > best.mean())


def served(files: list[Path], budgets: list[int | None]) -> tuple[dict[str, Any], float]:
    """Return labels and evaluations per budget from one local server, and its cells per second at its default."""
    out: dict[str, Any] = {}
    speed = 0.0
    with LocalServer() as server, Client(server.grpc_url, timeout=300, cells_per_request=16, max_in_flight=2) as client:
        client.classify(files[:16], PBC_UM_PER_PIXEL, one_sample=False)
        for budget in budgets:
            began = time.monotonic()
            analysis = client.classify(files, PBC_UM_PER_PIXEL, budget=budget, one_sample=False)
            cells = analysis.cells
            if budget is None:
                speed = len(files) / (time.monotonic() - began)
            out["default" if budget is None else str(budget)] = {
                "labels": [CLASSES.index(cell.label) if cell.label else -1 for cell in cells],
                "evaluations": [cell.evaluations or 0 for cell in cells],
                "weights_sha256": analysis.model.weights_sha256,
            }
    return out, speed


def each_of(cells: int) -> int:
    """Return the cells of each class where ``cells`` are spread evenly over the classes, the first by name."""
    return -(-cells // len(CLASSES))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/pbc/test"))
    parser.add_argument("--checkpoint", type=Path, default=Path("models/reference"))
    parser.add_argument("--validation", type=Path, default=Path("../shared/data/pbc/val"))
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights, both sets of cells, the seed of timesteps, noise and augmentation, and that of the bootstrap."""
    data = (
        DataRead.by_class(args.folder, each_of(args.cells)),
        DataRead.by_class(args.validation, VALIDATION_EACH),
    )
    return Inputs(served_weights(), data, {"trials": Procedure.seed, "bootstrap": BOOTSTRAP_SEED})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run both procedures on the same cells."""
    torch.set_num_threads(args.threads)
    cells = load_cells(args.folder, each_of(args.cells))
    ours, speed = served([args.folder / name for name in cells.names], [None, 1, 2, 4, 8])
    baseline = PublishedLoop(args.checkpoint, Procedure())
    baseline.refit_weights(load_cells(args.validation, VALIDATION_EACH))
    began = time.monotonic()
    runs = [
        baseline.classify(cells, row)
        for row in track(range(len(cells)), "published procedure", console=Console(stderr=True))
    ]
    their_speed = len(cells) / (time.monotonic() - began)
    return compare(ours, speed, runs, their_speed, cells.labels.numpy())


def paired_difference(
    first: NDArray[np.bool_], second: NDArray[np.bool_], draws: int = 4000, seed: int = BOOTSTRAP_SEED
) -> dict[str, Any]:
    """Return the difference in accuracy of two answers to the same cells, in points, with its 95 % interval.

    Percentile bootstrap over cells, taken as independent (Efron & Tibshirani 1993, chapter 13).
    """
    gap = 100.0 * (first.astype(float) - second.astype(float))
    at = np.random.default_rng(seed).integers(0, len(gap), (draws, len(gap)))
    low, high = np.percentile(gap[at].mean(axis=1), [2.5, 97.5])
    return {"points": round(float(gap.mean()), 2), "interval": [round(float(low), 2), round(float(high), 2)]}


def compare(
    ours: dict[str, Any],
    speed: float,
    runs: list[tuple[list[int], list[int]]],
    their_speed: float,
    truth: NDArray[np.int64],
) -> dict[str, Any]:
    """Put the two sides beside each other."""
    mine = np.array(ours["default"]["labels"]) == truth
    last = np.array([answers[-1] for answers, _ in runs]) == truth
    spent = np.array([costs[-1] for _, costs in runs])
    own = np.array(ours["default"]["evaluations"])
    caps = (1, 2, 4, 8, 16, 21, 41, 81, 161, 2000)
    curve = {
        str(cap): {
            "accuracy": round(float(np.mean([a[min(cap, len(a)) - 1] for a, _ in runs] == truth)), 4),
            "evaluations": round(float(np.mean([c[min(cap, len(c)) - 1] for _, c in runs])), 1),
        }
        for cap in caps
    }
    gap = paired_difference(mine, last)
    return {
        "cells": len(truth),
        "weights_sha256": ours["default"]["weights_sha256"],
        "ours": {"accuracy": round(float(mine.mean()), 4), "evaluations": round(float(own.mean()), 2)},
        "published": {
            "accuracy": round(float(last.mean()), 4),
            "evaluations": round(float(spent.mean()), 2),
            "evaluations_median": float(np.median(spent)),
        },
        "evaluations_ratio": round(float(spent.mean() / own.mean()), 2),
        "cells_per_second": {"ours": round(speed, 3), "published": round(their_speed, 4)},
        "cells_per_second_ratio": round(speed / their_speed, 2),
        "accuracy_difference_points": gap["points"],
        "accuracy_difference_interval": gap["interval"],
        "curve_ours_by_most_probes": {
            name: {
                "accuracy": round(float((np.array(run["labels"]) == truth).mean()), 4),
                "evaluations": round(float(np.mean(run["evaluations"])), 1),
            }
            for name, run in ours.items()
        },
        "curve_published_by_most_trials": curve,
    }


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
