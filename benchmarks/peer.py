"""A discriminative peer: a small residual network trained on the same cells, crops and augmentation as the denoiser.

    python -m benchmarks.peer train --out runs/peer --steps 2500
    python -m benchmarks.peer train --out runs/peer_without_erythroblast --leave-out erythroblast --steps 2500
    python -m benchmarks.peer evaluate runs/peer

It exists to be compared with (``benchmarks.anomaly``, ``benchmarks.foreign``) and is never served. A basic-block
residual network (He et al. 2016, section 4.2) with group instead of batch normalisation: batch statistics are what
fails first on a foreign microscope (Tsutsui et al. 2023), and the peer is to be a good one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_files import output_file, write_text
from cytoserve_networks.autoencoder import circular_window
from cytoserve_training.augment import Augmentation
from cytoserve_training.cells import CLASSES, load_cells
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F

from .denoiser import crops_of, without
from .statistics import balanced_accuracy, balanced_accuracy_interval

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class PeerConfig:
    """Everything a run depends on besides the data; written beside its checkpoint."""

    data: str = "../shared/data/pbc"
    out: str = "runs/peer"
    steps: int = 2500
    batch: int = 64
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-5
    warmup: int = 100
    weight_decay: float = 0.05
    ema: float = 0.995
    seed: int = 20261125
    leave_out: str = ""
    save_every: int = 100
    threads: int = 2
    train_cells_per_class: int | None = None


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(16, outside)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(16, outside)
        same = inside == outside and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inside, h, w) to (B, outside, h / stride, w / stride)."""
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class PeerNet(nn.Module):
    """Residual network of four stages on crops seen through the denoiser's circular window; 2.8 million parameters."""

    window: Tensor

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256), blocks: int = 2, size: int = 96) -> None:
        super().__init__()
        self.register_buffer("window", circular_window(size))
        self.stem = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.GroupNorm(16, widths[0])
        stages: list[nn.Module] = []
        inside = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stages.append(Block(inside, width, 2 if stage > 0 and block == 0 else 1))
                inside = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inside, len(CLASSES))
        # Convolutions on a CPU are faster so.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 96, 96, 3) crops in 0..255 to (B, C) logits and (B, width) pooled features."""
        x = (crops.permute(0, 3, 1, 2).float() / 127.5 - 1.0) * self.window
        x = F.relu(self.stem_norm(self.stem(x.contiguous(memory_format=torch.channels_last))))
        features = self.stages(F.max_pool2d(x, 3, 2, 1)).mean((2, 3)).float()
        return self.head(features).float(), features


class PeerTrainer:
    """State of a run: network, its average, optimiser, random generator, step."""

    def __init__(self, config: PeerConfig) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.cells = without(load_cells(Path(config.data) / "train", config.train_cells_per_class), config.leave_out)
        self.net = PeerNet()
        self.average = PeerNet()
        self.average.load_state_dict(self.net.state_dict())
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        counts = torch.bincount(self.cells.labels, minlength=len(CLASSES)).float().clamp(min=1)
        # As the denoiser's Trainer.sampling: classes balanced by square root.
        self.sampling = counts.rsqrt()[self.cells.labels]

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to the final rate."""
        c = self.config
        if self.step < c.warmup:
            return c.learning_rate * (self.step + 1) / c.warmup
        done = (self.step - c.warmup) / max(1, c.steps - c.warmup)
        return c.final_learning_rate + (c.learning_rate - c.final_learning_rate) * 0.5 * (1 + math.cos(math.pi * done))

    def train_step(self) -> float:
        """Do one optimiser step and return the cross entropy."""
        rows = torch.multinomial(self.sampling, self.config.batch, replacement=True, generator=self.generator)
        crops = crops_of(self.cells, rows, Augmentation(), self.generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits, _ = self.net(crops)
        loss = F.cross_entropy(logits.float(), self.cells.labels[rows])
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.net.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return float(loss.item())

    def save(self) -> None:
        """Write the whole state aside, then rename: an interruption leaves the older one."""
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
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
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["config"]["leave_out"] != self.config.leave_out:
            raise ValueError(f"{path} was trained with leave_out={state['config']['leave_out']!r}; name another --out")
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.step = int(state["step"])


def train(config: PeerConfig) -> Path:
    """Train (or go on training) and return the run's folder: ``state.pt``, ``config.json``, ``metrics.jsonl``."""
    trainer = PeerTrainer(config)
    trainer.resume()
    write_text(trainer.out / "config.json", json.dumps(asdict(config), indent=2) + "\n")
    metrics = trainer.out / "metrics.jsonl"
    kept = [row for row in _rows(metrics) if row["step"] <= trainer.step]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    write_text(metrics, "".join(json.dumps(row) + "\n" for row in kept))
    with metrics.open("a") as log, Progress(*columns) as progress:
        task = progress.add_task("peer", total=config.steps, completed=trainer.step)
        window: list[float] = []
        began = time.monotonic()
        while trainer.step < config.steps:
            window.append(trainer.train_step())
            progress.advance(task)
            if trainer.step % 20 == 0 or trainer.step == config.steps:
                row = {"step": trainer.step, "loss": sum(window) / len(window), "rate": trainer.learning_rate()}
                row["seconds"] = (time.monotonic() - began) / len(window)
                log.write(json.dumps(row) + "\n")
                log.flush()
                window, began = [], time.monotonic()
            if trainer.step % config.save_every == 0 or trainer.step == config.steps:
                trainer.save()
    return trainer.out


