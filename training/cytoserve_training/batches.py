"""What a network is shown in training: cells of several sites, augmented, and strangers among them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cytoserve_training.augment import Augmentation
from cytoserve_training.cells import CLASSES, cut, join, left_out, without
from cytoserve_training.sites import SITES, load_site, shows
from cytoserve_training.stains import FOLDERS, read_stains
from cytoserve_training.strangers import WINDOWS, empty_windows, make_strangers, no_windows
from cytoserve_training.train_config import DenoiserTrainConfig


class Batches:
    """Draws the batches of a run, from the cells, stains and windows that its configuration lets it see.

    ``done`` of its methods is the share of the run's steps that lie behind; ``generator`` decides every draw.
    """

    def __init__(self, config: DenoiserTrainConfig, generator: torch.Generator) -> None:
        self.config = config
        self.generator = generator
        data = Path(config.data)
        sites = config.seen_sites()
        sets = [without(load_site(data, name, "train"), left_out(config.leave_out)) for name in sites]
        self.cells = join(sets)
        self.sampling = torch.cat(
            [SITES[name].share * _balance(one.labels) for name, one in zip(sites, sets, strict=True)]
        )
        self.stains = read_stains(data, [folder for folder in FOLDERS if not shows(config.leave_site, folder)])
        self.empty, self.empty_gains = no_windows() if shows(config.leave_site, WINDOWS) else empty_windows(data)

    def augmentation(self, done: float) -> Augmentation:
        """Return the ranges: wide, and settling towards the end."""
        begins, ends = self.config.settling
        left = (ends - done) / (ends - begins)
        return Augmentation().rarer(self.config.settled + (1 - self.config.settled) * min(1.0, max(0.0, left)))

    def cells_only(self, count: int, done: float) -> tuple[Tensor, Tensor]:
        """Draw ``count`` augmented cells, sites by share, classes balanced by square root: ``(crops, labels)``."""
        rows = torch.multinomial(self.sampling, count, replacement=True, generator=self.generator)
        crops = cut(
            self.cells.images[rows],
            self.cells.gains[rows],
            self.augmentation(done),
            self.generator,
            foreign=self.stains,
        )
        return crops, self.cells.labels[rows]

    def strangers(self, count: int, crops: Tensor, labels: Tensor, done: float) -> Tensor:
        """Return ``count`` crops that are no cell of any class, made of the batch's own (`make_strangers`)."""
        empty = crops[:0]
        if len(self.empty):
            rows = torch.randint(len(self.empty), (-(-count // 4),), generator=self.generator)
            empty = cut(self.empty[rows], self.empty_gains[rows], self.augmentation(done), self.generator)
        return make_strangers(crops[:count], labels[:count], empty, self.generator)

    def draw(self, done: float) -> tuple[Tensor, Tensor, int]:
        """Draw a batch: its crops, the labels of its cells, and how many of its rows, the last, are strangers."""
        strange = self.config.strange
        crops, labels = self.cells_only(self.config.batch - strange, done)
        if strange:
            crops = torch.cat([crops, self.strangers(strange, crops, labels, done)])
        return crops, labels, strange


def _balance(labels: Tensor) -> Tensor:
    """Return (N,) sampling weights with sum 1: classes by the square root of their size."""
    counts = torch.bincount(labels, minlength=len(CLASSES)).float().clamp(min=1)
    weight = counts.rsqrt()[labels]
    return weight / weight.sum()
