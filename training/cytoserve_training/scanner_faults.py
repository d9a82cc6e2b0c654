"""What scanners and cameras do to a picture, on (B, 3, H, W) crops in 0..255: motion, pixels, vignette, dirt, JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ScannerFaults:
    """The share of crops that each fault strikes, and its range; a share of zero switches it off.

    ``motion_px`` is the longest path of the stage during an exposure, ``coarsest`` the largest factor by which pixels
    are coarser, in crop pixels (0.25 um); ``vignette_depth`` the largest loss of light at the rim; ``spot_depth`` the
    largest optical density of a spot of dirt or a deposit of stain; ``jpeg_quality`` the range of Pillow's quality.
    """

    motion: float = 0.08
    motion_px: float = 6.0
    pixelation: float = 0.15
    coarsest: float = 2.5
    vignette: float = 0.2
    vignette_depth: float = 0.25
    spots: float = 0.1
    spot_depth: float = 1.2
    jpeg: float = 0.2
    jpeg_quality: tuple[int, int] = (25, 90)

    def rarer(self, share: float) -> ScannerFaults:
        """Return faults of the same ranges that strike that share of the crops they strike now."""
        struck = {name: share * getattr(self, name) for name in ("motion", "pixelation", "vignette", "spots", "jpeg")}
        return replace(self, **struck)


NO_FAULTS: Final = ScannerFaults(motion=0, pixelation=0, vignette=0, spots=0, jpeg=0)


def blemished(crops: Tensor, faults: ScannerFaults, generator: torch.Generator) -> Tensor:
    """Return the crops with the faults of stage, camera and slide."""
    crops = _struck(crops, faults.motion, generator, lambda c: _moved(c, faults.motion_px, generator))
    crops = _struck(crops, faults.pixelation, generator, lambda c: _pixelated(c, faults.coarsest, generator))
    crops = _struck(crops, faults.vignette, generator, lambda c: _vignetted(c, faults.vignette_depth, generator))
    return _struck(crops, faults.spots, generator, lambda c: _spotted(c, faults.spot_depth, generator))


def compressed(crops: Tensor, faults: ScannerFaults, generator: torch.Generator) -> Tensor:
    """Return the crops, a share of them saved as JPEG and read again."""
    return _struck(crops, faults.jpeg, generator, lambda c: _saved(c, faults.jpeg_quality, generator))


def _struck(crops: Tensor, share: float, generator: torch.Generator, change: Callable[[Tensor], Tensor]) -> Tensor:
    rows = (torch.rand(len(crops), generator=generator) < share).nonzero()[:, 0]
    return crops.index_copy(0, rows, change(crops[rows])) if len(rows) else crops


def _between(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _moved(crops: Tensor, longest: float, generator: torch.Generator) -> Tensor:
    """Average each crop over nine places along a straight path."""
    count, channels, height, width = crops.shape
    angle = _between(count, 0, torch.pi, generator)
    length = _between(count, 1.0, longest, generator)
    total = torch.zeros_like(crops)
    for at in torch.linspace(-0.5, 0.5, 9).tolist():
        theta = torch.eye(2, 3).repeat(count, 1, 1)
        theta[:, 0, 2] = at * length * torch.cos(angle) * 2 / width
        theta[:, 1, 2] = at * length * torch.sin(angle) * 2 / height
        grid = F.affine_grid(theta, [count, channels, height, width], align_corners=False)
        total += F.grid_sample(crops, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return total / 9


def _pixelated(crops: Tensor, coarsest: float, generator: torch.Generator) -> Tensor:
    side = round(crops.shape[-1] / float(_between(1, 1.2, coarsest, generator)))
    coarse = F.interpolate(crops, size=(side, side), mode="area")
    return F.interpolate(coarse, size=crops.shape[-2:], mode="bilinear", align_corners=False)


def _plane(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (H, 1) and (1, W) coordinates of the pixels, -1 to 1."""
    height, width = crops.shape[-2:]
    return torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None, :]


def _vignetted(crops: Tensor, depth: float, generator: torch.Generator) -> Tensor:
    """Let the light fall off with the squared distance from a bright centre somewhere on or near the crop."""
    y, x = _plane(crops)
    center = _between(2 * len(crops), -1.2, 1.2, generator).reshape(2, -1, 1, 1)
    loss = _between(len(crops), 0, depth, generator)[:, None, None]
    return crops * (1 - loss * ((y - center[0]) ** 2 + (x - center[1]) ** 2) / 4)[:, None]


def _spotted(crops: Tensor, depth: float, generator: torch.Generator) -> Tensor:
    """Put three soft dark spots on each crop: dust on the lamp (grey, wide) or a deposit of stain (violet, narrow)."""
    y, x = _plane(crops)
    count = len(crops)
    for _ in range(3):
        center = _between(2 * count, -1, 1, generator).reshape(2, -1, 1, 1)
        radius = _between(count, 0.03, 0.25, generator)[:, None, None]
        violet = (torch.rand(count, generator=generator) < 0.5)[:, None].float()
        hue = violet * torch.tensor([0.6, 1.0, 0.3]) + (1 - violet) * 0.3
        shape = torch.exp(-0.5 * ((y - center[0]) ** 2 + (x - center[1]) ** 2) / radius**2)
        strength = _between(count, 0, depth, generator)[:, None, None]
        crops = crops * torch.exp(-hue[:, :, None, None] * (strength * shape)[:, None])
    return crops


def _saved(crops: Tensor, quality: tuple[int, int], generator: torch.Generator) -> Tensor:
    levels = torch.randint(quality[0], quality[1] + 1, (len(crops),), generator=generator).tolist()
    pixels = crops.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()
    read = []
    for one, level in zip(pixels, levels, strict=True):
        file = io.BytesIO()
        Image.fromarray(one).save(file, "JPEG", quality=level)
        read.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).float()
