"""The whole service over gRPC: the committed model repository on the real Triton, generated pictures only."""

from __future__ import annotations

import json
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cytoserve_deploy.launch.warmup import BACKGROUND, CYTOPLASM, NUCLEUS, cell_png, field_png, png
from PIL import Image, ImageDraw
from triton_calls import ROOT, Answer, Ask, answers, files, tensor
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.integration

MODELS = [
    "field_decoder",
    "segmenter",
    "cell_extractor",
    "cell_decoder",
    "encoder",
    "denoiser",
    "scorer",
    "service_info",
    "smear_analysis",
    "cell_analysis",
    "stat_cell_decoder",
    "stat_scorer",
    "stat_cell_analysis",
]
LATENT = (24, 16, 16)
PER_CELL = (
    *("LABEL", "POSTERIOR", "POSTERIOR_INTERVAL", "SCORES", "UNCERTAINTY", "ANOMALY", "DECISION", "REASONS"),
    *("EVALUATIONS", "CONFORMAL", "IMAGE_STATISTICS", "DOMAIN", "DOMAIN_CAUSE"),
)


def cell(seed: int, size: int = 140) -> bytes:
    """Draw one cell; seeds differ in size, place and colour."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), BACKGROUND)
    draw = ImageDraw.Draw(image)
    x, y = size / 2 + rng.uniform(-8, 8, 2)
    for radius, colour in ((rng.uniform(0.26, 0.36), CYTOPLASM), (rng.uniform(0.14, 0.24), NUCLEUS)):
        tint = tuple(int(np.clip(c + rng.integers(-20, 20), 0, 255)) for c in colour)
        draw.ellipse((x - radius * size, y - radius * size, x + radius * size, y + radius * size), fill=tint)
    pixels = np.asarray(image).astype(int) + rng.integers(-4, 5, (size, size, 3))
    return png(np.clip(pixels, 0, 255).astype(np.uint8))


def smear(width: int = 480, height: int = 360) -> bytes:
    """Draw a field of red cells of 7.5 um at 0.15 um a pixel around one white cell."""
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for x in range(40, width, 70):
        for y in range(40, height, 70):
            draw.ellipse((x - 25, y - 25, x + 25, y + 25), fill=(205, 150, 155))
            draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=(222, 185, 188))
    draw.ellipse((width // 2 - 42, height // 2 - 42, width // 2 + 42, height // 2 + 42), fill=CYTOPLASM)
    draw.ellipse((width // 2 - 28, height // 2 - 24, width // 2 + 28, height // 2 + 24), fill=NUCLEUS)
    return png(np.asarray(image))


def refused(ask: Ask, *args: object, **options: object) -> tuple[str, str]:
    """Return (status, message) of a call that must fail."""
    with pytest.raises(InferenceServerException) as caught:
        ask(*args, **options)
    return caught.value.status(), caught.value.message()


def same_cells(one: Answer, other: Answer, one_rows: list[int], other_rows: list[int]) -> None:
    """Check that rows of two answers are the same cells' answers."""
    for name in PER_CELL:
        left, right = one[name][one_rows], other[name][other_rows]
        if left.dtype.kind == "f":
            # one row among others meets other kernels of the same sum: rounding, no more
            np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(left, right, err_msg=name)


def test_every_model_is_ready(connection: grpc.InferenceServerClient) -> None:
    assert connection.is_server_ready()
    assert [name for name in MODELS if not connection.is_model_ready(name)] == []


def test_synthesis_models_are_not_loaded(connection: grpc.InferenceServerClient) -> None:
    for name in ("decoder", "noise_predictor"):
        assert not connection.is_model_ready(name)


