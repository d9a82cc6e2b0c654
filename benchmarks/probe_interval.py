"""Does the interval of a probability hold what other probes would have said? Its coverage on real cells.

    python -m benchmarks.probe_interval runs/denoiser3 --out docs/results/probe_interval.json

The engine answers some cells of the calibrating half of ``pbc/val`` as it is served, classes leaving early and near
ties looked at again, and tells its interval (:mod:`cytoserve_scoring.probe_interval`). The truth it is held against is
the probability of the answered class, at the same temperature, under many fresh banks together: the same timesteps and
weights, other noises, no class leaving. That truth is a mean of finitely many banks itself, so an interval of exactly
the nominal level covers it a little less often; ``expected_coverage`` is that level by the normal law.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_scoring.calibration import first_looks, near_ties, replay
from cytoserve_scoring.config import ScoringConfig
from cytoserve_scoring.probe_interval import LEVEL, probe_lags
from cytoserve_scoring.scores import tied_pair
from cytoserve_scoring.second_look import TURNS, SecondLook
from cytoserve_training.cells import load_cells
from cytoserve_training.checkpoint import part_cells
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy import special, stats

from .anytime import packing, stored_errors
from .denoiser import Bank, Denoiser, crops_of, file_hash, serving_bank
from .statistics import share

Doubles = NDArray[np.float64]

SEED = 23
BUDGETS = (2, 4)
"""Besides the whole bank; at these there is no second look."""

BANDS = ((0.0, 0.9), (0.9, 0.99), (0.99, 1.01))
"""Bands of the served probability in which coverage is told apart."""


Pairs = dict[int, tuple[int, int]]
"""By cell, the classes that tied."""


@dataclass(frozen=True)
class Looked:
    """Errors of M cells under one bank, or their mean over some.

    Attributes
    ----------
    upright : (M, P, C) ndarray
    turned : (TURNS, M, P, C) ndarray, NaN but for the tied classes of near ties
    """

    upright: Doubles
    turned: Doubles


def fresh_bank(bank: Bank, seed: int) -> Bank:
    """Return the same timesteps and weights with other noises, rounded to half as the served ones are."""
    generator = torch.Generator().manual_seed(seed)
    return replace(bank, noise=torch.randn(bank.noise.shape, generator=generator).half().float())


def hardest_and_others(errors: Doubles, config: ScoringConfig, hard: int, others: int) -> NDArray[np.int64]:
    """Return rows: the least sure cells of the first look, and some of the rest, evenly spread."""
    top = replay(config, errors, config.probes).posterior.max(axis=1)
    order = np.argsort(top, kind="stable")
    rest = np.sort(order[hard:])
    return np.concatenate([order[:hard], rest[np.linspace(0, len(rest) - 1, others).astype(int)]])


def tied_pairs(config: ScoringConfig, errors: Doubles, look: SecondLook, budget: int) -> Pairs:
    """Return the pairs that the engine looks at again at this budget."""
    seen = first_looks(config, errors, budget)
    return {int(cell): tied_pair(seen[cell]) for cell in near_ties(config, errors, (budget,), look)}


def looked(denoiser: Denoiser, bank: Bank, latents: torch.Tensor, pairs: Pairs, look: SecondLook) -> Looked:
    """Compute all errors of the upright cells, and those of the tied pairs in the other quarter turns."""
    upright = denoiser.bank_errors(latents, bank)
    turned = np.full((TURNS, *upright.shape), np.nan)
    for pair in sorted(set(pairs.values())):
        cells = [cell for cell, tied in pairs.items() if tied == pair]
        for turn, rows in enumerate(look.turned(latents[cells].numpy())):
            found = denoiser.bank_errors(torch.from_numpy(rows), bank, pair)
            turned[turn, np.array(cells)[:, None, None], np.arange(found.shape[1])[:, None], list(pair)] = found
    return Looked(upright, turned)


def measured(
    run: Path, data: Path, rows: NDArray[np.int64], pairs: Pairs, look: SecondLook, banks: int
) -> tuple[Looked, Looked]:
    """Return the rows' errors under the served bank and their mean under fresh ones, kept in the run's folder."""
    key = hashlib.sha256(f"{file_hash(run / 'state.pt')} {rows.tolist()} {sorted(pairs.items())} {SEED}".encode())
    path = run / f"probe_interval_{banks}_{key.hexdigest()[:12]}.npz"
    if not path.exists():
        denoiser, bank = Denoiser.open(run), serving_bank(run)
        val = load_cells(data / "val")
        latents = denoiser.latents(crops_of(val, part_cells(val, packing(run))[1][torch.from_numpy(rows)]))
        served = looked(denoiser, bank, latents, pairs, look)
        upright, turned = np.zeros_like(served.upright), np.zeros_like(served.turned)
        with Progress(console=Console(stderr=True)) as progress:
            for number in progress.track(range(banks), description="fresh banks"):
                one = looked(denoiser, fresh_bank(bank, SEED + number), latents, pairs, look)
                upright, turned = upright + one.upright / banks, turned + one.turned / banks
        np.savez_compressed(path, served=served.upright, served_turned=served.turned, fresh=upright, turned=turned)
    held = np.load(path)
    return Looked(held["served"], held["served_turned"]), Looked(held["fresh"], held["turned"])


def true_probability(
    fresh: Looked, config: ScoringConfig, budget: int, label: NDArray[Any], pairs: Pairs
) -> NDArray[np.float64]:
    """Return the (M,) probability of the answered classes under the fresh banks' mean errors."""
    out = np.empty(len(label))
    for cell, winner in enumerate(label.tolist()):
        upright, pair = fresh.upright[cell, :budget], pairs.get(cell)
        difference = None
        if pair is not None:
            both = np.concatenate([upright[None], fresh.turned[:, cell, :budget]])[..., list(pair)]
            difference = (both[..., 1] - both[..., 0]).ravel()
        behind = np.nanmean(probe_lags(upright, winner, pair, difference), axis=0)
        rivals = np.delete(behind, winner)
        out[cell] = special.expit(-special.logsumexp(-rivals / config.temperature[budget - 1]))
    return out


