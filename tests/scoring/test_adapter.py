"""What the Python models share, away from Triton: parameters, deadlines, shapes, cells."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from cytoserve_contract import limits
from cytoserve_contract.models import MODELS
from cytoserve_contract.names import ENV_DRAIN_FILE
from cytoserve_contract.parameters import PARAMETERS
from cytoserve_contract.values import FLAG_INVALID, NOT_COMPUTED
from cytoserve_scoring.errors import BadParameter, BadShape, DeadlineExceeded, Unavailable
from cytoserve_scoring.serving import adapter
from cytoserve_scoring.serving.adapter import (
    NO_DEADLINE,
    Request,
    TritonModel,
    complete,
    micrometres,
    refused_by_callee,
)
from cytoserve_scoring.serving.outputs import OutputMismatch, encode, texts
from cytoserve_scoring.serving.service import describe
from cytoserve_scoring.vision.cells import decode_cells
from PIL import Image


class Sent:
    """The two things `Request` asks of Triton's request."""

    def __init__(self, cancelled: bool = False, **parameters: object) -> None:
        self._text = json.dumps(parameters) if parameters else ""
        self._cancelled = cancelled

    def parameters(self) -> str:
        return self._text

    def is_cancelled(self) -> bool:
        return self._cancelled


@pytest.mark.parametrize(("value", "number"), [(3, 3), ("3", 3), (" 7 ", 7), (1, 1), (1_000_000, 1_000_000)])
def test_integer_parameter(value: object, number: int) -> None:
    assert Request(Sent(budget=value)).parameter("budget") == number


@pytest.mark.parametrize("value", [0, 1_000_001, -3, "1000001", 1.5, "1.5", True, "", "many", [1], "1_0", "\u0663"])
def test_bad_integer_parameter_names_the_range(value: object) -> None:
    with pytest.raises(BadParameter, match="1 to 1000000"):
        Request(Sent(budget=value)).parameter("budget")


def test_parameter_not_sent() -> None:
    assert Request(Sent()).parameter("budget") is None
    assert Request(Sent()).deadline() == NO_DEADLINE
    Request(Sent()).check(NO_DEADLINE)


def test_deadline_is_a_moment() -> None:
    request = Request(Sent(deadline_ms="50"))
    due = request.deadline()
    assert 0 < due - time.monotonic() <= 0.05
    request.check(due)
    time.sleep(0.06)
    with pytest.raises(DeadlineExceeded, match="over"):
        request.check(due)


@pytest.mark.parametrize("left", [0, -5, "0"])
def test_deadline_over_on_arrival(left: object) -> None:
    with pytest.raises(DeadlineExceeded, match="arrival"):
        Request(Sent(deadline_ms=left)).deadline()


def test_nothing_is_begun_while_the_server_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "draining"
    monkeypatch.setenv(ENV_DRAIN_FILE, str(file))
    assert Request(Sent()).deadline() == NO_DEADLINE
    file.touch()
    with pytest.raises(Unavailable, match="send it again"):
        Request(Sent(deadline_ms=50)).deadline()
    Request(Sent()).check(NO_DEADLINE)  # what has begun goes on