def test_tensors_are_those_of_the_contract(connection: grpc.InferenceServerClient) -> None:
    meta = connection.get_model_metadata("smear_analysis", as_json=True)
    assert {t["name"]: t["datatype"] for t in meta["inputs"]} == {"IMAGE": "BYTES", "UM_PER_PIXEL": "FP32"}
    names = {t["name"] for t in meta["outputs"]}
    detected = {"BOX", "KIND", "DETECTION_SCORE", "CELL_INDEX", "CELL_FLAGS"}
    assert names == {*PER_CELL, *detected, "FIELD_SIZE", "SCALE", "SCALE_SOURCE"}
    meta = connection.get_model_metadata("cell_analysis", as_json=True)
    assert {t["name"] for t in meta["outputs"]} == {*PER_CELL, "SCALE", "CELL_FLAGS", "CELL_ERROR"}


def test_service_info(connection: grpc.InferenceServerClient) -> None:
    result = connection.infer("service_info", [tensor("QUERY", files([b"info"]))], client_timeout=10)
    info = json.loads(answers(result)["INFO"][0])
    exported = json.loads((ROOT / "model_repository/service_info/1/service.json").read_text())
    assert {key: info[key] for key in exported} == exported
    assert info["limits"]["max_pixels"] == 50_000_000
    assert info["server"]["packages"]["onnxruntime"]


@pytest.mark.parametrize("size", [(320, 256), (33, 32), (2000, 40)])
def test_empty_field_is_a_valid_answer(ask: Ask, size: tuple[int, int]) -> None:
    answer = ask("smear_analysis", [field_png(*size)], 0.15)
    assert answer["FIELD_SIZE"].tolist() == list(size)
    assert answer["BOX"].shape == (0, 4)
    assert answer["POSTERIOR"].shape[0] == 0
    assert {answer[name].shape[0] for name in (*PER_CELL, "KIND", "CELL_INDEX", "CELL_FLAGS")} == {0}


def test_field_with_cells(ask: Ask) -> None:
    answer = ask("smear_analysis", [smear()], 0.15)
    cells, scored = len(answer["BOX"]), len(answer["LABEL"])
    assert answer["KIND"].shape == answer["DETECTION_SCORE"].shape == (cells,)
    assert answer["CELL_INDEX"].shape == answer["CELL_FLAGS"].shape == (scored,)
    assert (answer["KIND"][answer["CELL_INDEX"]] == 0).all()
    assert (answer["CELL_FLAGS"] & 8 == 8).all()
    assert answer["SCALE"][0] == pytest.approx(0.15)
    assert answer["SCALE_SOURCE"].tolist() == [b"caller"]


