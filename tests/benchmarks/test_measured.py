"""What single measurements compute, against closed forms, SciPy and made-up answers."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cytoserve_client.results import ModelInfo
from cytoserve_scoring.classifier.augmentation import TURNS
from cytoserve_validation.report import MeasuredSet, build
from scipy import stats

from benchmarks import accuracy, own_site, place, probe_interval, published

sys.path.append(str(Path(__file__).resolve().parents[1] / "validation"))

from synthetic_answers import CLASSES, answers

MODEL = ModelInfo(name="reference", version="1" * 12, classes=CLASSES, weights_sha256="0" * 64)


def test_accuracy_reports_the_figures_of_validate():
    cells = answers(300, present=4)
    source = MeasuredSet("site", "0" * 64, "2026-11-26T00:00:00+00:00", 0.1, None)
    found = accuracy.figures(build(cells, MODEL, source))
    right = cells.label == cells.truth
    exact = stats.binomtest(int(right.sum()), 300).proportion_ci(method="exact")
    assert found["cells"] == 300
    assert found["accuracy"] == round(float(right.mean()), 4)
    assert found["accuracy_interval"] == [round(exact.low, 4), round(exact.high, 4)]
    assert found["classes_present"] == list(CLASSES[:4])
    among = cells.scores[:, :4].argmin(axis=1) == cells.truth
    assert found["accuracy_among_present"] == round(float(among.mean()), 4)
    recalls = [float(right[cells.truth == c].mean()) for c in range(4)]
    assert found["balanced_accuracy"] == round(float(np.mean(recalls)), 4)
    assert [row["recall"] for row in found["recall"].values()] == [round(value, 4) for value in recalls]
    assert found["accepted"] == int(cells.accepted.sum())
    assert found["wrong_among_accepted"] == int((cells.accepted & ~right).sum())
    assert found["reasons"] == {"low_confidence": int((~cells.accepted).sum())}
    assert sum(sum(row.values()) for row in found["confusion"].values()) == 300
    assert all(count for row in found["confusion"].values() for count in row.values())
    sizes = np.array([(row > 0.05).sum() for row in cells.conformal])
    assert found["set_coverage_95"]["mean_size"] == round(float(sizes.mean()), 3)
    assert found["evaluations_per_cell"] == pytest.approx(cells.evaluations.mean())


def test_paired_difference_is_the_mcnemar_variance():
    rng = np.random.default_rng(0)
    first, second = rng.random(600) < 0.9, rng.random(600) < 0.8
    found = published.paired_difference(first, second)
    b, c, n = (first & ~second).sum(), (~first & second).sum(), 600
    half = 1.96 * 100 * np.sqrt((b + c) / n - ((b - c) / n) ** 2) / np.sqrt(n)
    assert found["points"] == pytest.approx(100 * (b - c) / n, abs=0.01)
    assert found["interval"] == pytest.approx([found["points"] - half, found["points"] + half], abs=0.5)
    assert published.paired_difference(first, first) == {"points": 0.0, "interval": [0.0, 0.0]}


def test_halves_of_a_site_share_no_image_and_lose_none(tmp_path):
    for name, count in (("basophil", 1), ("neutrophil", 9), ("monocyte", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.jpg").write_bytes(b"x")
    calibrating, measured = own_site.halves(tmp_path)
    assert not set(calibrating) & set(measured)
    assert len(calibrating) + len(measured) == 14
    assert {file.parent.name for file in measured} == {"basophil", "neutrophil", "monocyte"}
    assert own_site.halves(tmp_path) == (calibrating, measured)


def test_scale_is_measured_on_fields_spread_over_the_whole_folder(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03}.png").write_bytes(b"")
    found = [int(file.stem) for file in own_site.scale_fields(tmp_path)]
    assert len(found) == own_site.SCALE_FIELDS
    assert found == sorted(found)
    assert found[-1] > 150


class Graphs:
    """A denoiser whose error names the cell, the turn, the probe and the class."""

    def errors(self, latents, probes, classes, told):
        grid = np.arange(probes)[:, None] / 10 + np.arange(classes)[None] / 100
        return (latents[:, 0, 0, 0][:, None, None] + grid).astype(np.float32)

    def evaluate(self, latents, probe, label):
        return (latents[:, 0, 0, 0] + probe / 10 + label / 100).astype(np.float32)


def test_turned_errors_of_a_tied_pair_stand_where_its_cell_turn_probe_and_class_are():
    config = SimpleNamespace(probes=3, classes=("a", "b", "c", "d"))
    look = SimpleNamespace(turned=lambda latents: np.stack([latents + 100 * (turn + 1) for turn in range(TURNS)]))
    latents = np.arange(1, 3, dtype=np.float32).reshape(2, 1, 1, 1)
    found = probe_interval.errors_under(Graphs(), latents, config, {1: (3, 0)}, look)
    assert np.isnan(found.turned[:, 0]).all()
    assert np.isnan(found.turned[:, 1][..., [1, 2]]).all()
    for turn in range(TURNS):
        for probe in range(3):
            for label in (0, 3):
                want = 2 + 100 * (turn + 1) + probe / 10 + label / 100
                assert found.turned[turn, 1, probe, label] == pytest.approx(want)
    # The difference of the pair: second class minus first, upright and in every turn.
    assert found.lag(1, (3, 0)) == pytest.approx(np.full((1 + TURNS, 3), -0.03), abs=1e-4)


def test_expected_coverage_is_that_of_simulated_means():
    rng = np.random.default_rng(1)
    own = rng.normal(size=(40_000, 16))
    others = rng.normal(size=(40_000, 16, 3)).mean(axis=(1, 2))
    half = stats.t.ppf(0.975, 15) * own.std(axis=1, ddof=1) / 4
    covered = (np.abs(own.mean(axis=1) - others) <= half).mean()
    assert probe_interval.expected_coverage(16, 3) == pytest.approx(covered, abs=0.006)


def test_a_result_knows_whether_its_errors_are_of_an_earlier_run(tmp_path, monkeypatch):
    here = place.Place(Path("models"), Path("repository"), Path("data"), tmp_path)

    def measure_parts(run, graphs, config):
        (tmp_path / f"calibrating-{graphs}.npz").write_bytes(b"errors")
        return "choosing", "calibrating"

    monkeypatch.setattr(place, "measure_parts", measure_parts)
    assert here.calibrating("one", None) == ("calibrating", False)
    assert here.calibrating("one", None) == ("calibrating", True)
    assert here.calibrating("two", None) == ("calibrating", False)
