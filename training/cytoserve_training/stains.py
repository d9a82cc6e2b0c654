"""The stains of other laboratories, read off their unlabelled fields and put on labelled cells.

A field's stain is two vectors of optical density: that of its nuclei and that of its red cells. One linear map of
optical density takes a cell's own two vectors to those of a foreign field, so hue and strength of both dyes change
together, as they do between real laboratories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from cytoserve_scoring.constants import WHITE_LEVEL
from cytoserve_scoring.vision.crops import background_gain
from cytoserve_scoring.vision.stain import EOSIN, NUCLEAR_SHARE, nuclear_disc
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cytoserve_training.pictures import read_rgb

FOREGROUND: Final = 0.25
"""Summed optical density from which a pixel is not empty background."""
TYPICAL_NUCLEUS: Final = (1.22, 2.04, 0.45)
"""Mean optical density of the nuclei of 300 neutrophils of ``pbc/train``, measured by `field_stain`."""
LEAST_PIXELS: Final = 200
"""Fewer pixels of nuclei or of red cells in a field say nothing about its stain."""
LEAST_RED: Final = 0.3
"""Red optical density below which the darkest things of a field are no nuclei."""
FOLDERS: Final = ("bcisc/fields", "chula_rbc/images", "chula_rbc/diseases", "draaslan/images")
"""Folders of fields whose stains are put on training cells. None shows the microscope of ``bccd_cells``; ``chula_wbc``
is left out because its lamp is more coloured than white balance corrects, which is no stain."""


@dataclass(frozen=True)
class Stains:
    """(F, 2, 3) float32 mean optical densities (R, G, B): of the nuclei and of the red cells of F fields."""

    density: Tensor

    def __len__(self) -> int:
        return len(self.density)


def field_stain(field: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """Return the (2, 3) densities of nuclei and red cells of a field, None where it shows too little of either.

    Azure absorbs red light, eosin hardly: nuclei are the pixels of a red density above 60 % of the field's largest,
    red cells the half of the remaining foreground whose density is least red.
    """
    balanced = (field[::2, ::2].reshape(-1, 3) * background_gain(field)).clip(1, 255)
    density = np.maximum(-np.log(balanced / WHITE_LEVEL), 0).astype(np.float32)
    total = density.sum(axis=1)
    seen = density[total > FOREGROUND]
    if len(seen) < 2 * LEAST_PIXELS:
        return None
    red = seen[:, 0]
    nuclear = red > 0.6 * np.percentile(red, 99.8)
    rest = seen[~nuclear]
    if nuclear.sum() < LEAST_PIXELS or len(rest) < 2 * LEAST_PIXELS:
        return None
    nucleus, share = seen[nuclear].mean(axis=0), rest[:, 0] / rest.sum(axis=1)
    if nucleus[0] < LEAST_RED:
        return None
    return np.stack([nucleus, rest[share <= np.median(share)].mean(axis=0)])


def read_stains(data: Path, folders: Sequence[str] = FOLDERS) -> Stains:
    """Return the stains of the fields below ``data``; folders that are missing are left out.

    Raises
    ------
    FileNotFoundError
        No field shows a stain.
    """
    found = []
    for folder in folders:
        for file in sorted((data / folder).glob("*")):
            stain = field_stain(np.asarray(read_rgb(file)))
            if stain is not None:
                found.append(stain)
    if not found:
        raise FileNotFoundError(f"no field below {data} shows nuclei and red cells; looked into {', '.join(folders)}")
    return Stains(torch.from_numpy(np.stack(found).astype(np.float32)))


def nuclear_density(density: Tensor) -> Tensor:
    """Return the (B, 3) mean optical density of the densest pixels about the centre of (B, 3, H, W) densities."""
    inside = density.flatten(2)[:, :, torch.tensor(nuclear_disc(density.shape[-1])).flatten()]
    densest = inside.sum(1).topk(int(NUCLEAR_SHARE * inside.shape[2]), dim=1).indices
    return inside.gather(2, densest[:, None].expand(-1, 3, -1)).mean(2)


def restain(crops: Tensor, targets: Tensor) -> Tensor:
    """Put the stains of (B, 2, 3) ``targets`` on (B, 3, H, W) white-balanced crops in 0..255.

    The hue of a crop's own nucleus is read off its densest pixels; its strength, and the red cells, are PBC's. So what
    differs in strength between the cells of one film stays.
    """
    density = -torch.log(crops.clamp(min=1.0) / WHITE_LEVEL)
    nucleus = nuclear_density(density).clamp(min=0.05)
    typical = torch.tensor(TYPICAL_NUCLEUS)
    towards = nucleus / nucleus.norm(dim=1, keepdim=True) * typical.norm()
    own = _frame(towards, torch.tensor(EOSIN).expand_as(nucleus))
    change = _frame(targets[:, 0], targets[:, 1]) @ torch.linalg.inv(own)
    changed = torch.einsum("bij,bjhw->bihw", change, density.clamp(min=0))
    return WHITE_LEVEL * torch.exp(-(changed.clamp(min=0) + density.clamp(max=0))).clamp(max=1.05)


def _frame(nucleus: Tensor, red_cells: Tensor) -> Tensor:
    """Return (B, 3, 3): the two vectors and a third at right angles, as long as their geometric mean."""
    rest = F.normalize(torch.linalg.cross(nucleus, red_cells), dim=1)
    length = (nucleus.norm(dim=1) * red_cells.norm(dim=1)).sqrt()
    return torch.stack([nucleus, red_cells, rest * length[:, None]], 2)
