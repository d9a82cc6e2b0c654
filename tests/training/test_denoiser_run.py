"""A training of the denoiser as a run on disk: what it writes, and that an interrupted one goes on unharmed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cytoserve_training.augment import Augmentation
from cytoserve_training.batches import Batches
from cytoserve_training.cells import CLASSES
from cytoserve_training.denoiser_train import Trainer, load_average, train
from cytoserve_training.scanner_faults import ScannerFaults
from cytoserve_training.train_config import DenoiserTrainConfig
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
    batches = Batches(replace(config, settled=0.1), torch.Generator().manual_seed(0))
    shares = []
    for done in (0.0, 0.5, 0.6, 0.75, 0.99):
        ranges = batches.augmentation(done)
        shares.append((ranges.strong, ranges.foreign, ranges.faults.jpeg))
        assert ranges.density == Augmentation().density, "how wide is another matter than how often"
    assert shares[0] == shares[1] == (Augmentation().strong, Augmentation().foreign, ScannerFaults().jpeg)
    assert shares[1] > shares[2] > shares[3]
    assert shares[3] == shares[4] == pytest.approx([0.1 * share for share in shares[0]])


@pytest.fixture
def sites(data: Path, tmp_path: Path) -> Path:
    """The folder of all data with cells and fields of two sites more, each of a stain of its own."""
    root, draw = tmp_path / "data", np.random.default_rng(1)
    shutil.copytree(data, root)
    for home, name, side in (("bcisc/cells/train", "a_1-1", 256), ("chula_wbc/cells", "B-1_0_0_train", 288)):
        for kind in ("basophil", "monocyte"):
            (root / home / kind).mkdir(parents=True)
            noise = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / home / kind / f"{name}.png")
    for part, held_out in (("bcisc/cells/val", "a_7-1"), ("chula_wbc/cells", "B-42_0_0_train")):
        (root / part / "monocyte").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((288, 288, 3), 200, np.uint8)).save(root / part / "monocyte" / f"{held_out}.png")
    field = np.asarray(Image.open(root / "draaslan" / "images" / "field.png"))
    for folder, darker in (("bcisc/fields", 10), ("chula_rbc/images", 20), ("chula_wbc/fields/images", 0)):
        (root / folder).mkdir(parents=True)
        whole = np.full((600, 600, 3), 240, np.uint8)
        whole[:160, :160] = field - np.uint8(darker)
        Image.fromarray(whole).save(root / folder / "B-1_0.png")
    (root / "chula_wbc" / "fields" / "labels").mkdir()
    (root / "chula_wbc" / "fields" / "labels" / "B-1_0.txt").write_text("")
    return root


@pytest.mark.parametrize(
    ("left", "cells", "stains", "windows"),
    [("", 20, 3, 1), ("bcisc", 18, 2, 1), ("chula_wbc", 18, 2, 0), ("pbc", 4, 3, 1)],
)
def test_of_a_site_left_out_nothing_is_seen(sites: Path, left: str, cells: int, stains: int, windows: int) -> None:
    """Neither its cells nor the stains of its laboratory's fields nor windows cut from them."""
    batches = Batches(DenoiserTrainConfig(data=str(sites), leave_site=left), torch.Generator().manual_seed(0))
    assert (len(batches.cells), len(batches.stains), len(batches.empty)) == (cells, stains, windows)
