"""A site's calibration is used when it fits the model and refused, with the remedy, when it does not."""

from __future__ import annotations

import json

import pytest
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.serving.site import (
    SCHEMA,
    CalibrationRefused,
    content_sha256,
    describe,
    load_engine,
    procedure_sha256,
)

WEIGHTS = "ab" * 32
CLASSES = ["lymphocyte", "neutrophil"]


SCORING = {
    "classes": CLASSES,
    "latent_shape": [1, 2, 2],
    "probes": 2,
    "default_budget": 1,
    "temperature": [1.0, 1.0],
    "accept_threshold": [0.9, 0.9],
}


@pytest.fixture
def scoring_file(tmp_path):
    folder = tmp_path / "models" / "scorer" / "1"
    folder.mkdir(parents=True)
    beside = tmp_path / "models" / "service_info" / "1"
    beside.mkdir(parents=True)
    (beside / "service.json").write_text(json.dumps({"weights_sha256": WEIGHTS}))
    (folder / "scoring.json").write_text(json.dumps(SCORING))
    return folder / "scoring.json"


def site_file(folder, **changes):
    document = {
        "schema": SCHEMA,
        "site": "north",
        "weights_sha256": WEIGHTS,
        "procedure_sha256": procedure_sha256(SCORING),
        "default_budget": 2,
        "temperature": [2.0, 2.0],
        "accept_threshold": [None, 0.99],
        "anomaly_reference": [{}, {"lymphocyte": [0.5]}],
        "conformal_reference": [{}, {}],
        "calibrated": [2],
        "promise": {},
        "by_budget": {},
        **changes,
    }
    document["content_sha256"] = content_sha256(document)
    folder.mkdir(exist_ok=True)
    (folder / "north.json").write_text(json.dumps(document))
    return document


def test_without_a_folder_or_a_file_the_models_own_holds(scoring_file, tmp_path):
    for folder in (None, "", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert [b.temperature for b in load_engine(scoring_file, folder).config.budgets] == [1.0, 1.0]


def test_a_site_file_replaces_what_was_fitted_and_nothing_else(scoring_file, tmp_path):
    site_file(tmp_path / "site")
    config = load_engine(scoring_file, tmp_path / "site").config
    assert [(b.temperature, b.accept_threshold) for b in config.budgets] == [(2.0, None), (2.0, 0.99)]
    assert config.calibrated == (2,)
    assert config.default_budget == 2
    assert config.classes == tuple(CLASSES)


def test_a_site_may_ask_for_a_stricter_anomaly_check(scoring_file, tmp_path):
    site_file(tmp_path / "old")
    assert load_engine(scoring_file, tmp_path / "old").config.anomaly_level == ScoringConfig.anomaly_level
    site_file(tmp_path / "site", anomaly_level=0.2)
    assert load_engine(scoring_file, tmp_path / "site").config.anomaly_level == 0.2


@pytest.mark.parametrize("level", [0, 1, -0.1, "0.1", None, True])
def test_a_level_that_is_none_is_refused(scoring_file, tmp_path, level):
    site_file(tmp_path / "site", anomaly_level=level)
    with pytest.raises(CalibrationRefused, match="anomaly_level"):
        load_engine(scoring_file, tmp_path / "site")


def test_a_file_for_other_weights_is_refused(scoring_file, tmp_path):
    site_file(tmp_path / "site", weights_sha256="cd" * 32)
    with pytest.raises(CalibrationRefused, match="made for the weights cdcdcd"):
        load_engine(scoring_file, tmp_path / "site")


def test_an_edit_by_hand_is_noticed(scoring_file, tmp_path):
    document = site_file(tmp_path / "site")
    document["accept_threshold"] = [None, 0.5]
    (tmp_path / "site" / "north.json").write_text(json.dumps(document))
    with pytest.raises(CalibrationRefused, match="changed after it was made"):
        load_engine(scoring_file, tmp_path / "site")


def test_several_files_are_not_guessed_between(scoring_file, tmp_path):
    site_file(tmp_path / "site")
    (tmp_path / "site" / "south.json").write_text("{}")
    with pytest.raises(CalibrationRefused, match=r"north\.json, south\.json"):
        load_engine(scoring_file, tmp_path / "site")


@pytest.mark.parametrize(("text", "told"), [("no json", "cannot be read"), ("[]", "no cytoserve"), ("{}", "no cyto")])
def test_other_files_are_refused(scoring_file, tmp_path, text, told):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "x.json").write_text(text)
    with pytest.raises(CalibrationRefused, match=told):
        load_engine(scoring_file, tmp_path / "site")


def test_a_folder_that_is_not_there_is_refused(scoring_file, tmp_path):
    with pytest.raises(CalibrationRefused, match="no folder"):
        load_engine(scoring_file, tmp_path / "nowhere")


def test_a_missing_key_is_named(scoring_file, tmp_path):
    document = site_file(tmp_path / "site")
    del document["promise"]
    document["content_sha256"] = content_sha256(document)
    (tmp_path / "site" / "north.json").write_text(json.dumps(document))
    with pytest.raises(CalibrationRefused, match="lacks promise"):
        load_engine(scoring_file, tmp_path / "site")


def test_the_service_tells_whose_calibration_holds(tmp_path):
    assert describe(None) is None
    document = site_file(tmp_path / "site")
    told = describe(tmp_path / "site")
    assert told is not None
    assert told["site"] == "north"
    assert told["content_sha256"] == document["content_sha256"]


def test_a_file_made_under_other_scoring_rules_is_refused(scoring_file, tmp_path):
    """Thresholds of other rules promise nothing here, though the weights are the same."""
    other = {**SCORING, "tie_statistic": 3.0}
    site_file(tmp_path / "site", procedure_sha256=procedure_sha256(other))
    with pytest.raises(CalibrationRefused, match=r"other scoring rules .* `cytoserve calibrate`"):
        load_engine(scoring_file, tmp_path / "site")
    scoring_file.write_text(json.dumps(other))
    assert load_engine(scoring_file, tmp_path / "site").config.tie_statistic == 3.0


def test_what_a_site_replaces_does_not_unbind_it():
    assert procedure_sha256({**SCORING, "temperature": [9.0, 9.0], "calibrated": [1]}) == procedure_sha256(SCORING)


def test_a_file_of_the_release_before_is_refused_and_says_why(scoring_file, tmp_path):
    site_file(tmp_path / "site", schema="cytoserve.calibration/1")
    with pytest.raises(CalibrationRefused, match="earlier release"):
        load_engine(scoring_file, tmp_path / "site")
