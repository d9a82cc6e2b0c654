"""Where model, cells and kept errors lie, for measurements on the cells that calibrate."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from cytoserve_scoring.classifier.augmentation import TieAugmentation
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_training.checkpoint import PackConfig
from cytoserve_training.refit import Measured, RefitConfig, ServedGraphs, measure_parts


@dataclass(frozen=True)
class Place:
    """Where model, cells and kept errors lie.

    Attributes
    ----------
    checkpoint, repository : Path
        The model and what was exported from it.
    data : Path
        Folder that holds ``val``.
    run : Path
        Keeps what was computed.
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
        parser.add_argument("--run", type=Path, default=Path("runs/refit"), help="keeps what was computed")

    @classmethod
    def of(cls, args: argparse.Namespace) -> Place:
        """Return what the command line says."""
        return cls(args.checkpoint, args.repository, args.data, args.run)

    @property
    def pack(self) -> PackConfig:
        """How the validation cells are parted."""
        return PackConfig(data=str(self.data))

    def version(self) -> str:
        """Return the served model's version."""
        told: dict[str, str] = json.loads((self.repository / "service_info/1/service.json").read_text())
        return told["version"]

    def scoring(self) -> tuple[ScoringConfig, TieAugmentation]:
        """Return the served settings and the test-time augmentation among them.

        Raises
        ------
        SystemExit
            The model has no test-time augmentation.
        """
        path = self.repository / "scorer" / "1" / "scoring.json"
        config = ScoringConfig.from_json(json.loads(path.read_text()))
        if config.augmentation is None:
            raise SystemExit(f"{path} has no test-time augmentation: this benchmark is of a model that has one")
        return config, config.augmentation

    def graphs(self) -> ServedGraphs:
        """Open the served graphs in this process."""
        return ServedGraphs(self.repository, self.pack.threads)

    def calibrating(self, graphs: ServedGraphs, config: ScoringConfig) -> Measured:
        """Return the calibrating cells with all their errors, computed or kept from an earlier run."""
        kept = RefitConfig(str(self.checkpoint), str(self.repository), str(self.run), self.pack)
        return measure_parts(kept, graphs, config)[1]
