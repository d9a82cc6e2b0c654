"""The single-cell images as tensors: read once, augmented and cut on the fly.

Rotation, flip, scale and the cut to the denoiser's 24 um crop are one bilinear resampling, so no image is
interpolated twice. The circle inscribed in a crop (133 px of the 160 px image) stays inside the image at every angle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cytoserve_contract.limits import CROP_SIZE, CROP_UM_PER_PIXEL
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.crops import background_gain, resample
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cytoserve_training.augment import Augmentation, augment, normalise_stain, sampling_grid
from cytoserve_training.pictures import read_rgb
from cytoserve_training.stains import Stains

CLASSES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature_granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)


STORED_SIDE = 160
"""Side of a stored cell image, pixels of ``PBC_UM_PER_PIXEL``."""


@dataclass(frozen=True)
class CellSet:
    """Cell images of one split.

    (N, 160, 160, 3) uint8 as stored, (N, 3) float32 white-balance gains, (N,) int64 indices into :data:`CLASSES`, and
    ``class/file`` of each image.
    """

    images: Tensor
    gains: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def class_files(folder: Path, per_class: int | None = None) -> list[Path]:
    """Return ``folder/<class>/*`` in sorted order, of each class the first ``per_class``.

    Raises
    ------
    FileNotFoundError
        A class folder is missing or empty.
    """
    files: list[Path] = []
    for name in CLASSES:
        of_class = sorted((folder / name).glob("*"))[:per_class]
        if not of_class:
            raise FileNotFoundError(f"{folder / name} holds no images; expected one folder per class {CLASSES}")
        files += of_class
    return files


def load_cells(folder: Path, per_class: int | None = None) -> CellSet:
    """Read the cells of PBC; see `class_files`."""
    return read_cells(class_files(folder, per_class))


def read_cells(files: Sequence[Path], um_per_pixel: float = PBC_UM_PER_PIXEL) -> CellSet:
    """Read cell images, each in a folder named after its class, and bring them to the scale of PBC.

    Parameters
    ----------
    um_per_pixel : float
        Of the files. A file of another scale than PBC's is resampled as serving resamples, about its centre; its white
        balance is that of the whole file.
    """
    stored = [_stored(file, um_per_pixel) for file in files]
    return CellSet(
        torch.from_numpy(np.stack([image for image, _ in stored])),
        torch.from_numpy(np.stack([gain for _, gain in stored])),
        torch.tensor([CLASSES.index(file.parent.name) for file in files]),
        tuple(f"{file.parent.name}/{file.name}" for file in files),
    )


def _stored(file: Path, um_per_pixel: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    pixels = np.asarray(read_rgb(file))
    gain = background_gain(pixels)
    if um_per_pixel == PBC_UM_PER_PIXEL:
        return pixels, gain
    return window_of(pixels, (pixels.shape[1] / 2, pixels.shape[0] / 2), um_per_pixel), gain


def window_of(field: NDArray[np.uint8], center: tuple[float, float], um_per_pixel: float) -> NDArray[np.uint8]:
    """Return the (160, 160, 3) uint8 window about ``center`` (x, y) of a field, at the scale of PBC."""
    resampled, _ = resample(field, center, um_per_pixel, STORED_SIDE, PBC_UM_PER_PIXEL)
    return np.rint(resampled).clip(0, 255).astype(np.uint8)


def join(sets: Sequence[CellSet]) -> CellSet:
    """Return the cells of several sets as one, in order."""
    return CellSet(
        torch.cat([one.images for one in sets]),
        torch.cat([one.gains for one in sets]),
        torch.cat([one.labels for one in sets]),
        tuple(name for one in sets for name in one.names),
    )


def left_out(names: str) -> tuple[str, ...]:
    """Return the classes named in a text, parted by commas; none where it is empty.

    Raises
    ------
    ValueError
        A name is no class, or no class would be left.
    """
    chosen = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if unknown := [name for name in chosen if name not in CLASSES]:
        raise ValueError(f"no class {', '.join(unknown)}; choose from {', '.join(CLASSES)}")
    if len(chosen) > len(CLASSES) - 2:
        raise ValueError("at least two classes must be left to train on")
    return chosen


def without(cells: CellSet, names: Sequence[str]) -> CellSet:
    """Leave classes out; their indices stay, so a network's shape does."""
    if not names:
        return cells
    keep = ~torch.isin(cells.labels, torch.tensor([CLASSES.index(name) for name in names]))
    kept = tuple(name for name, one in zip(cells.names, keep.tolist(), strict=True) if one)
    return CellSet(cells.images[keep], cells.gains[keep], cells.labels[keep], kept)


def cut(
    images: Tensor,
    gains: Tensor,
    augmentation: Augmentation | None = None,
    generator: torch.Generator | None = None,
    um_per_pixel: float = PBC_UM_PER_PIXEL,
    foreign: Stains | None = None,
) -> Tensor:
    """Cut (B, H, W, 3) uint8 images about their centre into (B, 96, 96, 3) float crops in 0..255.

    The crops are white-balanced and their nuclear hue is normalised, after any augmentation.

    Without ``augmentation`` this is the plain crop that serving makes (up to its prefilter of 0.2 px). ``foreign`` are
    the stains of other laboratories that some cells are rendered in.
    """
    count, height, width, _ = images.shape
    half = CROP_SIZE * CROP_UM_PER_PIXEL / um_per_pixel / 2
    theta = sampling_grid(count, augmentation, generator, half, um_per_pixel)
    theta = theta / torch.tensor([width / 2, height / 2])[:, None]
    grid = F.affine_grid(theta, [count, 3, CROP_SIZE, CROP_SIZE], align_corners=False)
    crops = F.grid_sample(
        images.permute(0, 3, 1, 2).float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    crops = (crops * gains[:, :, None, None]).clamp(0, 255)
    if augmentation is not None and generator is not None:
        crops = augment(crops, augmentation, generator, foreign)
    return normalise_stain(crops).permute(0, 2, 3, 1)
