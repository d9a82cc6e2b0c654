"""A sample is judged as a whole, and an unfamiliar one has no accepted cell, whichever client asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cytoserve_client import (
    Cell,
    CellsAnalysis,
    Familiarity,
    FieldAnalysis,
    ModelInfo,
    SampleFamiliarity,
    SmearAnalysis,
)
from cytoserve_client.familiarity import (
    SAMPLE_LEVEL,
    cells_as_one_sample,
    each_field_a_sample,
    fields_as_one_sample,
    judge_sample,
)
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_statistics.combined import combined_p_value
from fake_server import Call, FakeServer, cells, distant, smear, unfamiliar
from made_cells import cell

Open = Callable[..., Any]
RED = "nuclei absorb more red light than in this site's calibration"


def compared(p_value: float = 0.5, cause: str = "noise+", cells_of_kind: int = 200, **changes: Any) -> Cell:
    known = Familiarity(
        distance=1.0, p_value=p_value, p_value_of_kind=p_value, cells_of_kind=cells_of_kind, cause=cause
    )
    return cell(familiarity=known, **changes)


def strange(p_value: float = 0.002, cause: str = "noise+") -> Cell:
    return compared(p_value, cause, decision="review", reasons=("unfamiliar_image",))


def analysed(*fields: list[Cell]) -> SmearAnalysis:
    model = ModelInfo(name="m", version="1", classes=("lymphocyte", "neutrophil"), weights_sha256="00")
    return SmearAnalysis(
        model=model,
        fields=tuple(
            FieldAnalysis(
                source=f"{i}.png",
                width=9,
                height=9,
                um_per_pixel=None,
                scale_source="none",
                median_red_cell_um=None,
                cells=tuple(found),
            )
            for i, found in enumerate(fields)
        ),
    )


# -- what a caller gets ------------------------------------------------------------------------------------------------


def test_cells_that_pass_alone_are_referred_together(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = lambda call: distant(smear([6] * 10, {0: "near_tie"}))
    result = open_client(server.url).analyze([b"a", b"b", b"c", b"d"])
    found = result.familiarity
    assert (found.site, found.cells, found.unfamiliar, found.rejected, found.cause) == (
        "home",
        40,
        0,
        True,
        "nucleus_red+",
    )
    assert found.p_value == combined_p_value([0.02] * 40, [500] * 40) < SAMPLE_LEVEL
    every = [one for field in result.fields for one in field.cells]
    scored = [one for one in every if one.decision is not None]
    assert len(scored) == 40
    assert {one.decision for one in scored} == {"review"}
    assert {one.reasons for one in scored} == {("unfamiliar_sample",), ("near_tie", "unfamiliar_sample")}
    assert {one.reasons for one in every if one.decision is None} == {()}
    assert "accept" not in result.model_dump_json().replace("nothing is accepted", "")
    assert found.cause_explained == RED


def test_one_such_field_is_not_enough(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = lambda call: distant(smear([6]))
    result = open_client(server.url).analyze(b"a")
    assert (result.familiarity.cells, result.familiarity.rejected, result.familiarity.cause) == (1, False, None)
    assert result.familiarity.p_value == pytest.approx(0.02, abs=1e-4)
    assert [one.decision for one in result.fields[0].cells if one.decision] == ["accept"]


def test_single_cells_of_one_call_are_one_sample(server: FakeServer, open_client: Open) -> None:
    server.fake.on_cells = lambda call: distant(cells([6] * len(call.files)), 0.03, "sharpness-")
    client = open_client(server.url, cells_per_request=4)
    result = client.classify([b"%d" % i for i in range(20)])
    assert (result.familiarity.cells, result.familiarity.rejected) == (20, True)
    assert {(one.decision, one.reasons) for one in result.cells} == {("review", ("unfamiliar_sample",))}
    assert list(result.reasons_explained) == ["unfamiliar_sample"]


def test_cells_of_several_samples_are_not_judged_together(server: FakeServer, open_client: Open) -> None:
    server.fake.on_cells = lambda call: distant(cells([6] * len(call.files)))
    result = open_client(server.url).classify([b"%d" % i for i in range(20)], one_sample=False)
    assert result.familiarity is None
    assert {one.decision for one in result.cells} == {"accept"}


def test_each_field_may_be_a_sample_of_its_own(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        return distant(smear([6] * 12)) if call.files[0] == b"odd" else smear([6] * 12)

    server.fake.on_smear = judge
    client = open_client(server.url)
    apart = client.analyze([b"plain", b"odd"], one_sample=False)
    assert apart.familiarity is None
    assert [field.familiarity.rejected for field in apart.fields] == [False, True]
    decided = [{one.decision for one in field.cells if one.decision} for field in apart.fields]
    assert decided == [{"accept"}, {"review"}]
    together = client.analyze([b"plain", b"odd"])
    assert together.familiarity.rejected
    assert [field.familiarity for field in together.fields] == [None, None]
    assert not [one for field in together.fields for one in field.cells if one.decision == "accept"]


def test_an_unfamiliar_cell_says_why_in_words(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = lambda call: unfamiliar(smear([6] * 30), 1)
    result = open_client(server.url).analyze(b"x")
    assert (result.familiarity.unfamiliar, result.familiarity.rejected) == (1, False)
    assert result.familiarity.headline == (
        f"Familiar: the pictures look like those of the calibration of site 'home' (30 cell(s), 1 unfamiliar). "
        f"Most frequent cause: {RED}."
    )
    first = json.loads(result.model_dump_json())["fields"][0]["cells"][3]
    assert first["familiarity"]["cause_explained"] == RED
    assert first["reasons"] == ["unfamiliar_image"]
    accepted = [one.familiarity for one in result.fields[0].cells if one.decision == "accept"]
    assert len(accepted) == 29
    assert {one.cause for one in accepted} == {"noise+"}


def test_the_site_is_in_every_result(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    assert client.analyze(b"x", site="north").site == client.classify(b"x", site="north").site == "north"
    assert client.analyze(b"x", site="north").familiarity.site == "north"
    assert client.analyze(b"x").site == client.classify(b"x").site == "home"


# -- samples at the edge -----------------------------------------------------------------------------------------------


def test_a_sample_without_compared_cells_has_no_familiarity(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    server.fake.on_smear = lambda call: smear([])
    empty = client.analyze(b"x")
    assert empty.familiarity is None
    assert len(empty.fields[0].cells) == 4  # red cells and a platelet

    def unchecked(call: Call) -> dict[str, Any]:
        answer = smear([6, 6], {0: "not_calibrated", 1: "not_calibrated"})
        answer["DOMAIN"][:] = -1
        answer["DOMAIN_CAUSE"] = [b"", b""]
        return answer

    server.fake.on_smear = unchecked
    result = client.analyze(b"x")
    assert result.familiarity is None
    assert [one.familiarity for one in result.fields[0].cells] == [None] * 6
    assert {one.decision for one in result.fields[0].cells} == {"review", None}


def test_cells_that_were_not_compared_are_rejected_with_their_sample() -> None:
    unknown = cell(decision="accept")
    judged = fields_as_one_sample(analysed([*[compared(0.01)] * 20, unknown]))
    assert judged.familiarity is not None
    assert (judged.familiarity.cells, judged.familiarity.rejected) == (20, True)
    assert judged.fields[0].cells[-1].decision == "review"


def test_a_sample_of_one_cell_is_rejected_by_its_own_p_value_alone() -> None:
    def rejected(p_value: float) -> bool:
        found = judge_sample([compared(p_value, cells_of_kind=5000)], "home")
        assert found is not None
        return found.rejected

    assert rejected(1 / 5001)
    assert not rejected(0.002)


def test_home_samples_are_rejected_no_more_often_than_the_level_says() -> None:
    """Cells of the calibration's own distribution, whose p-values share the calibration cells that they count."""
    rng = np.random.default_rng(4)
    rejections, samples = 0, 4000
    for _ in range(samples):
        reference, own = np.sort(rng.normal(size=300)), rng.normal(size=50)
        p_values = (1 + len(reference) - np.searchsorted(reference, own)) / (len(reference) + 1)
        found = judge_sample([compared(float(p), cells_of_kind=300) for p in p_values], "home")
        rejections += found is not None and found.rejected
    assert rejections <= 3 * SAMPLE_LEVEL * samples


