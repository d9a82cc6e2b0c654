"""Strategies (Hypothesis) for requests that no client of ours sends: every tensor of both ensembles and of their steps.

Most parts of a request are as the contract says, so that the rest reaches the models; some are of another name, type,
shape or size, or hold numbers at their limits.
"""

from __future__ import annotations

import random
import struct
from typing import Any, Final

import numpy as np
from cytoserve_contract.models import (
    CELL_ANALYSIS,
    MODELS,
    SMEAR_ANALYSIS,
    STAT_CELL_ANALYSIS,
    STAT_CELL_DECODER,
    STAT_SCORER,
)
from cytoserve_contract.parameters import PARAMETERS
from cytoserve_contract.tensors import DATATYPES, REFERENCE_SIZES, TensorSpec
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from benchmarks.fuzz_seeds import mutated, seeds

STEPS: Final = (
    *("field_decoder", "segmenter", "cell_extractor", "cell_decoder", "encoder", "scorer", "denoiser"),
    *(STAT_CELL_DECODER.name, STAT_SCORER.name),
)
ENSEMBLES: Final = (SMEAR_ANALYSIS.name, CELL_ANALYSIS.name, STAT_CELL_ANALYSIS.name)
SIZES: Final = st.sampled_from((0, 1, 1, 1, 2, 3, 32))
NUMBERS: Final = st.sampled_from((0.0, 1.0, -1.0, 0.18, 1e-30, 3e38, -3e38, np.nan, np.inf, -np.inf, 255.0, 2.0**31))
SEED_FILES: Final = tuple(seeds())

Value = bool | int | float | str


def rarely(draw: st.DrawFn, once_in: int) -> bool:
    """Return True about once in so many times; 0, which Hypothesis favours, is not the number that counts."""
    return draw(st.integers(0, once_in - 1)) == once_in - 1


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Return an image file, whole or with some changes, or any bytes."""
    if rarely(draw, 10):
        return draw(st.binary(max_size=64))
    data = draw(st.sampled_from(SEED_FILES))
    how = draw(st.integers(0, 2**32 - 1))
    return mutated(data, random.Random(how)) if how % 4 else data


@st.composite
def contents(draw: st.DrawFn, spec: TensorSpec, shape: tuple[int, ...]) -> bytes:
    """Return the bytes of a tensor; sometimes a few too many or too few."""
    count = int(np.prod(shape, dtype=np.int64))
    if spec.dtype == "bytes":
        items = [draw(files()) for _ in range(count)]
        raw = b"".join(part for item in items for part in (struct.pack("<I", len(item)), item))
    else:
        dtype = np.dtype(spec.dtype)
        seed = draw(st.integers(0, 2**16))
        with np.errstate(all="ignore"):
            if seed % 3 == 0:
                values = np.full(count, draw(NUMBERS)).astype(dtype)
            else:
                values = np.random.default_rng(seed).normal(0, 1 if seed % 3 == 1 else 100, count).astype(dtype)
        raw = values.tobytes()
    if rarely(draw, 40):
        return raw[:-1]
    return raw + b"\0\0\0" if rarely(draw, 40) else raw


@st.composite
def shapes(draw: st.DrawFn, spec: TensorSpec, axes: dict[str, int]) -> tuple[int, ...]:
    """Return a shape of small sizes; tensors of one request share the sizes of words they share, but for some."""
    out = []
    for dim in spec.dims:
        if isinstance(dim, int):
            size = dim
        elif dim in REFERENCE_SIZES:
            size = REFERENCE_SIZES[dim]
        else:
            size = axes.setdefault(dim, draw(SIZES))
        out.append(draw(SIZES) if rarely(draw, 40) else size)
    return (*out, 1) if rarely(draw, 60) else tuple(out)


@st.composite
def values(draw: st.DrawFn, name: str) -> Value:
    """Return the value of a request parameter, mostly of its kind."""
    if rarely(draw, 6):
        any_value = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=40))
        return draw(any_value)
    usual: dict[str, st.SearchStrategy[Value]] = {
        "budget": st.sampled_from((1, 1, 2)),
        "alpha": st.sampled_from((0.0, 0.05, 0.5)),
        "classes": st.sampled_from(("neutrophil", "neutrophil,monocyte", "platelet", "blast")),
        "site": st.sampled_from(("home", "Home", "elsewhere")),
        "deadline_ms": st.sampled_from((1, 20, 5000)),
        "stat": st.sampled_from((0, 1)),
    }
    return draw(usual[name])


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """Return a ``ModelInferRequest``."""
    name = draw(st.sampled_from(STEPS if rarely(draw, 3) else ENSEMBLES))
    model, axes = MODELS[name], dict[str, int]()
    request = pb.ModelInferRequest(model_name=name, id=str(draw(st.integers(0, 9))))
    for spec in model.inputs:
        if rarely(draw, 2 if spec.optional else 40):
            continue
        shape = draw(shapes(spec, axes))
        datatype = draw(st.sampled_from(sorted(DATATYPES.values()))) if rarely(draw, 40) else spec.datatype
        for _ in range(2 if rarely(draw, 60) else 1):
            title = draw(st.text(max_size=10)) if rarely(draw, 60) else spec.name
            request.inputs.add(name=title, datatype=datatype, shape=list(shape))
            request.raw_input_contents.append(draw(contents(spec, shape)))
    if rarely(draw, 60):
        request.raw_input_contents.append(b"one too many")
    request.parameters["budget"].int64_param = 1
    for parameter in draw(st.lists(st.sampled_from(sorted(PARAMETERS)), max_size=2, unique=True)):
        _set(request.parameters[parameter], draw(values(parameter)))
    if rarely(draw, 60):
        request.outputs.add(name=draw(st.sampled_from(("LABEL", "NOTHING", ""))))
    return request


def _set(slot: Any, value: Value) -> None:
    if isinstance(value, bool):
        slot.bool_param = value
    elif isinstance(value, int):
        slot.int64_param = value
    elif isinstance(value, float):
        slot.double_param = value
    else:
        slot.string_param = value
