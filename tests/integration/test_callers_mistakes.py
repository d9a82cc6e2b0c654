"""Nothing that a caller can send is `internal`: every model, every input and parameter, on the real server.

A mistake is refused with INVALID_ARGUMENT (or CANCELLED for time that is over), or answered where it is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cytoserve_client import errors
from cytoserve_client.errors import error_from_status
from cytoserve_deploy.launch.warmup import cell_png, field_png
from triton_calls import OWN_SERVER, files, tensor
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.integration

CELL, FIELD = cell_png(), field_png()
Case = tuple[str, list[Any]]

WRONG: dict[str, Any] = {
    "true": True,
    "false": False,
    "half": 1.5,
    "minus": -1,
    "2^62": 2**62,
    "-2^62": -(2**62),
    "empty": "",
    "word": "x",
    "exponent": "1e3",
    "nan": "nan",
    "inf": "inf",
    "400 digits": "9" * 400,
    "5000 digits": "9" * 5000,
    "underscore": "1_0",
    "other digits": "\u0661\u0662",
    "hex": "0x10",
    "zero byte": "a\x00b",
    "bell": "\x07,neutrophil",
    "commas": ",,,",
    "right to left": "\u202e",
    "100 kB": "x" * 100_000,
    "100 kB of a script": "\u0661" * 50_000,
    "float nan": float("nan"),
    "float inf": float("inf"),
    "1e308": 1e308,
}


def pictures(*contents: bytes, um: tuple[float, ...] = (0.18,)) -> list[Any]:
    return [tensor("IMAGE", files(list(contents))), tensor("UM_PER_PIXEL", np.array(um, np.float32))]


def latents(count: int, flags: tuple[int, ...], value: float = 0.0, deadline: list[float] | None = None) -> list[Any]:
    made = [
        tensor("LATENT", np.full((count, 24, 16, 16), value, np.float32)),
        tensor("CELL_FLAGS", np.array(flags, np.int32)),
    ]
    return made if deadline is None else [*made, tensor("DEADLINE", np.array(deadline, np.float64))]


def rows(probe: list[int], count: int | None = None, value: float = 0.0) -> list[Any]:
    many = len(probe) if count is None else count
    return [
        tensor("LATENT", np.full((many, 24, 16, 16), value, np.float32)),
        tensor("PROBE", np.array(probe, np.int32).reshape(-1, 1)),
    ]


def maps(
    field: tuple[int, ...] = (64, 64, 3),
    shape: tuple[int, ...] = (1, 6, 32, 32),
    value: float = 0.0,
    guess: tuple[float, float] = (0.15, 0.0),
) -> list[Any]:
    return [
        tensor("FIELD", np.full(field, 235, np.uint8)),
        tensor("SEGMENTER_MAPS", np.full(shape, value, np.float32)),
        tensor("SCALE_GUESS", np.array(guess, np.float32)),
    ]


def crop(*shape: int) -> list[Any]:
    return [tensor("CROP", np.zeros(shape, np.uint8))]


def parameters() -> dict[str, tuple[str, list[Any], dict[str, Any]]]:
    """Every wrong value of every parameter of ``cell_analysis``; some of them for the other ways in."""
    cases = {}
    for name in ("budget", "alpha", "classes", "deadline_ms"):
        for label, value in WRONG.items():
            cases[f"cell {name} {label}"] = ("cell_analysis", pictures(CELL), {name: value})
    for label in ("true", "half", "nan", "5000 digits", "zero byte", "100 kB"):
        for name in ("budget", "alpha", "classes"):
            cases[f"smear {name} {label}"] = ("smear_analysis", pictures(FIELD), {name: WRONG[label]})
            cases[f"scorer {name} {label}"] = ("scorer", latents(1, (0,)), {name: WRONG[label]})
    return cases


def inputs() -> dict[str, Case]:
    """Wrong, empty and extreme tensors for every model."""
    cases: dict[str, Case] = {}
    for value in (np.nan, np.inf, -np.inf, -1.0, 1e-30, 1e30, 1e-3, 50.0):
        cases[f"cell scale {value}"] = ("cell_analysis", pictures(CELL, um=(value,)))
        cases[f"smear scale {value}"] = ("smear_analysis", pictures(FIELD, um=(value,)))
        for bound in (0.0, 1.0):
            guess = ("cell_extractor", maps(guess=(value, bound)))
            cases[f"extractor guess {value} {bound}"] = guess
    cases |= {
        "cell no files": ("cell_analysis", pictures(um=())),
        "cell no files, a scale": ("cell_analysis", pictures()),
        "cell more scales": ("cell_analysis", pictures(CELL, um=(0.1, 0.2))),
        "cell no scale": ("cell_analysis", pictures(CELL, um=())),
        "cell too many": ("cell_analysis", pictures(*[b"x"] * 513)),
        "cell good and bad": ("cell_analysis", pictures(CELL, b"", b"x", um=(0.18, np.nan, 0.18))),
        "smear two files": ("smear_analysis", pictures(FIELD, FIELD)),
        "smear no file": ("smear_analysis", pictures()),
        "smear no scale": ("smear_analysis", pictures(FIELD, um=())),
        "smear no bytes": ("smear_analysis", pictures(b"")),
        "field_decoder no file": ("field_decoder", pictures()),
        "cell_decoder no file": ("cell_decoder", pictures(um=())),
        "scorer flags missing": ("scorer", latents(2, (0,))),
        "scorer no flags": ("scorer", latents(2, ())),
        "scorer nothing": ("scorer", latents(0, ())),
        "scorer flags negative": ("scorer", latents(1, (-1,))),
        "scorer flags huge": ("scorer", latents(1, (2**31 - 1,))),
        "scorer no deadline in it": ("scorer", latents(1, (0,), deadline=[])),
        "scorer tensor missing": ("scorer", latents(1, (0,))[:1]),
        "scorer optional for required": (
            "scorer",
            [latents(1, (0,))[1], tensor("IMAGE_STATISTICS", np.zeros((1, 24), np.float32))],
        ),
        "scorer optional only": ("scorer", latents(1, (0,), deadline=[1e9])[2:]),
        "scorer tensor twice": ("scorer", [*latents(1, (0,)), latents(1, (0,))[0]]),
        "scorer tensor unknown": ("scorer", [*latents(1, (0,)), tensor("UM_PER_PIXEL", np.ones(1, np.float32))]),
        "scorer float64": ("scorer", [tensor("LATENT", np.zeros((1, 24, 16, 16))), latents(1, (0,))[1]]),
        "scorer shape": ("scorer", [tensor("LATENT", np.zeros((1, 24, 16, 15), np.float32)), latents(1, (0,))[1]]),
        "denoiser rows differ": ("denoiser", rows([0], count=2)),
        "denoiser no rows": ("denoiser", rows([])),
        "denoiser too many rows": ("denoiser", rows([0] * 257)),
        "denoiser a class": ("denoiser", [*rows([0]), tensor("CLASS", np.zeros((1, 1), np.int32))]),
        "denoiser nan": ("denoiser", rows([0], value=np.nan)),
        "encoder no rows": ("encoder", crop(0, 96, 96, 3)),
        "encoder shape": ("encoder", crop(1, 95, 96, 3)),
        "encoder channels": ("encoder", crop(1, 96, 96, 4)),
        "encoder dimensions": ("encoder", crop(96, 96, 3)),
        "encoder float": ("encoder", [tensor("CROP", np.zeros((1, 96, 96, 3), np.float32))]),
        "info nothing": ("service_info", [tensor("QUERY", files([]))]),
        "info bytes": ("service_info", [tensor("QUERY", files([b"\xff\x00"]))]),
    }
    for value in (np.nan, np.inf, 1e38):
        cases[f"scorer latent {value}"] = ("scorer", latents(2, (0, 0), value))
        cases[f"extractor maps {value}"] = ("cell_extractor", maps(value=value))
    for value in (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e300):
        cases[f"scorer deadline {value}"] = ("scorer", latents(1, (0,), deadline=[value]))
    for value in (-1, -(2**31), 10**6, 2**31 - 1):
        cases[f"denoiser probe {value}"] = ("denoiser", rows([value]))
    for channels in range(9):
        cases[f"extractor {channels} maps"] = ("cell_extractor", maps(shape=(1, channels, 32, 32)))
    for field, height in (((0, 0, 3), 32), ((1, 1, 3), 32), ((64, 64, 3), 0), ((640, 480, 3), 2), ((64, 0, 3), 32)):
        cases[f"extractor {field} {height}"] = ("cell_extractor", maps(field, (1, 6, height, height)))
    return cases


PARAMETERS, INPUTS = parameters(), inputs()
Judge = Callable[..., InferenceServerException | None]


@pytest.fixture
def judged(connection: grpc.InferenceServerClient) -> Judge:
    """Return a function that sends a request and returns its refusal, having seen that it is the caller's."""

    def send(model: str, sent: list[Any], **given: Any) -> InferenceServerException | None:
        refused: InferenceServerException | None = None
        try:
            connection.infer(model, sent, parameters=given or None, client_timeout=60)
        except InferenceServerException as error:
            refused = error
        if refused is not None:
            status = str(refused.status()).removeprefix("StatusCode.")
            assert status in ("INVALID_ARGUMENT", "CANCELLED"), (status, refused.message()[:500])
            mapped = error_from_status(status, refused.message())
            assert isinstance(mapped, (errors.InvalidInput, errors.DeadlineExceeded)), mapped
            assert mapped.code != "internal"
        return refused

    return send


