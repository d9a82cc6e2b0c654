"""Is the decision on real cells unchanged? The class with the least mean error, by torch and by the graphs.

Small numerical differences are harmless until two classes are close; so besides the changed decisions the check reports
the smallest gap between the two best classes and the largest difference of any score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from cytoserve_files import open_regular
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.crops import cut_crop
from numpy.typing import NDArray
from PIL import Image

from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.errors import DecisionChanged, MissingFile
from cytoserve_export.networks import build
from cytoserve_export.parity import ErrorReference, session
from cytoserve_export.progress import Report

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
    classes = len(checkpoint.geometry.classes)
    with torch.no_grad():
        latents = build("encoder", checkpoint)(torch.from_numpy(crops)).numpy()
    (onnx_latents,) = session(encoder, threads).run(["LATENT"], {"CROP": crops})
    reference, graph = ErrorReference(checkpoint), session(denoiser, threads)

    def by_torch(*rows: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            answer: NDArray[np.float32] = reference(*(torch.from_numpy(row) for row in rows)).numpy()
        return answer

    def by_graph(*rows: NDArray[Any]) -> NDArray[np.float32]:
        feed = dict(zip(("LATENT", "PROBE", "CLASS"), rows, strict=True))
        answer: NDArray[np.float32] = graph.run(["ERROR"], feed)[0]
        return answer

    want = _scores(by_torch, latents, probes, classes, lambda d, t: report("decisions, torch", d, t))
    got = _scores(by_graph, onnx_latents, probes, classes, lambda d, t: report("decisions, ONNX Runtime", d, t))
    return compare(want, got, labels, count)


def _scores(
    evaluate: Callable[..., NDArray[np.float32]],
    latents: NDArray[np.float32],
    probes: NDArray[np.int32],
    classes: int,
    report: Callable[[int, int], None],
) -> NDArray[np.float64]:
    """Return the (N, C) mean errors of (N, ...) latents over the probes."""
    total = np.zeros((len(latents), classes))
    done, work = 0, len(latents) * classes * len(probes)
    for cell, probe, label in _rows(len(latents), probes, classes):
        errors = evaluate(latents[cell], probe[:, None], label[:, None])[:, 0]
        np.add.at(total, (cell, label), errors)
        done += len(cell)
        report(done, work)
    return total / len(probes)


def _rows(
    cells: int, probes: NDArray[np.int32], classes: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]]:
    """Yield every (cell, probe, class) once, in blocks of :data:`ROWS`."""
    grid = np.meshgrid(np.arange(cells), probes, np.arange(classes, dtype=np.int32), indexing="ij")
    cell, probe, label = (axis.reshape(-1) for axis in grid)
    for start in range(0, len(cell), ROWS):
        block = slice(start, start + ROWS)
        yield cell[block], probe[block].astype(np.int32), label[block]


def compare(want: NDArray[np.float64], got: NDArray[np.float64], labels: NDArray[np.int64], probes: int) -> Decisions:
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
        evaluations=want.size * probes,
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
