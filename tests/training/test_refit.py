"""Scoring fitted again on the served graphs: what changes, what stays, and that a second run computes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_training import refit as module
from cytoserve_training.cells import CLASSES
from cytoserve_training.checkpoint import PackConfig, TieErrors
from cytoserve_training.refit import RefitConfig, ServedGraphs, refit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(data_dir: Path, tmp_path: Path) -> RefitConfig:
    """A checkpoint's scoring and a few real cells of each class."""
    shutil.copytree(ROOT / "models" / "reference" / "scoring", tmp_path / "checkpoint" / "scoring")
    for name in CLASSES:
        (tmp_path / "pbc" / "val" / name).mkdir(parents=True)
        count = 22 if name == "neutrophil" else 3  # a profile needs ten cells answered with one class
        for file in sorted((data_dir / "pbc" / "val" / name).iterdir())[:count]:
            shutil.copy(file, tmp_path / "pbc" / "val" / name)
    pack = PackConfig(data=str(tmp_path / "pbc"), racing_per_class=11, calibrating=16)
    folders = {"checkpoint": tmp_path / "checkpoint", "repository": ROOT / "model_repository", "run": tmp_path / "run"}
    return RefitConfig(**{key: str(path) for key, path in folders.items()}, pack=pack)


def test_without_a_near_tie_nothing_is_turned(config: RefitConfig) -> None:
    scoring = json.loads((Path(config.checkpoint) / "scoring" / "scoring.json").read_text())
    known = ScoringConfig.from_json(scoring)
    assert known.augmentation is not None
    errors = np.ones((2, known.probes, len(CLASSES)))
    errors[:, :, 0] = 0.0  # the first class, by far

    def measured(rows: torch.Tensor) -> object:
        raise AssertionError(f"{len(rows)} cells were evaluated again")

    latents = np.zeros((2, *known.latent_shape), np.float32)
    ties = TieErrors(known.augmentation, (latents, latents), measured)
    assert np.isnan(ties.turned(known, 1, errors, (known.probes,))).all()


def test_it_fits_anew_keeps_the_bank_and_takes_up_kept_errors(
    config: RefitConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(config.checkpoint) / "scoring" / "scoring.json"
    before = json.loads(path.read_text())
    assert refit(config) == path
    first = path.read_text()
    after = json.loads(first)
    ScoringConfig.from_json(after)
    for kept in ("classes", "probes", "latent_shape", "second_look"):
        assert after[kept] == before[kept], kept
    assert after["promise"]["n"] == 16
    assert after["accept_threshold"] == [None] * after["probes"], "16 cells can promise nothing"
    assert "18 cells gave" in after["fitted_on"]
    computed: list[str] = []
    whole = ServedGraphs.errors

    def watched(self: ServedGraphs, latents: object, probes: int, classes: int, told: str = "errors") -> object:
        computed.append(told)
        return whole(self, latents, probes, classes, told)  # type: ignore[arg-type]

    monkeypatch.setattr(module.ServedGraphs, "errors", watched)
    refit(config)
    assert path.read_text() == first
    assert "racing cells" not in computed
    assert "calibrating cells" not in computed
