"""A foreign microscope: the denoiser and the discriminative peer on ``bccd_cells``, with what each preparation brings.

    python -m benchmarks.foreign models/reference --peer runs/peer --out docs/results/foreign.json

Both were trained on ``pbc`` alone, on crops prepared as in the base. Each row prepares the pictures in one way (a
function from the picture to its crop) and differs from the base in one thing. Accuracy is told among the five classes
present, and over all eight.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from cytoserve_files import write_text
from cytoserve_scoring.vision import crops as crops_module
from cytoserve_scoring.vision.crops import cut_crop
from cytoserve_scoring.vision.scale import guess_um_per_pixel
from cytoserve_scoring.vision.single_cell_scale import scale_of_single_cell
from cytoserve_training.cells import CLASSES
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from scipy import special

from benchmarks.outputs import output_path

from .denoiser import Bank, Denoiser, serving_bank
from .peer import Peer
from .statistics import balanced_accuracy, balanced_accuracy_interval, paired_difference, recalls, share

Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Prepare = Callable[[Bytes], Bytes]
"""An (H, W, 3) uint8 picture of one cell -> its (96, 96, 3) uint8 crop."""

UNCHANGED = np.ones(3, np.float32)
BASE = "site scale"
QUARTERS = 4


@dataclass(frozen=True)
class Way:
    """One way to look at a cell.

    Attributes
    ----------
    prepare : Prepare
    turned : {"no", "all", "by_probe"}
        Whether the crop is also turned by quarters: every probe asked in all four orientations and averaged, or each
        probe in an orientation of its own, at no further cost.
    """

    prepare: Prepare
    turned: Literal["no", "all", "by_probe"] = "no"


def centred(image: Bytes, um_per_pixel: float, gain: NDArray[np.float32] | None = None) -> Bytes:
    """Cut the crop about the picture's centre."""
    return cut_crop(image, (image.shape[1] / 2, image.shape[0] / 2), um_per_pixel, gain=gain)


def stain_left_alone(image: Bytes, um_per_pixel: float) -> Bytes:
    """Cut as :func:`centred`, less the normalisation of the nuclear hue.

    It is taken out of ``cut_crop`` from outside, because serving never leaves it out and so has no switch for it.
    """
    with mock.patch.object(crops_module, "normalise_stain", lambda crop: np.clip(crop, 0.0, 255.0)):
        return centred(image, um_per_pixel)


def ways(site_um_per_pixel: float) -> dict[str, Way]:
    """Return the rows of the table; the first is the base."""

    def by_site(image: Bytes) -> Bytes:
        return centred(image, site_um_per_pixel)

    return {
        BASE: Way(by_site),
        "no stain normalisation": Way(lambda image: stain_left_alone(image, site_um_per_pixel)),
        "scale by the cell itself": Way(lambda image: centred(image, scale_of_single_cell(image).um_per_pixel)),
        "no white balance": Way(lambda image: centred(image, site_um_per_pixel, UNCHANGED)),
        "an orientation for each probe": Way(by_site, "by_probe"),
        "four orientations averaged": Way(by_site, "all"),
    }


def read_folder(folder: Path) -> tuple[list[Bytes], NDArray[np.int64]]:
    """Return the pictures and the labels of a folder with one folder a class.

    Raises
    ------
    ValueError
        A folder is not named as one of the classes.
    """
    images, labels = [], []
    for home in sorted(item for item in folder.iterdir() if item.is_dir()):
        for file in sorted(home.iterdir()):
            with Image.open(file) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(CLASSES.index(home.name))
    return images, np.array(labels)


