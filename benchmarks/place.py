"""The served model and the validation cells that calibrate it, for measurements on all errors of all classes.

A server drops classes early and so never computes all errors. These measurements replay the engine on errors that
``cytoserve train refit`` computes with the served graphs, which is why this module imports `cytoserve_training`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from cytoserve_scoring.classifier.augmentation import TieAugmentation
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_training.checkpoint import PackConfig
from cytoserve_training.refit import Measured, RefitConfig, ServedGraphs, measure_parts

from benchmarks.results import DataRead, Inputs, served_weights

__all__ = ["Measured", "Place", "ServedGraphs"]


@dataclass(frozen=True)
class Place:
    """Where model, cells and computed errors lie.

    Attributes
    ----------
    checkpoint, repository : Path
        The model and what was exported from it.
    data : Path
        Folder that holds ``val``.
    run : Path
        Keeps computed errors, under names made of the graphs' and the cells' hashes.
    """

    checkpoint: Path
    repository: Path
    data: Path
    run: Path

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the arguments that `of` reads."""
        parser.add_argument("checkpoint", type=Path, help="the served weights")
        parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="exported from it")
        parser.add_argument("--data", type=Path, default=Path("../shared/data/pbc"))
        parser.add_argument("--run", type=Path, default=Path("runs/refit"), help="keeps computed errors")

    @classmethod
    def of(cls, args: argparse.Namespace) -> Place:
        """Return what the command line says."""
        return cls(args.checkpoint, args.repository, args.data, args.run)

    @property
    def pack(self) -> PackConfig:
        """How the validation cells are split."""
        return PackConfig(data=str(self.data))

    def inputs(self, **seeds: int) -> Inputs:
        """Return the served weights and the validation cells, with the seeds of the measurement."""
        return Inputs(served_weights(self.repository), (DataRead.by_class(self.data / "val"),), seeds)

    def scoring(self) -> tuple[ScoringConfig, TieAugmentation]:
        """Return the served settings and those of the test-time augmentation among them.

        Raises
        ------
        SystemExit
            The model has no test-time augmentation.
        """
        path = self.repository / "scorer" / "1" / "scoring.json"
        config = ScoringConfig.from_json(json.loads(path.read_text()))
        if config.augmentation is None:
            raise SystemExit(f"{path} has no test-time augmentation, which this benchmark measures")
        return config, config.augmentation

    def graphs(self) -> ServedGraphs:
        """Open the served graphs in this process."""
        return ServedGraphs(self.repository, self.pack.threads)

    def calibrating(self, graphs: ServedGraphs, config: ScoringConfig) -> tuple[Measured, bool]:
        """Return the calibrating cells with all their errors, and whether those are kept from an earlier run."""
        known = self.kept("calibrating-*.npz")
        run = RefitConfig(str(self.checkpoint), str(self.repository), str(self.run), self.pack)
        cells = measure_parts(run, graphs, config)[1]
        return cells, self.kept("calibrating-*.npz") == known

    def kept(self, pattern: str) -> set[str]:
        """Return the names of the files of computed errors that match a pattern."""
        return {path.name for path in self.run.glob(pattern)}
