"""Fit the scoring of a packed model again, on the graphs that are served.

Weights, probe bank and parting of ``pbc/val`` stay as :mod:`.checkpoint` packed them; racing rule, anomaly profiles,
temperature, thresholds and references are fitted again. Needed whenever the engine's rules change. Errors come from
the exported encoder and denoiser through ONNX Runtime and the crops from the service's own decoder, so that what is
fitted is what will be served, to the last bit of the arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_contract.models import CLASS
from cytoserve_files import output_file, read_text, write_text
from cytoserve_scoring.classifier.engine import denoiser_inputs
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.cells import decode_cells
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from cytoserve_training.cells import load_cells
from cytoserve_training.checkpoint import PackConfig, TieErrors, fit_familiar, fit_scoring, part_cells

Floats = NDArray[np.float32]

ROWS_PER_CALL = 128
"""Rows of one run of the denoiser; larger batches are no faster on a CPU, whose cache is small."""


@dataclass(frozen=True)
class RefitConfig:
    """What is fitted again, and on what.

    The ``scoring/scoring.json`` of ``checkpoint`` is replaced; ``repository`` was exported from it. ``run`` keeps the
    computed errors, which a later refit reuses. ``pack`` is as when the checkpoint was packed.
    """

    checkpoint: str = "models/reference"
    repository: str = "model_repository"
    run: str = "runs/refit"
    pack: PackConfig = field(default_factory=PackConfig)


class ServedGraphs:
    """Encoder and denoiser of a model repository in this process.

    Raises
    ------
    ModuleNotFoundError
        ``onnxruntime`` is not installed (extra ``export`` or ``serve``).
    """

    def __init__(self, repository: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        paths = {name: repository / name / "1" / "model.onnx" for name in ("encoder", "denoiser")}
        self.sha256 = hashlib.sha256(b"".join(path.read_bytes() for path in paths.values())).hexdigest()
        self._encoder, self._denoiser = (onnxruntime.InferenceSession(str(path), options) for path in paths.values())
        self.all_classes = all(tensor.name != CLASS.name for tensor in self._denoiser.get_inputs())

    def latents(self, files: list[Path], um_per_pixel: float) -> Floats:
        """Return the (M, c, h, w) latents of M image files.

        Raises
        ------
        ValueError
            A file was refused.
        """
        out = []
        for start in range(0, len(files), 64):
            part = files[start : start + 64]
            cells = decode_cells([f.read_bytes() for f in part], np.full(len(part), um_per_pixel, np.float32))
            if any(cells.error):
                raise ValueError(f"refused: {next(pair for pair in zip(part, cells.error, strict=True) if pair[1])}")
            out.append(self.encode(cells.crop))
        return np.concatenate(out)

    def encode(self, crops: NDArray[np.uint8]) -> Floats:
        """Return the (M, c, h, w) latents of (M, 96, 96, 3) crops."""
        latents: Floats = self._encoder.run(None, {"CROP": crops})[0]
        return latents

    def evaluate(self, latents: Floats, probe: NDArray[np.int32], label: NDArray[np.int32] | None) -> Floats:
        """Return the errors of R rows in one run (:data:`cytoserve_scoring.classifier.engine.Evaluate`)."""
        errors: Floats = self._denoiser.run(None, denoiser_inputs(latents, probe, label))[0]
        return errors if label is None else errors[:, 0]

    def errors(self, latents: Floats, probes: int, classes: int, told: str = "errors") -> Floats:
        """Return the (M, P, C) errors of M latents under all probes and classes, with a progress bar."""
        labels = np.arange(1 if self.all_classes else classes, dtype=np.int32)
        grid = np.meshgrid(np.arange(len(latents)), np.arange(probes, dtype=np.int32), labels, indexing="ij")
        cell, probe, label = (axis.reshape(-1) for axis in grid)
        parts = []
        for start in track(range(0, len(cell), ROWS_PER_CALL), told, console=Console(stderr=True)):
            rows = slice(start, start + ROWS_PER_CALL)
            parts.append(self.evaluate(latents[cell[rows]], probe[rows], None if self.all_classes else label[rows]))
        return np.concatenate(parts).reshape(len(latents), probes, classes)


@dataclass(frozen=True)
class Measured:
    """One part of the validation cells: (M, c, h, w) latents, (M, P, C) errors and (M,) labels."""

    latents: Floats
    errors: NDArray[np.float64]
    labels: NDArray[np.int64]


def refit(config: RefitConfig) -> Path:
    """Fit the scoring again and write it into the checkpoint; return the file.

    Raises
    ------
    FileNotFoundError
        Checkpoint, repository or data are not where they should be.
    """
    path = Path(config.checkpoint) / "scoring" / "scoring.json"
    # The profiles are fitted again, and may be of an earlier form.
    known = ScoringConfig.from_json({**json.loads(read_text(path)), "anomaly_profile": None})
    graphs = ServedGraphs(Path(config.repository), config.pack.threads)
    racing, calibrating = measure_parts(config, graphs, known)

    def measure(rows: torch.Tensor) -> NDArray[np.float64]:
        return graphs.errors(rows.numpy(), known.probes, len(known.classes), "near ties, turned").astype(np.float64)

    ties = None
    if known.augmentation is not None:
        ties = TieErrors(known.augmentation, (racing.latents, calibrating.latents), measure)
    folder = Path(config.pack.data) / "val"
    cells = load_cells(folder)
    familiar, own = fit_familiar(folder, cells)
    rows = part_cells(cells, config.pack)[1].numpy()
    bank = config.pack.bank
    scoring = fit_scoring(
        racing.errors,
        calibrating.errors,
        calibrating.labels,
        known.latent_shape,
        bank,
        ties,
        own.take(rows),
        all_classes=graphs.all_classes,
    )
    scoring["familiar"] = familiar.to_json()
    scoring["fitted_on"] = (
        f"pbc/val: {len(racing.labels)} cells gave the racing rule and the anomaly profiles, "
        f"{len(calibrating.labels)} others calibrated; parted by hash of the name; errors of the served graphs"
    )
    write_text(path, json.dumps(scoring, indent=1) + "\n")
    return path


def measure_parts(config: RefitConfig, graphs: ServedGraphs, known: ScoringConfig) -> tuple[Measured, Measured]:
    """Return the racing and the calibrating cells with all their errors, computed or kept from an earlier run."""
    folder = Path(config.pack.data) / "val"
    cells = load_cells(folder)
    found = []
    for name, rows in zip(("racing", "calibrating"), part_cells(cells, config.pack), strict=True):
        names = [cells.names[row] for row in rows.tolist()]
        key = hashlib.sha256(f"{graphs.sha256} {names}".encode()).hexdigest()[:16]
        kept = Path(config.run) / f"{name}-{key}.npz"
        if not kept.exists():
            latents = graphs.latents([folder / cell for cell in names], PBC_UM_PER_PIXEL)
            errors = graphs.errors(latents, known.probes, len(known.classes), f"{name} cells")
            with output_file(kept) as file:
                np.savez_compressed(file, latents=latents, errors=errors)
        held: Any = np.load(kept)
        found.append(Measured(held["latents"], held["errors"].astype(np.float64), cells.labels[rows].numpy()))
    return found[0], found[1]
