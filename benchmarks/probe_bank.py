"""Which probes, in which order, with which weights: in domain and on a foreign microscope, losers included.

    python -m benchmarks.probe_bank runs/denoiser2 --out docs/results/probe_bank.json

Every row asks the same number of probes of every class. Drawn banks are drawn anew for each cell; the chosen bank is
one for all cells. Whatever is fitted (weights, choice) is fitted on the choosing half of ``pbc/val``; figures are of
the other half and of ``bccd_cells``. A bank tuned in domain may lose elsewhere: the second column is for that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_files import write_text
from cytoserve_training.cells import CLASSES, load_cells
from cytoserve_training.checkpoint import part_cells
from cytoserve_training.denoiser import TRAIN_TIMESTEPS
from cytoserve_training.probes import BankConfig, bit_reversed_order, log_likelihood
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy import optimize, special
from torch import Tensor

from benchmarks.outputs import output_path

from .anytime import packing
from .denoiser import Denoiser, crops_of, serving_bank
from .foreign import centred, read_folder, site_scale
from .statistics import balanced_accuracy, balanced_accuracy_interval, paired_difference, share

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

BASE = "random order, published weights"
SERVED = "chosen bank, chosen weights"
FOREIGN_SEED, HOME_SEED, WEIGHT_SEED = 21, 22, 23


@dataclass(frozen=True)
class Drawn:
    """Probes drawn for each of M cells.

    Attributes
    ----------
    timestep : (M, P) int64 tensor
    noise : (M, P, c, h, w) float32 tensor
    """

    timestep: Tensor
    noise: Tensor


def gaussian(cells: int, probes: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return (M, P, c, h, w) noise."""
    return torch.randn(cells, probes, *shape, generator=generator)


def random_order(cells: int, probes: int, shape: tuple[int, ...], generator: torch.Generator) -> Drawn:
    """Draw timesteps of 1 to 999 without replacement, as the published loop does, and a fresh noise for each."""
    order = torch.stack([torch.randperm(TRAIN_TIMESTEPS - 1, generator=generator)[:probes] + 1 for _ in range(cells)])
    return Drawn(order, gaussian(cells, probes, shape, generator))


def stratified(
    cells: int,
    probes: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    low: float = 0.001,
    high: float = 1.0,
) -> Drawn:
    """Draw one timestep in each of ``probes`` equal strata of the range, in an order whose prefixes are spread."""
    at = (torch.arange(probes) + torch.rand(cells, probes, generator=generator)) / probes
    timestep = ((low + (high - low) * at) * TRAIN_TIMESTEPS).long().clamp(1, TRAIN_TIMESTEPS - 1)
    return Drawn(timestep[:, bit_reversed_order(probes)], gaussian(cells, probes, shape, generator))


def antithetic(
    cells: int, probes: int, shape: tuple[int, ...], generator: torch.Generator, low: float, high: float
) -> Drawn:
    """Draw half as many strata, each asked with a noise and with its negative."""
    half = stratified(cells, max(1, probes // 2), shape, generator, low, high)
    timestep = half.timestep.repeat_interleave(2, 1)
    noise = torch.stack([half.noise, -half.noise], 2).flatten(1, 2)
    return Drawn(timestep, noise)


def published_weights(denoiser: Denoiser, latents: Tensor, labels: Tensor) -> Doubles:
    """Return (1000,) weights ``1 / poly4(1 - t/1000)`` refitted to this model's errors under the true class."""
    generator = torch.Generator().manual_seed(WEIGHT_SEED)
    drawn = stratified(len(latents), 1, tuple(latents.shape[1:]), generator)
    errors = denoiser.errors(latents, drawn.timestep, drawn.noise)
    own = errors[np.arange(len(latents)), 0, labels.numpy()]
    fitted: Callable[[Doubles], Doubles] = np.polynomial.Polynomial.fit(  # type: ignore[no-untyped-call]
        1 - drawn.timestep[:, 0].numpy() / TRAIN_TIMESTEPS, own, 4
    )
    level = fitted(1 - np.arange(TRAIN_TIMESTEPS) / TRAIN_TIMESTEPS)
    found: Doubles = 1.0 / np.maximum(level, 0.05 * np.median(level))
    return found


def learned_weights(errors: Doubles, labels: Integers, penalty: float = 0.05) -> Doubles:
    """Return positive (P,) weights with mean 1 that make the truth likeliest.

    Minimises the class-balanced negative log-likelihood of ``softmax(-sum_p exp(v_p) errors_p)`` with a penalty on the
    spread of ``v`` (a ridge: with some hundred cells, bare weights follow the noise).

    Parameters
    ----------
    errors : (M, P, C) ndarray
    labels : (M,) ndarray
    """
    behind = errors - errors.min(axis=2, keepdims=True)
    start = np.full(errors.shape[1], -np.log(max(float(np.median(behind.sum(axis=1))), 1e-12)))
    counts = np.bincount(labels, minlength=errors.shape[2])
    share_of = 1 / (counts[labels] * np.count_nonzero(counts))

    def loss(v: Doubles) -> tuple[float, Doubles]:
        weight = np.exp(v)
        logp = special.log_softmax(-np.einsum("mpc,p->mc", behind, weight), axis=1)
        off = np.exp(logp)
        off[np.arange(len(labels)), labels] -= 1
        # d logp_truth / d v_p = weight_p * sum_c (posterior_c - [c is the truth]) * behind_pc
        slope = -np.einsum("m,mc,mpc->p", share_of, off, behind) * weight
        centred_v = v - v.mean()
        value = -float(share_of @ logp[np.arange(len(labels)), labels]) + penalty * float(centred_v @ centred_v)
        return value, slope + 2 * penalty * centred_v

    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(s - 6, s + 6) for s in start])
    weight = np.exp(found.x - found.x.mean())
    even: Doubles = weight / weight.mean()
    return even


