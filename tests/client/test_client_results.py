"""Types, differential and review list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cytoserve_client import Anomaly, Cell, FieldAnalysis, ModelInfo, ReviewItem, SmearAnalysis
from cytoserve_client._answers import assemble_smear, split_by_field
from cytoserve_client.differential import differential, is_small, unlabelled, white_cells
from cytoserve_client.reasons import EXPLANATIONS, Reason
from cytoserve_client.results import Failure
from cytoserve_client.review import review_list
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

CLASSES = ("basophil", "erythroblast", "lymphocyte", "neutrophil", "platelet")
MODEL = ModelInfo(name="m", version="1", classes=CLASSES, weights_sha256="00")


def cell(
    label: str | None = "neutrophil", kind: str = "white_cell", decision: str | None = "accept", **changes: Any
) -> Cell:
    values: dict[str, Any] = {
        "box": (0.0, 0.0, 5.0, 5.0),
        "kind": kind,
        "label": label,
        "probability": None if label is None else {label: 1.0},
        "uncertainty": 0.5,
        "anomaly": None,
        "decision": decision,
        "reasons": (),
        "evaluations": 10,
    }
    return Cell(**{**values, **changes})


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


def test_json_is_that_of_the_specification_and_reads_back() -> None:
    scored = cell(anomaly=Anomaly(score=2.0, p_value=None), decision="review", reasons=("near_tie", "from_the_future"))
    analysis = assemble_smear(MODEL, [field(RED, scored)], [Failure(source="b", error="empty", message="no")], "s-1")
    document = json.loads(analysis.model_dump_json())
    assert document["schema"] == "cytoserve.analysis/1"
    assert set(document) == {
        *("schema", "sample", "model", "fields", "differential", "review", "failures"),
        *("reasons_explained", "skipped"),
    }
    assert set(document["model"]) == {"name", "version", "classes", "weights_sha256"}
    assert set(document["fields"][0]) == {
        *("source", "width", "height", "um_per_pixel", "cells"),
        *("scale_source", "median_red_cell_um", "synthetic"),
    }
    assert set(document["fields"][0]["cells"][0]) == {
        *("box", "kind", "label", "probability", "uncertainty", "anomaly", "decision", "reasons", "evaluations"),
        *("detection_score", "scores", "conformal", "prediction_set_95", "probability_interval"),
    }
    assert document["fields"][0]["cells"][0]["probability"] is None
    assert document["fields"][0]["cells"][1]["anomaly"] == {"score": 2.0, "p_value": None}
    assert set(document["differential"]["neutrophil"]) == {"count", "accepted", "review", "percent", "low", "high"}
    assert document["review"] == [[0, 1]]
    assert SmearAnalysis.model_validate_json(analysis.model_dump_json()) == analysis


def test_results_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        cell().label = "basophil"  # type: ignore[misc]


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
    whole = assemble_smear(
        MODEL,
        [field(cell(), source="a"), field(cell("lymphocyte", decision="review"), source="b")],
        [Failure(source="c", error="empty", message="no")],
        "s",
    )
    a, b, c = split_by_field(whole)
    assert a.differential["neutrophil"].percent == 100
    assert (b.fields[0].source, b.review) == ("b", (ReviewItem(0, 0),))
    assert (c.fields, [failure.source for failure in c.failures]) == ((), ["c"])


def test_the_prediction_set_is_in_the_json_where_its_promise_holds() -> None:
    p_values = {"basophil": 0.05, "erythroblast": 0.0501, "lymphocyte": 0.9, "neutrophil": 0.01, "platelet": 0.01}
    told = {
        "usual": cell(conformal=p_values),
        "strict": cell(conformal=p_values | {"erythroblast": 0.0, "lymphocyte": 0.05}),
        "not computed": cell(),
        "not calibrated": cell(conformal=p_values, decision="review", reasons=("not_calibrated",)),
    }
    sets = {name: json.loads(one.model_dump_json())["prediction_set_95"] for name, one in told.items()}
    # p > 0.05 stays (a p-value of exactly 0.05 is excluded), in the model's order.
    assert sets == {
        "usual": ["erythroblast", "lymphocyte", "neutrophil"],
        "strict": [],
        "not computed": None,
        "not calibrated": None,
    }
    assert told["not calibrated"].prediction_set(0.2) == ("lymphocyte", "neutrophil")


def test_a_set_that_is_not_empty_holds_the_label() -> None:
    """The demo showed a `lymphocyte` whose 95 % set was `monocyte` alone."""
    outside = cell(label="lymphocyte", conformal={"lymphocyte": 0.02, "monocyte": 0.3, "neutrophil": 0.01})
    assert outside.prediction_set() == ("lymphocyte", "monocyte")
    assert outside.prediction_set(0.5) == ()
    assert cell(label=None, conformal={"lymphocyte": 0.02, "monocyte": 0.3}).prediction_set() == ("monocyte",)


def test_every_reason_that_occurs_is_explained_once_and_no_other() -> None:
    cells = [cell(decision="review", reasons=reasons) for reasons in [("near_tie", "new_one"), ("near_tie",), ()]]
    explained = assemble_smear(MODEL, [field(*cells, RED)]).reasons_explained
    assert list(explained) == ["near_tie", "new_one"]
    assert "differ by less" in explained["near_tie"]
    assert "does not know" in explained["new_one"]
    assert assemble_smear(MODEL, [field(cell())]).reasons_explained == {}


def test_every_known_reason_has_a_sentence_of_its_own() -> None:
    assert set(EXPLANATIONS) == set(Reason)
    assert len(set(EXPLANATIONS.values())) == len(Reason)
    for reason, sentence in EXPLANATIONS.items():
        assert len(sentence.split()) > 5
        assert reason.value not in sentence
