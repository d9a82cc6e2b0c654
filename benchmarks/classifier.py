"""The opponent of a short run of the denoiser: a residual classifier, trained on the same draws of the same cells.

    python -m benchmarks.classifier runs/left_bcisc

It sees the crops themselves, not the latents, under the same augmentation: what differs is that it learns to tell the
classes apart, and not to predict noise under each. It gets half as many steps of as many cells; how well either knows
the sites that it was trained on stands beside the result (docs/evidence.md).

References
----------
Tsutsui et al. 2023, "Benchmarking White Blood Cell Classification Under Domain Shift", arXiv 2303.01777.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import torch
from cytoserve_files import output_file, read_text
from cytoserve_training.batches import Batches
from cytoserve_training.cells import CLASSES
from cytoserve_training.train_config import DenoiserTrainConfig
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

WIDTHS: Final = (32, 64, 128, 256)
"""Channels of the four stages: 2.8 million weights. It trains three times as fast as the denoiser."""
GROUPS: Final = 16
LEARNING_RATE: Final = 2e-3
SAVE_EVERY: Final = 500
WEIGHTS: Final = "classifier.pt"
"""File in the folder of the denoiser's run."""


def norm(channels: int) -> nn.Module:
    """Return group normalisation: batch normalisation fails under another stain (Tsutsui et al. 2023)."""
    return nn.GroupNorm(GROUPS, channels)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016, the block of ResNet-18)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.first_norm = norm(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.second_norm = norm(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm(out))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the (B, out, h, w) features of (B, channels, H, W)."""
        inner = F.relu(self.first_norm(self.first(rows)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(rows))


def build_classifier() -> nn.Sequential:
    """Return a ResNet-18 (He et al. 2016) of half its width: (B, 3, 96, 96) in 0..1 to (B, K) logits."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False),
        norm(WIDTHS[0]),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    before = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        layers += [ResidualBlock(before, width, 1 if stage == 0 else 2), ResidualBlock(width, width, 1)]
        before = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, len(CLASSES))]
    return nn.Sequential(*layers)


def as_input(crops: Tensor) -> Tensor:
    """Return (B, 96, 96, 3) crops in 0..255 as the classifier takes them."""
    return (crops.permute(0, 3, 1, 2) / 255).contiguous(memory_format=torch.channels_last)


class ClassifierTraining:
    """A run of the classifier: resumable, with an average of the weights kept aside."""

    def __init__(self, config: DenoiserTrainConfig, path: Path) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.path = path
        self.network: nn.Module = build_classifier().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.steps = config.steps // 2
        self.step = 0
        if path.exists():
            self._resume(torch.load(path, weights_only=True))

    def _resume(self, state: dict[str, Any]) -> None:
        for name in ("network", "average", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.step = int(state["step"])

    def save(self) -> None:
        """Write the whole state."""
        parts = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimiser")}
        with output_file(self.path) as file:
            torch.save({**parts, "generator": self.generator.get_state(), "step": self.step}, file)

    def run(self) -> nn.Module:
        """Train what is left of the steps, and return the average."""
        if self.step < self.steps:
            batches = Batches(self.config, self.generator)
            for _ in track(range(self.steps - self.step), "classifier", console=Console(stderr=True)):
                self._train_step(batches)
                if self.step % SAVE_EVERY == 0 or self.step == self.steps:
                    self.save()
        return self.average.eval()

    def _train_step(self, batches: Batches) -> None:
        config, done = self.config, self.step / self.steps
        crops, labels = batches.cells_only(config.batch - config.strange, done)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.network(as_input(crops))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        rate = min(1.0, (self.step + 1) / config.warmup) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimiser.param_groups:
            group["lr"] = LEARNING_RATE * rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        self.average.update_parameters(self.network)


@torch.no_grad()
def class_probabilities(network: nn.Module, crops: Tensor, batch: int = 256) -> Tensor:
    """Return the (M, K) probabilities of (M, 96, 96, 3) crops: means over the four quarter turns of each.

    The denoiser's bank sees every cell in its quarter turns, so the opponent does.
    """
    found = []
    for part in as_input(crops).split(batch):
        turns = [network(torch.rot90(part, turn, (2, 3))).softmax(1) for turn in range(4)]
        found.append(torch.stack(turns).mean(0))
    return torch.cat(found)


def classifier_of(run: Path) -> nn.Module:
    """Return the classifier beside a run of the denoiser, trained as that was told; trained first where it is not."""
    told = json.loads(read_text(run / "config.json"))
    names = {field.name for field in fields(DenoiserTrainConfig)}
    lists = {key: tuple(value) for key, value in told.items() if isinstance(value, list)}
    config = DenoiserTrainConfig(**{key: value for key, value in {**told, **lists}.items() if key in names})
    torch.set_num_threads(config.threads)
    return ClassifierTraining(config, run / WEIGHTS).run()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+", help="run of a denoiser, beside which the classifier is trained")
    for run in parser.parse_args().run:
        classifier_of(run)


if __name__ == "__main__":
    main()
