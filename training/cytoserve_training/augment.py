"""Random changes made to training cells, so that another microscope, stain or camera is not another kind of cell.

Colour is changed in optical density, ``OD = -log(I / white)``, where stain adds up linearly (Beer-Lambert) and the
empty background stays empty whatever the stain does. Sharpness is changed because optics, camera and JPEG differ more
between laboratories than colour does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from cytoserve_scoring.constants import WHITE_LEVEL
from cytoserve_scoring.vision.stain import (
    AZURE,
    DENSITY_RANGE,
    EOSIN,
    MOST_CHANGE,
    MOST_TOWARDS_EOSIN,
)
from torch import Tensor
from torch.nn import functional as F

from cytoserve_training.scanner_faults import ScannerFaults, blemished, compressed
from cytoserve_training.stains import Stains, nuclear_density, restain


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; zero switches one off.

    ``scale`` is the log-uniform half range of the magnification, ``shift_um`` the half range of the centre in
    micrometres, ``brightness`` and ``channel_gain`` the log-uniform half ranges of the lamp's level and colour.

    A share ``strong`` of the cells gets the full ranges of stain and sharpness, the others ``narrow`` times these:
    ``density``, the log-uniform range of the factor on all optical densities; ``stain_strength``, the half range of the
    factor on each dye; ``stain_hue``, the standard deviation of each dye's unit absorption vector; ``blur``, the
    largest sigma in crop pixels (0.25 um); ``sharpen``, the largest share of an unsharp mask; ``noise``, the largest
    standard deviation of sensor noise in grey levels.

    A share ``occlude`` of the cells is seen through a tight box, white outside, as serving does. A share ``foreign``
    gets the stain of another laboratory's field before all else, where there are such stains. ``faults`` are those of
    scanners.
    """

    scale: float = 0.2
    shift_um: float = 0.7
    strong: float = 0.5
    brightness: float = 0.10
    channel_gain: float = 0.05
    density: tuple[float, float] = (-1.1, 0.25)
    stain_strength: float = 0.45
    stain_hue: float = 0.15
    blur: float = 1.3
    sharpen: float = 1.0
    noise: float = 5.0
    narrow: float = 0.2
    occlude: float = 0.15
    foreign: float = 0.2
    faults: ScannerFaults = field(default_factory=ScannerFaults)

    def rarer(self, share: float) -> Augmentation:
        """Return these ranges with wide stains and sharpness, foreign stains and faults in that share of the cells."""
        return replace(self, strong=share * self.strong, foreign=share * self.foreign, faults=self.faults.rarer(share))


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return (count,) float32 draws from [low, high)."""
    return low + (high - low) * torch.rand(count, generator=generator)


def augment(crops: Tensor, ranges: Augmentation, generator: torch.Generator, foreign: Stains | None = None) -> Tensor:
    """Change sharpness, stain, lamp and noise of (B, 3, H, W) white-balanced crops in 0..255."""
    count = len(crops)
    if foreign is not None:
        drawn = (torch.rand(count, generator=generator) < ranges.foreign).nonzero()[:, 0]
        stain = torch.randint(len(foreign), (len(drawn),), generator=generator)
        crops = crops.index_copy(0, drawn, restain(crops[drawn], foreign.density[stain]))
    strong = (torch.rand(count, generator=generator) < ranges.strong).float()
    reach = ranges.narrow + (1 - ranges.narrow) * strong
    crops = change_sharpness(crops, ranges, reach, generator)
    crops = change_stain(crops, ranges, reach, generator)
    level = uniform(count, -ranges.brightness, ranges.brightness, generator)[:, None]
    colour = uniform(count * 3, -ranges.channel_gain, ranges.channel_gain, generator).reshape(count, 3)
    crops = crops * torch.exp(level + colour)[:, :, None, None]
    crops = blemished(crops, ranges.faults, generator)
    sigma = reach * uniform(count, 0, ranges.noise, generator)
    crops = crops + sigma[:, None, None, None] * torch.randn(crops.shape, generator=generator)
    crops = compressed(crops.clamp(0, 255), ranges.faults, generator)
    return occlude(crops, ranges.occlude, generator).clamp(0, 255)


def change_sharpness(crops: Tensor, ranges: Augmentation, reach: Tensor, generator: torch.Generator) -> Tensor:
    """Blur two cells of three by a Gaussian of their own; one cell in five is sharpened afterwards, as cameras do."""
    count = len(crops)
    sigma = reach * uniform(count, -0.5 * ranges.blur, ranges.blur, generator)
    crops = gaussian_blur(crops, sigma.clamp(min=0))
    amount = reach * uniform(count, 0, ranges.sharpen, generator) * (torch.rand(count, generator=generator) < 0.2)
    if not bool((amount > 0).any()):
        return crops
    soft = gaussian_blur(crops, torch.ones(count))
    return (crops + amount[:, None, None, None] * (crops - soft)).clamp(0, 255)


def gaussian_blur(crops: Tensor, sigma: Tensor, radius: int = 4) -> Tensor:
    """Blur (B, C, H, W) crops, each by its own sigma of (B,), in pixels; a sigma near zero changes nothing."""
    count, channels, height, width = crops.shape
    at = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    x = F.pad(crops.reshape(1, count * channels, height, width), (radius,) * 4, mode="replicate")
    x = F.conv2d(x, kernel[:, None, None, :], groups=count * channels)
    x = F.conv2d(x, kernel[:, None, :, None], groups=count * channels)
    return x.reshape(count, channels, height, width)


def change_stain(crops: Tensor, ranges: Augmentation, reach: Tensor, generator: torch.Generator) -> Tensor:
    """Give every crop a laboratory of its own: stain strength, each dye's strength, each dye's hue.

    The density of a pixel is taken apart into two dyes and a rest, ``OD = S c``; then ``OD' = S' c`` with the dyes'
    vectors tilted and their amounts scaled. Densities below zero (brighter than white) are kept as they are.
    """
    count = len(crops)
    azure, eosin = torch.tensor(AZURE), torch.tensor(EOSIN)
    azure, eosin = azure / azure.norm(), eosin / eosin.norm()
    rest = torch.linalg.cross(azure, eosin)
    stains = torch.stack([azure, eosin, rest / rest.norm()], 1)
    tilt = ranges.stain_hue * torch.randn(count, 3, 3, generator=generator) * reach[:, None, None]
    tilt[:, :, 2] = 0
    tilted = (stains + tilt)[:, :, :2].clamp(min=0.02)
    tilted = torch.cat([tilted / tilted.norm(dim=1, keepdim=True), stains[None, :, 2:].expand(count, 3, 1)], 2)
    amount = torch.exp(reach[:, None] * uniform(count * 3, -1, 1, generator).reshape(count, 3) * ranges.stain_strength)
    overall = torch.exp(reach * uniform(count, *ranges.density, generator))
    change = (tilted * (amount * overall[:, None])[:, None, :]) @ torch.linalg.inv(stains)
    density = -torch.log(crops.clamp(min=1.0) / WHITE_LEVEL)
    changed = torch.einsum("bij,bjhw->bihw", change, density.clamp(min=0))
    return WHITE_LEVEL * torch.exp(-(changed.clamp(min=0) + density.clamp(max=0)))


def normalise_stain(crops: Tensor) -> Tensor:
    """Bring the nuclear hue of (B, 3, H, W) crops in 0..255 to the reference, as serving does to every crop it cuts.

    The batched twin of :func:`cytoserve_scoring.vision.stain.normalise_stain`, which says how and why.
    """
    density = -torch.log(crops.clamp(1.0, 255.0) / WHITE_LEVEL)
    nucleus = nuclear_density(density)
    azure, eosin = F.normalize(torch.tensor(AZURE), dim=0), F.normalize(torch.tensor(EOSIN), dim=0)
    towards = F.normalize(eosin - azure, dim=0)
    low, high = DENSITY_RANGE
    weight = ((nucleus.sum(1) - low) / (high - low)).clamp(0, 1)
    change = F.normalize(nucleus, dim=1, eps=1e-9) - azure
    change = change - (change @ towards - MOST_TOWARDS_EOSIN).clamp(min=0)[:, None] * towards
    length = change.norm(dim=1).clamp(min=1e-9)
    change = change * ((MOST_CHANGE / length).clamp(max=1) * weight)[:, None]
    there = F.normalize(azure + change, dim=1)
    change_map = _frame(azure[None], eosin) @ torch.linalg.inv(_frame(there, eosin))
    changed = torch.einsum("bij,bjhw->bihw", change_map, density)
    return (WHITE_LEVEL * torch.exp(-changed)).clamp(0, 255)


def _frame(azure: Tensor, eosin: Tensor) -> Tensor:
    eosin = eosin.expand_as(azure)
    rest = F.normalize(torch.linalg.cross(azure, eosin), dim=1)
    return torch.stack([azure, eosin, rest], 2)


def occlude(crops: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Show a ``share`` of the crops through a box about the cell, white outside: a cell at the edge of a field."""
    count, _, height, width = crops.shape
    half = uniform(count * 4, 0.28, 0.52, generator).reshape(count, 4)
    drawn = torch.rand(count, 4, generator=generator) < 0.7
    half = torch.where((torch.rand(count, 1, generator=generator) < share) & drawn, half, torch.ones(()))
    y = (torch.arange(height) + 0.5) / height - 0.5
    x = (torch.arange(width) + 0.5) / width - 0.5
    inside_y = (y > -half[:, :1]) & (y < half[:, 1:2])
    inside_x = (x > -half[:, 2:3]) & (x < half[:, 3:])
    seen = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return torch.where(seen, crops, torch.full((), float(WHITE_LEVEL)))


def sampling_grid(
    count: int, ranges: Augmentation | None, generator: torch.Generator | None, half: float, um_per_pixel: float
) -> Tensor:
    """Return (count, 2, 3) affine maps: rotation, flip, scale and shift of a cut of ``half`` source pixels.

    Rows are in source pixels; the caller divides by half of the image's width and height.
    """
    scale, angle = torch.ones(count), torch.zeros(count)
    shift, flip = torch.zeros(count, 2), torch.ones(count)
    if ranges is not None:
        if generator is None:
            raise ValueError("augmentation needs a random generator, so that a run can be repeated")
        scale = torch.exp(uniform(count, -ranges.scale, ranges.scale, generator))
        angle = torch.rand(count, generator=generator) * (2 * math.pi)
        flip = (torch.rand(count, generator=generator) < 0.5).float() * 2 - 1
        spread = ranges.shift_um / um_per_pixel
        shift = uniform(count * 2, -spread, spread, generator).reshape(count, 2)
    cos, sin = torch.cos(angle) * half * scale, torch.sin(angle) * half * scale
    rows = [torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)]
    return torch.stack(rows, 1)
