"""How often does the interval of a probability hold the probability under other noise? Coverage on real cells.

    python -m benchmarks.probe_interval models/reference --out docs/results/probe_interval.json

Some banks are drawn anew: the served timesteps and weights, other noise. Each bank is exported as a graph of its own,
answers the cells as the engine does, with racing, and gives its interval
(:mod:`cytoserve_scoring.classifier.probe_interval`). The truth is the probability of the answered class at the same
temperature, with the same classes evaluated, under all other banks together. The served bank chooses the cells, so no
bank is judged on cells that it chose. Cells that tie under the served bank are evaluated again in the other quarter
turns, over the probes on which both tied classes were evaluated, as the engine does; they have a row of their own. All
cells of a bank share its noise, so the banks are independent, not the cells: intervals of the coverage are Student's
over the banks.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.graphs import export_graph
from cytoserve_export.networks import TracedDenoiser
from cytoserve_files import output_file
from cytoserve_scoring.classifier.augmentation import TURNS, AugmentedPair, TieAugmentation, revised
from cytoserve_scoring.classifier.probe_interval import LEVEL, posterior_interval, probe_lags
from cytoserve_scoring.classifier.replay import first_passes, replay
from cytoserve_scoring.classifier.scores import paired_statistic, shared_probes, softmax_posterior, tied_pair
from cytoserve_scoring.classifier.settings import ScoringConfig
from numpy.typing import NDArray
from scipy import special, stats

from benchmarks.place import Measured, Place, ServedGraphs
from benchmarks.results import Benchmark, Inputs, run

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

SEED = 23
BUDGETS = (2, 4, 8)
"""Besides the whole bank."""

BANDS = ((0.0, 0.9), (0.9, 0.99), (0.99, 1.01))
"""Bands of the served probability in which coverage is measured separately."""


Pairs = dict[int, tuple[int, int]]
"""By cell, the classes that tied."""


@dataclass(frozen=True)
class BankErrors:
    """Errors of M cells under one bank, or their mean over some.

    Attributes
    ----------
    upright : (M, P, C) ndarray
    turned : (TURNS, M, P, C) ndarray, NaN but for the tied classes of near ties
    """

    upright: Doubles
    turned: Doubles

    def lag(self, cell: int, pair: tuple[int, int]) -> Doubles:
        """Return the (1 + TURNS, P) errors of the second class of a tied pair minus those of the first."""
        both = np.concatenate([self.upright[cell][None], self.turned[:, cell]])
        found: Doubles = both[..., pair[1]] - both[..., pair[0]]
        return found


def fresh_graphs(place: Place, seed: int, folder: Path) -> ServedGraphs:
    """Export the denoiser with other noise at the same timesteps and weights, and open it beside the served encoder."""
    checkpoint = Checkpoint(place.checkpoint)
    bank = checkpoint.probes()
    noise = torch.randn(bank.noise.shape, generator=torch.Generator().manual_seed(seed)).half()
    module = TracedDenoiser(checkpoint.unet(), checkpoint.conditioning, checkpoint.schedule, replace(bank, noise=noise))
    export_graph(
        module.eval(), checkpoint.spec("denoiser"), checkpoint.geometry.sizes(), folder / "denoiser/1/model.onnx"
    )
    (folder / "encoder/1").mkdir(parents=True)
    shutil.copyfile(place.repository / "encoder/1/model.onnx", folder / "encoder/1/model.onnx")
    return ServedGraphs(folder, place.pack.threads)


def hardest_and_others(errors: Doubles, config: ScoringConfig, hard: int, others: int) -> NDArray[np.int64]:
    """Return rows: the least sure cells of the first pass, and some of the rest, evenly spread."""
    top = replay(config, errors, config.probes).posterior.max(axis=1)
    order = np.argsort(top, kind="stable")
    rest = np.sort(order[hard:])
    return np.concatenate([order[:hard], rest[np.linspace(0, len(rest) - 1, others).astype(int)]])


def tied_pairs(config: ScoringConfig, errors: Doubles, look: TieAugmentation, budget: int) -> Pairs:
    """Return, by cell, the tied pairs that the engine evaluates again at this budget."""
    seen = first_passes(config, errors, (budget,))[budget]
    return {
        cell: tied_pair(errors)
        for cell, errors in enumerate(seen)
        if look.applies(paired_statistic(errors, config.usual_spread), budget)
    }


def errors_under(
    graphs: ServedGraphs, latents: Floats, config: ScoringConfig, pairs: Pairs, look: TieAugmentation
) -> BankErrors:
    """Compute all errors of the upright cells, and those of the tied pairs in the other quarter turns."""
    probes, classes = config.probes, len(config.classes)
    upright = graphs.errors(latents, probes, classes, "a fresh bank").astype(np.float64)
    turned = np.full((TURNS, *upright.shape), np.nan)
    cells = sorted(pairs)
    rows = look.turned(latents[cells]).reshape(-1, *latents.shape[1:])
    found = graphs.errors(rows, probes, classes, "its near ties, turned").reshape(TURNS, len(cells), probes, classes)
    for at, cell in enumerate(cells):
        for label in pairs[cell]:
            turned[:, cell, :, label] = found[:, at, :, label]
    return BankErrors(upright, turned)


def measured(
    place: Place, cells: Measured, served: str, config: ScoringConfig, pairs: Pairs, look: TieAugmentation, banks: int
) -> list[BankErrors]:
    """Return the cells' errors under each fresh bank, computed or kept from an earlier run.

    Parameters
    ----------
    served : str
        Hash of the served graphs.
    """
    key = hashlib.sha256(served.encode() + cells.latents.tobytes() + f"{sorted(pairs.items())} {SEED}".encode())
    path = place.run / f"fresh_banks_{banks}_{key.hexdigest()[:12]}.npz"
    if not path.exists():
        found = []
        for number in range(banks):
            with tempfile.TemporaryDirectory() as folder:
                graphs = fresh_graphs(place, SEED + number, Path(folder))
                found.append(errors_under(graphs, cells.latents, config, pairs, look))
        upright, turned = np.stack([one.upright for one in found]), np.stack([one.turned for one in found])
        with output_file(path) as file:
            np.savez_compressed(file, upright=upright, turned=turned)
    held = np.load(path)
    return [BankErrors(*both) for both in zip(held["upright"], held["turned"], strict=True)]


@dataclass(frozen=True)
class Judged:
    """Probabilities of M cells under one bank, and under the others.

    Attributes
    ----------
    probability, truth : (M,) ndarray
        Probability of the answered class, of the bank itself and under the other banks.
    interval : (M, 2) ndarray
    """

    probability: Doubles
    truth: Doubles
    interval: Doubles

    def covered(self, low: float = 0.0, high: float = 2.0) -> NDArray[np.bool_]:
        """Return, for the cells whose probability is in the band, whether the interval holds the truth."""
        kept = (low <= self.probability) & (self.probability < high)
        inside: NDArray[np.bool_] = (self.interval[:, 0] <= self.truth) & (self.truth <= self.interval[:, 1])
        return inside[kept]


def probability_of(lags: Doubles, winner: int, temperature: float) -> float:
    """Return the probability of the winner from mean lags."""
    rivals = np.delete(np.nanmean(lags, axis=0), winner)
    return float(special.expit(-special.logsumexp(-rivals / temperature)))


def first_pass(config: ScoringConfig, one: BankErrors, others: BankErrors, budget: int) -> Judged:
    """Judge the interval of the first pass, with the same classes dropped under the other banks."""
    answers = replay(config, one.upright, budget)
    evaluated = np.isfinite(first_passes(config, one.upright, (budget,))[budget])
    known = np.where(evaluated, others.upright[:, :budget], np.nan)
    truth = [
        probability_of(probe_lags(known[cell], winner), winner, config.at(budget).temperature)
        for cell, winner in enumerate(answers.label.tolist())
    ]
    return Judged(answers.posterior.max(axis=1), np.array(truth), answers.interval.astype(np.float64))


def augmented(config: ScoringConfig, one: BankErrors, others: BankErrors, pairs: Pairs) -> Judged:
    """Judge the interval after the augmentation, at the pairs that tied under the served bank."""
    budget = config.probes
    temperature, answers = config.at(budget).temperature, replay(config, one.upright, budget)
    seen = first_passes(config, one.upright, (budget,))[budget]
    rows = []
    for cell, pair in pairs.items():
        # The better of the two under this bank stands first, as it would in the engine.
        pair = pair if answers.scores[cell, pair[0]] <= answers.scores[cell, pair[1]] else pair[::-1]
        count = shared_probes(seen[cell], np.array(pair))
        if count < 2:  # under this bank one of them was dropped at once: nothing ties, nothing is evaluated again
            continue
        again = AugmentedPair(pair, one.lag(cell, pair)[:, :count])
        truth = AugmentedPair(pair, others.lag(cell, pair)[:, :count])
        scores, winner, _ = revised(answers.scores[cell], again)
        evaluated = np.where(np.isfinite(seen[cell]), others.upright[cell], np.nan)
        probability = softmax_posterior(scores[None], temperature)[0, winner]
        low, high = posterior_interval(
            scores, winner, probe_lags(seen[cell], winner, again), temperature, config.usual_spread
        )
        rows.append((probability, probability_of(probe_lags(evaluated, winner, truth), winner, temperature), low, high))
    probability, found, low, high = np.array(rows).T
    return Judged(probability, found, np.stack([low, high], axis=1))


def over_banks(judged: list[Judged]) -> dict[str, Any]:
    """Return the mean coverage over the banks with Student's interval, in all and by bands of the probability."""
    out: dict[str, Any] = {"cells": len(judged[0].probability)}
    for name, band in {"all": (0.0, 2.0), **{f"{b[0]:g} to {min(b[1], 1.0):g}": b for b in BANDS}}.items():
        held = [one.covered(*band) for one in judged]
        shares = np.array([part.mean() for part in held if len(part)])
        if len(shares) < 2:
            out[name] = None
            continue
        reach = float(stats.t.ppf(0.975, len(shares) - 1) * stats.sem(shares))
        width = np.concatenate([np.diff(one.interval, axis=1)[:, 0] for one in judged])
        probability = np.concatenate([one.probability for one in judged])
        out[name] = {
            "covered": round(float(shares.mean()), 4),
            "interval": [round(max(0.0, shares.mean() - reach), 4), round(min(1.0, shares.mean() + reach), 4)],
            "answers": sum(len(part) for part in held),
            "median_width": round(float(np.median(width[(band[0] <= probability) & (probability < band[1])])), 4),
        }
    return out


