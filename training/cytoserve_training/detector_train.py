"""Train the detector: seeded, resumable, the same code on CPU and GPU.

Every step draws its batch from a generator seeded by (seed, step), so a resumed run sees the same samples as one that
was never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from cytoserve_files import output_file, write_text
from cytoserve_networks.detector import KINDS, DetectorNet, DetectorNetConfig
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.nn import functional

from cytoserve_training.detector_data import clean_and_split
from cytoserve_training.detector_samples import FieldStore, SampleConfig, draw_sample
from cytoserve_training.plots import plot_metrics

SOURCE_SHARE = {"bccd": 0.42, "txl_bccd": 0.14, "txl_bccd_altered": 0.08, "txl_pbc": 0.18, "txl_raabin": 0.18}
"""How often each source is drawn. BCCD and TXL label the same fields differently; the network learns the average."""

BCCD_SHARE = {"bccd": 0.72, "txl_bccd": 0.10, "txl_bccd_altered": 0.02, "txl_pbc": 0.08, "txl_raabin": 0.08}
"""The same for the second stage, which settles on the external site's own labels."""


@dataclass(frozen=True)
class DetectorTrainConfig:
    """One training run.

    ``data`` holds ``smears`` and ``pbc``. ``run`` takes checkpoints, metrics and the plot; a run that is there already
    is resumed. ``out`` takes the finished model: the running average of the weights, with decay ``ema``; None leaves
    it in ``run``. ``share`` is how often each source is drawn. ``start_from`` is the checkpoint (``last.pt``) of
    another run whose average weights are the start.
    """

    data: Path
    run: Path
    out: Path | None = None
    seed: int = 7
    steps: int = 4000
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup: int = 150
    ema: float = 0.998
    side_loss: float = 1.0
    save_every: int = 100
    validate_every: int = 500
    keep_every: int = 500
    threads: int = 1
    device: str = "cpu"
    share: Mapping[str, float] = field(default_factory=lambda: dict(SOURCE_SHARE))
    start_from: Path | None = None
    net: DetectorNetConfig = field(default_factory=DetectorNetConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)


def second_stage(first: DetectorTrainConfig, run: Path, out: Path | None = None) -> DetectorTrainConfig:
    """Return the configuration of the second stage, which starts from the average weights of the ``first``.

    Cells cut by the window (not by the field's own edge) do not count in its loss, so the network learns how annotators
    label a field's edge; in the first stage both count alike.
    """
    return replace(
        first,
        run=run,
        out=out,
        seed=11,
        steps=400,
        batch=6,
        learning_rate=4e-4,
        warmup=20,
        ema=0.99,
        save_every=50,
        validate_every=200,
        keep_every=100,
        share=dict(BCCD_SHARE),
        start_from=first.run / "last.pt",
        samples=SampleConfig(crop=256, scale_low=0.8, scale_high=1.3, least_visible=0.95),
    )


@dataclass
class _State:
    """What a checkpoint holds."""

    net: DetectorNet
    average: DetectorNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0


