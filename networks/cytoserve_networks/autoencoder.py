"""The reference autoencoder: whitened principal components of image patches inside a circular window.

Linear, exact and instant to fit. A cell is judged inside the circle inscribed in its crop, so what lies in the corners
(and would change when the slide is turned) is set to mid-grey before anything else sees it. Each 6 x 6 RGB patch
becomes its leading principal components, scaled to unit variance as a diffusion model expects.

Beside :class:`diffusers.AutoencoderKL` this is the second autoencoder class the checkpoint layout may name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_files import write_bytes, write_text
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


def circular_window(size: int) -> Tensor:
    """Return a (size, size) float32 window: 1 inside the inscribed circle, 0 outside, a linear edge between."""
    at = torch.arange(size, dtype=torch.float32) + 0.5 - size / 2
    radius = torch.hypot(at[:, None], at[None, :])
    return (size / 2 - radius + 0.5).clamp(0.0, 1.0)


class PatchPCAAutoencoder(nn.Module):
    """Patch-wise whitened principal component analysis as a latent space.

    Parameters
    ----------
    patch : int
        Side of a patch in pixels; the latent grid is ``size // patch``.
    latent_channels : int
        Components kept per patch.
    size : int
        Side of a crop in pixels.
    circular : bool
        Whether the circular window is applied.
    """

    window: Tensor
    mean: Tensor
    components: Tensor
    inverse: Tensor

    def __init__(self, patch: int = 6, latent_channels: int = 24, size: int = 96, circular: bool = True) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"size {size} is not a multiple of patch {patch}")
        self.patch, self.latent_channels, self.size, self.circular = patch, latent_channels, size, circular
        width = 3 * patch * patch
        self.register_buffer("window", circular_window(size) if circular else torch.ones(size, size))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.zeros(latent_channels, width))
        self.register_buffer("inverse", torch.zeros(width, latent_channels))

    @property
    def grid(self) -> int:
        """Side of the latent grid."""
        return self.size // self.patch

    @property
    def config(self) -> dict[str, Any]:
        """The JSON that stands in ``vae/config.json``."""
        return {
            "_class_name": type(self).__name__,
            "patch": self.patch,
            "latent_channels": self.latent_channels,
            "size": self.size,
            "circular": self.circular,
        }

    def windowed(self, crops: Tensor) -> Tensor:
        """Scale (M, size, size, 3) uint8 or 0..255 float crops to (M, 3, size, size) in -1..1 under the window."""
        return (crops.permute(0, 3, 1, 2).float() / 127.5 - 1.0) * self.window

    def encode(self, crops: Tensor) -> Tensor:
        """Encode (M, size, size, 3) uint8 crops into (M, latent_channels, grid, grid) float32 latents."""
        return self.encode_windowed(self.windowed(crops))

    def encode_windowed(self, images: Tensor) -> Tensor:
        """Encode (M, 3, size, size) windowed images in -1..1; a stride-``patch`` convolution."""
        kernel = self.components.reshape(self.latent_channels, 3, self.patch, self.patch)
        bias = -(self.components @ self.mean)
        return F.conv2d(images, kernel, bias, stride=self.patch)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode (M, latent_channels, grid, grid) latents into (M, size, size, 3) float crops in 0..1."""
        kernel = self.inverse.T.reshape(self.latent_channels, 3, self.patch, self.patch)
        images = F.conv_transpose2d(latents, kernel, stride=self.patch)
        images = images + self.mean.reshape(1, 3, self.patch, self.patch).repeat(1, 1, self.grid, self.grid)
        return ((images * self.window).clamp(-1, 1) * 0.5 + 0.5).permute(0, 2, 3, 1)

    def patch_mask(self) -> Tensor:
        """Return the (grid, grid) float32 0/1 mask of patches more than half inside the window."""
        return (F.avg_pool2d(self.window[None, None], self.patch)[0, 0] > 0.5).float()

    @torch.no_grad()
    def quarter_turn(self) -> tuple[Tensor, Tensor]:
        """Return what a quarter turn of the crop (counter-clockwise) does to a latent besides turning its grid.

        Encoding is linear, so turning the crop turns the grid of patches and mixes each patch's channels:
        ``encode(turn(crop)) ~ turn(latent)`` mapped by ``z -> R z + b``. It is exact up to what the dropped components
        would contribute; turned patches are as common as unturned ones in training, so the kept ones span nearly the
        same space.

        Returns
        -------
        R : (latent_channels, latent_channels) float32 tensor
        b : (latent_channels,) float32 tensor
        """
        shape = (3, self.patch, self.patch)
        basis = torch.rot90(self.inverse.T.reshape(-1, *shape), 1, (2, 3)).flatten(1)
        mean = torch.rot90(self.mean.reshape(1, *shape), 1, (2, 3)).flatten(1)[0]
        return self.components @ basis.T, self.components @ (mean - self.mean)

    @torch.no_grad()
    def fit(self, crops: Tensor) -> NDArray[np.float64]:
        """Fit mean and components on (M, size, size, 3) uint8 crops; return the share of variance per component.

        Only patches that lie inside the window count, otherwise the constant corners would rule the mean.
        """
        p = self.patch
        images = self.windowed(crops)
        patches = F.unfold(images, p, stride=p).transpose(1, 2)[:, self.patch_mask().flatten() > 0]
        patches = patches.reshape(-1, patches.shape[-1]).double()
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / (len(patches) - 1)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0), vectors.flip(1)
        keep = slice(0, self.latent_channels)
        scale = values[keep].sqrt()
        self.mean.copy_(mean)
        self.components.copy_((vectors[:, keep] / scale).T)
        self.inverse.copy_(vectors[:, keep] * scale)
        share: NDArray[np.float64] = (values / values.sum()).numpy()
        return share

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and float32 weights into ``folder`` (they are a few kilobytes)."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.json", json.dumps(self.config, indent=2) + "\n")
        write_bytes(folder / WEIGHTS_NAME, save({k: v.contiguous() for k, v in self.state_dict().items()}))

    @classmethod
    def load(cls, folder: Path) -> PatchPCAAutoencoder:
        """Read what :meth:`save` wrote."""
        config = json.loads((folder / "config.json").read_text())
        config.pop("_class_name")
        model = cls(**config)
        model.load_state_dict(load_file(folder / WEIGHTS_NAME))
        return model.eval()