class UnderWay:
    """An admission in which stat cells are under way for so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def is_stat_waiting(self) -> bool:
        self.looks -= 1
        return self.looks >= 0


@pytest.mark.parametrize(("name", "paused"), [("scorer", True), ("cell_decoder", True), ("stat_scorer", False)])
def test_routine_work_gives_way_until_the_stat_cells_are_done(name: str, paused: bool) -> None:
    model = TritonModel()
    model.name, model.admission = name, UnderWay(3)  # type: ignore[assignment]
    model.give_way()
    assert (model.admission.looks < 0) is paused  # type: ignore[union-attr]


def test_routine_work_goes_on_however_many_stat_cells_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "GIVE_WAY_S", 0.02)
    model = TritonModel()
    model.name, model.admission = "scorer", UnderWay(10**9)  # type: ignore[assignment]
    began = time.monotonic()
    model.give_way()
    assert time.monotonic() - began >= 0.02
    model.admission = None
    model.give_way()  # a model that neither begins nor ends a request knows nothing of others


def test_a_message_never_outgrows_the_header_that_carries_it() -> None:
    assert BadParameter("budget is wrong").wire() == "[cytoserve:bad_parameter] budget is wrong"
    for letter in ("x", "\u0663", "\U0001f52c", "\ud800"):
        text = BadParameter(letter * 100_000).wire()
        assert text.startswith(f"[cytoserve:bad_parameter] {'?' if letter == chr(0xD800) else letter}")
        assert len(text.encode()) <= 2020


class Codes:
    """As ``pb_utils.TritonError``."""

    INTERNAL, UNAVAILABLE = 1, 5

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = lambda: code, lambda: message


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (Codes.INTERNAL, "Model denoiser - Error when running inference: Server not ready", Unavailable),
        (Codes.INTERNAL, "Server is stopping, scheduler for model has stopped accepting new", Unavailable),
        (Codes.INTERNAL, "Request for unknown model: 'denoiser' has no available versions", Unavailable),
        (Codes.UNAVAILABLE, "Exceeds maximum queue size", Unavailable),
        (Codes.UNAVAILABLE, "anything", Unavailable),
        (Codes.INTERNAL, "Stub process 'denoiser_0_0' is not healthy", Unavailable),
        (Codes.INTERNAL, "Failed to increase the shared memory pool size for key 'k' to 8388608 bytes", Unavailable),
        (Codes.INTERNAL, "denoiser: out of memory", RuntimeError),
    ],
)
def test_a_callee_that_is_stopped_is_no_failure(code: int, message: str, kind: type[Exception]) -> None:
    assert type(refused_by_callee("denoiser", Codes(code, message), Codes)) is kind


def test_a_required_input_is_not_replaced_by_an_optional_one() -> None:
    given = {"CELL_FLAGS": np.zeros(0, np.int32), "IMAGE_STATISTICS": np.zeros((0, 24), np.float32)}
    with pytest.raises(BadShape, match="scorer needs LATENT"):
        complete("scorer", given)
    whole = {"LATENT": np.zeros((0, 24, 16, 16), np.float32), "CELL_FLAGS": given["CELL_FLAGS"]}
    assert complete("scorer", whole) is whole


def test_cancelled_request() -> None:
    with pytest.raises(DeadlineExceeded, match="cancelled"):
        Request(Sent(cancelled=True)).check(NO_DEADLINE)


def test_one_scale_for_all_or_one_each() -> None:
    assert micrometres(np.array([0.2], np.float32), 3).tolist() == pytest.approx([0.2] * 3)
    assert micrometres(np.array([0.1, 0.2], np.float32), 2).tolist() == pytest.approx([0.1, 0.2])
    assert micrometres(np.array([0.1], np.float32), 0).shape == (0,)
    with pytest.raises(BadShape, match="3 images, it has 2"):
        micrometres(np.zeros(2, np.float32), 3)


def test_texts_are_bytes_in_one_dimension() -> None:
    assert texts([]).shape == (0,)
    assert texts(["ä", "a,b"]).tolist() == ["ä".encode(), b"a,b"]


def test_a_parameter_is_read_as_the_contract_declares_it() -> None:
    sent = Request(Sent(budget="4", alpha="0.5", classes="a, b", site="ward 3", stat="1"))
    read = {name: sent.parameter(name) for name in PARAMETERS}
    assert read == {"budget": 4, "alpha": 0.5, "classes": ("a", "b"), "site": "ward 3", "stat": 1, "deadline_ms": None}
    with pytest.raises(BadParameter, match="budget must be from 1 to 1000000, it is 0"):
        Request(Sent(budget=0)).parameter("budget")
    for site in ("", "x" * 101, "ward\n3", 3):
        with pytest.raises(BadParameter, match="site must be a text of 1 to 100 printable characters"):
            Request(Sent(site=site)).parameter("site")


def decoded(**changes: object) -> dict[str, object]:
    """Return what `cell_decoder` makes of two cells, the second without a picture."""
    return {
        "CROP": np.zeros((2, 96, 96, 3), np.uint8),
        "SCALE": np.array([0.2, np.nan]),
        "CELL_FLAGS": [0, FLAG_INVALID],
        "IMAGE_STATISTICS": np.zeros((2, 24)),
        "CELL_ERROR": ["", "bad"],
        "DEADLINE": NO_DEADLINE,
        **changes,
    }


def test_outputs_travel_as_declared() -> None:
    outputs = encode(MODELS["cell_decoder"], decoded())
    assert {name: (array.dtype.name, array.shape) for name, array in outputs.items()} == {
        "CROP": ("uint8", (2, 96, 96, 3)),
        "SCALE": ("float32", (2,)),
        "CELL_FLAGS": ("int32", (2,)),
        "IMAGE_STATISTICS": ("float32", (2, 24)),
        "CELL_ERROR": ("object", (2,)),
        "DEADLINE": ("float64", (1,)),
    }
    assert outputs["SCALE"].tolist() == [np.float32(0.2), NOT_COMPUTED]
    assert outputs["DEADLINE"].tolist() == [NOT_COMPUTED]
    assert encode(MODELS["service_info"], {"INFO": "{}"})["INFO"].tolist() == [b"{}"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"SCALE": np.array([0.2])}, r"SCALE has shape \(1,\), not \(2,\)"),
        ({"CELL_FLAGS": np.zeros((2, 1), np.int32)}, "dimension"),
        ({"CELL_FLAGS": np.zeros(2)}, "CELL_FLAGS is of type float64, not int32"),
        ({"SCALE": np.array([0.2, -0.5])}, "SCALE holds a number outside 0 to inf"),
    ],
)
def test_a_model_that_breaks_its_declaration_is_noticed(changes: dict[str, object], says: str) -> None:
    with pytest.raises(OutputMismatch, match=says):
        encode(MODELS["cell_decoder"], decoded(**changes))


def disc() -> bytes:
    yy, xx = np.mgrid[0:120, 0:120] - 60
    pixels = np.where((yy**2 + xx**2 < 30**2)[..., None], (90, 60, 140), (235, 232, 236)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_bad_cells_stay_beside_good_ones() -> None:
    files = [disc(), b"", disc(), disc()]
    cells = decode_cells(files, np.array([0.2, 0.2, float("nan"), 0.25], np.float32))
    assert [text.split("]")[0] for text in cells.error] == ["", "[cytoserve:empty", "[cytoserve:bad_scale", ""]
    assert (cells.flags == FLAG_INVALID).tolist() == [False, True, True, False]
    np.testing.assert_allclose(cells.scale, [0.2, np.nan, np.nan, 0.25])
    assert not cells.crop[1:3].any(), "black where there is no picture"
    centre = limits.CROP_SIZE // 2
    assert cells.crop[0, centre, centre].tolist() != cells.crop[0, 2, 2].tolist()
    dark = [(crop[..., 0] < 150).sum() for crop in (cells.crop[0], cells.crop[3])]
    # radius 30 px is 6 um, 24 px of the crop, and 7.5 um, 30 px
    assert dark == pytest.approx([np.pi * 24**2, np.pi * 30**2], rel=0.05)


def test_no_cells() -> None:
    cells = decode_cells([], np.zeros(0, np.float32))
    assert cells.crop.shape == (0, limits.CROP_SIZE, limits.CROP_SIZE, 3)
    assert cells.error == []


def test_too_many_cells_are_refused_before_any_is_decoded() -> None:
    with pytest.raises(BadShape, match="512"):
        decode_cells([b""] * 513, np.zeros(513, np.float32), check=lambda: pytest.fail("looked at"))


def test_deadline_between_cells_ends_the_request() -> None:
    def late() -> None:
        raise DeadlineExceeded("over")

    with pytest.raises(DeadlineExceeded):
        decode_cells([disc()], np.zeros(1, np.float32), check=late)


def test_service_description_keeps_what_was_exported(tmp_path: Path) -> None:
    told = describe({"name": "x", "classes": ["a"]}, tmp_path / "no-scorer-here.json")
    assert told["default_budget"] is None
    assert told["name"] == "x"
    assert told["limits"] == {
        "max_file_bytes": limits.MAX_FILE_BYTES,
        "max_pixels": limits.MAX_PIXELS,
        "max_area_um2": limits.MAX_AREA_UM2,
        "min_side": limits.MIN_SIDE,
        "max_cells": limits.MAX_CELLS,
    }
    assert told["server"]["packages"]["numpy"] == np.__version__
    json.dumps(told)
