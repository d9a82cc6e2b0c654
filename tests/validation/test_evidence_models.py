"""The peer, the denoiser in process, and the experiments on them, on tiny networks and made-up errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cytoserve_scoring.classifier.fitting import RiskGuarantee
from cytoserve_training.cells import CLASSES, CellSet
from cytoserve_training.denoiser import DenoiserConfig, build_scheduler, build_unet
from cytoserve_training.denoiser_train import Probes, class_errors
from PIL import Image

from benchmarks import anomaly, foreign, probe_bank, referral
from benchmarks.denoiser import Denoiser, take, without
from benchmarks.leave_out import Part
from benchmarks.peer import Peer, PeerConfig, PeerNet, PeerTrainer
from benchmarks.strangeness import STATISTICS, Errors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with two 160 px cells a class, each class of its own grey."""
    home = tmp_path_factory.mktemp("pbc")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number, name in enumerate(CLASSES):
            folder = home / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = np.full((160, 160, 3), 235, np.uint8)
                pixels[50:110, 50:110] = 20 + 25 * number + rng.integers(0, 8, (60, 60, 3))
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return home


def test_the_peer_is_small_and_sees_only_the_circle():
    net = PeerNet().eval()
    assert 1e6 < sum(p.numel() for p in net.parameters()) < 3.5e6
    crops = torch.rand(2, 96, 96, 3) * 255
    corners = crops.clone()
    corners[:, :10, :10] = 0
    with torch.no_grad():
        logits, features = net(crops)
        assert torch.equal(net(corners)[0], logits)
    assert logits.shape == (2, len(CLASSES))
    assert features.shape == (2, 256)


def test_an_interrupted_peer_goes_on_as_if_it_had_not_been(data, tmp_path):
    config = PeerConfig(data=str(data), out=str(tmp_path / "whole"), steps=3, batch=4, threads=1)
    whole = PeerTrainer(config)
    for _ in range(3):
        whole.train_step()
    halted = PeerTrainer(replace(config, out=str(tmp_path / "halted")))
    halted.train_step()
    halted.save()
    again = PeerTrainer(replace(config, out=str(tmp_path / "halted")))
    again.resume()
    assert again.step == 1
    for _ in range(2):
        again.train_step()
    for name, value in whole.average.state_dict().items():
        assert torch.allclose(value, again.average.state_dict()[name], atol=1e-6), name
    other = PeerTrainer(replace(config, out=str(tmp_path / "halted"), leave_out="monocyte"))
    with pytest.raises(ValueError, match="another --out"):
        other.resume()


def test_a_peer_without_a_class_never_saw_nor_offers_it(data, tmp_path):
    config = PeerConfig(data=str(data), out=str(tmp_path), steps=1, batch=4, threads=1, leave_out="monocyte")
    trainer = PeerTrainer(config)
    assert CLASSES.index("monocyte") not in trainer.cells.labels
    trainer.train_step()
    trainer.save()
    logits, _ = Peer.load(tmp_path).answers(torch.full((2, 96, 96, 3), 200.0))
    assert (logits[:, CLASSES.index("monocyte")] == -np.inf).all()
    assert np.isfinite(np.delete(logits, CLASSES.index("monocyte"), axis=1)).all()


@pytest.fixture(scope="module")
def tiny() -> Denoiser:
    """Return a random denoiser on (4, 8, 8) latents."""
    torch.manual_seed(0)
    unet = build_unet(DenoiserConfig(channels=(16, 16), latent_channels=4, grid=8)).eval()
    return Denoiser(unet, None, torch.tensor([0.5, 1.5, 1.2, 0.8]), (torch.rand(8, 8) > 0.3).float(), None)  # type: ignore[arg-type]


def test_errors_in_process_are_those_of_training(tiny):
    generator = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(5, 4, 8, 8, generator=generator), torch.randn(3, 4, 8, 8, generator=generator)
    timestep = torch.tensor([100, 400, 700])
    alphas = build_scheduler().alphas_cumprod
    truth = class_errors(tiny.unet, latents, Probes(timestep, noise), tiny.channel_weight, tiny.mask, alphas)
    found = tiny.errors(latents, timestep, noise)
    assert found == pytest.approx(truth.numpy(), rel=0.02)
    some = tiny.errors(latents, timestep, noise, [6, 1])
    assert some == pytest.approx(found[:, :, [6, 1]], rel=0.02)
    own = tiny.errors(latents, timestep.expand(5, -1), noise.expand(5, -1, -1, -1, -1))
    assert own == pytest.approx(found, rel=0.02)


def test_a_class_is_left_out_of_everything_a_set_holds():
    cells = CellSet(torch.zeros(3, 4, 4, 3), torch.ones(3, 3), torch.tensor([0, 2, 2]), ("a", "b", "c"))
    assert without(cells, CLASSES[2]).names == ("a",)
    assert take(cells, np.array([False, True, True])).labels.tolist() == [2, 2]
    assert len(without(cells, "")) == 3


