"""Answers that must not be passed on: what the client does when a server's tensors contradict the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cytoserve_client import EncodedImage, errors
from cytoserve_reports import summarise
from fake_server import Call, FakeServer, cells, smear, unfamiliar

Open = Callable[..., Any]


def spoil(tensor: str, value: Any, where: Any = ...) -> Callable[[dict[str, Any]], None]:
    def apply(answer: dict[str, Any]) -> None:
        answer[tensor][where] = value

    return apply


def replace(**tensors: Any) -> Callable[[dict[str, Any]], None]:
    return lambda answer: answer.update(tensors)


def remove(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda answer: answer.pop(name)


SPOILT = {
    "posterior NaN": spoil("POSTERIOR", np.nan, (0, 3)),
    "posterior does not sum to 1": spoil("POSTERIOR", 0.5),
    "posterior negative": spoil("POSTERIOR", [-0.1, 1.1, 0, 0, 0, 0, 0, 0], 0),
    "posterior of another width": replace(POSTERIOR=np.full((3, 2), 0.5, np.float32)),
    "interval inside out": spoil("POSTERIOR_INTERVAL", [0.9, 0.4], 0),
    "interval beyond 1": spoil("POSTERIOR_INTERVAL", [0.9, 1.4], 0),
    "interval half computed": spoil("POSTERIOR_INTERVAL", [0.9, np.nan], 0),
    "label beyond the classes": spoil("LABEL", 8, 0),
    "label below -1": spoil("LABEL", -2, 0),
    "accepted without a label": spoil("LABEL", -1, 0),
    "uncertainty infinite": spoil("UNCERTAINTY", np.inf, 1),
    "p-value above 1": spoil("ANOMALY", [1.5, 1.5, 0.5, 99], 0),
    "p-value 0": spoil("ANOMALY", [1.5, 0, 0.5, 99], 0),
    "p-value of no calibration cells": spoil("ANOMALY", [1.5, 0.5, 0.5, np.nan], 0),
    "p-value of half a calibration cell": spoil("ANOMALY", [1.5, 0.5, 0.5, 0.5], 0),
    "p-value of its kind above 1": spoil("ANOMALY", [1.5, 0.5, 1.5, 99], 0),
    "p-value of no kind": spoil("ANOMALY", [1.5, 0.5, np.nan, 99], 0),
    "calibration cells of no p-value": spoil("ANOMALY", [1.5, np.nan, np.nan, 99], 0),
    "decision unknown": spoil("DECISION", 2, 0),
    "evaluations negative": spoil("EVALUATIONS", -1, 0),
    "reasons of another length": replace(REASONS=[b""]),
    "box NaN": spoil("BOX", np.nan, (0, 0)),
    "box inside out": spoil("BOX", [5, 5, 1, 9], 0),
    "kind unknown": spoil("KIND", 3, 0),
    "index outside": spoil("CELL_INDEX", 99, 0),
    "index negative": spoil("CELL_INDEX", -1, 0),
    "index twice": spoil("CELL_INDEX", 4, slice(0, 2)),
    "size zero": spoil("FIELD_SIZE", 0),
    "scale zero": spoil("SCALE", 0),
    "scale infinite": spoil("SCALE", np.inf),
    "familiarity p-value 0": spoil("DOMAIN", 0, (0, 1)),
    "familiarity p-value of the kind 0": spoil("DOMAIN", 0, (0, 2)),
    "familiarity p-value above 1": spoil("DOMAIN", 1.01, (0, 1)),
    "familiarity without a distance": spoil("DOMAIN", np.nan, (0, 0)),
    "familiarity without a p-value": spoil("DOMAIN", np.nan, (0, 1)),
    "familiarity without a p-value of the kind": spoil("DOMAIN", -1, (0, 2)),
    "familiarity without a count": spoil("DOMAIN", np.nan, (0, 3)),
    "familiarity of no calibration cell": spoil("DOMAIN", 0, (0, 3)),
    "familiarity of half a calibration cell": spoil("DOMAIN", 200.5, (0, 3)),
    "familiarity infinite": spoil("DOMAIN", np.inf, (0, 0)),
    "familiarity of another width": replace(DOMAIN=np.ones((3, 2), np.float32)),
    "cause without a side": spoil("DOMAIN_CAUSE", b"nucleus_red", 0),
    "cause without a statistic": spoil("DOMAIN_CAUSE", b"+", 0),
    "no cause": spoil("DOMAIN_CAUSE", b"", 0),
    "accepted without a comparison": spoil("DOMAIN", -1, 0),
    "accepted though unfamiliar": spoil("REASONS", b"unfamiliar_image", 0),
    "image statistics infinite": spoil("IMAGE_STATISTICS", np.inf, (0, 3)),
    "image statistics of another number": replace(IMAGE_STATISTICS=np.zeros((3, 23), np.float32)),
    "scores fewer than boxes": replace(DETECTION_SCORE=np.ones(2, np.float32)),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_answer_is_never_passed_on(server: FakeServer, open_client: Open, name: str) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = smear([6, 6, 4])
        if call.files[0] == b"spoilt":
            SPOILT[name](answer)
        return answer

    server.fake.on_smear = judge
    client = open_client(server.url)
    with pytest.raises(errors.InvalidAnswer) as caught:
        client.analyze(EncodedImage("a.png", b"spoilt"))
    assert caught.value.source == "a.png"
    assert caught.value.request_id
    result = client.analyze([b"spoilt", b"fine"])
    assert [field.source for field in result.fields] == ["bytes[1]"]
    assert [failure.error for failure in result.failures] == ["invalid_answer"]


@pytest.mark.parametrize(
    "spoiler",
    [remove("LABEL"), replace(LABEL=np.zeros(3, np.int64)), replace(LABEL=np.zeros((3, 1), np.int32))],
    ids=["missing", "other type", "other rank"],
)
def test_an_answer_of_another_contract_ends_the_call(server: FakeServer, open_client: Open, spoiler: Any) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = smear([6, 6, 4])
        spoiler(answer)
        return answer

    server.fake.on_smear = judge
    with pytest.raises(errors.ContractMismatch, match="LABEL"):
        open_client(server.url).analyze([b"a", b"b"])


def test_a_spoilt_cell_does_not_sink_its_chunk(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = cells([6, 6, 6])
        answer["POSTERIOR"][1] = np.nan
        return answer

    server.fake.on_cells = judge
    result = open_client(server.url).classify([b"a", b"b", b"c"])
    assert [cell.source for cell in result.cells] == ["bytes[0]", "bytes[2]"]
    assert [(failure.source, failure.error) for failure in result.failures] == [("bytes[1]", "invalid_answer")]


def test_a_statistic_of_a_later_release_is_passed_on_as_the_cause(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = lambda call: unfamiliar(smear([6]), 1, cause="from_the_future-")
    cell = open_client(server.url).analyze(b"x").fields[0].cells[3]
    assert cell.familiarity.cause == "from_the_future-"
    assert cell.familiarity.cause_explained == "from the future is lower than in this site's calibration"


def test_a_picture_that_could_not_be_measured_has_no_statistics(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = unfamiliar(smear([6, 6]), 2)
        answer["IMAGE_STATISTICS"][0] = np.nan
        return answer

    server.fake.on_smear = judge
    first, second = open_client(server.url).analyze(b"x").fields[0].cells[3:5]
    assert first.image_statistics is None
    assert len(second.image_statistics) == 24
    assert "image_statistics" not in first.model_dump_json()


@pytest.mark.parametrize("missing", [-1.0, np.nan], ids=["as the contract says", "as the release before said"])
def test_numbers_not_computed_are_null(server: FakeServer, open_client: Open, missing: float) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = smear([6, 6], {1: "low_confidence"})
        answer["LABEL"][1] = -1
        answer["POSTERIOR"][1] = missing
        answer["POSTERIOR_INTERVAL"][:] = missing
        answer["UNCERTAINTY"][:] = missing
        answer["ANOMALY"][:] = missing
        answer["SCALE"][:] = missing
        answer["SCALE_SOURCE"] = [b"none"]
        return answer

    server.fake.on_smear = judge
    result = open_client(server.url).analyze(b"x")
    scored, unscored = result.fields[0].cells[3:5]
    assert (scored.label, scored.uncertainty, scored.anomaly) == ("neutrophil", None, None)
    assert scored.probability_interval is None
    assert (unscored.label, unscored.probability, unscored.decision) == (None, None, "review")
    assert (result.fields[0].um_per_pixel, result.fields[0].median_red_cell_um) == (None, None)
    assert "NaN" not in result.model_dump_json()
    assert summarise(result).review == ((0, 4),)
