"""What a caller may choose per call: how it travels, and what is refused at the border."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from cytoserve_client import errors
from fake_server import CLASSES, Call, FakeServer, Refuse

Open = Callable[..., Any]
METHODS = ("analyze", "classify")


@pytest.mark.parametrize("method", METHODS)
def test_what_was_chosen_is_sent_and_nothing_else(server: FakeServer, open_client: Open, method: str) -> None:
    ask = getattr(open_client(server.url), method)
    ask(b"x", budget=12, alpha=0.05, classes=["monocyte", "neutrophil"], priority="stat")
    ask(b"x", alpha=0, classes=("platelet", "platelet"))
    ask(b"x", priority="routine")
    ask(b"x", site="north")
    ask(b"x", one_sample=False)
    sent = [{k: v for k, v in call.parameters.items() if k != "deadline_ms"} for call in server.fake.calls]
    assert sent == [
        {"budget": 12, "alpha": 0.05, "classes": "monocyte,neutrophil", "stat": 1, "priority": 1},
        {"alpha": 0.0, "classes": "platelet"},
        {},
        {"site": "north"},
        {},
    ]


def test_single_cells_go_by_their_lane(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    for method in METHODS:
        for priority in ("routine", "stat"):
            getattr(client, method)(b"x", priority=priority)
    assert [call.model for call in server.fake.calls] == [
        *("smear_analysis", "smear_analysis"),
        *("cell_analysis", "stat_cell_analysis"),
    ]


def test_parameters_travel_as_tritons_own_client_sends_them(server: FakeServer, open_client: Open) -> None:
    open_client(server.url).analyze(b"x", budget=4, alpha=0.02, classes=list(CLASSES[:2]), priority="stat")
    image = triton.InferInput("IMAGE", [1], "BYTES")
    image.set_data_from_numpy(np.array([b"x"], dtype=np.object_))
    scale = triton.InferInput("UM_PER_PIXEL", [1], "FP32")
    scale.set_data_from_numpy(np.zeros(1, np.float32))
    names = ",".join(CLASSES[:2])
    parameters = {"budget": 4, "alpha": 0.02, "classes": names, "stat": 1, "deadline_ms": 5000}
    with triton.InferenceServerClient(server.url) as theirs:
        theirs.infer("smear_analysis", [image, scale], priority=1, parameters=parameters, client_timeout=10)
    ours, other = server.fake.calls
    assert ours.parameter_types == other.parameter_types
    assert {**ours.parameters, "deadline_ms": 5000} == other.parameters


REFUSED = {
    "budget": [0, -1, 1.5, "4", True],
    "alpha": [-0.01, 1, 1.5, float("nan"), float("inf"), "0.1", True, np.float32(0.01)],
    "classes": [[], (), "neutrophil", b"neutrophil", 3, ["neutrophil", 3], [""], [None]],
    "priority": ["urgent", "STAT", "", 1, None, ["stat"]],
    "site": ["", "x" * 101, "x" * 10_000, "a\nb", "a\x00", "\u202ea", "\udc80", 3, b"home", True, ["home"]],
    "one_sample": [None, 1, "yes"],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_a_choice_out_of_its_range_is_refused_before_anything_is_sent(
    server: FakeServer, open_client: Open, method: str, name: str, value: Any
) -> None:
    with pytest.raises(errors.BadParameter, match=name) as caught:
        getattr(open_client(server.url), method)([b"x"], **{name: value})
    assert caught.value.code == "bad_parameter"
    assert not server.fake.attempts


def test_an_empty_choice_of_classes_says_how_to_get_all(server: FakeServer, open_client: Open) -> None:
    with pytest.raises(errors.BadParameter, match="leave it out for all"):
        open_client(server.url).analyze(b"x", classes=[])
    with pytest.raises(errors.BadParameter, match="list of one"):
        open_client(server.url).analyze(b"x", classes="neutrophil")


@pytest.mark.parametrize("images", [b"x", [b"x", b"y"]], ids=["single", "list"])
@pytest.mark.parametrize("method", METHODS)
def test_unknown_classes_list_those_of_the_served_model(
    server: FakeServer, open_client: Open, method: str, images: Any
) -> None:
    server.fake.info["classes"] = ["granulocyte", "other"]
    with pytest.raises(errors.BadParameter, match="no class blast, neutrophil; choose from granulocyte, other"):
        getattr(open_client(server.url), method)(images, classes=["neutrophil", "other", "blast"])
    assert dict(server.fake.attempts) == {"service_info": 1}


def test_a_budget_above_the_models_probes_is_refused_without_an_image(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    with pytest.raises(errors.BadParameter, match="above the 24 probes"):
        client.analyze(b"x", budget=25)
    assert not server.fake.calls
    assert client.analyze(b"x", budget=24).fields


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_site_lists_those_the_server_has(server: FakeServer, open_client: Open, method: str) -> None:
    client = open_client(server.url)
    with pytest.raises(errors.BadParameter, match=r"no site 'south'; choose from home, north$"):
        getattr(client, method)(b"x", site="south")
    assert not server.fake.calls
    assert getattr(client, method)(b"x", site="north").site == "north"


def test_a_refusal_never_repeats_ten_thousand_characters(server: FakeServer, open_client: Open) -> None:
    with pytest.raises(errors.BadParameter, match="10000 characters") as caught:
        open_client(server.url).analyze(b"x", site="x" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("told", [{}, {"sites": []}, {"sites": None}], ids=["older release", "no scorer", "null"])
@pytest.mark.parametrize("method", METHODS)
def test_a_server_without_sites_has_its_own_only(
    server: FakeServer, open_client: Open, method: str, told: dict[str, Any]
) -> None:
    del server.fake.info["sites"]
    server.fake.info.update(told)
    client = open_client(server.url)
    with pytest.raises(errors.BadParameter, match="declares no sites, so only 'home'"):
        getattr(client, method)(b"x", site="north")
    assert getattr(client, method)(b"x", site="home").site == "home"
    assert getattr(client, method)(b"x").site == "home"


def test_a_site_added_while_the_client_is_open_is_found(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    client.analyze(b"x")
    server.fake.info["sites"].append({"site": "south"})
    assert client.analyze(b"x", site="south").site == "south"
    assert server.fake.attempts["service_info"] == 2
    client.analyze(b"x", site="south")
    assert server.fake.attempts["service_info"] == 2


def test_what_the_server_tells_of_its_sites_is_typed(server: FakeServer, open_client: Open) -> None:
    info = open_client(server.url).info()
    assert info.site_names == ("home", "north")
    north = info.sites[1]
    assert (north.familiar_cells, north.calibrated_budgets, north.promise["n"]) == (500, (8, 16), 500)
    assert (north.expected_referral.low, north.expected_referral.high) == (0.05, 0.27)
    assert north.content_sha256 == "23" * 32


@pytest.mark.parametrize(
    "sites",
    [
        "home",
        [{"created": "2026"}],
        [{"site": 3}],
        [{"site": ""}],
        [{"site": "home"}, {"site": "home"}],
        [{"site": "home", "expected_referral": {"value": "many"}}],
    ],
    ids=["text", "no name", "a number", "an empty name", "twice", "no share"],
)
def test_a_list_of_sites_that_is_none_ends_the_call(server: FakeServer, open_client: Open, sites: Any) -> None:
    server.fake.info["sites"] = sites
    with pytest.raises(errors.ContractMismatch, match="service_info"):
        open_client(server.url).analyze(b"x")


def test_a_server_that_does_not_tell_its_probes_decides_itself(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        raise Refuse(grpc.StatusCode.INVALID_ARGUMENT, "[cytoserve:bad_parameter] budget 25 is outside 1..24")

    server.fake.on_smear = judge
    del server.fake.info["probes"]
    with pytest.raises(errors.BadParameter, match=r"outside 1\.\.24"):
        open_client(server.url).analyze(b"x", budget=25)
    assert len(server.fake.calls) == 1


def test_another_model_after_an_outage_is_asked_for_its_own_classes(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    assert client.analyze(b"x", classes=["neutrophil"]).fields
    usual = server.fake.on_smear

    def away(call: Call) -> dict[str, Any]:
        raise Refuse(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    server.fake.on_smear = away
    with pytest.raises(errors.ServerUnavailable):
        client.analyze(b"x")
    server.fake.on_smear = usual
    server.fake.info["classes"] = [f"{name} 2" for name in CLASSES]
    with pytest.raises(errors.BadParameter, match="choose from basophil 2"):
        client.analyze(b"x", classes=["neutrophil"])
    assert client.analyze(b"x", classes=["neutrophil 2"]).fields


def test_what_the_service_does_by_default_is_told(server: FakeServer, open_client: Open) -> None:
    info = open_client(server.url).info()
    assert (info.probes, info.default_budget, info.default_alpha) == (24, 16, 0.01)
    for key in ("probes", "default_budget", "default_alpha"):
        server.fake.info[key] = "many"
    info = open_client(server.url).info()
    assert (info.probes, info.default_budget, info.default_alpha) == (None, None, None)
