"""A site's calibration is used when it fits the model and refused, with the remedy, when it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cytoserve_scoring.classifier.familiarity import FamiliarPictures
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.serving.site import CalibrationRefused, procedure_sha256
from cytoserve_scoring.serving.sites import Sites
from ordinary_pictures import FAMILIAR
from site_files import BAND, CLASSES, SCORING, model, put, signed


@pytest.fixture
def scoring_file(tmp_path: Path) -> Path:
    return model(tmp_path / "models")


def config_of(scoring_file: Path, folder: Path, name: str = "north") -> ScoringConfig:
    return Sites.load(scoring_file, folder).chosen(name).engine.config


def test_without_a_folder_or_a_file_the_models_own_holds(scoring_file: Path, tmp_path: Path) -> None:
    for folder in (None, "", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (only,) = Sites.load(scoring_file, folder)
        assert only.name == "home"
        assert [b.temperature for b in only.engine.config.budgets] == [1.0, 1.0]


def test_a_site_file_replaces_what_was_fitted_and_nothing_else(scoring_file: Path, tmp_path: Path) -> None:
    put(tmp_path / "site")
    config = config_of(scoring_file, tmp_path / "site")
    assert [(b.temperature, b.accept_threshold) for b in config.budgets] == [(2.0, None), (2.0, 0.99)]
    assert config.calibrated == (2,)
    assert config.default_budget == 2
    assert config.classes == tuple(CLASSES)


def test_a_site_may_ask_for_a_stricter_anomaly_check(scoring_file: Path, tmp_path: Path) -> None:
    put(tmp_path / "old")
    assert config_of(scoring_file, tmp_path / "old").anomaly_level == ScoringConfig.anomaly_level
    put(tmp_path / "site", anomaly_level=0.2)
    assert config_of(scoring_file, tmp_path / "site").anomaly_level == 0.2


@pytest.mark.parametrize("level", [0, 1, -0.1, "0.1", None, True])
def test_a_level_that_is_none_is_refused(scoring_file: Path, tmp_path: Path, level: object) -> None:
    put(tmp_path / "site", anomaly_level=level)
    with pytest.raises(CalibrationRefused, match="anomaly_level"):
        Sites.load(scoring_file, tmp_path / "site")


def test_a_file_for_other_weights_is_refused(scoring_file: Path, tmp_path: Path) -> None:
    put(tmp_path / "site", weights_sha256="cd" * 32)
    with pytest.raises(CalibrationRefused, match="made for the weights cdcdcd"):
        Sites.load(scoring_file, tmp_path / "site")


def test_an_edit_by_hand_is_noticed(scoring_file: Path, tmp_path: Path) -> None:
    document = put(tmp_path / "site")
    document["accept_threshold"] = [None, 0.5]
    (tmp_path / "site" / "north.json").write_text(json.dumps(document))
    with pytest.raises(CalibrationRefused, match="changed after it was made"):
        Sites.load(scoring_file, tmp_path / "site")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no json", "cannot be read as JSON"),
        ("", "cut off"),
        ("[]", "no cytoserve"),
        ("{}", "no cyto"),
        ("[" * 100_000, "RecursionError"),
        ('{"accept_threshold": NaN}', "cannot be read as JSON"),
        ('{"accept_threshold": -Infinity}', "cannot be read as JSON"),
        ('{"accept_threshold": 1e999}', "cannot be read as JSON"),
    ],
)
def test_other_files_are_refused(scoring_file: Path, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "x.json").write_text(text)
    with pytest.raises(CalibrationRefused, match=told):
        Sites.load(scoring_file, tmp_path / "site")


def test_a_folder_that_is_not_there_is_refused(scoring_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationRefused, match="no folder"):
        Sites.load(scoring_file, tmp_path / "nowhere")


def test_a_missing_key_is_named(scoring_file: Path, tmp_path: Path) -> None:
    for key in ("promise", "familiar", "expected_referral"):
        document = put(tmp_path / "site")
        del document[key]
        (tmp_path / "site" / "north.json").write_text(json.dumps(signed(document)))
        with pytest.raises(CalibrationRefused, match=rf"^north\.json lacks {key}; make it again with `cytoserve cal"):
            Sites.load(scoring_file, tmp_path / "site")


def test_a_file_made_under_other_scoring_rules_is_refused(scoring_file: Path, tmp_path: Path) -> None:
    """Thresholds of other rules promise nothing here, though the weights are the same."""
    other = {**SCORING, "tie_statistic": 3.0}
    put(tmp_path / "site", procedure_sha256=procedure_sha256(other))
    with pytest.raises(CalibrationRefused, match=r"other scoring rules .* `cytoserve calibrate`"):
        Sites.load(scoring_file, tmp_path / "site")
    scoring_file.write_text(json.dumps(other))
    assert config_of(scoring_file, tmp_path / "site").tie_statistic == 3.0


def test_what_a_site_replaces_does_not_unbind_it() -> None:
    assert procedure_sha256({**SCORING, "temperature": [9.0, 9.0], "calibrated": [1]}) == procedure_sha256(SCORING)


def test_a_file_of_the_release_before_is_refused_and_says_why(scoring_file: Path, tmp_path: Path) -> None:
    put(tmp_path / "site", schema="cytoserve.calibration/1")
    with pytest.raises(CalibrationRefused, match="earlier release"):
        Sites.load(scoring_file, tmp_path / "site")


def test_a_file_that_was_cut_off_is_refused_and_says_so(scoring_file: Path, tmp_path: Path) -> None:
    put(tmp_path / "site")
    whole = (tmp_path / "site" / "north.json").read_bytes()
    for length in (1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "site" / "north.json").write_bytes(whole[:length])
        with pytest.raises(CalibrationRefused, match=r"^north\.json cannot be read as JSON .* copy it again"):
            Sites.load(scoring_file, tmp_path / "site")
    (tmp_path / "site" / "north.json").write_text(whole.decode(), encoding="utf-16")
    with pytest.raises(CalibrationRefused, match="UnicodeDecodeError"):
        Sites.load(scoring_file, tmp_path / "site")


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda reference: reference.pop(name)


def spoilt(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda reference: reference["classes"]["any"].update(changes)


@pytest.mark.parametrize(
    "spoil",
    [
        without("statistics"),
        without("classes"),
        spoilt(distances=[]),
        spoilt(centre=[0.0]),
        spoilt(precision="x"),
        spoilt(usual=-1.0),
        spoilt(usual=0.0),
        lambda reference: reference.update(classes=[]),
        lambda reference: reference.update(statistics=["another"]),
    ],
)
def test_a_reference_of_familiar_pictures_that_cannot_be_used_is_refused(
    scoring_file: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], object]
) -> None:
    reference = FAMILIAR.to_json()
    assert FamiliarPictures.from_json(reference).cells == 200
    spoil(reference)
    put(tmp_path / "site", familiar=reference)
    with pytest.raises(CalibrationRefused, match=r"^north\.json .*familiar pictures"):
        Sites.load(scoring_file, tmp_path / "site")


@pytest.mark.parametrize("reference", [None, [], "yes", 3])
def test_no_reference_of_familiar_pictures_is_refused(scoring_file: Path, tmp_path: Path, reference: object) -> None:
    """With it every cell would be referred, or worse, none compared."""
    put(tmp_path / "site", familiar=reference)
    with pytest.raises(CalibrationRefused, match=r"^north\.json has no reference of familiar pictures"):
        Sites.load(scoring_file, tmp_path / "site")


@pytest.mark.parametrize(
    "band",
    [
        None,
        0.2,
        {},
        {**BAND, "low": 0.3},
        {**BAND, "high": 0.1},
        {**BAND, "high": 1.5},
        {**BAND, "low": -0.1},
        {**BAND, "value": "0.2"},
        {**BAND, "value": True},
        {**BAND, "cells": 0},
        {**BAND, "cells": 12.5},
    ],
)
def test_an_expected_share_that_is_none_is_refused(scoring_file: Path, tmp_path: Path, band: object) -> None:
    put(tmp_path / "site", expected_referral=band)
    with pytest.raises(CalibrationRefused, match=r"^north\.json has an `expected_referral` that is not shares"):
        Sites.load(scoring_file, tmp_path / "site")


@pytest.mark.parametrize("budget", [0, 3, -1, 1.5, "2", True])
def test_a_default_budget_outside_the_bank_is_refused(scoring_file: Path, tmp_path: Path, budget: object) -> None:
    put(tmp_path / "site", default_budget=budget)
    with pytest.raises(CalibrationRefused, match=r"default_budget .* from 1 to 2"):
        Sites.load(scoring_file, tmp_path / "site")


@pytest.mark.parametrize("changes", [{"temperature": [1.0]}, {"anomaly_reference": [5, 5]}, {"calibrated": "all"}])
def test_what_does_not_fit_the_model_names_the_sites_file(
    scoring_file: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    put(tmp_path / "site", **changes)
    with pytest.raises(CalibrationRefused, match=r"^north\.json does not fit this model.*cytoserve calibrate"):
        Sites.load(scoring_file, tmp_path / "site")


@pytest.mark.parametrize("name", [None, "", 3, "x" * 101, "ward\n3", "ward\u202e3", " ward", "ward "])
def test_a_name_that_no_request_could_send_is_refused(scoring_file: Path, tmp_path: Path, name: object) -> None:
    put(tmp_path / "site", site=name)
    with pytest.raises(CalibrationRefused, match=r"^north\.json names .*--site NAME"):
        Sites.load(scoring_file, tmp_path / "site")
