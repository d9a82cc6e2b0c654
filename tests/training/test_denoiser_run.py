"""A training of the denoiser as a run on disk: what it writes, and that an interrupted one goes on unharmed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cytoserve_training.augment import Augmentation
from cytoserve_training.cells import CLASSES
from cytoserve_training.denoiser_train import DenoiserTrainConfig, Trainer, load_average, train
from cytoserve_training.scanner_faults import ScannerFaults
from PIL import Image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in place of cells: two of each class of PBC, in both parts, and a field for its stain."""
    root, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    folders = [root / "pbc" / part / name for part in ("train", "val") for name in CLASSES]
    for folder in folders:
        folder.mkdir(parents=True)
        for index in range(2):
            Image.fromarray(draw.integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    field = np.full((160, 160, 3), 240, np.uint8)
    field[20:60, 20:60], field[80:140, 20:140] = (90, 40, 150), (220, 180, 190)  # a nucleus, red cells
    (root / "draaslan" / "images").mkdir(parents=True)
    Image.fromarray(field).save(root / "draaslan" / "images" / "field.png")
    return root


@pytest.fixture
def config(data: Path, tmp_path: Path) -> DenoiserTrainConfig:
    return DenoiserTrainConfig(
        data=str(data),
        out=str(tmp_path / "run"),
        sites=("pbc",),
        steps=4,
        batch=8,
        encoder_cells=64,
        save_every=2,
        validate_every=4,
    )


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(config: DenoiserTrainConfig) -> None:
    whole = train(config)
    halves = replace(config, out=f"{config.out}-in-two")
    first = Trainer(halves)
    for _ in range(2):
        first.train_step()
    first.save()
    train(halves)
    weights, again = (load_average(Path(run))[0].state_dict() for run in (whole, halves.out))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert rows == [], "a row is written every fifty steps"
    told = json.loads((whole / "config.json").read_text())
    assert (told["steps"], told["trunk_sha256"]) == (4, None)


def test_a_class_left_out_is_never_drawn_and_strangers_are_a_share_of_the_batch(config: DenoiserTrainConfig) -> None:
    trainer = Trainer(replace(config, leave_out="monocyte", batch=16))
    seen: set[int] = set()
    for _ in range(6):
        latents, labels, strange = trainer.batch()
        assert (len(latents), len(labels), strange) == (16, 14, 2)
        seen |= set(labels.tolist())
    assert CLASSES.index("monocyte") not in seen
    assert len(seen) == len(CLASSES) - 1
    assert trainer.train_step()["nobody"] > 0


def test_a_training_settles_towards_the_end(config: DenoiserTrainConfig) -> None:
    """Wide stains and faults are common at first; in the last quarter nearly every cell looks as its site made it."""
    trainer = Trainer(replace(config, steps=100, settled=0.1))
    shares = []
    for trainer.step in (0, 50, 60, 75, 99):
        ranges = trainer.augmentation()
        shares.append((ranges.strong, ranges.foreign, ranges.faults.jpeg))
        assert ranges.density == Augmentation().density, "how wide is another matter than how often"
    assert shares[0] == shares[1] == (Augmentation().strong, Augmentation().foreign, ScannerFaults().jpeg)
    assert shares[1] > shares[2] > shares[3]
    assert shares[3] == shares[4] == pytest.approx([0.1 * share for share in shares[0]])