def focal_loss(logits: torch.Tensor, heat: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the centre loss of "Objects as Points" (formula 1), divided by the number of centres.

    All arguments are (B, 3, h, w); ``weight`` is 0 where nothing is known.
    """
    score = logits.sigmoid()
    hit = (heat == 1).float()
    log_yes, log_no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    loss = hit * (1 - score) ** 2 * log_yes + (1 - hit) * (1 - heat) ** 4 * score**2 * log_no
    return -(loss * weight).sum() / hit.sum().clamp(min=1)


def side_loss(log_sides: torch.Tensor, sides: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of ``1 - GIoU`` plus a small log distance.

    Parameters
    ----------
    log_sides, sides : (B, 12, h, w)
        Predicted log distances and true distances (left, top, right, bottom) per kind.
    weight : (B, 3, h, w)
    """
    shape = (sides.shape[0], KINDS, 4, *sides.shape[2:])
    chosen = weight > 0
    raw = log_sides.clamp(-2.0, 6.5).reshape(shape).permute(0, 1, 3, 4, 2)[chosen]
    true = sides.reshape(shape).permute(0, 1, 3, 4, 2)[chosen]
    share = weight[chosen]
    guess = raw.exp()
    inner_w = torch.minimum(guess[:, 0], true[:, 0]) + torch.minimum(guess[:, 2], true[:, 2])
    inner_h = torch.minimum(guess[:, 1], true[:, 1]) + torch.minimum(guess[:, 3], true[:, 3])
    outer_w = torch.maximum(guess[:, 0], true[:, 0]) + torch.maximum(guess[:, 2], true[:, 2])
    outer_h = torch.maximum(guess[:, 1], true[:, 1]) + torch.maximum(guess[:, 3], true[:, 3])
    inner = inner_w * inner_h
    area_guess = (guess[:, 0] + guess[:, 2]) * (guess[:, 1] + guess[:, 3])
    area_true = (true[:, 0] + true[:, 2]) * (true[:, 1] + true[:, 3])
    union = area_guess + area_true - inner
    outer = outer_w * outer_h
    overlap = inner / union - (outer - union) / outer
    distance = functional.smooth_l1_loss(raw, true.log(), beta=0.1, reduction="none").mean(dim=1)
    return ((1 - overlap + 0.3 * distance) * share).sum() / share.sum().clamp(min=1e-3)


def _batch(
    store: FieldStore,
    order: NDArray[np.int64],
    config: DetectorTrainConfig,
    seed: tuple[int, ...],
    chances: NDArray[np.float64] | None,
) -> list[torch.Tensor]:
    """Draw one batch: image, heat, sides, side weight, heat weight."""
    rng = np.random.default_rng(seed)
    picks = rng.choice(order, size=config.batch, p=chances) if chances is not None else order
    drawn = [draw_sample(store, int(pick), config.samples, rng) for pick in picks]
    parts = [np.stack([image for image, _ in drawn])]
    parts += [
        np.stack([getattr(t, name) for _, t in drawn]) for name in ("heat", "sides", "side_weight", "heat_weight")
    ]
    return [torch.from_numpy(part).to(config.device) for part in parts]


def _losses(
    net: DetectorNet, batch: list[torch.Tensor], config: DetectorTrainConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    image, heat, sides, side_weight, heat_weight = batch
    image = image.to(memory_format=torch.channels_last)
    with torch.autocast(config.device, torch.bfloat16):
        centers, log_sides = net.logits(image)
    return focal_loss(centers.float(), heat, heat_weight), side_loss(log_sides.float(), sides, side_weight)


def _rate(step: int, config: DetectorTrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _start(config: DetectorTrainConfig) -> _State:
    torch.manual_seed(config.seed)
    net = DetectorNet(config.net).to(config.device)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = DetectorNet(config.net).to(config.device)
    average.load_state_dict(net.state_dict())
    decay = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    state = _State(net, average, torch.optim.AdamW(groups, lr=config.learning_rate))
    path = config.run / "last.pt"
    if config.start_from is not None and not path.exists():
        before = torch.load(config.start_from, map_location=config.device, weights_only=True)
        net.load_state_dict(before["average"])
        average.load_state_dict(before["average"])
        # The optimizer's moments go along: they are of the same weights, and starting them anew would shake them.
        state.optimizer.load_state_dict(before["optimizer"])
    if path.exists():
        saved = torch.load(path, map_location=config.device, weights_only=True)
        net.load_state_dict(saved["net"])
        average.load_state_dict(saved["average"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.step, state.seconds = saved["step"], saved["seconds"]
    return state


def _save(state: _State, config: DetectorTrainConfig) -> None:
    """Write the checkpoint beside its final name, then move it there: a kill in between loses nothing."""
    values = {
        "net": state.net.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
    }
    with output_file(config.run / "last.pt") as file:
        torch.save(values, file)
    state.average.save(config.run / "average")
    if state.step % config.keep_every == 0:
        state.average.save(config.run / f"average-{state.step:06d}")


@torch.no_grad()
def _validate(state: _State, store: FieldStore, config: DetectorTrainConfig) -> dict[str, float]:
    """Return mean losses of the averaged weights over fixed crops of the validation fields, per source."""
    rows: dict[str, list[float]] = {}
    for index, item in enumerate(store.fields):
        batch = _batch(store, np.array([index]), config, (1, index), None)
        centers, sides = _losses(state.average, batch, config)
        rows.setdefault(f"val_centers_{item.source}", []).append(float(centers))
        rows.setdefault(f"val_sides_{item.source}", []).append(float(sides))
    return {name: float(np.mean(values)) for name, values in rows.items()}


def _step(
    state: _State, store: FieldStore, chances: NDArray[np.float64], config: DetectorTrainConfig
) -> dict[str, float]:
    rate = _rate(state.step, config)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    batch = _batch(store, np.arange(len(store.fields)), config, (config.seed, state.step), chances)
    centers, sides = _losses(state.net, batch, config)
    (centers + config.side_loss * sides).backward()
    norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), 5.0)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    decay = min(config.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for mean, now in zip(state.average.parameters(), state.net.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
    return {"centers": float(centers.detach()), "sides": float(sides.detach()), "gradient": float(norm), "rate": rate}


def train(config: DetectorTrainConfig) -> Path:
    """Train, or resume a training run.

    Returns
    -------
    Path : the folder of the finished model (``config.json`` and ``model.safetensors``).

    Raises
    ------
    FileNotFoundError
        If ``config.data`` does not hold ``smears`` and ``pbc``.
    """
    smears = config.data / "smears"
    if not smears.is_dir() or not (config.data / "pbc").is_dir():
        raise FileNotFoundError(
            f"no 'smears' and 'pbc' folders in {config.data}: point --data at the shared data folder"
        )
    config.run.mkdir(parents=True, exist_ok=True)
    write_text(config.run / "config.json", json.dumps(asdict(config), indent=2, default=str) + "\n")
    torch.set_num_threads(config.threads)
    fields = clean_and_split(config.data, config.run / "split.json")
    store = FieldStore([f for f in fields if f.part == "train"], smears)
    held = FieldStore([f for f in fields if f.part == "validation"], smears)
    counts = {source: sum(f.source == source for f in store.fields) for source in config.share}
    chances = np.array([config.share[f.source] / counts[f.source] for f in store.fields])
    state = _start(config)
    _run(state, store, held, chances / chances.sum(), config)
    folder = config.out or config.run / "average"
    state.average.save(folder)
    plot_metrics(config.run / "metrics.jsonl", config.run / "metrics.png", ("centers", "sides"))
    return folder


def _run(
    state: _State, store: FieldStore, held: FieldStore, chances: NDArray[np.float64], config: DetectorTrainConfig
) -> None:
    columns = (TextColumn("detector"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}")) as bar, (config.run / "metrics.jsonl").open("a") as log:
        task = bar.add_task("", total=config.steps, completed=state.step)
        sums: dict[str, float] = {}
        while state.step < config.steps:
            began = time.perf_counter()
            for name, value in _step(state, store, chances, config).items():
                sums[name] = sums.get(name, 0.0) + value / 20
            if state.step % 20 == 0:
                _note(log, state, sums)
                bar.update(task, description=f"centers {sums['centers']:.3f} sides {sums['sides']:.3f}")
                sums = {}
            if state.step % config.validate_every == 0 or state.step == config.steps:
                _note(log, state, _validate(state, held, config))
            state.seconds += time.perf_counter() - began
            if state.step % config.save_every == 0 or state.step == config.steps:
                _save(state, config)
            bar.update(task, completed=state.step)


def _note(log, state: _State, values: dict[str, float]) -> None:  # type: ignore[no-untyped-def]
    row = {"step": state.step, "seconds": round(state.seconds, 1), **{k: round(v, 6) for k, v in values.items()}}
    log.write(json.dumps(row) + "\n")
    log.flush()
