"""Is the decision on real cells unchanged? The class with the least mean error, by torch and by the graphs.

Small numerical differences are harmless until two classes are close; so besides the changed decisions the check reports
the smallest gap between the two best classes and the largest difference of any score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from cytoserve_files import open_regular
from cytoserve_scoring.classifier.engine import denoiser_inputs
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.crops import cut_crop
from numpy.typing import NDArray
from PIL import Image

from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.errors import DecisionChanged, MissingFile
from cytoserve_export.networks import build
from cytoserve_export.parity import ErrorReference, session
from cytoserve_export.progress import Report

Feed = dict[str, NDArray[Any]]

ROWS: Final = 256
"""Evaluations in one call of either side."""

SUFFIXES: Final = (".webp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class CheckCells:
    """Real cells for the check.

    ``folder`` holds one sub-folder per class, named as in ``classes.json``; ``per_class`` cells are taken of each,
    spread evenly over the sorted file names. ``probes`` per decision are spread evenly over the bank; None takes the
    checkpoint's default budget.
    """

    folder: Path
    per_class: int = 32
    um_per_pixel: float = PBC_UM_PER_PIXEL
    probes: int | None = None


@dataclass(frozen=True)
class Decisions:
    """Result of the check.

    ``changed`` cells have another class by the graphs than by torch; ``max_score_difference`` is the largest absolute
    difference of a mean error, ``smallest_margin`` the least gap between best and second-best class (by torch), and
    ``agreement`` the share of cells whose class is their folder: a sanity figure on few probes, no benchmark.
    """

    cells: int
    probes: int
    evaluations: int
    changed: int
    max_score_difference: float
    smallest_margin: float
    agreement: float


def read_cells(cells: CheckCells, checkpoint: Checkpoint) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (N, S, S, 3) uint8 crops, cut as serving cuts them, and their (N,) class indices.

    Raises
    ------
    MissingFile
        A class has no folder or fewer images than asked for.
    """
    geometry = checkpoint.geometry
    crops, labels = [], []
    for index, name in enumerate(geometry.classes):
        folder = cells.folder / name
        files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if len(files) < cells.per_class:
            raise MissingFile(f"{folder} holds {len(files)} images, {cells.per_class} of each class are needed")
        for at in np.linspace(0, len(files) - 1, cells.per_class).round().astype(int):
            with open_regular(files[at]) as opened, Image.open(opened) as image:
                field = np.asarray(image.convert("RGB"))
            center = (field.shape[1] / 2, field.shape[0] / 2)
            crops.append(cut_crop(field, center, cells.um_per_pixel, geometry.size, geometry.um_per_pixel))
            labels.append(index)
    return np.stack(crops), np.array(labels)


def check_decisions(
    cells: CheckCells, checkpoint: Checkpoint, encoder: Path, denoiser: Path, threads: int, report: Report
) -> Decisions:
    """Decide every cell through torch and through the two graphs (ONNX files) and compare.

    Raises
    ------
    DecisionChanged
        One cell or more got another class.
    """
    crops, labels = read_cells(cells, checkpoint)
    bank = len(checkpoint.probes())
    count = min(cells.probes or int(checkpoint.scoring.get("default_budget", bank)), bank)
    probes = np.linspace(0, bank - 1, count).round().astype(np.int32)
    classes = checkpoint.geometry.told_classes
    with torch.no_grad():
        latents = build("encoder", checkpoint)(torch.from_numpy(crops)).numpy()
    (onnx_latents,) = session(encoder, threads).run(["LATENT"], {"CROP": crops})
    reference, graph = ErrorReference(checkpoint), session(denoiser, threads)

    def by_torch(feed: Feed) -> NDArray[np.float32]:
        with torch.no_grad():
            answer: NDArray[np.float32] = reference(*(torch.from_numpy(value) for value in feed.values())).numpy()
        return answer

    def by_graph(feed: Feed) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = graph.run(["ERROR"], feed)[0]
        return answer

    want = mean_errors(by_torch, latents, probes, classes, lambda d, t: report("decisions, torch", d, t))
    got = mean_errors(by_graph, onnx_latents, probes, classes, lambda d, t: report("decisions, ONNX Runtime", d, t))
    evaluations = len(crops) * count * (classes or 1)
    return compare(want, got, labels, count, evaluations)


def mean_errors(
    evaluate: Callable[[Feed], NDArray[np.float32]],
    latents: NDArray[np.float32],
    probes: NDArray[np.int32],
    classes: int | None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Return the (N, C) mean errors of (N, ...) latents over the probes.

    Parameters
    ----------
    evaluate : callable
        The denoiser's input tensors -> (R, 1) errors, or (R, C) of a denoiser that answers all classes.
    classes : int or None
        None where all classes are answered at once.
    """
    told = np.arange(classes or 1, dtype=np.int32)
    grid = np.meshgrid(np.arange(len(latents)), probes, told, indexing="ij")
    cell, probe, label = (axis.reshape(-1) for axis in grid)
    parts = []
    for start in range(0, len(cell), ROWS):
        rows = slice(start, start + ROWS)
        labels = None if classes is None else label[rows]
        parts.append(evaluate(denoiser_inputs(latents[cell[rows]], probe[rows], labels)))
        report(min(start + ROWS, len(cell)), len(cell))
    answered = np.concatenate(parts).astype(np.float64)
    return answered.reshape(len(latents), len(probes), -1).mean(axis=1)


def compare(
    want: NDArray[np.float64], got: NDArray[np.float64], labels: NDArray[np.int64], probes: int, evaluations: int
) -> Decisions:
    """Compare two (N, C) tables of mean errors.

    Raises
    ------
    DecisionChanged
        The least error lies in another column for one row or more.
    """
    ordered = np.sort(want, axis=1)
    margin = ordered[:, 1] - ordered[:, 0]
    changed = np.flatnonzero(want.argmin(1) != got.argmin(1))
    found = Decisions(
        cells=len(want),
        probes=probes,
        evaluations=evaluations,
        changed=len(changed),
        max_score_difference=float(np.abs(want - got).max()),
        smallest_margin=float(margin.min()),
        agreement=float((want.argmin(1) == labels).mean()),
    )
    if found.changed:
        raise DecisionChanged(
            f"{found.changed} of {found.cells} cells change class between torch and ONNX Runtime (largest difference "
            f"of a score {found.max_score_difference:.3g}, smallest margin among them {margin[changed].min():.3g}); "
            "do not serve this graph"
        )
    return found
