"""Pictures that are no cell of any class, made of our own cells: the denoiser learns that no class leads there.

All of them are crops of the two pools as they come out of augmentation. No reactive or abnormal cell is among them:
those stay out of training, so that they can be measured.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.crops import background_gain
from numpy.typing import NDArray
from torch import Tensor

from cytoserve_training.cells import STORED_SIDE, window_of
from cytoserve_training.detector_data import read_yolo
from cytoserve_training.pictures import read_rgb
from cytoserve_training.sites import CHULA_HELD_OUT

WINDOWS = "chula_wbc/fields"
"""Folder, below that of all data, of the fields that windows without a white cell are cut from."""
FIELD_UM_PER_PIXEL = 0.15
"""Scale of those fields."""
PATCH: int = 24
"""Side of the squares that are shuffled, pixels."""


def empty_windows(data: Path, seed: int = 0, tries: int = 6) -> tuple[Tensor, Tensor]:
    """Cut windows without a white cell from the labelled fields of `WINDOWS`: red cells, platelets, dirt, nothing.

    Returns
    -------
    images : (E, 160, 160, 3) uint8 tensor, at the scale of PBC
    gains : (E, 3) float32 tensor, white-balance gains of their fields
    """
    draw = np.random.default_rng(seed)
    images, gains = [], []
    for file in sorted((data / WINDOWS / "images").glob("*")):
        if file.stem.split("_")[0] in CHULA_HELD_OUT:
            continue
        picture = read_rgb(file)
        field = np.asarray(picture)
        boxes, _ = read_yolo(data / WINDOWS / "labels" / f"{file.stem}.txt", picture.size)
        center = _empty_center(np.array(boxes).reshape(-1, 4), field.shape[:2], draw, tries)
        if center is not None:
            images.append(window_of(field, center, FIELD_UM_PER_PIXEL))
            gains.append(background_gain(field))
    if not images:
        return no_windows()
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(gains))


def no_windows() -> tuple[Tensor, Tensor]:
    """Return what `empty_windows` returns where there is no field to cut from."""
    return torch.zeros(0, STORED_SIDE, STORED_SIDE, 3, dtype=torch.uint8), torch.zeros(0, 3)


def _empty_center(
    boxes: NDArray[np.float64], size: tuple[int, ...], draw: np.random.Generator, tries: int
) -> tuple[float, float] | None:
    """Return the centre of a window that no box reaches into, None where none was found."""
    half = STORED_SIDE * PBC_UM_PER_PIXEL / FIELD_UM_PER_PIXEL / 2
    for _ in range(tries):
        x, y = draw.uniform(half, size[1] - half), draw.uniform(half, size[0] - half)
        apart_x = np.maximum(boxes[:, 0] - x, x - boxes[:, 2])
        apart_y = np.maximum(boxes[:, 1] - y, y - boxes[:, 3])
        if np.all(np.maximum(apart_x, apart_y) > half):
            return x, y
    return None


def make_strangers(cells: Tensor, labels: Tensor, empty: Tensor, generator: torch.Generator) -> Tensor:
    """Return one stranger for each of (B, S, S, 3) cell crops.

    A quarter each: the nucleus of one cell in the surroundings of another of a different class; the cell cut into
    squares and shuffled; two cells of different classes on each other; a window without a cell.

    Parameters
    ----------
    labels : (B,) int64 tensor
    empty : (E, S, S, 3) float tensor
        Windows without a cell; none leaves that kind out.
    """
    count, size = len(cells), cells.shape[1]
    partner = _partners(labels, generator)
    kind = torch.arange(count) % (4 if len(empty) else 3)
    kind = kind[torch.randperm(count, generator=generator)]
    out = cells.clone()
    swap, shuffle, overlap, window = (kind == k for k in range(4))
    out[swap] = _transplanted(cells[partner[swap]], cells[swap], generator)
    out[shuffle] = _shuffled(cells[shuffle], generator)
    out[overlap] = _overlapping(cells[overlap], cells[partner[overlap]], size // 5, generator)
    if len(empty):
        out[window] = empty[torch.randint(len(empty), (int(window.sum()),), generator=generator)]
    return out


def _partners(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return for each cell the index of one of another class, where the batch has one."""
    other = (labels[:, None] != labels[None, :]).float()
    other[other.sum(1) == 0] = 1.0
    return torch.multinomial(other, 1, generator=generator)[:, 0]


def _disc(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return (count, size, size, 1) soft discs about the centre with a radius of 3.0 to 4.5 um."""
    at = torch.arange(size) + 0.5 - size / 2
    radius = torch.hypot(at[:, None], at[None, :])
    reach = 12 + 6 * torch.rand(count, generator=generator)
    return ((reach[:, None, None] - radius) / 2 + 0.5).clamp(0, 1)[..., None]


def _transplanted(inner: Tensor, outer: Tensor, generator: torch.Generator) -> Tensor:
    mask = _disc(len(inner), inner.shape[1], generator)
    return mask * inner + (1 - mask) * outer


def _shuffled(cells: Tensor, generator: torch.Generator) -> Tensor:
    out = []
    for cell in cells:
        squares = cell.unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH)
        rows, columns = squares.shape[:2]
        order = torch.randperm(rows * columns, generator=generator)
        mixed = squares.reshape(rows * columns, *squares.shape[2:])[order].reshape(squares.shape)
        out.append(mixed.permute(0, 3, 1, 4, 2).reshape(cell.shape))
    return torch.stack(out) if out else cells


def _overlapping(cells: Tensor, others: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Lay another cell over each, its centre 8 to ``most`` px away: light passes through both (the darker rules)."""
    out = []
    for cell, other in zip(cells, others, strict=True):
        angle = float(torch.rand(1, generator=generator)) * 2 * torch.pi
        away = 8 + float(torch.rand(1, generator=generator)) * (most - 8)
        shift = (
            round(away * torch.cos(torch.tensor(angle)).item()),
            round(away * torch.sin(torch.tensor(angle)).item()),
        )
        out.append(torch.minimum(cell, torch.roll(other, shift, (0, 1))))
    return torch.stack(out) if out else cells
