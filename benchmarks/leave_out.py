"""Cells, probes and errors of a leave-one-class-out experiment (:mod:`benchmarks.anomaly`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_files import output_file
from cytoserve_training.cells import CLASSES, CellSet, load_cells
from cytoserve_training.checkpoint import PackConfig, part_cells
from cytoserve_training.probes import BankConfig, build_bank, choose_bank
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from .denoiser import Bank, Denoiser, crops_of, file_hash, latent_shape, take, without
from .strangeness import Errors

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class AnomalyConfig:
    """What is measured with what.

    Attributes
    ----------
    run : str
        Run of a denoiser.
    left_out : str
        Class taken for unseen; by default the run's own.
    probes, candidates : int
        Probes that are kept, and that are tried on the choosing half.
    choosing_per_class, calibrating : int
        Validation cells, as in packing.
    test_per_class : int or None
        Most ordinary test cells of a class (the unseen class is always taken whole); None takes all.
    """

    run: str
    left_out: str
    peer: str = ""
    data: str = "../shared/data/pbc"
    probes: int = 6
    candidates: int = 10
    choosing_per_class: int = 50
    calibrating: int = 800
    test_per_class: int | None = None
    threads: int = 2


@dataclass(frozen=True)
class Part:
    """Cells of one part with their errors.

    Attributes
    ----------
    cells : CellSet
    errors : Errors
        Under the seen classes only.
    label : (M,) ndarray
        Place of the true class among the seen ones; -1 for the unseen class.
    """

    cells: CellSet
    errors: Errors
    label: Integers


def seen_classes(left_out: str) -> tuple[str, ...]:
    """Return the classes that may be answered."""
    return tuple(name for name in CLASSES if name != left_out)


def parts_of(config: AnomalyConfig) -> dict[str, CellSet]:
    """Return the cells that choose, that calibrate (both without the class), and the test cells (with it)."""
    val = without(load_cells(Path(config.data) / "val"), config.left_out)
    packing = PackConfig(choosing_per_class=config.choosing_per_class, calibrating=config.calibrating)
    rows = part_cells(val, packing)
    masks = [np.isin(np.arange(len(val)), index.numpy()) for index in rows]
    test = load_cells(Path(config.data) / "test")
    if config.test_per_class is not None:
        labels, kept = test.labels.numpy(), np.zeros(len(test), bool)
        for c in np.unique(labels):
            whole = CLASSES[c] == config.left_out
            kept[np.flatnonzero(labels == c)[: None if whole else config.test_per_class]] = True
        test = take(test, kept)
    return {"choosing": take(val, masks[0]), "calibrating": take(val, masks[1]), "test": test}


def measure(config: AnomalyConfig) -> tuple[dict[str, Part], dict[str, Any]]:
    """Return the parts with their errors under the chosen bank, and what the bank is.

    Errors are kept in the run's folder, under a name made of everything that they depend on.
    """
    sets = parts_of(config)
    asked = [CLASSES.index(name) for name in seen_classes(config.left_out)]
    places = {c: place for place, c in enumerate(asked)}
    truth = {name: np.array([places.get(c, -1) for c in cells.labels.tolist()]) for name, cells in sets.items()}
    drawn = build_bank(BankConfig(candidates=config.candidates, probes=config.probes), latent_shape(Path(config.run)))
    key = "-".join(
        str(part)
        for part in (
            *(config.left_out, config.probes, config.candidates, config.choosing_per_class, config.calibrating),
            *(config.test_per_class, file_hash(Path(config.run) / "state.pt")[:12], crop_hash(sets["test"])),
        )
    )
    path = Path(config.run) / f"anomaly_errors_{key}.npz"
    if not path.exists():
        candidates = Bank(drawn.timestep, drawn.noise, np.ones(config.candidates))
        found = _measure(Denoiser.open(Path(config.run)), sets, truth, candidates, asked, config.probes)
        with output_file(path) as file:
            np.savez_compressed(file, **found)
    held = np.load(path)
    order, weight = held["order"], held["weight"]
    parts = {
        name: Part(cells, Errors(held[name] * weight[None, :, None], held[f"{name}_detail"]), truth[name])
        for name, cells in sets.items()
    }
    return parts, {"timesteps": drawn.timestep[order.tolist()].tolist(), "weights": weight.round(4).tolist()}


def crop_hash(cells: CellSet, count: int = 16) -> str:
    """Return a short hash of some crops: errors of crops that were cut by other code are not these."""
    return hashlib.sha256(crops_of(cells, torch.arange(min(count, len(cells)))).numpy().tobytes()).hexdigest()[:8]


def _measure(
    denoiser: Denoiser,
    sets: dict[str, CellSet],
    truth: dict[str, Integers],
    drawn: Bank,
    asked: list[int],
    probes: int,
) -> dict[str, Any]:
    latents = {name: denoiser.latents(crops_of(cells)) for name, cells in sets.items()}
    found: dict[str, Any] = {
        f"{name}_detail": np.log((z.square() * denoiser.mask).mean((1, 2, 3)).double().numpy())
        for name, z in latents.items()
    }
    with Progress(console=Console(stderr=True)) as progress:

        def errors(name: str, bank: Bank) -> Doubles:
            task = progress.add_task(name, total=len(latents[name]))
            return denoiser.errors(
                latents[name], bank.timestep, bank.noise, asked, lambda done: progress.update(task, completed=done)
            )

        raw = errors("choosing", drawn)
        chosen = choose_bank(raw, truth["choosing"], drawn.timestep, denoiser.log_scale, probes)
        found.update(order=np.array(chosen.order), weight=chosen.weight, choosing=raw[:, chosen.order])
        bank = Bank(drawn.timestep[chosen.order], drawn.noise[chosen.order], chosen.weight)
        for name in ("calibrating", "test"):
            found[name] = errors(name, bank)
    return found
