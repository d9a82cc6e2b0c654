"""The report on a synthetic set of answers: what it says, that it is whole, and that it is the same every time."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cytoserve_client.results import ModelInfo
from cytoserve_statistics import resampling
from cytoserve_statistics.combined import combined_p_value
from cytoserve_validation import familiarity, figures, page, report
from cytoserve_validation.answers import Answered
from cytoserve_validation.labelled import Groups
from synthetic_answers import CLASSES, answers

MODEL = ModelInfo(name="reference", version="1.2.3", classes=CLASSES, weights_sha256="ab" * 32)
SCANNERS = ("new <b>scanner</b>", "old", "tiny")
CELLS = 240


def source(**changes: Any) -> report.MeasuredSet:
    settings: dict[str, Any] = {"um_per_pixel": 0.18, "budget": None, "created": "2026-01-02T03:04:05+00:00"}
    return report.MeasuredSet(name="set", data_sha256="cd" * 32, **{**settings, **changes})


def groups(with_slides: bool) -> Groups:
    names = tuple(SCANNERS[2] if i < 12 else SCANNERS[i % 2] for i in range(CELLS))
    slides = tuple(f"{names[i]}-{i // 12}" for i in range(CELLS)) if with_slides else None
    return Groups(names, slides)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    strange = answers(60, seed=9, strange=True)
    built = report.build(answers(CELLS), MODEL, source(), groups(with_slides=True), strange)
    loaded: dict[str, Any] = json.loads(report.to_json(built))
    return loaded


def test_the_main_figures_are_counts_of_the_answers(document: dict[str, Any]) -> None:
    cells = answers(CELLS)
    head = document["overall"]["headline"]
    assert head["accuracy"]["value"] == pytest.approx((cells.label == cells.truth).mean(), abs=1e-6)
    recalls = [(cells.label[cells.truth == c] == c).mean() for c in range(len(CLASSES))]
    assert head["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls), abs=1e-6)
    wrong = cells.accepted & (cells.label != cells.truth)
    assert document["overall"]["acceptance"]["wrong"] == wrong.sum()
    assert head["error_among_accepted"]["value"] == pytest.approx(wrong.sum() / cells.accepted.sum(), abs=1e-6)
    rows = document["overall"]["confusion"]
    assert sum(sum(row.values()) for row in rows.values()) == CELLS
    neutrophil = document["overall"]["per_class"]["neutrophil"]
    called = sum(row["neutrophil"] for row in rows.values())
    assert neutrophil["positive_predictive_value"]["value"] == pytest.approx(
        rows["neutrophil"]["neutrophil"] / called, abs=1e-6
    )
    assert neutrophil["specificity"]["of"] == CELLS - neutrophil["cells"]


def test_every_interval_holds_its_value(document: dict[str, Any]) -> None:
    checked = 0

    def visit(item: Any) -> None:
        nonlocal checked
        if isinstance(item, dict):
            if {"value", "low", "high"} <= item.keys() and item["value"] is not None:
                assert item["low"] <= item["value"] + 1e-6, item
                assert item["high"] >= item["value"] - 1e-6, item
                checked += 1
            for part in item.values():
                visit(part)
        elif isinstance(item, list):
            for part in item:
                visit(part)

    visit(document)
    assert checked > 150


def test_groups_are_compared_and_small_ones_named(document: dict[str, Any]) -> None:
    found = document["groups"]
    assert set(found) == set(SCANNERS)
    assert sum(row["cells"] for row in found.values()) == CELLS
    assert any("too small to judge: 12 cells" in text for text in found["tiny"]["warnings"])
    assert any("slide(s), fewer than 20" in text for text in found["old"]["warnings"])
    cells, inside = answers(CELLS), np.array(groups(with_slides=True).group) == "old"
    difference = cells.right[inside].mean() - cells.right[~inside].mean()
    assert found["old"]["difference_to_others"]["accuracy"]["value"] == pytest.approx(difference, abs=1e-6)
    assert document["anomalies"]["auc_by_group"]["old"]["difference_to_others"] is not None


def test_without_slides_it_says_that_cells_are_taken_as_independent() -> None:
    alone = report.build(answers(60), MODEL, source())
    assert report.INDEPENDENT in alone["notes"]
    assert alone["data"]["slides"] is None
    assert alone["overall"]["headline"]["accuracy"]["method"] == "exact"


def test_the_same_answers_give_the_same_page(document: dict[str, Any]) -> None:
    again = report.build(answers(CELLS), MODEL, source(), groups(with_slides=True), answers(60, seed=9, strange=True))
    assert json.loads(report.to_json(again)) == document
    assert page.render(document) == page.render(document)


def test_the_page_needs_nothing_from_outside_and_escapes_what_it_is_given(document: dict[str, Any]) -> None:
    bad = {"file": "<script>alert(1)</script>.png", "error": "not_an_image", "message": "no image"}
    text = page.render({**document, "data": {**document["data"], "failed": [bad]}})
    assert "<script" not in text
    assert html.escape(bad["file"]) in text
    assert html.escape(SCANNERS[0]) in text
    assert SCANNERS[0] not in text
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(links) == 8
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert "not a medical device" in text
    assert "No leukaemic cells (blasts) were ever seen" in text


def test_classes_that_are_absent_stay_in_the_race_and_the_other_figure_stands_beside() -> None:
    cells = answers(200, seed=3, present=3)
    built = report.build(cells, MODEL, source())
    assert built["data"]["absent"] == ["monocyte", "neutrophil"]
    alone = built["restricted"]
    assert alone["classes"] == list(CLASSES[:3])
    expected = cells.scores[:, :3].argmin(axis=1) == cells.truth
    assert alone["accuracy"]["value"] == pytest.approx(expected.mean())
    assert alone["accuracy"]["value"] >= built["overall"]["headline"]["accuracy"]["value"]
    assert built["overall"]["per_class"]["monocyte"]["sensitivity"]["value"] is None
    assert report.build(answers(60), MODEL, source())["restricted"] is None


def test_images_without_an_answer_are_counted_and_unscored_cells_are_wrong() -> None:
    cells = answers(100, seed=4)
    failed = [{"file": f"x{i}", "error": "truncated", "message": "m"} for i in range(10)]
    built = report.build(cells, MODEL, source(failed=failed))
    assert built["data"]["images"] == 110
    assert built["data"]["accuracy_if_failures_count_as_wrong"] == pytest.approx(cells.right.sum() / 110)
    label = cells.label.copy()
    label[:5] = -1
    posterior = np.where((label < 0)[:, None], np.nan, cells.posterior)
    unscored = type(cells)(**{**cells.__dict__, "label": label, "posterior": posterior})
    found = figures.describe(unscored, resampling.draw([""] * 100, None, None, draws=50), 0.95)
    assert found["unscored"] == 5
    assert found["headline"]["accuracy"]["of"] == 100
    assert found["headline"]["calibration_error"]["of"] == 95
    assert sum(row[figures.NOT_SCORED_COLUMN] for row in found["confusion"].values()) == 5


def test_a_server_without_p_values_gets_a_report_that_says_so() -> None:
    cells = answers(80)
    bare = type(cells)(**{**cells.__dict__, "conformal": np.full_like(cells.conformal, np.nan)})
    built = json.loads(report.to_json(report.build(bare, MODEL, source())))
    assert built["overall"]["sets"] is None
    assert built["overall"]["headline"]["set_coverage"]["value"] is None
    assert "computed no conformal p-values" in page.render(built)


def test_the_page_says_whose_calibration_was_in_force(document: dict[str, Any]) -> None:
    assert "the model's own" in html.unescape(page.render(document))
    told = {"site": "ward <7>", "created": "2026-01-01T00:00:00+00:00", "content_sha256": "ef" * 32}
    built = json.loads(report.to_json(report.build(answers(60), MODEL, source(calibration=told))))
    assert built["calibration"] == told
    assert "ward &lt;7&gt;, 2026-01-01T00:00:00+00:00, content efefefefefef" in page.render(built)


def test_nothing_accepted_is_said_and_not_divided_by() -> None:
    cells = answers(80)
    shy = type(cells)(**{**cells.__dict__, "accepted": np.zeros(80, bool)})
    built = json.loads(report.to_json(report.build(shy, MODEL, source(), Groups(("a",) * 80, None))))
    assert built["overall"]["acceptance"]["bound"] is None
    assert built["groups"]["a"]["difference_to_others"] is None
    assert "nothing was accepted" in page.render(built)


def unfamiliar_answers() -> Answered:
    """Answers of which every second cell of the old scanner, accepted or not, is unfamiliar."""
    cells = answers(CELLS)
    odd = (np.array(groups(with_slides=True).group) == "old") & (np.arange(CELLS) % 4 == 1)
    reasons = tuple(
        (*known, "unfamiliar_image") if far else known for known, far in zip(cells.reasons, odd, strict=True)
    )
    return replace(
        cells,
        reasons=reasons,
        accepted=cells.accepted & ~odd,
        familiar=np.where(odd, 0.001, cells.familiar),
        familiar_of_kind=np.where(odd, 0.001, cells.familiar_of_kind),
        causes=tuple("nucleus_red+" if far else "noise+" for far in odd),
    )


def test_familiarity_is_counted_overall_by_class_by_group_and_for_samples() -> None:
    cells, every = unfamiliar_answers(), groups(with_slides=True)
    found = report.build(cells, MODEL, source(), every)["familiarity"]
    odd = np.array(["unfamiliar_image" in reasons for reasons in cells.reasons])
    assert found["unfamiliar"]["value"] == pytest.approx(odd.mean())
    for number, name in enumerate(CLASSES):
        assert found["per_class"][name]["value"] == pytest.approx(odd[cells.truth == number].mean())
    assert found["groups"]["old"]["unfamiliar"]["value"] == pytest.approx(odd[np.array(every.group) == "old"].mean())
    assert found["groups"]["old"]["rejected"]
    assert not found["groups"][SCANNERS[0]]["rejected"]
    own = np.array(every.group) == "old"
    expected = combined_p_value(cells.familiar_of_kind[own].tolist(), cells.cells_of_kind[own].tolist())
    assert found["groups"]["old"]["sample_p_value"] == expected
    assert set(found["slides"]) == set(every.slide or ())
    assert found["p_values"]["0.01"]["value"] == pytest.approx((cells.familiar <= 0.01).mean())
    assert found["causes"] == [
        {
            "cause": "nucleus_red+",
            "in_words": "nuclei absorb more red light than in this site's calibration",
            "cells": int(odd.sum()),
        }
    ]


def test_acceptance_is_told_with_the_check_and_without_it() -> None:
    cells, plain = unfamiliar_answers(), answers(CELLS)
    found = report.build(cells, MODEL, source())["familiarity"]["acceptance"]
    assert found["with_check"]["accepted"] == cells.accepted.sum()
    assert found["without_check"]["accepted"] == plain.accepted.sum()
    assert found["without_check"]["wrong"] == (plain.accepted & ~plain.right).sum()
    assert found["with_check"]["accepted"] < found["without_check"]["accepted"]


def test_the_page_and_the_terminal_tell_of_familiarity() -> None:
    built = json.loads(report.to_json(report.build(unfamiliar_answers(), MODEL, source(), groups(with_slides=True))))
    text = html.unescape(page.render(built))
    assert "nuclei absorb more red light than in this site's calibration" in text
    assert "without check" in text
    assert "rejected" in text
    line = familiarity.sentence(built["familiarity"])
    assert line.startswith("unfamiliar pictures: 0.")
    assert "slide(s) rejected as samples" in line
    alone = familiarity.sentence(report.build(unfamiliar_answers(), MODEL, source())["familiarity"])
    assert "taken as one sample they are not of this site" in alone


def test_a_server_that_compared_no_picture_gets_a_report_that_says_so() -> None:
    cells = answers(60)
    bare = replace(cells, familiar=np.full(60, np.nan), familiar_of_kind=np.full(60, np.nan))
    built = json.loads(report.to_json(report.build(bare, MODEL, source())))
    assert built["familiarity"] is None
    assert "compared no picture" in page.render(built)
    assert familiarity.sentence(None) == "familiar pictures: the server compared none"