def coverage(interval: Doubles, truth: Doubles, kept: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the share of cells whose interval holds the truth, and how wide the intervals are."""
    inside = (interval[:, 0] <= truth) & (truth <= interval[:, 1])
    width = interval[kept, 1] - interval[kept, 0]
    return {
        "covered": share(int((inside & kept).sum()), int(kept.sum())),
        "median_width": round(float(np.median(width)), 4) if kept.any() else None,
    }


def report(run: Path, data: Path, scoring: Path, hard: int, others: int, banks: int) -> dict[str, Any]:
    """Return coverage at each budget, in all and by bands of the probability."""
    config = ScoringConfig.from_json(json.loads(scoring.read_text()))
    look = config.second_look
    if look is None:
        raise SystemExit(f"{scoring} has no second look: this benchmark is of a model that has one")
    stored = stored_errors(run)["calibrating"]
    rows = hardest_and_others(stored, replace(config, second_look=None), hard, others)
    pairs = tied_pairs(config, stored[rows], look, config.probes)
    served, fresh = measured(run, data, rows, pairs, look, banks)
    return {
        "model": json.loads((scoring.parents[2] / "service_info/1/service.json").read_text())["version"],
        "cells": {"least_sure": hard, "others": others, "looked_at_again": len(pairs)},
        "fresh_banks": banks,
        "level": LEVEL,
        "expected_coverage": round(expected_coverage(config.probes, banks), 4),
        "by_budget": {
            str(budget): judged(config, served, fresh, budget, pairs if budget == config.probes else {})
            for budget in (*BUDGETS, config.probes)
        },
    }


def judged(config: ScoringConfig, served: Looked, fresh: Looked, budget: int, pairs: Pairs) -> dict[str, Any]:
    """Return coverage at one budget."""
    answers = replay(config, served.upright, budget, served.turned)
    found = true_probability(fresh, config, budget, answers.label, pairs)
    interval = answers.interval.astype(np.float64)
    top = answers.posterior.max(axis=1)
    every = np.ones(len(top), bool)
    return {
        "all": coverage(interval, found, every),
        "evaluations": round(float(answers.evaluations.mean()), 2),
        "by_probability": {
            f"{low:g} to {min(high, 1.0):g}": coverage(interval, found, (top >= low) & (top < high))
            for low, high in BANDS
        },
    }


def expected_coverage(probes: int, banks: int) -> float:
    """Return how often a Student interval of the nominal level holds the mean of ``banks`` other banks.

    Both means are of Gaussian numbers of one variance: the interval's own mean over ``probes`` of them, the other's
    over ``banks`` times as many.
    """
    reach = stats.t.ppf(0.5 + LEVEL / 2, probes - 1) / np.sqrt(1 + 1 / banks)
    return float(2 * stats.t.cdf(reach, probes - 1) - 1)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run that the served weights were packed from")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/pbc"))
    parser.add_argument("--scoring", type=Path, default=Path("model_repository/scorer/1/scoring.json"))
    parser.add_argument("--hard", type=int, default=120, help="least sure cells")
    parser.add_argument("--others", type=int, default=120)
    parser.add_argument("--banks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = vars(parser.parse_args())
    torch.set_num_threads(args.pop("threads"))
    out: Path | None = args.pop("out")
    result = report(**args)
    print(json.dumps(result, indent=1))
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