def test_cells_are_scored(ask: Ask) -> None:
    classes = json.loads((ROOT / "model_repository/scorer/1/scoring.json").read_text())["classes"]
    answer = ask("cell_analysis", [cell(1), cell(2), cell(3)], budget=4)
    assert answer["POSTERIOR"].shape == answer["SCORES"].shape == (3, len(classes))
    np.testing.assert_allclose(answer["POSTERIOR"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(answer["LABEL"], answer["SCORES"].argmin(axis=1))
    assert answer["CELL_ERROR"].tolist() == [b""] * 3
    np.testing.assert_allclose(answer["SCALE"], 0.18, rtol=1e-6)
    assert (answer["EVALUATIONS"] > 0).all()


def test_scale_may_be_given_for_each_cell(ask: Ask) -> None:
    answer = ask("cell_analysis", [cell(1), cell(1)], [0.18, 0.25], budget=1)
    np.testing.assert_allclose(answer["SCALE"], [0.18, 0.25], rtol=1e-6)
    assert not np.allclose(answer["SCORES"][0], answer["SCORES"][1]), "another scale is another crop"


def test_scale_not_given_is_said(ask: Ask) -> None:
    answer = ask("cell_analysis", [cell_png()], 0, budget=1)  # nothing but the cell itself tells its scale
    assert answer["CELL_FLAGS"][0] & 2
    assert b"out_of_scale" in answer["REASONS"][0]


def test_zero_cells(ask: Ask) -> None:
    answer = ask("cell_analysis", [])
    assert {answer[name].shape[0] for name in (*PER_CELL, "SCALE", "CELL_FLAGS", "CELL_ERROR")} == {0}


def test_one_bad_cell_costs_only_itself(ask: Ask) -> None:
    whole = ask("cell_analysis", [cell(1), cell(2)], budget=4)
    mixed = ask("cell_analysis", [cell(1), b"no image", cell(2), b""], budget=4)
    same_cells(whole, mixed, [0, 1], [0, 2])
    errors = mixed["CELL_ERROR"]
    assert errors[1].startswith(b"[cytoserve:not_an_image] ")
    assert errors[3].startswith(b"[cytoserve:empty] ")
    assert (errors[0], errors[2]) == (b"", b"")
    for row in (1, 3):
        assert mixed["LABEL"][row] == -1
        assert mixed["DECISION"][row] == 1
        assert mixed["EVALUATIONS"][row] == 0
        assert mixed["CELL_FLAGS"][row] & 16
        assert (mixed["POSTERIOR"][row] == -1).all()
        assert mixed["SCALE"][row] == -1


def test_only_bad_cells(ask: Ask) -> None:
    answer = ask("cell_analysis", [b"", b"x"])
    assert answer["LABEL"].tolist() == [-1, -1]


def test_bad_scale_of_one_cell(ask: Ask) -> None:
    answer = ask("cell_analysis", [cell(1), cell(1)], [0.18, -1.0], budget=1)
    assert answer["CELL_ERROR"][1].startswith(b"[cytoserve:bad_scale] ")
    assert answer["LABEL"][0] >= 0


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    body = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + body + zlib.crc32(body).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"plain text, not an image", "not_an_image"),
        (field_png()[:200], "truncated"),
        (b"\xff\xd8\xff" + b"\0" * (40 * 2**20), "too_many_bytes"),
        (png_header(50_000, 50_000), "too_many_pixels"),
        (png_header(1, 1), "too_small"),
        (png_header(640, 480, depth=16), "unsupported_mode"),
    ],
)
def test_bad_field_is_the_callers_error(ask: Ask, content: bytes, code: str) -> None:
    status, text = refused(ask, "smear_analysis", [content])
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert f"[cytoserve:{code}] " in text


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -0.1, 1e9])
def test_bad_scale_is_the_callers_error(ask: Ask, scale: float) -> None:
    status, text = refused(ask, "smear_analysis", [field_png()], scale)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "[cytoserve:bad_scale] " in text


def test_shapes_that_do_not_fit(ask: Ask) -> None:
    status, text = refused(ask, "cell_analysis", [cell(1), cell(2)], [0.1, 0.2, 0.3])
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "[cytoserve:bad_shape] " in text
    status, text = refused(ask, "cell_analysis", [b"x"] * 513)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "[cytoserve:bad_shape] " in text
    status, _ = refused(ask, "smear_analysis", [field_png(), field_png()])
    assert status == "StatusCode.INVALID_ARGUMENT"


def test_budget(ask: Ask) -> None:
    few, more = (ask("cell_analysis", [cell(1)], budget=budget) for budget in (1, "3"))
    assert few["EVALUATIONS"][0] == 1
    assert (few["POSTERIOR_INTERVAL"] == -1).all()  # one probe says nothing of the next
    low, high = more["POSTERIOR_INTERVAL"][0]
    assert low <= more["POSTERIOR"][0].max() <= high
    assert 2 <= more["EVALUATIONS"][0] <= 3 * 4  # decided after two probes at the earliest; a near tie is turned


@pytest.mark.parametrize("budget", [0, -1, 10**9, "many"])
def test_bad_budget(ask: Ask, budget: object) -> None:
    status, text = refused(ask, "cell_analysis", [cell(1)], budget=budget)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "[cytoserve:bad_parameter] " in text


