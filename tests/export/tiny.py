"""Random checkpoints in the contract's layout, small enough for tests: one of each kind the export must take."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_networks.autoencoder import PatchPCAAutoencoder
from cytoserve_networks.detector import DetectorNet, DetectorNetConfig
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

PROBES = 5


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def edit_json(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


def heads_checkpoint(folder: Path) -> Path:
    """Like the reference model: all classes at once, v-prediction, cosine schedule, PCA autoencoder, a segmenter."""
    return _pca_checkpoint(folder, 3, out_channels=18)


def embedding_checkpoint(folder: Path) -> Path:
    """Like the reference model before: the class as an embedding, all else as :func:`heads_checkpoint`."""
    return _pca_checkpoint(
        folder, 1, out_channels=6, class_embed_type="projection", projection_class_embeddings_input_dim=3
    )


def _pca_checkpoint(folder: Path, seed: int, **how: Any) -> Path:
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=6,
        block_out_channels=(16, 24),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=3,
        resnet_time_scale_shift="scale_shift",
        **how,
    )
    unet.half().save_pretrained(folder / "unet")
    autoencoder = PatchPCAAutoencoder(patch=6, latent_channels=6, size=24)
    autoencoder.fit(torch.randint(0, 256, (40, 24, 24, 3), dtype=torch.uint8))
    autoencoder.save(folder / "vae")
    DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction").save_pretrained(
        folder / "scheduler"
    )
    DetectorNet(DetectorNetConfig(channels=(8, 8, 8, 8, 8), groups=4, head_channels=8)).save(folder / "segmenter")
    mask = autoencoder.patch_mask()
    _common(folder, ["red", "green", "blue"], (6, 4, 4), mask, {"size": 24, "um_per_pixel": 1.0, "circular": True})
    return folder


def context_checkpoint(folder: Path) -> Path:
    """Like CytoDiffusion: one-hot context, epsilon prediction, AutoencoderKL, an odd latent grid, no segmenter."""
    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        sample_size=15,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
    )
    unet.half().save_pretrained(folder / "unet")
    autoencoder = AutoencoderKL(
        sample_size=30,
        latent_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )
    autoencoder.half().save_pretrained(folder / "vae")
    DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
        folder / "scheduler"
    )
    mask = (torch.rand(15, 15) > 0.3).float()
    pre = {"size": 30, "um_per_pixel": 1.0, "circular": False}
    _common(folder, ["red", "green", "blue", "grey"], (4, 15, 15), mask, pre)
    return folder


def _common(
    folder: Path, classes: list[str], shape: tuple[int, int, int], mask: torch.Tensor, preprocessing: dict[str, Any]
) -> None:
    write_json(folder / "model_index.json", {"_class_name": "CytoDiffusion", "name": "tiny", "version": "7"})
    write_json(folder / "classes.json", {"classes": classes})
    write_json(folder / "preprocessing.json", preprocessing)
    all_classes = json.loads((folder / "unet" / "config.json").read_text())["out_channels"] > shape[0]
    write_json(
        folder / "scoring" / "scoring.json",
        {
            "classes": classes,
            "all_classes": all_classes,
            "probes": PROBES,
            "default_budget": 3,
            "temperature": [1.0] * PROBES,
            "accept_threshold": [None] * PROBES,
            "latent_shape": list(shape),
        },
    )
    turning = {}
    if all_classes:
        turning = {
            "turn": torch.tensor([1, 0, 3, 2, 1]),
            "turn_matrix": torch.linalg.qr(torch.randn(shape[0], shape[0]))[0].contiguous(),
            "turn_offset": torch.randn(shape[0]),
        }
    save_file(
        {
            **turning,
            "timestep": torch.tensor([10, 900, 500, 250, 740]),
            "noise": torch.randn(PROBES, *shape).half(),
            "weight": torch.rand(PROBES, shape[0], 1, 1) + 0.5,
            "mask": mask,
        },
        folder / "scoring" / "probes.safetensors",
    )


def cell_images(folder: Path, classes: tuple[str, ...], count: int) -> Path:
    """Write ``count`` noisy images per class; what is in them does not matter, only that they differ."""
    generator = np.random.default_rng(3)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@dataclass(frozen=True)
class Exported:
    """A checkpoint and the two repositories made from it."""

    checkpoint: Path
    target: Path
    synthesis: Path
    manifests: dict[str, dict[str, Any]]
    stages: list[str]

    def graph(self, name: str) -> Path:
        root = self.synthesis if name in ("decoder", "noise_predictor") else self.target
        return root / name / "1" / "model.onnx"
