"""A sample added up: the document, the differential, the review list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from cytoserve_client import Anomaly, Cell, Failure, Familiarity, FieldAnalysis, ModelInfo, Skipped, SmearAnalysis
from cytoserve_client.familiarity import fields_as_one_sample
from cytoserve_reports import ReviewItem, SampleReport, summarise, summarise_each
from cytoserve_reports.differential import differential, is_small, unlabelled, white_cells
from cytoserve_reports.familiar import first_line, reasons_of
from cytoserve_reports.review import review_list
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cells import cell
from scipy import stats

CLASSES = ("basophil", "erythroblast", "lymphocyte", "neutrophil", "platelet")
MODEL = ModelInfo(name="m", version="1", classes=CLASSES, weights_sha256="00")


def field(*cells: Cell, source: str = "f.png") -> FieldAnalysis:
    return FieldAnalysis(
        source=source,
        width=10,
        height=10,
        um_per_pixel=None,
        scale_source="none",
        median_red_cell_um=None,
        cells=cells,
    )


RED = cell(None, "red_cell", None)
PLATELET = cell(None, "platelet", None)


def analysed(
    fields: Sequence[FieldAnalysis],
    failures: Sequence[Failure] = (),
    sample: str | None = None,
    skipped: Sequence[Skipped] = (),
) -> SmearAnalysis:
    return SmearAnalysis(
        model=MODEL, fields=tuple(fields), failures=tuple(failures), sample=sample, skipped=tuple(skipped)
    )


def test_json_is_that_of_the_specification_and_reads_back() -> None:
    scored = cell(anomaly=Anomaly(score=2.0, p_value=None), decision="review", reasons=("near_tie", "from_the_future"))
    failed, left = Failure(source="b", error="empty", message="no"), Skipped("c", "folder", "a folder")
    analysis = summarise(analysed([field(RED, scored)], [failed], "s-1", [left]))
    document = json.loads(analysis.model_dump_json())
    assert document["schema"] == "cytoserve.analysis/1"
    assert list(document) == [
        *(
            "schema",
            "sample",
            "site",
            "familiarity",
            "novelty",
            "model",
            "fields",
            "differential",
            "review",
            "failures",
        ),
        *("skipped", "reasons_explained"),
    ]
    assert document["skipped"] == [{"source": "c", "reason": "folder", "message": "a folder"}]
    assert set(document["model"]) == {"name", "version", "classes", "weights_sha256"}
    assert set(document["fields"][0]) == {
        *("source", "width", "height", "um_per_pixel", "cells"),
        *("scale_source", "median_red_cell_um", "synthetic", "familiarity", "region"),
    }
    assert set(document["fields"][0]["cells"][0]) == {
        *("box", "kind", "label", "probability", "uncertainty", "anomaly", "decision", "reasons", "evaluations"),
        *("detection_score", "scores", "conformal", "prediction_set_95", "probability_interval", "familiarity"),
    }
    assert document["fields"][0]["cells"][0]["probability"] is None
    assert document["fields"][0]["cells"][1]["anomaly"] == {
        "score": 2.0,
        "p_value": None,
        "p_value_of_kind": None,
        "cells_of_kind": None,
    }
    assert set(document["differential"]["neutrophil"]) == {"count", "accepted", "review", "percent", "low", "high"}
    assert document["review"] == [[0, 1]]
    assert SampleReport.model_validate_json(analysis.model_dump_json()) == analysis


def test_counts_denominators_and_intervals() -> None:
    cells = [cell("neutrophil")] * 6 + [cell("lymphocyte", decision="review")] * 2
    cells += [cell("erythroblast")] * 4 + [cell("platelet", decision="review")] + [PLATELET] * 7 + [RED] * 50
    rows = differential(cells, CLASSES)
    assert list(rows) == list(CLASSES)
    assert white_cells(rows) == 8
    assert (rows["neutrophil"].count, rows["neutrophil"].accepted, rows["neutrophil"].review) == (6, 6, 0)
    assert (rows["lymphocyte"].accepted, rows["lymphocyte"].review) == (0, 2)
    assert rows["neutrophil"].percent == 75
    expected = stats.binomtest(6, 8).proportion_ci(method="exact")
    assert rows["neutrophil"].low == pytest.approx(100 * expected.low)
    assert rows["neutrophil"].high == pytest.approx(100 * expected.high)
    assert rows["basophil"].count == 0
    assert rows["basophil"].low == 0
    assert rows["erythroblast"].percent == 50
    assert (rows["platelet"].count, rows["platelet"].percent) == (8, 100)
    odds = stats.binomtest(4, 12).proportion_ci(method="exact")
    assert rows["erythroblast"].high == pytest.approx(100 * odds.high / (1 - odds.high))


@settings(deadline=None, max_examples=25)
@given(numbers=st.lists(st.integers(0, 15), min_size=5, max_size=5))
def test_white_percentages_add_up_to_100(numbers: list[int]) -> None:
    rows = differential([cell(name) for name, n in zip(CLASSES, numbers, strict=True) for _ in range(n)], CLASSES)
    white = [rows[name] for name in ("basophil", "lymphocyte", "neutrophil")]
    if white_cells(rows) == 0:
        assert all(row.percent is None and row.low is None and row.high is None for row in rows.values())
    else:
        assert sum(row.percent or 0 for row in white) == pytest.approx(100)
        assert all((row.low or 0) <= (row.percent or 0) <= (row.high or 0) for row in white)


def test_small_counts_and_unscored_cells_are_told() -> None:
    assert is_small(differential([cell()] * 99, CLASSES))
    assert not is_small(differential([cell()] * 100, CLASSES))
    assert unlabelled([cell(None, decision="review"), RED, PLATELET, cell()]) == 1


def test_review_order_is_by_urgency_then_uncertainty_then_place() -> None:
    def review(*reasons: str, uncertainty: float = 0.5) -> Cell:
        return cell(decision="review", reasons=reasons, uncertainty=uncertainty)

    first = field(
        review("poor_image"),  # 0: image only
        review("low_confidence", uncertainty=0.2),  # 1
        review("low_confidence", uncertainty=0.9),  # 2
        review("near_tie"),  # 3
        cell(),  # 4: accepted
        RED,  # 5
        review("from_the_future"),  # 6: unknown reason
    )
    second = field(
        review("kind_conflict"),  # 0
        review("poor_image", "anomalous"),  # 1: its gravest reason counts
        review("ambiguous"),  # 2
        cell(None, decision="review", probability=None),  # 3: never scored
    )
    expected = [(1, 3), (1, 1), (1, 0), (0, 3), (1, 2), (0, 2), (0, 1), (0, 6), (0, 0)]
    assert review_list([first, second]) == tuple(ReviewItem(*pair) for pair in expected)


def test_analysis_splits_into_samples_of_one_image() -> None:
    whole = analysed(
        [field(cell(), source="a"), field(cell("lymphocyte", decision="review"), source="b")],
        [Failure(source="c", error="empty", message="no")],
        "s",
        [Skipped("d", "folder", "a folder")],
    )
    a, b, c = summarise_each(whole)
    assert a.differential["neutrophil"].percent == 100
    assert (b.fields[0].source, b.review) == ("b", (ReviewItem(0, 0),))
    assert {each.sample for each in (a, b, c)} == {"s"}
    assert all(each.skipped == () for each in (a, b, c))
    assert (c.fields, [failure.source for failure in c.failures]) == ((), ["c"])


def compared(p_value: float, **changes: Any) -> Cell:
    known = Familiarity(distance=1, p_value=p_value, p_value_of_kind=p_value, cells_of_kind=200, cause="edges-")
    return cell(familiarity=known, **changes)


def test_a_report_of_an_unfamiliar_sample_counts_no_accepted_cell() -> None:
    """Fields that nobody judged (read from a file, put together by hand) are judged when they are added up."""
    report = summarise(analysed([field(*[compared(0.01)] * 10), field(*[compared(0.02)] * 10, RED)]))
    assert report.familiarity is not None
    assert report.familiarity.rejected
    assert (report.differential["neutrophil"].accepted, report.differential["neutrophil"].review) == (0, 20)
    assert len(report.review) == 20
    document = json.loads(report.model_dump_json())
    assert document["familiarity"]["headline"].startswith("UNFAMILIAR SAMPLE: ")
    assert document["familiarity"]["cause_explained"] == "edges are softer than in this site's calibration"
    assert list(document["reasons_explained"]) == ["unfamiliar_sample"]
    assert SampleReport.model_validate_json(report.model_dump_json()) == report


def test_each_image_is_judged_by_itself_where_each_is_a_sample() -> None:
    odd, usual = field(*[compared(0.01)] * 10, source="odd"), field(*[compared(0.8)] * 60, source="usual")
    together = analysed([odd, usual])
    assert not summarise(together).familiarity.rejected  # type: ignore[union-attr]
    reports = summarise_each(together)
    assert [one.familiarity.rejected for one in reports if one.familiarity] == [True, False]
    assert [one.differential["neutrophil"].accepted for one in reports] == [0, 60]


def test_images_of_a_rejected_sample_stay_rejected_one_by_one() -> None:
    judged = fields_as_one_sample(analysed([field(*[compared(0.01)] * 30), field(compared(0.8))]))
    reports = summarise_each(judged)
    assert [one.familiarity for one in reports] == [judged.familiarity] * 2
    assert sum(one.differential["neutrophil"].accepted for one in reports) == 0


def test_the_first_line_where_no_sample_was_judged() -> None:
    assert first_line(None, [RED], "north") == (
        "Not compared: there is no cell to compare with the calibration of site 'north'.",
        False,
    )
    found = [compared(0.5), compared(0.004, decision="review", reasons=("unfamiliar_image",))]
    assert first_line(None, found, "home") == (
        "Not one sample: each cell was compared by itself with the calibration of site 'home' (2 cell(s), 1 "
        "unfamiliar).",
        False,
    )
    assert first_line(None, found[1:], "home").alarming


def test_the_cause_stands_behind_the_reason_it_is_of() -> None:
    unfamiliar = compared(0.004, decision="review", reasons=("near_tie", "unfamiliar_image", "unfamiliar_sample"))
    assert reasons_of(unfamiliar) == "near tie, unfamiliar image (edges are softer), unfamiliar sample"
    assert reasons_of(compared(0.5, decision="review", reasons=("near_tie",))) == "near tie"
    assert reasons_of(cell(decision="review", reasons=("unfamiliar_image",))) == "unfamiliar image"
    assert reasons_of(compared(0.5)) == ""


def test_every_reason_that_occurs_is_explained_once_and_no_other() -> None:
    cells = [cell(decision="review", reasons=reasons) for reasons in [("near_tie", "new_one"), ("near_tie",), ()]]
    explained = summarise(analysed([field(*cells, RED)])).reasons_explained
    assert list(explained) == ["near_tie", "new_one"]
    assert "differ by less" in explained["near_tie"]
    assert "does not know" in explained["new_one"]
    assert summarise(analysed([field(cell())])).reasons_explained == {}
