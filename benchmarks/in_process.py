"""The service's own work in this process, without server and transport: what a server can at best come near."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import onnxruntime
from cytoserve_scoring.classifier.engine import ScoringEngine
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.cells import decode_cells
from cytoserve_scoring.vision.extraction import extract_cells
from cytoserve_scoring.vision.imaging import decode_picture
from cytoserve_scoring.vision.scale import prepare_field

from benchmarks.place import ServedGraphs
from benchmarks.results import REPOSITORY

BATCHES: Final = (8, 16, 64, 256)
"""Batch sizes tried for the evaluations; the fastest one counts."""

_Result = TypeVar("_Result")


def timed(work: Callable[[], _Result]) -> tuple[float, _Result]:
    """Return the seconds that a piece of work took, and what it returned."""
    began = time.monotonic()
    found = work()
    return time.monotonic() - began, found


class InProcess:
    """The graphs of the served models on all cores of this machine, and the code of the Python models.

    Parameters
    ----------
    files : list of Path
        Cells whose latents are evaluated.
    repository : Path
        The model repository whose graphs are run.
    """

    def __init__(self, files: list[Path], repository: Path = REPOSITORY) -> None:
        self.cores = len(os.sched_getaffinity(0))
        self.graphs = ServedGraphs(repository, self.cores)
        self.latents = self.graphs.latents(files, PBC_UM_PER_PIXEL)
        scoring = json.loads((repository / "scorer" / "1" / "scoring.json").read_text(encoding="utf-8"))
        self.engine = ScoringEngine(ScoringConfig.from_json(scoring))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.cores
        self._segmenter = onnxruntime.InferenceSession(str(repository / "segmenter" / "1" / "model.onnx"), options)
        self.batch = min(BATCHES, key=lambda batch: self.evaluations(256, batch))

    def evaluations(self, rows: int, batch: int | None = None) -> float:
        """Return the seconds of R evaluations of real latents, in batches of the fastest size."""
        batch = batch or self.batch
        cells = np.arange(rows) % len(self.latents)

        def work() -> None:
            for start in range(0, rows, batch):
                part = cells[start : start + batch]
                numbers = (part % self.engine.config.probes).astype(np.int32)
                self._evaluate(self.latents[part], numbers)

        return timed(work)[0]

    def limit(self, cells: int, rows: int) -> float:
        """Return the seconds of one encoding a cell and R evaluations in all: nothing is decoded, cut or judged."""
        crops = np.zeros((min(64, cells), 96, 96, 3), np.uint8)
        encoding = timed(lambda: [self.graphs.encode(crops) for _ in range(-(-cells // len(crops)))])[0]
        return encoding + self.evaluations(rows)

    def classified(self, files: list[bytes]) -> int:
        """Decode, cut, encode and score cells, as `cell_analysis` does; return the evaluations it took."""
        cells = decode_cells(files, np.full(len(files), PBC_UM_PER_PIXEL, np.float32))
        return self._scored(cells.crop, cells.flags, cells.statistics)

    def analysed(self, field: bytes) -> int:
        """Find, cut, encode and score the cells of a field, as `smear_analysis` does; return the evaluations."""
        picture = decode_picture(field)
        prepared = prepare_field(picture.pixels, 0.0, picture.um_per_pixel)
        maps = self._segmenter.run(None, {"SEGMENTER_INPUT": prepared.segmenter_input})[0]
        cells = extract_cells(picture.pixels, maps, prepared.scale_guess)
        return self._scored(cells.crop, cells.cell_flags, cells.statistics) if len(cells.crop) else 0

    def _scored(self, crops: Any, flags: Any, statistics: Any) -> int:
        latents = self.graphs.encode(crops)
        found = self.engine.score(latents, flags, self._evaluate, statistics=statistics)
        return int(found.evaluations.sum())

    def _evaluate(self, latents: Any, samples: Any, labels: Any = None) -> Any:
        if not self.graphs.all_classes and labels is None:
            labels = np.zeros(len(latents), np.int32)
        return self.graphs.evaluate(latents, samples, labels)
