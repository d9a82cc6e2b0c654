"""Checkpoints of CytoDiffusion's real configuration with random weights: to test and to time, not to classify.

No trained weights can be had publicly, so these stand in their place: the network of Stable Diffusion 1.5
(``UNet2DConditionModel``, ``AutoencoderKL``), the class as a one-hot vector in 77 equal tokens of width 768, 360 px
crops, 45 x 45 x 4 latents, the error's circle of radius 20, and the published weights of the timesteps.

Sources: the configuration files of Stable Diffusion 1.5; Deltadahl et al. 2025 and its published code (class tokens,
circle, weights).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from cytoserve_files import write_text
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

CLASSES: Final = (
    "artefact",
    "basophil",
    "blast",
    "eosinophil",
    "erythroblast",
    "immature_granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)
"""The ten classes of CytoData, on which CytoDiffusion was trained."""

CROP: Final = 360
LATENT: Final = 45
RADIUS: Final = 20
POLYNOMIAL: Final = (0.9270553940204841, 9.836536887830196, -4.6840608002246205, 6.018538389994896, -9.339786177681749)
"""Coefficients a0 to a4 of the published polynomial in ``(1000 - t) / 1000``; the weight is its reciprocal."""


_ROW: Final = 1_000_003  # a prime, so that no two layers of one shape hold the same values


@dataclass(frozen=True)
class Size:
    """Widths of one variant; everything else is Stable Diffusion 1.5's."""

    unet: tuple[int, int, int, int]
    vae: tuple[int, int, int, int]
    vae_groups: int


SIZES: Final = {
    "full": Size((320, 640, 1280, 1280), (128, 256, 512, 512), 32),
    "tenth": Size((32, 64, 128, 128), (16, 32, 64, 64), 16),
}


def unet_config(size: Size) -> dict[str, Any]:
    """Return the arguments of ``UNet2DConditionModel``: Stable Diffusion 1.5's but for the widths and the grid."""
    cross = "CrossAttnDownBlock2D"
    return {
        "sample_size": LATENT,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": size.unet,
        "down_block_types": (cross, cross, cross, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
    }


def vae_config(size: Size) -> dict[str, Any]:
    """Return the arguments of ``AutoencoderKL``: Stable Diffusion 1.5's but for the widths and the image's side."""
    return {
        "sample_size": CROP,
        "latent_channels": 4,
        "block_out_channels": size.vae,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": size.vae_groups,
        "scaling_factor": 0.18215,
    }


def error_mask() -> Tensor:
    """Return the (45, 45) float32 circle of radius 20 round the centre, border included."""
    at = torch.arange(LATENT) - LATENT // 2
    return ((at[:, None] ** 2 + at[None, :] ** 2) <= RADIUS**2).float()


def timestep_weight(timestep: Tensor) -> Tensor:
    """Return the published weight of (P,) timesteps: ``1 / (a0 + a1 u + ... + a4 u^4)``, ``u = (1000 - t) / 1000``."""
    u = (1000 - timestep.double()) / 1000
    powers = torch.stack([u**power for power in range(len(POLYNOMIAL))], dim=-1)
    return (1 / (powers @ torch.tensor(POLYNOMIAL, dtype=torch.float64))).float()


def write_checkpoint(folder: Path, size: str, *, probes: int = 8, with_vae: bool = True) -> Path:
    """Write a random checkpoint in the layout of ``docs/contract.md`` and return its folder.

    ``size`` is ``full`` (860 million parameters: 1.7 GB on disk, some 7 GB of memory while it is made) or ``tenth``.
    The timesteps of the ``probes`` are spread evenly over 1..999. Without ``with_vae`` the autoencoder has a
    configuration but no weights.
    """
    torch.manual_seed(0)
    chosen = SIZES[size]
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**unet_config(chosen)), AutoencoderKL(**vae_config(chosen))
    _write_random(unet, folder / "unet")
    if with_vae:
        _write_random(vae, folder / "vae")
    else:
        vae.save_config(folder / "vae")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    timestep = torch.linspace(1, 999, probes).round().long()
    bank = {
        "timestep": timestep,
        "noise": torch.randn(probes, 4, LATENT, LATENT).half(),
        "weight": timestep_weight(timestep)[:, None, None, None].expand(-1, 4, 1, 1).contiguous(),
        "mask": error_mask(),
    }
    (folder / "scoring").mkdir(exist_ok=True)
    save_file(bank, folder / "scoring" / "probes.safetensors")
    _write_descriptions(folder, size, probes)
    return folder


def _write_random(net: nn.Module, folder: Path) -> None:
    """Write the configuration and random fp16 weights of a network that lives on the ``meta`` device.

    Matrices and kernels are normal with variance ``1 / (3 fan_in)``, that of torch's own start; norms are near one,
    biases near zero. Values come from one long random row, read on from where the last tensor ended: a billion fresh
    ones would take minutes and be no more random to a test.
    """
    row, at = torch.randn(_ROW), 0
    tensors: dict[str, Tensor] = {}
    for name, shape in ((name, value.shape) for name, value in net.state_dict().items()):
        count = shape.numel()
        values = row.roll(-at).repeat(-(-count // _ROW))[:count].reshape(shape)
        at = (at + count) % _ROW
        if len(shape) > 1:
            values = values / (3 * shape[1:].numel()) ** 0.5
        else:
            values = values * 0.02 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        tensors[name] = values.half()
    cast(Any, net).save_config(folder)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


def _write_descriptions(folder: Path, size: str, probes: int) -> None:
    files: dict[str, dict[str, Any]] = {
        "model_index.json": {"_class_name": "CytoDiffusion", "name": f"cytodiffusion-{size}-random", "version": "0"},
        "classes.json": {"classes": list(CLASSES)},
        "preprocessing.json": {"size": CROP, "um_per_pixel": PBC_UM_PER_PIXEL, "circular": False},
        "scoring/scoring.json": {
            "classes": list(CLASSES),
            "probes": probes,
            "default_budget": probes,
            "temperature": [1.0] * probes,
            "accept_threshold": [None] * probes,  # random weights accept nothing
            "latent_shape": [4, LATENT, LATENT],
            "fitted_on": "nothing: random weights",
        },
    }
    for name, value in files.items():
        write_text(folder / name, json.dumps(value, indent=1) + "\n")
