"""The single-cell images as tensors: read once, augmented and cut on the fly.

Rotation, flip, scale and the cut to the denoiser's 24 um crop are one bilinear resampling, so no image is
interpolated twice. The circle inscribed in a crop (133 px of the 160 px image) stays inside the image at every angle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cytoserve_contract.limits import CROP_SIZE, CROP_UM_PER_PIXEL
from cytoserve_files import open_regular
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.crops import background_gain
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cytoserve_training.augment import Augmentation, augment, normalise_stain, sampling_grid

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


def load_cells(folder: Path, per_class: int | None = None) -> CellSet:
    """Read ``folder/<class>/*`` in sorted order.

    Raises
    ------
    FileNotFoundError
        A class folder is missing or empty.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    names: list[str] = []
    for index, name in enumerate(CLASSES):
        files = sorted((folder / name).glob("*"))[:per_class]
        if not files:
            raise FileNotFoundError(f"{folder / name} holds no images; expected one folder per class {CLASSES}")
        for file in files:
            with open_regular(file) as opened, Image.open(opened) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(index)
            names.append(f"{name}/{file.name}")
    gains = torch.from_numpy(np.stack([background_gain(image) for image in images]))
    return CellSet(torch.from_numpy(np.stack(images)), gains, torch.tensor(labels), tuple(names))


def cut(
    images: Tensor,
    gains: Tensor,
    augmentation: Augmentation | None = None,
    generator: torch.Generator | None = None,
    um_per_pixel: float = PBC_UM_PER_PIXEL,
) -> Tensor:
    """Cut (B, H, W, 3) uint8 images about their centre into (B, 96, 96, 3) float crops in 0..255.

    The crops are white-balanced and their nuclear hue is normalised, after any augmentation.

    Without ``augmentation`` this is the plain crop that serving makes (up to its prefilter of 0.2 px).
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
        crops = augment(crops, augmentation, generator)
    return normalise_stain(crops).permute(0, 2, 3, 1)
