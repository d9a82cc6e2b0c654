"""Write a trained run as a checkpoint in the ``diffusers`` layout, with its probe bank and fitted scoring."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_scoring.constants import CROP_SIZE, CROP_UM_PER_PIXEL
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from .autoencoder import PatchPCAAutoencoder
from .cells import CLASSES, CellSet, cut, load_cells
from .denoiser import build_scheduler
from .denoiser_train import Probes, class_errors, load_average
from .probes import BankConfig, balanced_accuracy, build_bank, fit_scoring, latents_of, probe_weightings


@dataclass(frozen=True)
class PackConfig:
    """What is packed and on what it is fitted."""

    data: str = "../shared/data/pbc"
    run: str = "runs/denoiser"
    out: str = "models/reference"
    cells_per_class: int = 80
    threads: int = 2
    bank: BankConfig = field(default_factory=BankConfig)


def pick(cells: CellSet, per_class: int) -> Tensor:
    """Return the rows of ``per_class`` cells of each class, chosen by hash of the name (not by file order)."""
    keys = [hashlib.sha256(name.encode()).hexdigest() for name in cells.names]
    rows: list[int] = []
    for label in cells.labels.unique().tolist():
        of_class = [i for i, other in enumerate(cells.labels.tolist()) if other == label]
        rows += sorted(of_class, key=lambda i: keys[i])[:per_class]
    return torch.tensor(rows)


def pack(config: PackConfig) -> Path:
    """Fit the scoring of a run on validation cells and write the checkpoint; the segmenter's folder is left alone."""
    torch.set_num_threads(config.threads)
    unet, autoencoder, margin = load_average(Path(config.run))
    # Fitted in the precision that is stored: half, and back.
    unet = unet.half().float().to(memory_format=torch.channels_last)
    cells = load_cells(Path(config.data) / "val")
    rows = pick(cells, config.cells_per_class)
    latents = latents_of(cut(cells.images[rows], cells.gains[rows]), autoencoder.encode)
    bank = build_bank(config.bank, tuple(latents.shape[1:]))
    deviation = autoencoder.inverse.norm(dim=0)
    channel_weight, mask = deviation / deviation.mean(), autoencoder.patch_mask()
    raw = class_errors(unet, latents, bank, channel_weight, mask, build_scheduler().alphas_cumprod).double().numpy()
    labels = cells.labels[rows].numpy()
    trials = {}
    for name, weight in probe_weightings(raw, bank.timestep, margin.get("log_scale")).items():
        guess = (raw * weight[None, :, None]).mean(axis=1).argmin(axis=1)
        trials[name] = (balanced_accuracy(guess, labels), weight)
    chosen = max(trials, key=lambda name: trials[name][0])
    weight = trials[chosen][1]
    scoring = fit_scoring(raw * weight[None, :, None], labels, CLASSES, config.bank)
    scoring["latent_shape"] = list(latents.shape[1:])
    scoring["weighting"] = chosen
    scoring["weightings_tried"] = {name: round(value, 4) for name, (value, _) in trials.items()}
    scoring["fitted_on"] = (
        f"pbc/val, {len(rows)} cells, {config.cells_per_class} a class at most, chosen by hash of the name"
    )
    write(Path(config.out), unet, autoencoder, bank, channel_weight, weight, mask, scoring)
    training = json.loads((Path(config.run) / "config.json").read_text())
    told = {key: value for key, value in training.items() if key not in ("data", "out", "device", "threads")}
    (Path(config.out) / "training.json").write_text(json.dumps(told, indent=1) + "\n")
    np.savez_compressed(Path(config.run) / "val_errors.npz", raw=raw, labels=labels, timestep=bank.timestep.numpy())
    (Path(config.run) / "pack.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    return Path(config.out)


def write(
    out: Path,
    unet: UNet2DConditionModel,
    autoencoder: PatchPCAAutoencoder,
    bank: Probes,
    channel_weight: Tensor,
    probe_weight: Any,
    mask: Tensor,
    scoring: dict[str, Any],
) -> None:
    """Write all folders of the checkpoint aside, then move each into place."""
    aside = out.with_name(out.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    unet.half().save_pretrained(aside / "unet", safe_serialization=True)
    autoencoder.save(aside / "vae")
    build_scheduler().save_pretrained(aside / "scheduler")
    (aside / "scoring").mkdir()
    weight = torch.as_tensor(probe_weight)[:, None] * channel_weight[None] / len(channel_weight)
    save_file(
        {
            "timestep": bank.timestep,
            "noise": bank.noise.half(),
            "weight": weight.float()[:, :, None, None].contiguous(),
            "mask": mask,
        },
        aside / "scoring" / "probes.safetensors",
    )
    documents = {
        "scoring/scoring.json": scoring,
        "classes.json": {"classes": list(CLASSES)},
        "preprocessing.json": {"size": CROP_SIZE, "um_per_pixel": CROP_UM_PER_PIXEL, "circular": True},
        "model_index.json": {
            "_class_name": "CytoDiffusion",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["cytoserve_training.autoencoder", "PatchPCAAutoencoder"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "segmenter": ["cytoserve_training.segmenter_model", "SegmenterNet"],
        },
    }
    for name, document in documents.items():
        (aside / name).write_text(json.dumps(document, indent=1) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for item in aside.iterdir():
        target = out / item.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(item, target)
    aside.rmdir()
