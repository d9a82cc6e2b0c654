"""Anytime-valid elimination beside the rule that is served: agreement, evaluations and accuracy on real cells.

    python -m benchmarks.anytime runs/denoiser2 --out docs/results/anytime.json

The served rule asks the bank in one fixed order, calibrated over cells (Learn-then-Test). The anytime-valid rules ask
it in a random order for each cell and promise, for every cell, agreement with the full-budget answer
(:mod:`.sequential`).
All are run on the errors that packing stored: the choosing half sets bounds and calibrates, the calibrating half is
reported. ``--fresh N`` adds a bank of N probes, long enough for the published rule, whose errors are computed here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_files import write_text
from cytoserve_scoring.classifier.racing_calibration import calibrate_racing as calibrate
from cytoserve_scoring.classifier.racing_calibration import race_at as replay
from cytoserve_training.cells import load_cells
from cytoserve_training.checkpoint import PackConfig, part_cells
from cytoserve_training.probes import BankConfig, build_bank
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks.outputs import output_path

from .denoiser import Denoiser, crops_of, latent_shape
from .sequential import Evidence, betting, eliminate, published_p, shuffled, t_test_e_value, tied_bank
from .statistics import balanced_accuracy, clopper_pearson, paired_difference

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Answer = tuple[Integers, Integers]

ALPHA = 0.01
SEED = 11


def stored_errors(run: Path) -> dict[str, Any]:
    """Return the weighted errors of both halves of ``pbc/val`` under the bank that a run was packed with.

    Raises
    ------
    FileNotFoundError
        The run was never packed.
    """
    path = run / "val_errors.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: pack the run (cytoserve train pack --run {run}) first")
    held = np.load(path)
    order = held["order"]
    return {
        "choosing": held["choosing"][:, order] * held["weight"][None, :, None],
        "choosing_labels": held["choosing_labels"],
        "calibrating": held["calibrating"],
        "calibrating_labels": held["calibrating_labels"],
    }


def packing(run: Path) -> PackConfig:
    """Return how a run was packed, as far as it parts the validation cells."""
    told = json.loads((run / "pack.json").read_text())
    return PackConfig(choosing_per_class=told["choosing_per_class"], calibrating=told["calibrating"])


def fresh_errors(run: Path, data: Path, probes: int, cells: int) -> dict[str, Any]:
    """Compute errors under a bank of ``probes`` even timesteps, for ``cells`` of either half of ``pbc/val``."""
    denoiser = Denoiser.open(run)
    bank = build_bank(BankConfig(candidates=probes, seed=SEED), latent_shape(run))
    val = load_cells(data / "val")
    out: dict[str, Any] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for name, index in zip(("choosing", "calibrating"), part_cells(val, packing(run)), strict=True):
            # The choosing half lies class by class: every so many-th keeps them all.
            rows = index[torch.linspace(0, len(index) - 1, min(cells, len(index))).long()]
            task = progress.add_task(name, total=len(rows))
            latents = denoiser.latents(crops_of(val, rows))
            out[name] = denoiser.errors(latents, bank.timestep, bank.noise)
            out[f"{name}_labels"] = val.labels[rows].numpy()
            progress.update(task, completed=len(rows))
    weight = 1 / out["choosing"].mean(axis=(0, 2))
    for name in ("choosing", "calibrating"):
        out[name] = out[name] * (weight / weight.mean())[None, :, None]
    return out


def random_order(errors: Doubles, evidence: Evidence, orders: int, alpha: float) -> tuple[list[Answer], float]:
    """Run a rule over several random orders of every cell; also the share of runs that were open at the end."""
    rng = np.random.default_rng(SEED)
    runs = [eliminate(shuffled(errors, rng), evidence, alpha) for _ in range(orders)]
    return [(run.label, run.spent) for run in runs], float(np.mean([run.open for run in runs]))


def describe(answers: list[Answer], full: Integers, truth: Integers, reference: Integers) -> dict[str, Any]:
    """Return evaluations, accuracy, agreement with the full-budget answer, and the difference to the served rule.

    Agreement is over (cell, order); its interval takes cells, not runs, as the units: the exact interval of cells whose
    answer was ever another.
    """
    agree = np.stack([label == full for label, _ in answers])
    ever = int((~agree.all(axis=0)).sum())
    low, high = clopper_pearson(ever, len(full))
    first = answers[0][0]
    return {
        "evaluations": round(float(np.mean([spent.mean() for _, spent in answers])), 2),
        "balanced_accuracy": round(float(np.mean([balanced_accuracy(label, truth) for label, _ in answers])), 4),
        "agreement": round(float(agree.mean()), 5),
        "least_agreement_of_a_cell": round(float(agree.mean(axis=0).min()), 3),
        "cells_ever_different": {"count": ever, "of": len(full), "interval": [round(low, 4), round(high, 4)]},
        "accuracy_minus_served": paired_difference(first == truth, reference == truth),
    }


def compare(errors: dict[str, Any], orders: int, alpha: float = ALPHA) -> dict[str, Any]:
    """Return the table of rules on the calibrating half.

    Parameters
    ----------
    errors : dict
        ``choosing``, ``calibrating``: (M, N, C) ndarrays; their ``_labels``.
    orders : int
        Random orders per cell.
    """
    choosing, cells, truth = errors["choosing"], errors["calibrating"], errors["calibrating_labels"]
    total = cells.shape[1]
    full = cells.mean(axis=1).argmin(axis=1)
    elimination = calibrate(choosing, default_alpha=alpha)
    served = replay(cells, elimination, elimination.threshold(alpha))
    # The largest difference between two classes seen on the choosing half, and half as much again.
    bound = 1.5 * float((choosing.max(axis=2) - choosing.min(axis=2)).max())
    beyond = float(((cells.max(axis=2) - cells.min(axis=2)) > bound).mean())
    rules: dict[str, tuple[Evidence, str]] = {
        "sequential t-test e-process": (t_test_e_value, "agreement >= 1 - alpha, differences taken as Gaussian"),
        "betting, without replacement": (betting(bound), "agreement >= 1 - alpha, differences within the bound"),
    }
    if total > 20:
        rules["published repeated t-test"] = (published_p(), "none")
    everything = (full, np.full(len(full), total * cells.shape[2]))
    rows = {
        "whole bank": {**describe([everything], full, truth, served[0]), "promise": "is the full-budget answer"},
        "as served (fixed order, Learn-then-Test)": {
            **describe([served], full, truth, served[0]),
            "promise": f"at most a share {alpha} of cells gets another answer, calibrated",
        },
    }
    for name, (evidence, promise) in rules.items():
        answers, open_ = random_order(cells, evidence, orders, alpha)
        rows[name] = {
            **describe(answers, full, truth, served[0]),
            "open_at_the_end": round(open_, 4),
            "promise": promise,
        }
    return {
        "cells": len(truth),
        "probes": total,
        "orders": orders,
        "alpha": alpha,
        "bound": round(bound, 5),
        "share_beyond_bound": round(beyond, 6),
        "rules": rows,
    }


def simulated_level(cells: int = 2000, probes: int = 40, classes: int = 4, alpha: float = 0.05) -> dict[str, Any]:
    """Return how often each rule loses the full-budget answer on banks made to be hard, with exact intervals."""
    out: dict[str, Any] = {"cells": cells, "probes": probes, "classes": classes, "alpha": alpha, "rules": {}}
    rules = {"sequential t-test e-process": t_test_e_value, "betting, without replacement": betting(6.0)}
    for name, evidence in rules.items():
        out["rules"][name] = {}
        for gap in (0.001, 0.1, 0.3):
            rng = np.random.default_rng(SEED)
            lost = eliminate(tied_bank(cells, probes, classes, gap, rng), evidence, alpha)
            count = int((lost.label != 0).sum())
            low, high = clopper_pearson(count, cells)
            out["rules"][name][f"gap {gap}"] = {
                "lost": count,
                "share": round(count / cells, 4),
                "interval": [round(low, 4), round(high, 4)],
                "evaluations": round(float(lost.spent.mean()), 1),
            }
    return out


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="packed run of a denoiser")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/pbc"))
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--fresh", type=int, default=0, help="also compute a bank of so many probes (48 are enough)")
    parser.add_argument("--cells", type=int, default=100, help="cells of either half for --fresh")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=output_path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "run": args.run.as_posix(),
        "stored_bank": compare(stored_errors(args.run), args.orders),
        "simulated_level": simulated_level(),
    }
    if args.fresh:
        result["long_bank"] = compare(fresh_errors(args.run, args.data, args.fresh, args.cells), args.orders)
    print(json.dumps(result, indent=1))
    if args.out:
        write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
