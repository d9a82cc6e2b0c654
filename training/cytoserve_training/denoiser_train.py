"""Train the denoiser: seeded, resumable, with an average of the weights kept aside (EMA).

One loss: the true class's denoising error, plus a small multiple of the cross-entropy over the errors of all classes
(:class:`.denoiser.ClassMargin`). Cells of several sites share each batch; a part of it shows strangers, for which no
class may lead (:mod:`.strangers`).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from cytoserve_files import output_file, write_text
from cytoserve_networks.autoencoder import WEIGHTS_NAME, PatchPCAAutoencoder
from diffusers import UNet2DConditionModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from cytoserve_training.batches import Batches
from cytoserve_training.cells import CLASSES, cut
from cytoserve_training.denoiser import (
    TRAIN_TIMESTEPS,
    ClassMargin,
    DenoiserConfig,
    build_scheduler,
    build_unet,
    class_errors_of,
    diffuse,
    predict_all,
    take_trunk,
)
from cytoserve_training.plots import plot_metrics
from cytoserve_training.sites import load_site
from cytoserve_training.train_config import DenoiserTrainConfig


class Trainer:
    """State of a run: network, its average, optimiser, random generator, step."""

    def __init__(self, config: DenoiserTrainConfig) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.step = 0
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(config.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.batches = Batches(config, self.generator)
        self.validation = {
            name: load_site(
                Path(config.data), name, "val", config.validation_cells_per_class if name == "pbc" else None
            )
            for name in config.seen_sites()
        }
        self.autoencoder = self._fit_autoencoder().to(self.device)
        self.mask = self.autoencoder.patch_mask().to(self.device)
        deviation = self.autoencoder.inverse.norm(dim=0)
        self.channel_weight = deviation / deviation.mean()
        self.alphas_cumprod = build_scheduler().alphas_cumprod.to(self.device)
        self.unet: nn.Module = build_unet(DenoiserConfig()).to(self.device, memory_format=torch.channels_last)
        self.average = build_unet(DenoiserConfig()).to(self.device, memory_format=torch.channels_last)
        self.average.load_state_dict(self.unet.state_dict())
        self.margin = ClassMargin().to(self.device)
        self.optimiser = torch.optim.AdamW(
            [
                {"params": self.unet.parameters(), "weight_decay": config.weight_decay},
                {"params": self.margin.parameters(), "weight_decay": 0.0, "factor": 20.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.99),
        )
        self.trunk_sha256: str | None = None
        if config.start_from:
            self._start_from(Path(config.start_from))
        elif config.trunk:
            folder = Path(config.trunk) / "unet"
            self.trunk_sha256 = hashlib.sha256((folder / WEIGHTS_NAME).read_bytes()).hexdigest()
            told = UNet2DConditionModel.from_pretrained(folder).float()
            for network in (self.unet, self.average):
                take_trunk(network, told)

    def _fit_autoencoder(self) -> PatchPCAAutoencoder:
        if before := self.config.start_from or self.config.trunk:
            autoencoder = PatchPCAAutoencoder.load(Path(before) / "vae")
            autoencoder.save(self.out / "vae")
            return autoencoder
        crops, _ = self.batches.cells_only(self.config.encoder_cells, self.done)
        autoencoder = PatchPCAAutoencoder()
        autoencoder.fit(crops)
        autoencoder.save(self.out / "vae")
        return autoencoder

    def _start_from(self, run: Path) -> None:
        """Take over weights and margin scales of an earlier run; the optimiser starts afresh."""
        state: dict[str, Any] = torch.load(run / "state.pt", map_location=self.device, weights_only=True)
        for network in (self.unet, self.average):
            network.load_state_dict(state["average"])
        self.margin.load_state_dict(state["margin"])

    @property
    def done(self) -> float:
        """Share of the steps that are done."""
        return self.step / max(1, self.config.steps)

    def batch(self) -> tuple[Tensor, Tensor, int]:
        """Draw a batch: its latents, the labels of its cells, and how many of its rows, the last, are strangers."""
        crops, labels, strange = self.batches.draw(self.done)
        with torch.no_grad():
            latents = self.autoencoder.encode(crops.to(self.device))
        return latents, labels.to(self.device), strange

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to the final rate."""
        c = self.config
        if self.step < c.warmup:
            return c.learning_rate * (self.step + 1) / c.warmup
        done = min(1.0, (self.step - c.warmup) / max(1, c.steps - c.warmup))
        return c.final_learning_rate + (c.learning_rate - c.final_learning_rate) * 0.5 * (1 + math.cos(math.pi * done))

    def errors(self, latents: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Return the (B, K) errors of the network in training."""
        noisy, target = diffuse(latents, noise, timestep, self.alphas_cumprod)
        noisy = noisy.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            prediction = predict_all(self.unet, noisy, timestep, len(CLASSES))
        return class_errors_of(prediction, target, self.channel_weight, self.mask)

    def train_step(self) -> dict[str, float]:
        """Do one optimiser step and return what is worth writing down."""
        config = self.config
        latents, labels, strange = self.batch()
        count = len(labels)
        drawn = config.time_mean + config.time_spread * torch.randn(len(latents), generator=self.generator)
        timestep = (torch.sigmoid(drawn) * TRAIN_TIMESTEPS).long()
        timestep = timestep.clamp(0, TRAIN_TIMESTEPS - 1).to(self.device)
        noise = torch.randn(latents.shape, generator=self.generator).to(self.device)
        errors = self.errors(latents, timestep, noise)
        true = errors[:count].gather(1, labels[:, None]).mean()
        margin = self.margin(errors[:count], timestep[:count], labels)
        loss = true + config.margin_weight * margin
        right = (errors[:count].argmin(1) == labels).float().mean()
        record = {"loss": true.item(), "margin": margin.item(), "right": right.item()}
        if strange:
            nobody = self.margin.nobody(errors[count:], timestep[count:])
            loss = loss + config.margin_weight * strange / count * nobody
            record["nobody"] = nobody.item()
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return {**record, "rate": rate, "norm": norm.item()}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for kept, new in zip(self.average.parameters(), self.unet.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)

    def save(self) -> None:
        """Write the whole state aside, then rename: an interruption leaves the older one."""
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "unet": self.unet.state_dict(),
            "average": self.average.state_dict(),
            "margin": self.margin.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
        }
        with output_file(self.out / "state.pt") as file:
            torch.save(state, file)

    def resume(self) -> None:
        """Go on from ``state.pt`` where there is one."""
        path = self.out / "state.pt"
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.unet.load_state_dict(state["unet"])
        self.average.load_state_dict(state["average"])
        self.margin.load_state_dict(state["margin"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"].cpu())
        self.step = int(state["step"])

    def validate(self) -> dict[str, float]:
        """Return the balanced accuracy of the averaged weights on cells kept from training, by site, at four probes."""
        found = {}
        for name, cells in self.validation.items():
            latents = self.autoencoder.encode(cut(cells.images, cells.gains).to(self.device))
            probes = Probes.even(4, self.config.seed, latents.shape[1:], 0.16, 0.68)
            errors = class_errors(self.average, latents, probes, self.channel_weight, self.mask, self.alphas_cumprod)
            guess, labels = errors.mean(1).argmin(1).cpu(), cells.labels
            recalls = [(guess[labels == c] == c).float().mean().item() for c in labels.unique().tolist()]
            found[f"val_balanced_accuracy_{name}"] = sum(recalls) / len(recalls)
        return found


@dataclass(frozen=True)
class Probes:
    """A bank of probes: (P,) int64 timesteps, (P, C, h, w) float32 noise and (P,) int64 quarters.

    ``turn`` says by how many quarters a probe has each cell turned; None: by none.
    """

    timestep: Tensor
    noise: Tensor
    turn: Tensor | None = None

    @classmethod
    def even(cls, count: int, seed: int, shape: tuple[int, ...], low: float = 0.08, high: float = 0.92) -> Probes:
        """Spread ``count`` timesteps evenly between ``low`` and ``high`` of the schedule."""
        generator = torch.Generator().manual_seed(seed)
        timestep = (torch.linspace(low, high, count) * TRAIN_TIMESTEPS).round().long()
        return cls(timestep, torch.randn(count, *shape, generator=generator))


@torch.no_grad()
def class_errors(
    unet: nn.Module,
    latents: Tensor,
    probes: Probes,
    channel_weight: Tensor,
    mask: Tensor,
    alphas_cumprod: Tensor,
    batch: int = 128,
    classes: int = len(CLASSES),
    quarter_turn: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the (M, P, K) errors of every cell under every probe and class.

    ``quarter_turn`` (`PatchPCAAutoencoder.quarter_turn`) is needed where probes turn the cells.
    """
    cells, count = len(latents), len(probes.timestep)
    ways = [latents]
    if probes.turn is not None and quarter_turn is not None:
        matrix, offset = quarter_turn
        for _ in range(3):
            mixed = torch.einsum("ij,mjhw->mihw", matrix, torch.rot90(ways[-1], 1, (2, 3)))
            ways.append(mixed + offset[:, None, None])
    turned = torch.stack(ways)
    quarters = torch.zeros(count, dtype=torch.long) if probes.turn is None else probes.turn
    index = torch.cartesian_prod(torch.arange(cells), torch.arange(count))
    out = []
    for rows in index.split(batch):
        cell, probe = (column.to(latents.device) for column in rows.unbind(1))
        timestep = probes.timestep.to(latents.device)[probe]
        seen = turned[quarters.to(latents.device)[probe], cell]
        noisy, target = diffuse(seen, probes.noise.to(latents.device)[probe], timestep, alphas_cumprod)
        with torch.autocast(latents.device.type, torch.bfloat16):
            prediction = predict_all(unet, noisy.to(memory_format=torch.channels_last), timestep, classes)
        out.append(class_errors_of(prediction, target, channel_weight, mask))
    return torch.cat(out).reshape(cells, count, classes)


def _rows(path: Path) -> Iterator[dict[str, float]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def train(config: DenoiserTrainConfig) -> Path:
    """Train (or go on training) and return the run's folder.

    Writes ``state.pt`` (resumable), ``metrics.jsonl``, ``metrics.png`` and ``config.json``.
    """
    trainer = Trainer(config)
    trainer.resume()
    told = {**asdict(config), "trunk_sha256": trainer.trunk_sha256}
    write_text(trainer.out / "config.json", json.dumps(told, indent=2) + "\n")
    metrics = trainer.out / "metrics.jsonl"
    kept = [row for row in _rows(metrics) if row["step"] <= trainer.step]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    write_text(metrics, "".join(json.dumps(row) + "\n" for row in kept))
    with metrics.open("a") as log, Progress(*columns) as progress:
        task = progress.add_task("denoiser", total=config.steps, completed=trainer.step)
        window: list[dict[str, float]] = []
        began = time.monotonic()
        while trainer.step < config.steps:
            window.append(trainer.train_step())
            progress.advance(task)
            if trainer.step % 50 == 0:
                keys = window[-1].keys()
                row = {"step": trainer.step, **{k: sum(w.get(k, 0.0) for w in window) / len(window) for k in keys}}
                row["seconds"] = (time.monotonic() - began) / len(window)
                if trainer.step % config.validate_every == 0 or trainer.step == config.steps:
                    row.update(trainer.validate())
                log.write(json.dumps(row) + "\n")
                log.flush()
                window, began = [], time.monotonic()
            if trainer.step % config.save_every == 0 or trainer.step == config.steps:
                trainer.save()
    plot_metrics(metrics, trainer.out / "metrics.png", ("loss", "margin", "balanced_accuracy"))
    return trainer.out


def load_average(run: Path, device: str = "cpu") -> tuple[UNet2DConditionModel, PatchPCAAutoencoder]:
    """Return the averaged network and the autoencoder of a run."""
    state = torch.load(run / "state.pt", map_location=device, weights_only=True)
    unet = build_unet(DenoiserConfig())
    unet.load_state_dict(state["average"])
    return unet.eval(), PatchPCAAutoencoder.load(run / "vae")
