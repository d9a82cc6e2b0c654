"""How the reference denoiser is trained: far from home first, then near it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cytoserve_training.train_config import DenoiserTrainConfig


def reference_runs(
    data: Path, run: Path, trunk: str = "", device: str = "cpu", threads: int = 2
) -> tuple[DenoiserTrainConfig, ...]:
    """Return the runs, in folders below ``run``, each begun from the averaged weights of the one before.

    The second has milder augmentation from its beginning, more weight on the margin between classes, and timesteps
    where the bank of noise samples lies: after the first, more of the same gave nothing at home (docs/lessons.md).
    """
    wide = DenoiserTrainConfig(data=str(data), out=str(run / "wide"), trunk=trunk, device=device, threads=threads)
    home = replace(
        wide,
        out=str(run / "home"),
        start_from=wide.out,
        trunk="",
        steps=6000,
        margin_weight=0.1,
        time_mean=-0.8,
        learning_rate=3e-4,
        settling=(-0.6, 0.4),
        seed=wide.seed + 1,
    )
    return wide, home
