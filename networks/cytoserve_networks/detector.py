"""The detector's network: a small U-Net that answers centres and boxes at stride 2.

Centre heatmaps after Zhou et al. 2019, "Objects as Points"; the distances to the four sides after Tian et al. 2019,
"FCOS". Every kind has its own heatmap and its own box, so a platelet on a red cell disturbs neither.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from cytoserve_files import write_bytes, write_text
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional

NAMES_ON_DISK = ("DetectorNet", "SegmenterNet")
"""Names of `DetectorNet` in ``config.json``: today's, and the one of checkpoints that were written before."""

KINDS = 3
STRIDE = 2
TYPICAL_SIDES = (92.0, 52.0, 21.0)
"""Usual box sides at 0.15 um per pixel (white cell, red cell, platelet): where the box head starts."""


@dataclass(frozen=True)
class DetectorNetConfig:
    """Sizes of the network."""

    channels: tuple[int, ...] = (24, 40, 72, 112, 160)
    """Channels at strides 2, 4, 8, 16, 32; multiples of ``groups``."""
    groups: int = 8
    """Groups of every GroupNorm."""
    head_channels: int = 48
    """Width of the head."""


def _block(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(groups, outputs), nn.SiLU())


class DetectorNet(nn.Module):
    """U-Net from an RGB field to centre heatmaps and box sides.

    Parameters
    ----------
    config : DetectorNetConfig
    """

    def __init__(self, config: DetectorNetConfig = DetectorNetConfig()) -> None:
        super().__init__()
        self.config = config
        channels, groups = config.channels, config.groups
        self.unshuffle = nn.PixelUnshuffle(STRIDE)
        self.stem = nn.Conv2d(3 * STRIDE**2, channels[0], 3, padding=1)
        widths = zip((channels[0], *channels[:-1]), channels, strict=True)
        self.down = nn.ModuleList(nn.Sequential(_block(a, b, groups), _block(b, b, groups)) for a, b in widths)
        self.up = nn.ModuleList(
            _block(channels[level] + channels[level + 1], channels[level], groups) for level in range(len(channels) - 1)
        )
        self.neck = _block(channels[0], config.head_channels, groups)
        self.centers = nn.Conv2d(config.head_channels, KINDS, 1)
        self.sides = nn.Conv2d(config.head_channels, 4 * KINDS, 1)
        nn.init.constant_(self.centers.bias, -math.log((1 - 0.02) / 0.02))  # type: ignore[arg-type]
        nn.init.normal_(self.sides.weight, std=0.01)
        with torch.no_grad():
            halves = torch.tensor([math.log(side / 2) for side in TYPICAL_SIDES])
            self.sides.bias.copy_(halves.repeat_interleave(4))  # type: ignore[union-attr]

    def logits(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return centre logits (B, 3, h/2, w/2) and log side distances (B, 12, h/2, w/2)."""
        x = self.stem(self.unshuffle(image - 0.5))
        skips = []
        for level, stage in enumerate(self.down):
            x = stage(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in range(len(self.up) - 1, -1, -1):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.up[level](torch.cat([skips[level], x], dim=1))
        x = self.neck(x)
        return self.centers(x), self.sides(x)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Answer the maps that `cytoserve_scoring.vision.extraction` reads.

        Parameters
        ----------
        image : (B, 3, h, w) float tensor
            RGB in 0..1 at 0.15 um per pixel; h and w multiples of 32.

        Returns
        -------
        (B, 15, h/2, w/2) float tensor: channels 0..2 the centre scores in 0..1 of white cell, red cell and platelet;
        channels 3 + 4 k .. 6 + 4 k the distances (left, top, right, bottom) of kind k in input pixels.
        """
        centers, sides = self.logits(image)
        return torch.cat([centers.sigmoid(), sides.clamp(-2.0, 6.5).exp()], dim=1)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (half precision) into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"_class_name": NAMES_ON_DISK[0], **asdict(self.config)}
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        weights = {name: value.detach().to(torch.float16).contiguous() for name, value in self.state_dict().items()}
        write_bytes(folder / "model.safetensors", save(weights))
        # An earlier release wrote for the owner only; a server under another user must be able to read it.
        (folder / "model.safetensors").chmod(0o644)

    @classmethod
    def load(cls, folder: Path) -> DetectorNet:
        """Read what `save` wrote; weights come back in single precision, in evaluation mode."""
        config = json.loads((folder / "config.json").read_text())
        if config.pop("_class_name", NAMES_ON_DISK[0]) not in NAMES_ON_DISK:
            raise ValueError(f"{folder / 'config.json'} does not describe a {cls.__name__}")
        net = cls(DetectorNetConfig(**{**config, "channels": tuple(config["channels"])}))
        weights = load_file(folder / "model.safetensors")
        net.load_state_dict({name: value.float() for name, value in weights.items()})
        return net.eval()
