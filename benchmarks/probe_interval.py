"""Does the interval of a probability hold what other noise would have said? Its coverage on real cells.

    python -m benchmarks.probe_interval models/reference --out docs/results/probe_interval.json

Some banks are drawn afresh: the timesteps and weights that are served, other noises. Each in turn answers the cells
as the engine does, classes leaving early, and tells its interval
(:mod:`cytoserve_scoring.classifier.probe_interval`); the truth it is held against is the probability of the answered
class, at the same temperature and with the same classes asked, under all other banks together. Cells are chosen by
the bank that is served, so no bank that is judged chose its cells. Cells that tie under the served bank are looked at
again, in a row of their own, over the probes that both tied classes saw, as the engine does. All cells of a bank
share its noises, so it is the banks, not the cells, that are independent: intervals of the coverage are Student's
over the banks."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from cytoserve_files import output_file, write_text
from cytoserve_scoring.classifier.augmentation import TURNS, AugmentedPair, TieAugmentation, revised
from cytoserve_scoring.classifier.probe_interval import LEVEL, posterior_interval, probe_lags
from cytoserve_scoring.classifier.replay import first_passes, replay
from cytoserve_scoring.classifier.scores import paired_statistic, shared_probes, softmax_posterior, tied_pair
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_training.cells import load_cells
from cytoserve_training.checkpoint import part_cells
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy import special, stats

from benchmarks.outputs import output_path

from .denoiser import Bank, Denoiser, crops_of, file_hash, serving_bank
from .place import Place

Doubles = NDArray[np.float64]

SEED = 23
BUDGETS = (2, 4, 8)
"""Besides the whole bank."""

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

    def lag(self, cell: int, pair: tuple[int, int]) -> Doubles:
        """Return the (1 + TURNS, P) errors of the second class of a tied pair minus those of the first."""
        both = np.concatenate([self.upright[cell][None], self.turned[:, cell]])
        found: Doubles = both[..., pair[1]] - both[..., pair[0]]
        return found


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


def tied_pairs(config: ScoringConfig, errors: Doubles, look: TieAugmentation, budget: int) -> Pairs:
    """Return the pairs that the engine looks at again at this budget."""
    seen = first_passes(config, errors, (budget,))[budget]
    return {
        cell: tied_pair(errors) for cell, errors in enumerate(seen) if look.applies(paired_statistic(errors), budget)
    }


def looked(denoiser: Denoiser, bank: Bank, latents: torch.Tensor, pairs: Pairs, look: TieAugmentation) -> Looked:
    """Compute all errors of the upright cells, and those of the tied pairs in the other quarter turns."""
    upright = denoiser.bank_errors(latents, bank)
    turned = np.full((TURNS, *upright.shape), np.nan)
    for pair in sorted(set(pairs.values())):
        cells = [cell for cell, tied in pairs.items() if tied == pair]
        for turn, rows in enumerate(look.turned(latents[cells].numpy())):
            found = denoiser.bank_errors(torch.from_numpy(rows), bank, pair)
            turned[turn, np.array(cells)[:, None, None], np.arange(found.shape[1])[:, None], list(pair)] = found
    return Looked(upright, turned)


def measured(place: Place, rows: NDArray[np.int64], pairs: Pairs, look: TieAugmentation, banks: int) -> list[Looked]:
    """Return the rows' errors under each fresh bank, computed or kept from an earlier run."""
    weights = file_hash(place.checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    key = hashlib.sha256(f"{weights} {rows.tolist()} {sorted(pairs.items())} {SEED}".encode())
    path = place.run / f"fresh_banks_{banks}_{key.hexdigest()[:12]}.npz"
    if not path.exists():
        denoiser, bank = Denoiser.open(place.checkpoint), serving_bank(place.checkpoint)
        val = load_cells(place.data / "val")
        latents = denoiser.latents(crops_of(val, part_cells(val, place.pack)[1][torch.from_numpy(rows)]))
        with Progress(console=Console(stderr=True)) as progress:
            found = [
                looked(denoiser, fresh_bank(bank, SEED + number), latents, pairs, look)
                for number in progress.track(range(banks), description="fresh banks")
            ]
        upright, turned = np.stack([one.upright for one in found]), np.stack([one.turned for one in found])
        with output_file(path) as file:
            np.savez_compressed(file, upright=upright, turned=turned)
    held = np.load(path)
    return [Looked(*both) for both in zip(held["upright"], held["turned"], strict=True)]


@dataclass(frozen=True)
class Judged:
    """What one bank told of M cells, and what the others say.

    Attributes
    ----------
    told, truth : (M,) ndarray
        Probability of the answered class, of the bank itself and under the other banks.
    interval : (M, 2) ndarray
    """

    told: Doubles
    truth: Doubles
    interval: Doubles

    def held(self, low: float = 0.0, high: float = 2.0) -> NDArray[np.bool_]:
        """Return, for the cells whose probability was told within the band, whether the interval held the truth."""
        kept = (low <= self.told) & (self.told < high)
        inside: NDArray[np.bool_] = (self.interval[:, 0] <= self.truth) & (self.truth <= self.interval[:, 1])
        return inside[kept]


def probability_of(lags: Doubles, winner: int, temperature: float) -> float:
    """Return the probability of the winner from mean lags."""
    rivals = np.delete(np.nanmean(lags, axis=0), winner)
    return float(special.expit(-special.logsumexp(-rivals / temperature)))


def first_look(config: ScoringConfig, one: Looked, others: Looked, budget: int) -> Judged:
    """Judge the interval of the first look: the classes that had left had left under the other banks too."""
    answers = replay(config, one.upright, budget)
    asked = np.isfinite(first_passes(config, one.upright, (budget,))[budget])
    known = np.where(asked, others.upright[:, :budget], np.nan)
    truth = [
        probability_of(probe_lags(known[cell], winner), winner, config.at(budget).temperature)
        for cell, winner in enumerate(answers.label.tolist())
    ]
    return Judged(answers.posterior.max(axis=1), np.array(truth), answers.interval.astype(np.float64))


def second_look(config: ScoringConfig, one: Looked, others: Looked, pairs: Pairs) -> Judged:
    """Judge the interval after the second look, at the pairs that tied under the served bank."""
    budget = config.probes
    temperature, answers = config.at(budget).temperature, replay(config, one.upright, budget)
    seen = first_passes(config, one.upright, (budget,))[budget]
    rows = []
    for cell, pair in pairs.items():
        # The better of the two under this bank stands first, as it would in the engine.
        pair = pair if answers.scores[cell, pair[0]] <= answers.scores[cell, pair[1]] else pair[::-1]
        count = shared_probes(seen[cell], np.array(pair))
        if count < 2:  # under this bank one of them was dropped at once: nothing ties, nothing is asked again
            continue
        again = AugmentedPair(pair, one.lag(cell, pair)[:, :count])
        truth = AugmentedPair(pair, others.lag(cell, pair)[:, :count])
        scores, winner, _ = revised(answers.scores[cell], again)
        asked = np.where(np.isfinite(seen[cell]), others.upright[cell], np.nan)
        told = softmax_posterior(scores[None], temperature)[0, winner]
        low, high = posterior_interval(
            scores, winner, probe_lags(seen[cell], winner, again), temperature, config.usual_spread
        )
        rows.append((told, probability_of(probe_lags(asked, winner, truth), winner, temperature), low, high))
    told, found, low, high = np.array(rows).T
    return Judged(told, found, np.stack([low, high], axis=1))


def over_banks(judged: list[Judged]) -> dict[str, Any]:
    """Return the mean coverage over the banks with Student's interval, in all and by bands of the probability told."""
    out: dict[str, Any] = {"cells": len(judged[0].told)}
    for name, band in {"all": (0.0, 2.0), **{f"{b[0]:g} to {min(b[1], 1.0):g}": b for b in BANDS}}.items():
        held = [one.held(*band) for one in judged]
        shares = np.array([part.mean() for part in held if len(part)])
        if len(shares) < 2:
            out[name] = None
            continue
        reach = float(stats.t.ppf(0.975, len(shares) - 1) * stats.sem(shares))
        width = np.concatenate([np.diff(one.interval, axis=1)[:, 0] for one in judged])
        told = np.concatenate([one.told for one in judged])
        out[name] = {
            "covered": round(float(shares.mean()), 4),
            "interval": [round(max(0.0, shares.mean() - reach), 4), round(min(1.0, shares.mean() + reach), 4)],
            "answers": sum(len(part) for part in held),
            "median_width": round(float(np.median(width[(band[0] <= told) & (told < band[1])])), 4),
        }
    return out


def turns_correlation(banks: list[Looked], pairs: Pairs) -> float:
    """Return the mean correlation between turns of what a bank's noise adds to the lag of a tied pair."""
    found = []
    for cell, pair in pairs.items():
        lag = np.stack([bank.lag(cell, pair) for bank in banks])
        noise = (lag - lag.mean(axis=0)).transpose(1, 0, 2).reshape(1 + TURNS, -1)
        found.append(np.corrcoef(noise)[np.triu_indices(1 + TURNS, 1)].mean())
    return float(np.mean(found))


def report(place: Place, hard: int, others: int, banks: int) -> dict[str, Any]:
    """Return the coverage at some budgets, and after the second look."""
    config, look = place.scoring()
    plain = replace(config, augmentation=None)
    stored = place.calibrating(place.graphs(), config).errors
    rows = hardest_and_others(stored, plain, hard, others)
    pairs = tied_pairs(config, stored[rows], look, config.probes)
    found = measured(place, rows, pairs, look, banks)
    total = Looked(np.sum([one.upright for one in found], axis=0), np.sum([one.turned for one in found], axis=0))
    rest = [
        Looked((total.upright - one.upright) / (banks - 1), (total.turned - one.turned) / (banks - 1)) for one in found
    ]
    both = list(zip(found, rest, strict=True))
    return {
        "model": place.version(),
        "cells": {"least_sure": hard, "others": others, "looked_at_again": len(pairs)},
        "fresh_banks": banks,
        "level": LEVEL,
        "expected_coverage": round(expected_coverage(config.probes, banks - 1), 4),
        "turns_correlation": round(turns_correlation(found, pairs), 3),
        "first_look": {
            str(budget): over_banks([first_look(plain, *one, budget) for one in both])
            for budget in (*BUDGETS, config.probes)
        },
        "second_look": over_banks([second_look(plain, *one, pairs) for one in both]),
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
    Place.add_arguments(parser)
    parser.add_argument("--hard", type=int, default=100, help="least sure cells")
    parser.add_argument("--others", type=int, default=100)
    parser.add_argument("--banks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=output_path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = report(Place.of(args), args.hard, args.others, args.banks)
    print(json.dumps(result, indent=1))
    if args.out:
        write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
