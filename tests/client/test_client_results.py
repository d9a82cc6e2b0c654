"""The types of the answers."""

from __future__ import annotations

import json

import pytest
from cytoserve_client.reasons import Reason
from made_cells import cell
from pydantic import ValidationError


def test_results_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        cell().label = "basophil"  # type: ignore[misc]


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


def test_every_known_reason_has_a_sentence_of_its_own() -> None:
    assert len({reason.explanation for reason in Reason}) == len(Reason)
    for reason in Reason:
        assert len(reason.explanation.split()) > 5
        assert reason.value not in reason.explanation
