"""The KServe v2 gRPC messages: build requests, read tensors. The only module that touches protobuf.

Built on plain ``grpcio`` with the message classes that ``tritonclient`` ships, not on its client class: that one waits
for ever by default, takes its server-side timeout in microseconds, returns None for a missing output, drops its own
message-size options when others are given, hides the status code in a string, prints requests when verbose, and has
no retries. The message classes are generated from NVIDIA's own definition and have none of that.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cytoserve_contract.models import CELL_ANALYSIS, MODELS, SERVICE_INFO, SMEAR_ANALYSIS, STAT_CELL_ANALYSIS
from cytoserve_contract.tensors import TensorSpec
from cytoserve_contract.values import NOT_COMPUTED
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from cytoserve_client.errors import ContractMismatch, InvalidAnswer

Parameter = int | float | str
"""Value of a request parameter."""


@dataclass(frozen=True)
class Rpc:
    """One method of the inference service."""

    name: str
    request: Any
    response: Any

    @property
    def path(self) -> str:
        """The method's full name, as HTTP/2 path."""
        return f"/inference.GRPCInferenceService/{self.name}"


INFER: Final = Rpc("ModelInfer", pb.ModelInferRequest, pb.ModelInferResponse)
METADATA: Final = Rpc("ModelMetadata", pb.ModelMetadataRequest, pb.ModelMetadataResponse)
READY: Final = Rpc("ServerReady", pb.ServerReadyRequest, pb.ServerReadyResponse)
RPCS: Final = (INFER, METADATA, READY)


@dataclass(frozen=True)
class Call:
    """A request to send. ``timeout`` in seconds, for this attempt."""

    rpc: Rpc
    request: Any
    timeout: float
    source: str | None = None
    request_id: str = ""


SMEAR_MODEL: Final = SMEAR_ANALYSIS.name
CELL_MODEL: Final = CELL_ANALYSIS.name
STAT_CELL_MODEL: Final = STAT_CELL_ANALYSIS.name
INFO_MODEL: Final = SERVICE_INFO.name

_UNUSED: Final = frozenset({"CELL_FLAGS"})
"""Outputs of the contract that this client does not request, to save bytes; they must exist all the same."""


def wanted(model: str) -> tuple[TensorSpec, ...]:
    """Return the outputs that this client requests from a model."""
    return tuple(spec for spec in MODELS[model].outputs if spec.name not in _UNUSED)


def bytes_tensor(items: Sequence[bytes]) -> bytes:
    """Return a BYTES tensor as it travels: every item behind its length as little-endian uint32."""
    return b"".join(part for item in items for part in (struct.pack("<I", len(item)), item))


def split_bytes(raw: bytes) -> list[bytes]:
    """Return the items of a BYTES tensor; `InvalidAnswer` if the lengths do not add up."""
    items: list[bytes] = []
    position = 0
    while position < len(raw):
        if position + 4 > len(raw):
            raise InvalidAnswer("a BYTES tensor ends inside a length")
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if position + length > len(raw):
            raise InvalidAnswer("a BYTES tensor ends inside an item")
        items.append(raw[position : position + length])
        position += length
    return items


def infer_request(
    model: str,
    inputs: Sequence[tuple[TensorSpec, Sequence[int], bytes]],
    request_id: str,
    parameters: Mapping[str, Parameter] | None = None,
    priority: int = 0,
) -> Any:
    """Return a ``ModelInferRequest`` with inputs as (TensorSpec, shape, raw bytes).

    The ensembles forward parameters and priority to their steps; the priority 0 (the model's default) is not sent.
    """
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    for spec, shape, raw in inputs:
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=list(shape))
        request.raw_input_contents.append(raw)
    for spec in wanted(model):
        request.outputs.add(name=spec.name)
    for name, value in (parameters or {}).items():
        _set(request.parameters[name], value)
    if priority:
        # As tritonclient does: unsigned, and nothing at all for 0.
        request.parameters["priority"].uint64_param = priority
    return request


def _set(slot: Any, value: Parameter) -> None:
    """Fill the member of the parameter that is of the value's type."""
    if isinstance(value, str):
        slot.string_param = value
    elif isinstance(value, float):
        slot.double_param = value
    else:
        slot.int64_param = value


def info_request(request_id: str) -> Any:
    """Return the request to ``service_info``."""
    return infer_request(INFO_MODEL, [(SERVICE_INFO.inputs[0], [1], bytes_tensor([b"info"]))], request_id)


def set_time_left(request: Any, milliseconds: int) -> None:
    """Set the time left, as request parameter ``deadline_ms`` (the gRPC deadline stops at its door)."""
    request.parameters["deadline_ms"].int64_param = max(1, milliseconds)


@dataclass(frozen=True)
class Tensors:
    """The outputs of one answer, by name."""

    arrays: Mapping[str, NDArray[Any]]
    texts: Mapping[str, list[str]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return {name: (len(items),) for name, items in self.texts.items()} | {
            name: array.shape for name, array in self.arrays.items()
        }


def read_tensors(model: str, response: Any) -> Tensors:
    """Return the requested outputs of a ``ModelInferResponse``, each checked for name, datatype, rank and size."""
    if len(response.raw_output_contents) != len(response.outputs):
        raise InvalidAnswer(f"{model} answered {len(response.outputs)} outputs in an unknown encoding")
    given = {
        output.name: (output, raw) for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    arrays: dict[str, NDArray[Any]] = {}
    texts: dict[str, list[str]] = {}
    for spec in wanted(model):
        if spec.name not in given:
            raise ContractMismatch(f"{model} did not answer {spec.name}; the server is of another release")
        output, raw = given[spec.name]
        shape = tuple(int(side) for side in output.shape)
        if output.datatype != spec.datatype or len(shape) != len(spec.dims):
            raise ContractMismatch(
                f"{model} answers {spec.name} as {output.datatype} {list(shape)}, "
                f"the contract says {spec.datatype} with {len(spec.dims)} dimension(s)"
            )
        count = int(np.prod(shape, dtype=np.int64))
        if spec.is_text:
            items = split_bytes(raw)
            if len(items) != count:
                raise InvalidAnswer(f"{model}: {spec.name} has {len(items)} items, its shape says {count}")
            texts[spec.name] = [item.decode("utf-8", "replace") for item in items]
            continue
        dtype = np.dtype(spec.dtype).newbyteorder("<")
        if len(raw) != count * dtype.itemsize:
            raise InvalidAnswer(f"{model}: {spec.name} has {len(raw)} bytes, its shape says {count * dtype.itemsize}")
        values = np.frombuffer(raw, dtype).reshape(shape)
        arrays[spec.name] = np.where(values == NOT_COMPUTED, np.float32(np.nan), values) if spec.may_lack else values
    return Tensors(arrays, texts)
