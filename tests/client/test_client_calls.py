"""Both clients against a real gRPC server: every test body runs once blocking and once on asyncio."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cytoserve_client import EncodedImage, Expectation, errors
from cytoserve_client.results import CellsAnalysis, SmearAnalysis
from cytoserve_reports import summarise
from fake_server import CLASSES, OUTPUTS, Call, FakeServer, Refuse, cells, smear

Open = Callable[..., Any]


def test_analyze_one_array(server: FakeServer, open_client: Open, picture: np.ndarray) -> None:
    server.fake.on_smear = lambda call: smear([6, 4, 7], {2: "kind_conflict,from_the_future"}, red=2, platelets=1)
    result = open_client(server.url).analyze(picture, sample="s-1")
    assert isinstance(result, SmearAnalysis)
    assert (result.sample, result.model.version, result.model.classes) == ("s-1", "1.2.3", CLASSES)
    (field,) = result.fields
    assert (field.source, field.width, field.height) == ("array", 640, 480)
    assert (field.um_per_pixel, field.scale_source, field.median_red_cell_um) == (0.15, "red_cells", 7.4)
    assert [cell.kind for cell in field.cells] == ["red_cell"] * 2 + ["white_cell"] * 3 + ["platelet"]
    assert [cell.label for cell in field.cells] == [None, None, "neutrophil", "lymphocyte", "platelet", None]
    conflict = field.cells[4]
    assert (conflict.decision, conflict.reasons) == ("review", ("kind_conflict", "from_the_future"))
    assert conflict.anomaly is not None
    assert (conflict.anomaly.score, conflict.anomaly.p_value) == (1.5, None)
    assert field.cells[2].probability is not None
    assert field.cells[2].probability["neutrophil"] == 0.93
    assert field.cells[2].box == (20.0, 20.0, 28.5, 29.25)
    report = summarise(result)
    assert report.review == ((0, 4),)
    assert report.differential["platelet"].count == 2
    assert result.failures == ()


def test_what_a_request_carries(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url, headers={"x-tenant": "lab"}, token=lambda: "secret")
    client.analyze(b"the file's own bytes", 0.2, timeout=7.0, budget=12)
    (call,) = server.fake.calls
    assert call.files == [b"the file's own bytes"]
    assert call.um_per_pixel == pytest.approx([0.2])
    assert call.parameters["budget"] == 12
    assert 6000 < call.parameters["deadline_ms"] < 7000
    assert call.time_remaining <= 7.1
    assert len(call.request_id) == 32
    assert call.metadata["x-request-id"] == call.request_id
    assert (call.metadata["x-tenant"], call.metadata["authorization"]) == ("lab", "Bearer secret")
    assert set(call.requested) == set(OUTPUTS["smear_analysis"]) - {"CELL_FLAGS"}


def test_a_file_of_20_mib_travels(server: FakeServer, open_client: Open) -> None:
    big = bytes(20 * 2**20)
    open_client(server.url).analyze(big)
    assert server.fake.calls[0].files == [big]


def test_an_empty_field_is_an_answer(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = lambda call: smear([], red=0, platelets=0)
    result = open_client(server.url).analyze(b"x")
    assert result.fields[0].cells == ()
    assert all(row.count == 0 and row.percent is None for row in summarise(result).differential.values())
    assert (summarise(result).review, result.failures) == ((), ())


def test_no_images_is_an_answer(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    assert client.analyze([]).fields == ()
    assert client.classify([]).cells == ()


def test_one_bad_image_among_five_sinks_nobody(server: FakeServer, open_client: Open, picture: np.ndarray) -> None:
    def judge(call: Call) -> dict[str, Any]:
        if call.files[0] == b"bad":
            raise Refuse(grpc.StatusCode.INVALID_ARGUMENT, "[cytoserve:truncated] ends early; copy it again")
        return smear([6])

    server.fake.on_smear = judge
    result = open_client(server.url).analyze([b"a", b"b", EncodedImage("scan-3.png", b"bad"), "/gone.png", picture])
    assert [field.source for field in result.fields] == ["bytes[0]", "bytes[1]", "array[4]"]
    assert [(failure.source, failure.error) for failure in result.failures] == [
        ("scan-3.png", "truncated"),
        ("/gone.png", "unreadable"),
    ]
    assert result.failures[0].message == "ends early; copy it again"
    assert summarise(result).differential["neutrophil"].count == 3


def test_a_single_bad_image_raises(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        raise Refuse(grpc.StatusCode.INVALID_ARGUMENT, "[cytoserve:not_an_image] send a PNG")

    server.fake.on_smear = judge
    with pytest.raises(errors.NotAnImage, match="send a PNG") as caught:
        open_client(server.url).analyze(EncodedImage("a.txt", b"text"))
    assert caught.value.source == "a.txt"
    assert caught.value.request_id == server.fake.calls[0].request_id


def test_fields_keep_their_order_and_the_limit_of_requests_under_way(server: FakeServer, open_client: Open) -> None:
    def uneven(call: Call) -> dict[str, Any]:
        number = int(call.files[0])
        time.sleep(0.05 if number % 2 else 0.01)
        return smear([6], red=number, platelets=0)

    server.fake.on_smear = uneven
    progress: list[tuple[int, int]] = []
    result = open_client(server.url, max_in_flight=3).analyze(
        [str(i).encode() for i in range(12)], on_progress=lambda done, total: progress.append((done, total))
    )
    assert [len(field.cells) for field in result.fields] == list(range(1, 13))
    assert progress == [(done, 12) for done in range(1, 13)]
    assert 1 < server.fake.most_running <= 3


def test_classify_in_chunks(server: FakeServer, open_client: Open, tmp_path: Path) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = cells([int(name) % 8 for name in call.files], {0: "near_tie"})
        for row, name in enumerate(call.files):
            if name == b"5":
                answer["CELL_ERROR"][row] = b"[cytoserve:too_small] use the original"
                answer["LABEL"][row] = -1
                for tensor in ("POSTERIOR", "UNCERTAINTY", "ANOMALY", "SCALE"):
                    answer[tensor][row] = np.nan
        return answer

    server.fake.on_cells = judge
    result = open_client(server.url, cells_per_request=4).classify(
        [str(i).encode() for i in range(10)], [0.1 * (i + 1) for i in range(10)]
    )
    assert isinstance(result, CellsAnalysis)
    assert result.schema_ == "cytoserve.cells/1"
    assert sorted(len(call.files) for call in server.fake.calls) == [2, 4, 4]
    assert sorted(scale for call in server.fake.calls for scale in call.um_per_pixel) == pytest.approx(
        [0.1 * (i + 1) for i in range(10)]
    )
    assert [cell.source for cell in result.cells] == [f"bytes[{i}]" for i in range(10) if i != 5]
    assert [cell.label for cell in result.cells] == [CLASSES[i % 8] for i in range(10) if i != 5]
    assert [(failure.source, failure.error) for failure in result.failures] == [("bytes[5]", "too_small")]
    assert (result.cells[0].box, result.cells[0].kind, result.cells[0].reasons) == (None, None, ("near_tie",))


def test_a_chunk_refused_for_one_image_is_asked_for_one_by_one(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        if b"bad" in call.files:
            raise Refuse(grpc.StatusCode.INVALID_ARGUMENT, "[cytoserve:not_an_image] no")
        return cells([6] * len(call.files))

    server.fake.on_cells = judge
    result = open_client(server.url).classify([b"a", b"bad", b"c"])
    assert [cell.source for cell in result.cells] == ["bytes[0]", "bytes[2]"]
    assert [failure.source for failure in result.failures] == ["bytes[1]"]


def test_unreadable_cells_are_failures_in_their_place(server: FakeServer, open_client: Open) -> None:
    result = open_client(server.url).classify([b"a", "/gone.png", b"", b"d"])
    assert [cell.source for cell in result.cells] == ["bytes[0]", "bytes[3]"]
    assert [failure.error for failure in result.failures] == ["unreadable", "empty"]


def test_local_mistakes_are_told_before_the_server_is_asked(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    for call, kind in (
        (lambda: client.analyze(np.zeros((40, 40, 3))), errors.InvalidArray),
        (lambda: client.analyze(b"x", -1), errors.BadScale),
        (lambda: client.analyze(b"x", budget=0), errors.BadParameter),
        (lambda: client.analyze(b"x", timeout=-1), errors.ConfigurationError),
        (lambda: client.classify("/gone.png"), errors.UnreadableFile),
        (lambda: client.classify([b"x"], [0.1, 0.2]), errors.BadParameter),
    ):
        with pytest.raises(kind):
            call()
    assert not server.fake.attempts


# -- contract ----------------------------------------------------------------------------------------------------------


def test_the_contract_is_asked_once(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    for _ in range(3):
        client.analyze(b"x")
    assert (server.fake.attempts["service_info"], server.fake.attempts["metadata"]) == (1, 1)
    assert client.info().model_extra["probes"] == 24


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        (Expectation(classes=CLASSES[::-1]), "order counts"),
        (Expectation(weights_sha256="00"), "weights expected 00"),
        (Expectation(version="9"), "version expected '9'"),
    ],
)
def test_another_model_than_expected_is_refused(
    server: FakeServer, open_client: Open, expect: Expectation, says: str
) -> None:
    with pytest.raises(errors.ContractMismatch, match=says):
        open_client(server.url, expect=expect).analyze([b"x"])
    assert not server.fake.calls


def test_the_expected_model_is_accepted(server: FakeServer, open_client: Open) -> None:
    expect = Expectation(classes=CLASSES, weights_sha256="ab" * 32, version="1.2.3")
    assert open_client(server.url, expect=expect).analyze(b"x").fields


@pytest.mark.parametrize("info", [b"not json", b"[]", {"name": "x"}, {"name": "x", "version": "1", "classes": []}])
def test_an_info_that_is_not_understood_is_refused(server: FakeServer, open_client: Open, info: Any) -> None:
    server.fake.info = info
    with pytest.raises(errors.ContractMismatch, match="service_info"):
        open_client(server.url).analyze(b"x")


def test_other_tensors_are_refused_by_name(server: FakeServer, open_client: Open) -> None:
    server.fake.outputs["smear_analysis"]["LABEL"] = "INT64"
    del server.fake.outputs["smear_analysis"]["REASONS"]
    with pytest.raises(errors.ContractMismatch, match="LABEL is INT64 instead of INT32; output REASONS is missing"):
        open_client(server.url).analyze([b"x"])


def test_a_server_without_the_model_is_refused(server: FakeServer, open_client: Open) -> None:
    del server.fake.outputs["cell_analysis"]
    client = open_client(server.url)
    with pytest.raises(errors.ContractMismatch, match="unknown model"):
        client.classify([b"x"])
    assert client.analyze(b"x").fields