@pytest.mark.parametrize("case", PARAMETERS)
def test_a_wrong_parameter_is_the_callers(judged: Judge, case: str) -> None:
    model, sent, given = PARAMETERS[case]
    refused = judged(model, sent, **given)
    # the only ones that have a meaning: a deadline far off, and a level in its range written with an exponent or not
    if refused is None:
        assert case.startswith(("cell deadline_ms", "cell alpha")), f"{case} was answered"
    elif "deadline" not in refused.message():
        assert "[cytoserve:bad_parameter]" in refused.message()


@pytest.mark.parametrize("case", INPUTS)
def test_a_wrong_tensor_is_the_callers(judged: Judge, case: str) -> None:
    model, sent = INPUTS[case]
    judged(model, sent, **({"budget": 1} if model == "scorer" else {}))


class TestOurOnnxBackend:
    """A graph whose open dimensions must be multiples of something; the native backend has words of its own."""

    pytestmark = OWN_SERVER

    @pytest.mark.parametrize("size", [(0, 0), (0, 32), (1, 1), (2, 2), (7, 9), (31, 33), (33, 64)])
    def test_a_shape_that_the_segmenter_cannot_take_is_the_callers(self, judged: Judge, size: tuple[int, int]) -> None:
        refused = judged("segmenter", [tensor("SEGMENTER_INPUT", np.zeros((1, 3, *size), np.float32))])
        assert refused is not None
        assert f"[cytoserve:bad_shape] segmenter cannot take SEGMENTER_INPUT (1, 3, {size[0]}, {size[1]})" in str(
            refused
        )

    def test_one_that_it_can_take_is_answered(self, judged: Judge) -> None:
        assert judged("segmenter", [tensor("SEGMENTER_INPUT", np.zeros((1, 3, 32, 64), np.float32))]) is None
