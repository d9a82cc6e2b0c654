"""A site that a training never saw: how many of its cells are named right, by the denoiser and by a classifier?

    python -m benchmarks.leave_site_out runs/left_pbc runs/left_bcisc runs/left_chula_wbc \\
        --out docs/results/leave_site_out.json

Each run was trained without one site (``--leave-site``): without its cells, the stains of its fields and its empty
windows. The opponent (:mod:`benchmarks.classifier`) learned from the same draws of the same cells. Every cell of the
site is cut at the site's scale and answered with the most likely of the five classes that all sites have: of the small
sites all cells, of PBC those of ``pbc/test``. Nothing is fitted on the site.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from cytoserve_statistics.accuracy import balanced_accuracy_figure
from cytoserve_statistics.resampling import SEED, Resampler, draw
from cytoserve_training.cells import CLASSES, CellSet, cut, join, read_cells, without
from cytoserve_training.checkpoint import NOT_SHOWN, PackConfig
from cytoserve_training.sites import SITES, load_site
from numpy.typing import NDArray
from torch import nn

from benchmarks.classifier import WEIGHTS, class_probabilities, classifier_of
from benchmarks.familiarity import EXTERNAL, GROUPED, group_of
from benchmarks.results import Benchmark, DataRead, Inputs, run
from benchmarks.unseen import Denoised

SHARED: Final = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
"""Classes that every site has."""
SURER: Final = 0.5
"""Share of the cells, the surest of a network, whose errors are counted apart."""

Numbers = NDArray[np.int64]
Doubles = NDArray[np.float64]


def files_of(data: Path, site: str) -> DataRead:
    """Return the cells of a site that are measured when the site was left out."""
    folder = data / EXTERNAL.get(site, f"{site}/test")
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.parent.name in SHARED)
    return DataRead.of(folder, files)


def resampler(site: str, source: DataRead) -> Resampler:
    """Return draws of whole subjects or slides where the names tell them, else of cells within their class."""
    labels = [file.parent.name for file in source.files]
    slides = [group_of(site, file) for file in source.files] if site in GROUPED else None
    return draw(labels, slides, None)


class Answers:
    """What a network says of the cells of one set: (M, 5) scores over `SHARED`, higher is more likely."""

    def __init__(self, scores: Doubles, truth: Numbers) -> None:
        ordered = np.sort(scores, axis=1)
        self.label = scores.argmax(axis=1)
        self.lead = ordered[:, -1] - ordered[:, -2]
        self.truth = truth
        self.right = self.label == truth

    @property
    def balanced(self) -> float:
        """Balanced accuracy."""
        return float(balanced_accuracy_figure(self.label, self.truth)(np.ones((1, len(self.truth))))[0])

    def surer(self) -> NDArray[np.bool_]:
        """Return which cells are the surer part."""
        chosen = np.zeros(len(self.truth), bool)
        chosen[np.argsort(-self.lead, kind="stable")[: round(SURER * len(self.truth))]] = True
        return chosen

    def json(self, drawn: Resampler) -> dict[str, Any]:
        """Return the figures with their intervals."""
        of = len(self.truth)
        return {
            "balanced_accuracy": drawn.figure(balanced_accuracy_figure(self.label, self.truth), of).json(),
            "wrong_among_surer": drawn.share(~self.right, self.surer()).json(),
            "recall": {
                name: [int((self.right & (self.truth == c)).sum()), int((self.truth == c).sum())]
                for c, name in enumerate(SHARED)
            },
        }


def in_shared(labels: torch.Tensor) -> Numbers:
    """Return indices into `CLASSES` as indices into `SHARED`."""
    place = np.array([SHARED.index(name) if name in SHARED else -1 for name in CLASSES])
    found: Numbers = place[labels.numpy()]
    return found


COLUMNS: Final = [CLASSES.index(name) for name in SHARED]


def both(denoised: Denoised, classifier: nn.Module, cells: CellSet) -> tuple[Answers, Answers]:
    """Return what denoiser and classifier say of some cells, among `SHARED`."""
    truth = in_shared(cells.labels)
    errors = denoised.errors(denoised.latents(cells)).mean(axis=1)[:, COLUMNS]
    probabilities = class_probabilities(classifier, cut(cells.images, cells.gains))[:, COLUMNS].double().numpy()
    return Answers(-errors, truth), Answers(probabilities / probabilities.sum(axis=1, keepdims=True), truth)


def ahead(first: Answers, second: Answers, drawn: Resampler) -> dict[str, Any]:
    """Return by how much the first is better, balanced accuracy, cell by cell."""
    one, other = (balanced_accuracy_figure(answers.label, answers.truth) for answers in (first, second))
    return drawn.figure(lambda weights: one(weights) - other(weights), len(first.truth)).json()


def at_home(data: Path, sites: tuple[str, ...]) -> CellSet:
    """Return the validation cells, among `SHARED`, of the sites that were trained on."""
    cells = join([load_site(data, site, "val") for site in sites])
    return without(cells, [name for name in CLASSES if name not in SHARED])


def measure_run(folder: Path, data: Path, threads: int) -> dict[str, Any]:
    """Return what both networks make of the site that the run left out, and of the sites that they know."""
    torch.set_num_threads(threads)
    denoised, classifier = Denoised(folder, PackConfig(threads=threads)), classifier_of(folder)
    site = denoised.told["leave_site"]
    known = tuple(name for name in denoised.told["sites"] if name != site)
    source = files_of(data, site)
    drawn = resampler(site, source)
    ours, theirs = both(denoised, classifier, read_cells(source.files, SITES[site].um_per_pixel))
    home = both(denoised, classifier, at_home(data, known))
    return {
        "site": site,
        "data": source.name,
        "cells": len(source.files),
        "slides": drawn.slides,
        "trained_on": {name: len(SITES[name].files(data, "train")) for name in known},
        "denoiser": ours.json(drawn),
        "classifier": theirs.json(drawn),
        "ahead": ahead(ours, theirs, drawn),
        "at_home": {
            "cells": len(home[0].truth),
            **{name: round(one.balanced, 4) for name, one in zip(("denoiser", "classifier"), home, strict=True)},
        },
        "training": {key: value for key, value in denoised.told.items() if key not in NOT_SHOWN},
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every run; the mean over them is what the bar is about."""
    runs = [measure_run(folder, args.data, args.threads) for folder in args.run]
    return {
        "runs": runs,
        "mean": {
            key: round(float(np.mean([one[key]["balanced_accuracy"]["value"] for one in runs])), 4)
            for key in ("denoiser", "classifier")
        },
        "mean_ahead": round(float(np.mean([one["ahead"]["value"] for one in runs])), 4),
    }


def inputs(args: argparse.Namespace) -> Inputs:
    """Return the weights of the runs and the cells of all sites."""
    whole = hashlib.sha256()
    for folder in args.run:
        for name in ("state.pt", WEIGHTS):
            if (folder / name).exists():
                whole.update((folder / name).read_bytes())
    weights = {"name": " ".join(folder.name for folder in args.run), "sha256": whole.hexdigest()}
    return Inputs(weights, tuple(files_of(args.data, site) for site in SITES), {"bootstrap": SEED})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", type=Path, nargs="+", help="runs of denoisers trained with --leave-site")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--threads", type=int, default=2)


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