def _rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True)
class Peer:
    """A trained peer: the averaged weights of a run.

    Attributes
    ----------
    net : PeerNet
    config : PeerConfig
    """

    net: PeerNet
    config: PeerConfig

    @classmethod
    def load(cls, run: Path) -> Peer:
        """Read ``state.pt`` of a run."""
        state: dict[str, Any] = torch.load(run / "state.pt", weights_only=True)
        net = PeerNet()
        net.load_state_dict(state["average"])
        return cls(net.eval(), PeerConfig(**state["config"]))

    @torch.no_grad()
    def answers(self, crops: Tensor, batch: int = 128) -> tuple[Doubles, Doubles]:
        """Return (M, C) logits and (M, F) penultimate features of (M, 96, 96, 3) crops in 0..255.

        The logit of a class that the peer was trained without is minus infinity: it is not offered as an answer.
        """
        found = []
        for part in torch.split(crops, batch):
            with torch.autocast("cpu", torch.bfloat16):
                found.append(self.net(part))
        logits = torch.cat([a for a, _ in found]).double().numpy()
        features = torch.cat([b for _, b in found]).double().numpy()
        if self.config.leave_out:
            logits[:, CLASSES.index(self.config.leave_out)] = -np.inf
        return logits, features


def evaluate(run: Path, folder: Path) -> dict[str, Any]:
    """Return the balanced accuracy of a peer on a folder of cells, over the classes it was trained with."""
    peer = Peer.load(run)
    cells = without(load_cells(folder), peer.config.leave_out)
    logits, _ = peer.answers(crops_of(cells))
    guess, truth = logits.argmax(axis=1), cells.labels.numpy()
    return {
        "cells": len(truth),
        "balanced_accuracy": round(balanced_accuracy(guess, truth), 4),
        "interval": [round(x, 4) for x in balanced_accuracy_interval(guess, truth)],
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    teach = commands.add_parser("train", help="train, or go on with a run that was interrupted")
    defaults = PeerConfig()
    teach.add_argument("--data", default=defaults.data)
    teach.add_argument("--out", default=defaults.out)
    teach.add_argument("--steps", type=int, default=defaults.steps)
    teach.add_argument("--batch", type=int, default=defaults.batch)
    teach.add_argument("--leave-out", default="", choices=["", *CLASSES], help="train without this class")
    teach.add_argument("--threads", type=int, default=defaults.threads)
    teach.add_argument("--train-cells-per-class", type=int, help="for a quick look only")
    measure = commands.add_parser("evaluate", help="balanced accuracy on pbc/val")
    measure.add_argument("run", type=Path)
    measure.add_argument("--folder", type=Path, default=Path(defaults.data) / "val")
    measure.add_argument("--threads", type=int, default=defaults.threads)
    args = vars(parser.parse_args())
    if args.pop("command") == "train":
        print(train(PeerConfig(**args)))
        return
    torch.set_num_threads(args["threads"])
    print(json.dumps(evaluate(args["run"], args["folder"]), indent=1))


if __name__ == "__main__":
    main()
