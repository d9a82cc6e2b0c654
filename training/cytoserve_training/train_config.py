"""What a training of the denoiser depends on besides the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cytoserve_training.sites import SITES

MILD: Final = (-1.0, 0.0)
"""``settling`` of a run that has settled when it begins."""


@dataclass(frozen=True)
class DenoiserTrainConfig:
    """Everything a run depends on besides the data; written beside its checkpoints.

    ``data`` holds the folders of all sites. ``start_from`` names the folder of an earlier run whose autoencoder,
    averaged weights and margin scales this one begins with; ``trunk`` that of a checkpoint whose denoiser is told a
    class, from which all but the class is taken (`take_trunk`), and its autoencoder. Timesteps are drawn as
    ``sigmoid(N(time_mean, time_spread))`` of the schedule: more often where the bank of noise samples lies. A share
    ``strangers`` of a batch is no cell of any class. From the share ``settling[0]`` of the steps on ever fewer cells
    get the wide ranges of the augmentation, foreign stains and faults of scanners; from ``settling[1]`` on only
    ``settled`` times as many as first. The network has learned by then that stain is not a class, and the cells that
    it will see most are those of its own sites.
    ``encoder_cells`` augmented cells fit the autoencoder. ``leave_out`` names classes, parted by commas, that are not
    trained on; ``leave_site`` a site of which the run sees nothing: no cell, no stain, no empty window.
    """

    data: str = "../shared/data"
    out: str = "runs/denoiser"
    sites: tuple[str, ...] = tuple(SITES)
    start_from: str = ""
    trunk: str = ""
    steps: int = 8000
    batch: int = 64
    strangers: float = 0.125
    margin_weight: float = 0.03
    settling: tuple[float, float] = (0.5, 0.75)
    settled: float = 0.15
    time_mean: float = -0.3
    time_spread: float = 0.9
    learning_rate: float = 5e-4
    final_learning_rate: float = 1e-5
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    encoder_cells: int = 3000
    seed: int = 20261126
    leave_out: str = ""
    leave_site: str = ""
    save_every: int = 200
    validate_every: int = 500
    validation_cells_per_class: int = 40
    device: str = "cpu"
    threads: int = 2

    @property
    def strange(self) -> int:
        """Rows of a batch, its last, that are strangers."""
        return round(self.batch * self.strangers)

    def seen_sites(self) -> tuple[str, ...]:
        """Return the sites whose cells are trained on."""
        return tuple(name for name in self.sites if name != self.leave_site)