def describe(scores: Doubles, truth: Integers) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Return accuracy among the classes present, and which cells were right."""
    present = np.unique(truth)
    guess = present[scores[:, present].argmin(axis=1)]
    low, high = balanced_accuracy_interval(guess, truth)
    return {
        "accuracy": share(int((guess == truth).sum()), len(truth)),
        "balanced_accuracy": round(balanced_accuracy(guess, truth), 4),
        "balanced_accuracy_interval": [round(low, 4), round(high, 4)],
        "log_likelihood": round(log_likelihood(scores, truth), 4),
    }, guess == truth


@dataclass(frozen=True)
class Cells:
    """Latents and labels of one set of cells."""

    latents: Tensor
    labels: Integers


def measure(
    denoiser: Denoiser, run: Path, home: Cells, choosing: Cells, foreign: Cells, probes: int
) -> dict[str, dict[str, Doubles]]:
    """Return the (M, P, C) weighted errors of every row on ``home`` and on ``foreign``."""
    shape = tuple(home.latents.shape[1:])
    bank = serving_bank(run, probes)
    held, limits = np.load(run / "val_errors.npz"), BankConfig(**json.loads((run / "pack.json").read_text())["bank"])
    published = published_weights(denoiser, choosing.latents, torch.from_numpy(choosing.labels))
    chosen_raw = held["choosing"][:, held["order"][:probes]]
    fixed = {
        SERVED: bank.weight,
        "chosen bank, equal weights": np.ones(len(bank.weight)),
        "chosen bank, learned weights": learned_weights(chosen_raw, held["choosing_labels"]),
    }
    low, high = limits.low, limits.high
    drawn: dict[str, Callable[[int, torch.Generator], Drawn]] = {
        BASE: lambda n, g: random_order(n, probes, shape, g),
        "stratified timesteps, published weights": lambda n, g: stratified(n, probes, shape, g),
        "stratified within the bank's range": lambda n, g: stratified(n, probes, shape, g, low, high),
        "antithetic pairs within the bank's range": lambda n, g: antithetic(n, probes, shape, g, low, high),
    }
    out: dict[str, dict[str, Doubles]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for place, cells, seed in (("home", home, HOME_SEED), ("foreign", foreign, FOREIGN_SEED)):
            task = progress.add_task(place, total=len(cells.latents) * (1 + len(drawn)))
            done = 0
            out[place] = {}
            for name, draw in drawn.items():
                found = draw(len(cells.latents), torch.Generator().manual_seed(seed))
                errors = denoiser.errors(cells.latents, found.timestep, found.noise)
                out[place][name] = errors * published[found.timestep.numpy()][..., None]
                done += len(cells.latents)
                progress.update(task, completed=done)
            raw = denoiser.errors(cells.latents, bank.timestep, bank.noise)
            progress.update(task, completed=done + len(cells.latents))
            out[place].update({name: raw * weight[None, :, None] for name, weight in fixed.items()})
    return out


def table(
    errors: dict[str, dict[str, Doubles]], labels: dict[str, Integers], counts: tuple[int, ...]
) -> dict[str, Any]:
    """Return the rows: accuracy with fewer and with all probes, and the paired difference to the base."""
    out: dict[str, Any] = {}
    for place, rows in errors.items():
        truth = labels[place]
        _, base = describe(rows[BASE].mean(axis=1), truth)
        for name, found in rows.items():
            told, right = describe(found.mean(axis=1), truth)
            told["minus_base"] = paired_difference(right, base)
            told["balanced_accuracy_by_probes"] = {
                str(n): describe(found[:, :n].mean(axis=1), truth)[0]["balanced_accuracy"] for n in counts
            }
            out.setdefault(name, {})[place] = told
    return out


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="packed run of a denoiser")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/pbc"))
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/bccd_cells"))
    parser.add_argument("--fields", type=Path, default=Path("../shared/data/smears/bccd/images"))
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--cells", type=int, default=200, help="cells of the reported half of pbc/val")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th foreign cell, to try it out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=output_path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    denoiser = Denoiser.open(args.run)
    val = load_cells(args.data / "val")
    parts = part_cells(val, packing(args.run))
    sets = []
    for rows in (parts[0], parts[1][: args.cells]):
        sets.append(Cells(denoiser.latents(crops_of(val, rows)), val.labels[rows].numpy()))
    images, truth = read_folder(args.folder)
    scale = site_scale(args.fields, 60)
    crops = np.stack([centred(image, scale["um_per_pixel"]) for image in images[:: args.every]])
    foreign = Cells(denoiser.latents(torch.from_numpy(crops).float()), truth[:: args.every])
    errors = measure(denoiser, args.run, sets[1], sets[0], foreign, args.probes)
    counts = tuple(n for n in (1, 2, 4, 8, 16) if n <= args.probes)
    result = {
        "run": args.run.as_posix(),
        "served": SERVED,
        "probes": args.probes,
        "cells": {"choosing": len(sets[0].labels), "home": len(sets[1].labels), "foreign": len(foreign.labels)},
        "classes_present": {"foreign": [CLASSES[c] for c in np.unique(foreign.labels)]},
        "site_scale": scale,
        "base": BASE,
        "rows": table(errors, {"home": sets[1].labels, "foreign": foreign.labels}, counts),
    }
    print(json.dumps(result, indent=1))
    if args.out:
        write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