def test_deadline_ends_the_scoring(ask: Ask) -> None:
    cells = [cell(1)] * 256  # with alpha 0 at least 2,048 evaluations: far more than the time given
    begun = time.monotonic()
    status, text = refused(ask, "cell_analysis", cells, deadline_ms=1500, alpha=0.0)
    taken = time.monotonic() - begun
    assert status == "StatusCode.CANCELLED"
    assert "[cytoserve:deadline] " in text
    assert 1.0 < taken < 8.0, taken


@pytest.mark.parametrize("model", ["smear_analysis", "cell_analysis"])
def test_deadline_over_on_arrival(ask: Ask, model: str) -> None:
    status, text = refused(ask, model, [field_png()], deadline_ms=0)
    assert status == "StatusCode.CANCELLED"
    assert "[cytoserve:deadline] " in text


def test_generous_deadline_changes_nothing(ask: Ask) -> None:
    same_cells(
        ask("cell_analysis", [cell(1)], budget=2),
        ask("cell_analysis", [cell(1)], budget=2, deadline_ms="60000"),
        [0],
        [0],
    )


def test_cancelled_call_frees_the_scorer(connection: grpc.InferenceServerClient) -> None:
    """Both scorers are given minutes of work, the calls are cancelled, and a small call is answered soon after."""
    inputs = [
        tensor("LATENT", np.random.default_rng(0).normal(size=(512, *LATENT)).astype(np.float32)),
        tensor("CELL_FLAGS", np.zeros(512, np.int32)),
    ]
    ended = threading.Semaphore(0)
    calls = [connection.async_infer("scorer", inputs, callback=lambda result, error: ended.release()) for _ in range(4)]
    time.sleep(1.0)
    for call in calls:
        call.cancel()
    for _ in calls:
        assert ended.acquire(timeout=10)
    begun = time.monotonic()
    small = [tensor("LATENT", np.zeros((1, *LATENT), np.float32)), tensor("CELL_FLAGS", np.zeros(1, np.int32))]
    answer = answers(connection.infer("scorer", small, parameters={"budget": 1}, client_timeout=60))
    assert answer["LABEL"].shape == (1,)
    assert time.monotonic() - begun < 20


def test_answer_does_not_depend_on_the_company(ask: Ask) -> None:
    pictures = [cell(seed) for seed in range(7)]
    together = ask("cell_analysis", pictures, budget=3)
    for row in (0, 3, 6):
        same_cells(ask("cell_analysis", [pictures[row]], budget=3), together, [0], [row])
    order = [4, 2, 6, 0, 5, 3, 1]
    same_cells(ask("cell_analysis", [pictures[i] for i in order], budget=3), together, list(range(7)), order)


def test_concurrent_calls_get_their_own_answers(ask: Ask) -> None:
    pictures = [cell(seed) for seed in range(6)]
    alone = [ask("cell_analysis", [picture], budget=2) for picture in pictures]
    with ThreadPoolExecutor(6) as pool:
        at_once = list(pool.map(lambda picture: ask("cell_analysis", [picture], budget=2), pictures))
    for one, other in zip(alone, at_once, strict=True):
        same_cells(one, other, [0], [0])


def test_the_same_cell_gets_the_same_answer_to_the_last_bit(ask: Ask) -> None:
    one, other = (ask("cell_analysis", [cell(5)], budget=4) for _ in range(2))
    for name in PER_CELL:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_latent_that_is_not_finite_is_not_scored(connection: grpc.InferenceServerClient) -> None:
    latents = np.zeros((3, *LATENT), np.float32)
    latents[1, 0, 0, 0] = np.nan
    inputs = [tensor("LATENT", latents), tensor("CELL_FLAGS", np.zeros(3, np.int32))]
    answer = answers(connection.infer("scorer", inputs, parameters={"budget": 2}, client_timeout=60))
    assert (answer["LABEL"] == -1).tolist() == [False, True, False]
