"""What the service tells about itself is what it does, and what the client takes for granted of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cytoserve_client import Client, ConfigurationError
from cytoserve_client import _constants as c
from cytoserve_scoring.classifier.scores import CellScores
from cytoserve_scoring.errors import CytoserveError
from cytoserve_scoring.serving import site
from cytoserve_scoring.serving.service import describe
from cytoserve_scoring.serving.sites import Sites

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
SCORING = REPOSITORY / "scorer" / "1" / "scoring.json"
SERVICE = json.loads((REPOSITORY / "service_info" / "1" / "service.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _no_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(site.CALIBRATION_ENV, raising=False)


def test_the_clients_limits_are_the_services() -> None:
    assert describe(SERVICE, SCORING)["limits"] == {
        "max_file_bytes": c.MAX_FILE_BYTES,
        "max_pixels": c.MAX_PIXELS,
        "max_area_um2": c.MAX_AREA_UM2,
        "min_side": c.MIN_SIDE,
        "max_cells": c.MAX_CELLS,
    }


def test_more_cells_per_request_than_the_service_takes_are_refused_at_once() -> None:
    Client("localhost:1", cells_per_request=c.MAX_CELLS).close()
    with pytest.raises(ConfigurationError, match=f"{c.MAX_CELLS} at most"):
        Client("localhost:1", cells_per_request=c.MAX_CELLS + 1)


def score(**choices: Any) -> CellScores:
    """Score 20 cells by the committed ``scoring.json``; the denoiser's answers are drawn, the same for every call."""
    engine = Sites.load(SCORING, None).home.engine
    spread = engine.config.usual_spread or 1.0
    errors = np.random.default_rng(3).normal(
        np.linspace(0, 2 * spread, len(engine.config.classes)),
        spread,
        (20, engine.config.probes, len(engine.config.classes)),
    )
    latents = np.zeros((20, *engine.config.latent_shape), np.float32)
    latents[:, 0, 0, 0] = np.arange(20)  # tells the cells apart

    def evaluate(rows: Any, probes: Any, classes: None) -> Any:
        return errors[rows[:, 0, 0, 0].astype(int), probes].astype(np.float32)

    return engine.score(latents, np.zeros(20, np.int32), evaluate, **choices)


def test_naming_the_defaults_that_are_told_changes_nothing() -> None:
    told = describe(SERVICE, SCORING)
    usual = score()
    named = score(budget=told["default_budget"], alpha=told["default_alpha"], classes=told["classes"])
    assert named.reasons == usual.reasons
    assert (named.evaluations == usual.evaluations).all()
    assert np.array_equal(named.posterior, usual.posterior)
    # The figures are no accident: another level, or another budget, does change the answer.
    # (Near ties are asked again beyond the budget.)
    assert (score(alpha=0).evaluations >= told["default_budget"]).all()
    assert (score(alpha=0, budget=1).evaluations == 1).all()
    assert not (usual.evaluations == score(alpha=0).evaluations).all()


def test_only_the_budgets_that_are_told_are_calibrated() -> None:
    told = describe(SERVICE, SCORING)
    for budget in range(1, told["probes"] + 1):
        uncalibrated = {"not_calibrated" in reasons.split(",") for reasons in score(budget=budget).reasons}
        assert uncalibrated == {budget not in told["calibrated_budgets"]}


def test_a_sites_calibration_changes_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = json.loads(SCORING.read_text(encoding="utf-8"))
    document = {
        **{key: model[key] for key in site.FITTED if key in model},
        "expected_referral": {"value": 0.15, "low": 0.05, "high": 0.3, "cells": 400},
        "schema": site.SCHEMA,
        "site": "north",
        "weights_sha256": SERVICE["weights_sha256"],
        "procedure_sha256": site.procedure_sha256(model),
        "default_budget": 4,
        "calibrated": [4],
    }
    document["content_sha256"] = site.content_sha256(document)
    (tmp_path / "north.json").write_text(json.dumps(document))
    assert describe(SERVICE, SCORING)["default_budget"] == model["default_budget"] != 4
    monkeypatch.setenv(site.CALIBRATION_ENV, str(tmp_path))
    told = describe(SERVICE, SCORING)
    home, north = told["sites"]
    assert (north["site"], north["default_budget"], north["calibrated_budgets"]) == ("north", 4, [4])
    assert (home["site"], home["default_budget"]) == ("home", model["default_budget"])
    assert told["default_budget"] == model["default_budget"], "of a request that names no site"
    assert Sites.load(SCORING, tmp_path).chosen("north").engine.config.default_budget == 4


def test_a_repository_without_a_scorer_tells_no_defaults(tmp_path: Path) -> None:
    told = describe(SERVICE, tmp_path / "scorer" / "1" / "scoring.json")
    assert (told["default_budget"], told["default_alpha"], told["calibrated_budgets"]) == (None, None, None)
    assert told["sites"] == []
    assert told["classes"] == SERVICE["classes"]


def test_a_scoring_file_that_cannot_be_used_is_told_at_start(tmp_path: Path) -> None:
    broken = tmp_path / "scoring.json"
    broken.write_text(json.dumps({"classes": ["a"]}))
    with pytest.raises(CytoserveError, match="export the model again"):
        describe(SERVICE, broken)