# -- judging twice -----------------------------------------------------------------------------------------------------

SAMPLES = {
    "familiar": analysed([compared(0.4)] * 10, [compared(0.7)] * 10),
    "one odd field": analysed([compared(0.6)] * 40, [compared(0.01)] * 10),
    "rejected": analysed([compared(0.01)] * 10, [strange()] * 3),
    "nothing to judge": analysed([cell(None, "red_cell", None)], []),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("judge", [fields_as_one_sample, each_field_a_sample])
def test_judging_twice_changes_nothing(name: str, judge: Callable[[SmearAnalysis], SmearAnalysis]) -> None:
    once = judge(SAMPLES[name])
    assert judge(once) == once
    assert judge(SmearAnalysis.model_validate_json(once.model_dump_json())) == once


def test_cells_judged_twice_stay_the_same(server: FakeServer, open_client: Open) -> None:
    server.fake.on_cells = lambda call: distant(cells([6] * len(call.files)))
    once = open_client(server.url).classify([b"%d" % i for i in range(20)])
    assert once.familiarity.rejected
    assert cells_as_one_sample(once) == once
    read = CellsAnalysis.model_validate_json(once.model_dump_json())
    assert cells_as_one_sample(read).familiarity == once.familiarity


def test_a_likely_mistake_outlives_json_which_has_no_image_statistics() -> None:
    values = {"nucleus_red": 0.5, "nucleus_green": 2.4, "nucleus_blue": 1.4}
    row = tuple(values.get(name, 0.0) for name in IMAGE_STATISTIC_NAMES)
    once = fields_as_one_sample(analysed([compared(0.01, image_statistics=row)] * 20))
    assert once.familiarity is not None
    assert once.familiarity.mistake == "red_and_blue_swapped"
    assert once.familiarity.headline.endswith("It looks as if red and blue were swapped (BGR read as RGB).")
    read = SmearAnalysis.model_validate_json(once.model_dump_json())
    assert fields_as_one_sample(read).familiarity == once.familiarity
    usual = fields_as_one_sample(analysed([compared(0.5, image_statistics=row)] * 20))
    assert usual.familiarity is not None
    assert usual.familiarity.mistake is None  # a familiar sample needs no such guess


def test_no_field_of_a_rejected_sample_becomes_familiar_by_itself() -> None:
    whole = fields_as_one_sample(analysed([compared(0.6)] * 3, [strange()] * 20))
    assert whole.familiarity is not None
    assert whole.familiarity.rejected
    assert each_field_a_sample(whole) == whole


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        ([compared(0.5, "edges+")] * 5, None),
        ([compared(0.5, "edges+")] * 30 + [strange(0.009, "lamp_red-")], "lamp_red-"),
        ([strange(0.002, "b+"), strange(0.002, "a+"), compared(0.01, "c+"), compared(0.01, "c+")], "a+"),
        ([compared(0.3, "edges+")] * 30 + [compared(0.0201, "noise-")] * 20, "noise-"),
        ([compared(0.02, "noise-")] * 20 + [compared(0.3, "edges+")] * 30, "noise-"),
    ],
    ids=["familiar", "one unfamiliar", "ties by name", "the most distant", "in any order"],
)
def test_the_cause_is_that_of_the_unfamiliar_or_else_of_the_most_distant(found: list[Cell], cause: str | None) -> None:
    judged = judge_sample(found, "home")
    assert judged is not None
    assert judged.cause == cause


def test_the_headline_of_a_rejected_sample_says_what_follows() -> None:
    judged = judge_sample([strange(cause="nucleus_red+")] * 40 + [compared(0.5)] * 3, "north")
    assert judged is not None
    assert judged.headline == (
        "UNFAMILIAR SAMPLE: the pictures, taken together, are unlike those of the calibration of site 'north'; nothing "
        f"is accepted, all 43 cell(s) go to review (40 of them unfamiliar by themselves). Most frequent cause: {RED}."
    )


def test_two_unfamiliar_cells_are_not_called_a_familiar_sample() -> None:
    judged = judge_sample([strange(0.01), strange(0.01)], "home")
    assert judged is not None
    assert not judged.rejected
    assert judged.headline.startswith("Unfamiliar: the picture of each cell is unlike")
    assert "Familiar:" not in judged.headline


def test_a_statistic_of_a_later_release_has_words_too() -> None:
    told = SampleFamiliarity(site="s", cells=9, unfamiliar=9, p_value=0.0, rejected=True, cause="grain-", mistake="new")
    assert "Most frequent cause: grain is lower than in this site's calibration." in told.headline
    assert told.headline.endswith("calibration.")  # a mistake that this release does not know is not put into words