def test_drawn_probes_are_what_their_names_say():
    g = torch.Generator().manual_seed(2)
    random = probe_bank.random_order(6, 20, (1, 2, 2), g)
    assert all(len(set(row.tolist())) == 20 for row in random.timestep)
    assert random.timestep.min() >= 1
    strata = probe_bank.stratified(6, 8, (1, 2, 2), g, 0.2, 0.6)
    assert ((strata.timestep.sort(1).values - 200) // 50).tolist() == [list(range(8))] * 6
    pairs = probe_bank.antithetic(6, 8, (1, 2, 2), g, 0.2, 0.6)
    assert pairs.noise[:, ::2].equal(-pairs.noise[:, 1::2])
    assert pairs.timestep[:, ::2].equal(pairs.timestep[:, 1::2])


def test_learned_weights_trust_the_probes_that_tell():
    rng = np.random.default_rng(3)
    labels = np.arange(300) % 3
    errors = 0.2 + 0.01 * rng.normal(size=(300, 4, 3))
    errors[np.arange(300), :2, labels] -= 0.02
    weight = probe_bank.learned_weights(errors, labels, penalty=0.0)
    assert weight.mean() == pytest.approx(1.0)
    assert weight[:2].min() > 5 * weight[2:].max()


def test_the_foreign_table_counts_among_those_present_and_over_all():
    truth = np.array([0, 0, 6, 6])
    images = [np.full((120, 120, 3), 10 * i, np.uint8) for i in range(4)]

    def denoiser(crops: torch.Tensor, turned: str) -> np.ndarray:
        scores = np.ones((4, 8))
        scores[[0, 1, 2], [0, 0, 6]] = 0.5
        scores[3, [2, 6]] = 0.1, 0.2  # over all eight another, absent class wins
        return scores

    ways = {
        "base": foreign.Way(lambda image: image[:96, :96]),
        "probe": foreign.Way(lambda image: image[:96, :96], "by_probe"),
    }
    found = foreign.report(
        images, truth, ways, {"denoiser": denoiser, "peer": lambda crops, turned: np.eye(8)[[1] * 4]}
    )
    row = found["rows"]["denoiser"]["base"]
    assert row["among_present"]["count"] == 4
    assert row["over_all"]["count"] == 3
    assert "probe" not in found["rows"]["peer"]
    assert found["denoiser_minus_peer"]["base"]["points"] == pytest.approx(50.0)
    assert found["always_the_commonest"]["value"] == 0.5


def part(count: int, rng: np.random.Generator, unseen: int = 0) -> Part:
    """Return made-up errors under seven classes; unseen cells stand between all classes."""
    label = np.arange(count) % 7
    values = np.exp(rng.normal(0, 0.03, (count, 1, 1))) * (1 + rng.normal(0, 0.005, (count, 6, 7)))
    values[np.arange(count), :, label] *= 0.85
    strange = np.exp(rng.normal(0, 0.03, (unseen, 1, 1))) * (1 + rng.normal(0, 0.005, (unseen, 6, 7)))
    errors = Errors(np.concatenate([values, strange]), rng.normal(0, 0.1, count + unseen))
    return Part(None, errors, np.concatenate([label, np.full(unseen, -1)]))  # type: ignore[arg-type]


def test_an_unseen_class_stands_out_and_is_referred_at_thresholds_fitted_without_it():
    rng = np.random.default_rng(4)
    parts = {"choosing": part(210, rng), "calibrating": part(700, rng), "test": part(350, rng, unseen=60)}
    names = anomaly.seen_classes("erythroblast")
    chosen, rows = anomaly.choose_statistic(parts["choosing"], parts["calibrating"], names)
    assert set(rows) == set(STATISTICS)
    assert rows[chosen]["mean"] == max(row["mean"] for row in rows.values())
    ours = anomaly.denoiser_side(parts, chosen, RiskGuarantee(0.02, 0.95), names)
    unseen = parts["test"].label < 0
    ranked = anomaly.ranked(ours["scores"], unseen)
    assert ranked["relative_zeta"]["auc"] > 0.99
    served = ours["bench"]["as_served"]
    assert served["unseen_accepted"]["of"] == 60
    assert served["unseen_accepted"]["value"] < 0.1
    assert served["ordinary_accepted"]["value"] > 0.8
    assert ours["accuracy_on_seen"]["value"] > 0.95
    # A check more never accepts more.
    assert served["ordinary_accepted"]["count"] <= ours["bench"]["no_anomaly_check"]["ordinary_accepted"]["count"]
    gap = anomaly.difference(ours["scores"]["relative_zeta"], ours["scores"]["absolute"], unseen)
    assert gap["interval"][0] <= gap["value"] <= gap["interval"][1]


def test_halves_of_a_site_share_no_image_and_lose_none(tmp_path):
    for name, count in (("basophil", 1), ("neutrophil", 9), ("monocyte", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.jpg").write_bytes(b"x")
    calibrating, measured = referral.halves(tmp_path)
    assert not set(calibrating) & set(measured)
    assert len(calibrating) + len(measured) == 14
    assert {file.parent.name for file in measured} == {"basophil", "neutrophil", "monocyte"}
    assert referral.halves(tmp_path) == (calibrating, measured)