def site_scale(fields: Path, most: int) -> dict[str, Any]:
    """Measure a microscope's scale on some of its fields: the median of the ruler that reads red cells."""
    files = sorted(fields.iterdir())
    files = files[:: max(1, len(files) // most)][:most]
    found = []
    for file in files:
        with Image.open(file) as image:
            found.append(guess_um_per_pixel(np.asarray(image.convert("RGB"))))
    return {"um_per_pixel": round(float(np.median(found)), 5), "fields": len(files)}


def turn(crops: torch.Tensor, quarters: int) -> torch.Tensor:
    """Turn (M, h, w, 3) crops by quarters."""
    return torch.rot90(crops, quarters, (1, 2))


def denoiser_scores(denoiser: Denoiser, bank: Bank, crops: torch.Tensor, turned: str) -> Doubles:
    """Return the (M, C) mean weighted errors of the crops, lower is better."""
    if turned == "no":
        once: Doubles = denoiser.bank_errors(denoiser.latents(crops), bank).mean(axis=1)
        return once
    parts = []
    for quarters in range(QUARTERS):
        latents = denoiser.latents(turn(crops, quarters))
        own = slice(quarters, None, QUARTERS) if turned == "by_probe" else slice(None)
        if len(bank.timestep[own]):
            parts.append(denoiser.bank_errors(latents, Bank(bank.timestep[own], bank.noise[own], bank.weight[own])))
    found: Doubles = np.concatenate(parts, axis=1).mean(axis=1)
    return found


def peer_scores(peer: Peer, crops: torch.Tensor, turned: str) -> Doubles:
    """Return minus the (M, C) log-probabilities, averaged over the orientations, lower is better."""
    count = QUARTERS if turned == "all" else 1
    every = [special.log_softmax(peer.answers(turn(crops, quarters))[0], axis=1) for quarters in range(count)]
    found: Doubles = -np.mean(every, axis=0)
    return found


def describe(scores: Doubles, truth: NDArray[np.int64]) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Return the figures of one row, and which cells were right among the classes present."""
    present = np.unique(truth)
    among = present[scores[:, present].argmin(axis=1)]
    every = scores.argmin(axis=1)
    low, high = balanced_accuracy_interval(among, truth)
    return {
        "among_present": share(int((among == truth).sum()), len(truth)),
        "over_all": share(int((every == truth).sum()), len(truth)),
        "balanced_among_present": {
            "value": round(balanced_accuracy(among, truth), 4),
            "interval": [round(low, 4), round(high, 4)],
        },
        "recall_among_present": recalls(among, truth, CLASSES),
        "recall_over_all": recalls(every, truth, CLASSES),
    }, among == truth


def report(
    images: list[Bytes],
    truth: NDArray[np.int64],
    looks: dict[str, Way],
    score: dict[str, Callable[[torch.Tensor, str], Doubles]],
) -> dict[str, Any]:
    """Return every row of every model, the paired differences between models, and to the base.

    Parameters
    ----------
    images : list of (H, W, 3) uint8 arrays
    truth : (M,) ndarray
    looks : dict of Way
        The first is the base.
    score : dict of callables
        Model name to a function from (M, 96, 96, 3) crops and the orientation rule to (M, C) scores.
    """
    rows: dict[str, dict[str, Any]] = {name: {} for name in score}
    right: dict[str, dict[str, NDArray[np.bool_]]] = {name: {} for name in score}
    for way, look in track(looks.items(), "ways", console=Console(stderr=True)):
        crops = torch.from_numpy(np.stack([look.prepare(image) for image in images])).float()
        for name, scores_of in score.items():
            if name == "peer" and look.turned == "by_probe":
                continue  # a peer has no probes
            rows[name][way], right[name][way] = describe(scores_of(crops, look.turned), truth)
    base = next(iter(looks))
    differences = {way: paired_difference(right["denoiser"][way], right["peer"][way]) for way in right.get("peer", {})}
    counts = np.bincount(truth, minlength=len(CLASSES))
    return {
        "cells": len(truth),
        "present": [CLASSES[c] for c in np.unique(truth)],
        "always_the_commonest": {"class": CLASSES[int(counts.argmax())], **share(int(counts.max()), len(truth))},
        "base": base,
        "rows": rows,
        "denoiser_minus_peer": differences,
        "against_base": {
            name: {way: paired_difference(found, right[name][base]) for way, found in of.items() if way != base}
            for name, of in right.items()
        },
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="checkpoint, or packed run, of the denoiser")
    parser.add_argument("--peer", type=Path, help="run of the peer")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/bccd_cells"))
    parser.add_argument("--fields", type=Path, default=Path("../shared/data/smears/bccd/images"))
    parser.add_argument("--um-per-pixel", type=float, help="the site's scale; measured on its fields by default")
    parser.add_argument("--probes", type=int, default=6)
    parser.add_argument("--every", type=int, default=1, help="only every so many-th cell, to try it out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=output_path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images, truth = read_folder(args.folder)
    images, truth = images[:: args.every], truth[:: args.every]
    scale = {"um_per_pixel": args.um_per_pixel} if args.um_per_pixel else site_scale(args.fields, 60)
    denoiser, bank = Denoiser.open(args.model), serving_bank(args.model, args.probes)
    score: dict[str, Callable[[torch.Tensor, str], Doubles]] = {
        "denoiser": lambda crops, turned: denoiser_scores(denoiser, bank, crops, turned)
    }
    if args.peer:
        peer = Peer.load(args.peer)
        score["peer"] = lambda crops, turned: peer_scores(peer, crops, turned)
    result = report(images, truth, ways(float(scale["um_per_pixel"])), score)
    result.update(site_scale=scale, probes=args.probes, every=args.every, data=args.folder.name)
    print(json.dumps(result, indent=1))
    if args.out:
        write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
