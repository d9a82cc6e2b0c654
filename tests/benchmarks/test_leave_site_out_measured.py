"""A site left out: what is counted, and that the opponent is trained and measured as the denoiser is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cytoserve_statistics.resampling import draw
from cytoserve_training.denoiser_train import train
from cytoserve_training.train_config import DenoiserTrainConfig
from PIL import Image

from benchmarks import classifier
from benchmarks.leave_site_out import SHARED, Answers, ahead, files_of, measure_run


def answers(labels: list[int], truth: list[int], lead: list[float] | None = None) -> Answers:
    """Answers of a network that gives ``lead`` to its label and nothing to the others."""
    scores = np.zeros((len(labels), len(SHARED)))
    scores[np.arange(len(labels)), labels] = lead or [1.0] * len(labels)
    return Answers(scores, np.array(truth))


def test_classes_count_alike_and_the_surer_half_is_counted_apart():
    found = answers([0, 0, 0, 1, 2, 0], [0, 0, 0, 1, 1, 1], lead=[9, 8, 1, 7, 2, 3])
    assert found.balanced == pytest.approx((3 / 3 + 1 / 3) / 2)
    assert found.surer().tolist() == [True, True, False, True, False, False]
    told = found.json(draw([str(c) for c in found.truth], None, None))
    assert told["wrong_among_surer"]["value"] == 0
    assert told["recall"]["basophil"] == [3, 3]
    assert told["recall"]["eosinophil"] == [1, 3]
    assert told["recall"]["neutrophil"] == [0, 0]


def test_two_networks_are_compared_cell_by_cell():
    truth = [0, 0, 1, 1] * 10
    drawn = draw([str(c) for c in truth], None, None)
    good, bad = answers(truth, truth), answers([0] * 40, truth)
    assert ahead(good, good, drawn)["low"] == ahead(good, good, drawn)["high"] == 0
    difference = ahead(good, bad, drawn)
    assert difference["value"] == difference["low"] == pytest.approx(0.5), "a whole class, in every draw"
    assert ahead(bad, good, drawn)["value"] == pytest.approx(-0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in place of cells: PBC, and another site of two subjects."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def put(folder: str, name: str, side: int) -> None:
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(root / folder / name)

    for part in ("train", "val", "test"):
        for name in classifier.CLASSES:
            put(f"pbc/{part}/{name}", "a.png", 160)
    for subject, part in ((1, "train"), (7, "val")):
        for name in SHARED:
            put(f"bcisc/cells/{part}/{name}", f"x_{subject}-1.png", 256)
    field = np.full((160, 160, 3), 240, np.uint8)
    field[20:60, 20:60], field[80:140, 20:140] = (90, 40, 150), (220, 180, 190)
    (root / "draaslan" / "images").mkdir(parents=True)
    Image.fromarray(field).save(root / "draaslan" / "images" / "field.png")
    return root


@pytest.fixture(scope="module")
def left(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps that never saw the second site."""
    config = DenoiserTrainConfig(
        data=str(data),
        out=str(tmp_path_factory.mktemp("runs") / "left_bcisc"),
        sites=("pbc", "bcisc"),
        leave_site="bcisc",
        steps=4,
        batch=8,
        encoder_cells=64,
    )
    return train(config)


def test_the_opponent_goes_on_as_if_it_had_not_been_interrupted(left: Path, monkeypatch: pytest.MonkeyPatch):
    whole = classifier.classifier_of(left).state_dict()
    (left / classifier.WEIGHTS).unlink()
    kept = classifier.ClassifierTraining._train_step

    def cut_short(self: classifier.ClassifierTraining, batches: object) -> None:
        if self.step == 1:
            self.save()
            raise KeyboardInterrupt
        kept(self, batches)

    monkeypatch.setattr(classifier.ClassifierTraining, "_train_step", cut_short)
    with pytest.raises(KeyboardInterrupt):
        classifier.classifier_of(left)
    monkeypatch.undo()
    again = classifier.classifier_of(left).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_run_is_measured_on_the_site_that_it_left_out(left: Path, data: Path):
    found = measure_run(left, data, threads=1)
    assert (found["site"], found["cells"], found["slides"]) == ("bcisc", 10, 2)
    assert found["trained_on"] == {"pbc": len(classifier.CLASSES)}
    assert found["at_home"]["cells"] == len(SHARED)
    for network in ("denoiser", "classifier"):
        hits = sum(right for right, _ in found[network]["recall"].values())
        assert found[network]["balanced_accuracy"]["value"] == pytest.approx(hits / 10)
    difference = found["denoiser"]["balanced_accuracy"]["value"] - found["classifier"]["balanced_accuracy"]["value"]
    assert found["ahead"]["value"] == pytest.approx(difference)
    assert json.loads(json.dumps(found)) == found


def test_of_pbc_the_test_cells_of_the_shared_classes_are_measured(data: Path):
    source = files_of(data, "pbc")
    assert source.root == data / "pbc" / "test"
    assert sorted(file.parent.name for file in source.files) == list(SHARED)


def test_probabilities_do_not_depend_on_how_a_cell_lies(left: Path):
    network = classifier.classifier_of(left)
    crops = torch.rand(3, 96, 96, 3, generator=torch.Generator().manual_seed(0)) * 255
    lying = classifier.class_probabilities(network, torch.rot90(crops, 1, (1, 2)))
    assert torch.allclose(classifier.class_probabilities(network, crops), lying, atol=1e-5)
    assert torch.allclose(lying.sum(1), torch.ones(3))