def turns_correlation(banks: list[BankErrors], pairs: Pairs) -> float:
    """Return the mean correlation between turns of what a bank's noise adds to the lag of a tied pair."""
    found = []
    for cell, pair in pairs.items():
        lag = np.stack([bank.lag(cell, pair) for bank in banks])
        noise = (lag - lag.mean(axis=0)).transpose(1, 0, 2).reshape(1 + TURNS, -1)
        found.append(np.corrcoef(noise)[np.triu_indices(1 + TURNS, 1)].mean())
    return float(np.mean(found))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the coverage at some budgets, and after the test-time augmentation."""
    torch.set_num_threads(args.threads)
    place, banks = Place.of(args), args.banks
    config, look = place.scoring()
    plain = replace(config, augmentation=None)
    graphs = place.graphs()
    cells, kept = place.calibrating(graphs, config)
    rows = hardest_and_others(cells.errors, plain, args.hard, args.others)
    cells = Measured(cells.latents[rows], cells.errors[rows], cells.labels[rows])
    pairs = tied_pairs(config, cells.errors, look, config.probes)
    known = place.kept("fresh_banks_*.npz")
    found = measured(place, cells, graphs.sha256, config, pairs, look, banks)
    kept_banks = place.kept("fresh_banks_*.npz") == known
    total = BankErrors(np.sum([one.upright for one in found], axis=0), np.sum([one.turned for one in found], axis=0))
    rest = [
        BankErrors((total.upright - one.upright) / (banks - 1), (total.turned - one.turned) / (banks - 1))
        for one in found
    ]
    both = list(zip(found, rest, strict=True))
    return {
        "kept_errors": [name for name, old in (("calibrating", kept), ("fresh banks", kept_banks)) if old],
        "cells": {"least_sure": args.hard, "others": args.others, "looked_at_again": len(pairs)},
        "fresh_banks": banks,
        "level": LEVEL,
        "expected_coverage": round(expected_coverage(config.probes, banks - 1), 4),
        "turns_correlation": round(turns_correlation(found, pairs), 3),
        "first_look": {
            str(budget): over_banks([first_pass(plain, *one, budget) for one in both])
            for budget in (*BUDGETS, config.probes)
        },
        "second_look": over_banks([augmented(plain, *one, pairs) for one in both]),
    }


def expected_coverage(probes: int, banks: int) -> float:
    """Return how often a Student interval of the nominal level holds the mean of ``banks`` other banks.

    Both means are of Gaussian numbers of one variance: the interval's own mean over ``probes`` of them, the other's
    over ``banks`` times as many.
    """
    reach = stats.t.ppf(0.5 + LEVEL / 2, probes - 1) / np.sqrt(1 + 1 / banks)
    return float(2 * stats.t.cdf(reach, probes - 1) - 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    Place.add_arguments(parser)
    parser.add_argument("--hard", type=int, default=100, help="least sure cells")
    parser.add_argument("--others", type=int, default=100)
    parser.add_argument("--banks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights, cells and the seed of the first bank's noise."""
    return Place.of(args).inputs(noise=SEED)


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
