"""A denoiser in process: errors of cells under probes and classes, in batches, from a run or from a checkpoint.

What the server computes through ONNX is computed here in PyTorch (bf16 autocast), because these benchmarks need every
error of every class, which a server that lets classes leave never computes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_networks.autoencoder import PatchPCAAutoencoder
from cytoserve_training.augment import Augmentation
from cytoserve_training.cells import CLASSES, CellSet, cut
from cytoserve_training.denoiser import build_scheduler, diffuse, predict, row_error
from cytoserve_training.denoiser_train import load_average
from cytoserve_training.probes import BankConfig, build_bank
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

Doubles = NDArray[np.float64]

ROWS_PER_CALL = 64
"""Rows handed to the network at once: the fastest of 64, 128 and 256 on a CPU, whose cache is small."""


@dataclass(frozen=True)
class Bank:
    """Probes in the order in which they are asked.

    Attributes
    ----------
    timestep : (P,) int64 tensor
    noise : (P, c, h, w) float32 tensor
    weight : (P,) ndarray of float64
        Factor on each probe's error.
    """

    timestep: Tensor
    noise: Tensor
    weight: Doubles


@dataclass(frozen=True)
class Denoiser:
    """A trained network with what turns crops into errors.

    Attributes
    ----------
    unet, autoencoder : torch modules
    channel_weight : (c,) float32 tensor with mean 1
    mask : (h, w) float32 tensor of 0 and 1
    log_scale : (bands,) float32 tensor or None
        Log of the scales that the margin learned, where the run is at hand.
    """

    unet: UNet2DConditionModel
    autoencoder: PatchPCAAutoencoder
    channel_weight: Tensor
    mask: Tensor
    log_scale: Tensor | None

    @classmethod
    def open(cls, folder: Path) -> Denoiser:
        """Open a run (``state.pt``; averaged weights, rounded to half as they are stored) or a checkpoint.

        Raises
        ------
        FileNotFoundError
            Neither lies in ``folder``.
        """
        if (folder / "state.pt").exists():
            unet, autoencoder, margin = load_average(folder)
            unet, log_scale = unet.half().float(), margin.get("log_scale")
        elif (folder / "unet").is_dir():
            unet = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).float().eval()
            autoencoder, log_scale = PatchPCAAutoencoder.load(folder / "vae"), None
        else:
            raise FileNotFoundError(f"{folder} holds neither state.pt (a run) nor unet/ (a checkpoint)")
        deviation = autoencoder.inverse.norm(dim=0)
        return cls(
            unet.to(memory_format=torch.channels_last),
            autoencoder,
            deviation / deviation.mean(),
            autoencoder.patch_mask(),
            log_scale,
        )

    @torch.no_grad()
    def latents(self, crops: Tensor, batch: int = 256) -> Tensor:
        """Encode (M, 96, 96, 3) crops in 0..255 into (M, c, h, w) latents."""
        return torch.cat([self.autoencoder.encode(part) for part in torch.split(crops, batch)])

    @torch.no_grad()
    def errors(
        self,
        latents: Tensor,
        timestep: Tensor,
        noise: Tensor,
        classes: Sequence[int] = tuple(range(len(CLASSES))),
        step: Callable[[int], None] = lambda done: None,
    ) -> Doubles:
        """Return the unweighted errors.

        Parameters
        ----------
        latents : (M, c, h, w) float32 tensor
        timestep : (P,) or (M, P) int64 tensor
            Shared by all cells, or each cell's own.
        noise : (P, c, h, w) or (M, P, c, h, w) float32 tensor
        classes : sequence of K ints
            Classes that are asked; the others are never offered to the network.
        step : callable
            Told the number of cells that are done.

        Returns
        -------
        (M, P, K) ndarray of float64
        """
        asked = torch.tensor(list(classes))
        alphas_cumprod = build_scheduler().alphas_cumprod
        probes = timestep.shape[-1]
        per_call = max(1, ROWS_PER_CALL // (probes * len(asked)))
        out: list[NDArray[np.float64]] = []
        for start in range(0, len(latents), per_call):
            part = latents[start : start + per_call]
            index = torch.cartesian_prod(torch.arange(len(part)), torch.arange(probes), torch.arange(len(asked)))
            found = [
                self._rows(part, timestep, noise, start, rows, asked, alphas_cumprod)
                for rows in torch.split(index, ROWS_PER_CALL)
            ]
            out.append(torch.cat(found).reshape(len(part), probes, len(asked)).double().numpy())
            step(start + len(part))
        return np.concatenate(out)

    def _rows(
        self,
        part: Tensor,
        timestep: Tensor,
        noise: Tensor,
        start: int,
        rows: Tensor,
        asked: Tensor,
        alphas_cumprod: Tensor,
    ) -> Tensor:
        cell, probe, label = rows.unbind(1)
        at = timestep[probe] if timestep.ndim == 1 else timestep[start + cell, probe]
        drawn = noise[probe] if noise.ndim == 4 else noise[start + cell, probe]
        noisy, target = diffuse(part[cell], drawn, at, alphas_cumprod)
        with torch.autocast("cpu", torch.bfloat16):
            seen = predict(self.unet, noisy.to(memory_format=torch.channels_last), at, asked[label], len(CLASSES))
        return row_error(seen, target, self.channel_weight, self.mask)

    def bank_errors(self, latents: Tensor, bank: Bank, classes: Sequence[int] = tuple(range(len(CLASSES)))) -> Doubles:
        """Return the (M, P, K) weighted errors under a bank, as the served denoiser answers them."""
        return self.errors(latents, bank.timestep, bank.noise, classes) * bank.weight[None, :, None]


def serving_bank(folder: Path, probes: int | None = None) -> Bank:
    """Return the bank that a checkpoint carries, or that a packed run was packed with; its first ``probes``.

    Raises
    ------
    FileNotFoundError
        A run that was never packed has no bank.
    """
    checkpoint, run = folder / "scoring" / "probes.safetensors", folder / "val_errors.npz"
    if checkpoint.exists():
        held = load_file(checkpoint)
        # The stored weight is the probe's times the channel's, and the channels' shares add up to one.
        bank = Bank(held["timestep"], held["noise"].float(), held["weight"].sum((1, 2, 3)).double().numpy())
    elif run.exists() and (folder / "pack.json").exists():
        packed = np.load(run)
        config: dict[str, Any] = json.loads((folder / "pack.json").read_text())["bank"]
        config["budgets"] = tuple(config["budgets"])
        drawn = build_bank(BankConfig(**config), latent_shape(folder))
        order = packed["order"].tolist()
        bank = Bank(drawn.timestep[order], drawn.noise[order], packed["weight"])
        if not np.array_equal(bank.timestep.numpy(), packed["timestep"]):
            raise FileNotFoundError(f"{folder}: pack.json and val_errors.npz are of different packings; pack again")
    else:
        raise FileNotFoundError(f"{folder} carries no probe bank: pack the run (cytoserve train pack) first")
    kept = slice(0, probes)
    return Bank(bank.timestep[kept], bank.noise[kept], bank.weight[kept])


def latent_shape(folder: Path) -> tuple[int, int, int]:
    """Return (c, h, w) of the latents of a run's or a checkpoint's autoencoder."""
    autoencoder = PatchPCAAutoencoder.load(folder / "vae")
    return autoencoder.latent_channels, autoencoder.grid, autoencoder.grid


def take(cells: CellSet, keep: NDArray[np.bool_]) -> CellSet:
    """Return some of the cells, whatever else the set may hold of each."""
    changed: dict[str, Any] = {}
    for item in fields(cells):
        value = getattr(cells, item.name)
        if isinstance(value, Tensor):
            changed[item.name] = value[torch.from_numpy(keep)]
        elif isinstance(value, tuple):
            changed[item.name] = tuple(v for v, kept in zip(value, keep.tolist(), strict=True) if kept)
    return replace(cells, **changed)


def without(cells: CellSet, name: str) -> CellSet:
    """Leave the cells of one class out; an empty name leaves none out."""
    return take(cells, cells.labels.numpy() != CLASSES.index(name)) if name else cells


def crops_of(
    cells: CellSet,
    rows: Tensor | None = None,
    augmentation: Augmentation | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cut crops as the denoiser's training does: (M, 96, 96, 3) float32 in 0..255.

    The one place where these benchmarks turn stored cells into crops.
    """
    images, gains = (cells.images, cells.gains) if rows is None else (cells.images[rows], cells.gains[rows])
    return cut(images, gains, augmentation, generator)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
