"""A request as the contract declares it, and an answer checked against it, without our client: locust needs plain gRPC.

Values travel as ``raw_input_contents``; a missing tensor, NaN or a refused cell in an answer is an error.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from cytoserve_contract.models import MODELS, SMEAR_ANALYSIS, ModelSpec
from cytoserve_contract.tensors import shape_problem
from cytoserve_contract.values import NOT_COMPUTED
from tritonclient.grpc import service_pb2 as pb

STAT = 1
"""Triton's priority of stat requests; models do not see it, so these carry the parameter ``stat`` as well."""

MARGIN_S = 0.05
"""The server is given so much less time than the call, so that its own refusal arrives before the caller hangs up."""


def packed(values: list[bytes]) -> bytes:
    """Return a BYTES tensor."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def texts_of(raw: bytes) -> list[bytes]:
    """Return the items of a BYTES tensor."""
    items, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        items.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return items


def request_for(model: ModelSpec, values: list[Any], deadline_s: float, priority: int = 0) -> Any:
    """Return a request with the model's inputs, its deadline and its priority (0: the model's own)."""
    request = pb.ModelInferRequest(model_name=model.name, id=f"load-{model.name}")
    for spec, value in zip(model.inputs, values, strict=True):
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=[len(value)])
        request.raw_input_contents.append(packed(value) if spec.is_text else np.asarray(value, spec.dtype).tobytes())
    request.parameters["deadline_ms"].int64_param = int(1000 * max(deadline_s - MARGIN_S, MARGIN_S))
    if priority:
        request.parameters["priority"].uint64_param = priority
    if priority == STAT:
        request.parameters["stat"].int64_param = 1
    return request


def images_request(model_name: str, files: list[bytes], um: float, deadline_s: float, priority: int = 0) -> Any:
    """Return a request with images for one of the ensembles; ``um`` is micrometres per pixel, 0 where not known."""
    model = MODELS[model_name]
    scales = [um] if model is SMEAR_ANALYSIS else [um] * len(files)
    return request_for(model, [files, scales], deadline_s, priority)


def read(model: ModelSpec, response: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """Return the outputs of an answer by name.

    Raises
    ------
    ValueError
        One is missing, NaN, or not as the contract declares it.
    """
    raw = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
    shapes = {output.name: tuple(output.shape) for output in response.outputs}
    problem = shape_problem(model.outputs, shapes, sizes)
    found: dict[str, Any] = {}
    for spec in model.outputs:
        found[spec.name] = texts_of(raw[spec.name]) if spec.is_text else np.frombuffer(raw[spec.name], spec.dtype)
        if not spec.is_text:
            there = found[spec.name]
            known = there[there != NOT_COMPUTED] if spec.may_lack else there
            problem = problem or spec.value_problem(known)
            problem = problem or ("" if np.isfinite(there).all() else f"{spec.name} is not finite")
    if problem:
        raise ValueError(f"{model.name}: {problem}")
    return found


def check_answer(model_name: str, response: Any, classes: int, cells: int) -> None:
    """Raise `ValueError` for an answer that is not what was asked for; ``cells`` is 0 for a field."""
    sizes = {"C": classes, **({"M": cells} if cells else {})}
    answer = read(MODELS[model_name], response, sizes)
    refused = [error for error in answer.get("CELL_ERROR", ()) if error]
    if refused:
        raise ValueError(refused[0].decode("utf-8", "replace"))
