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
from cytoserve_contract.models import CELL_ANALYSIS, MODELS, SERVICE_INFO, SMEAR_ANALYSIS
from cytoserve_contract.tensors import TensorSpec
from cytoserve_contract.values import NOT_COMPUTED
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from cytoserve_client.errors import ContractMismatch, InvalidAnswer

SERVICE: Final = "inference.GRPCInferenceService"

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
        return f"/{SERVICE}/{self.name}"


INFER: Final = Rpc("ModelInfer", pb.ModelInferRequest, pb.ModelInferResponse)
METADATA: Final = Rpc("ModelMetadata", pb.ModelMetadataRequest, pb.ModelMetadataResponse)
READY: Final = Rpc("ServerReady", pb.ServerReadyRequest, pb.ServerReadyResponse)
RPCS: Final = (INFER, METADATA, READY)


SMEAR_MODEL: Final = SMEAR_ANALYSIS.name
CELL_MODEL: Final = CELL_ANALYSIS.name
INFO_MODEL: Final = SERVICE_INFO.name

_UNUSED: Final = frozenset({"CELL_FLAGS"})
"""Outputs of the contract that this client does not ask for, to save bytes; they must exist all the same."""


def wanted(model: str) -> tuple[TensorSpec, ...]:
    """Return the outputs that this client asks a model for."""
    return tuple(spec for spec in MODELS[model].outputs if spec.name not in _UNUSED)


def bytes_tensor(items: Sequence[bytes]) -> bytes:
    """Return a BYTES tensor as it travels: every item behind its length as little-endian uint32."""
    return b"".join(part for item in items for part in (struct.pack("<I", len(item)), item))


def split_bytes(raw: bytes) -> list[bytes]:
    """Return the items of a BYTES tensor.

    Raises
    ------
    InvalidAnswer
        If the lengths do not add up.
    """
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
    """Return a ``ModelInferRequest``.

    Parameters
    ----------
    model : str
        Model to call.
    inputs : sequence of (TensorSpec, shape, raw bytes)
        The input tensors.
    request_id : str
        Travels with every attempt, and into the server's log.
    parameters : mapping of str to int, float or str, optional
        Request parameters, forwarded by the ensembles to their steps.
    priority : int
        Triton's priority, forwarded likewise: 1 is the most urgent, 0 (not sent) the model's default.
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


def image_request(
    model: str,
    files: Sequence[bytes],
    um_per_pixel: Sequence[float],
    request_id: str,
    parameters: Mapping[str, Parameter] | None = None,
    priority: int = 0,
) -> Any:
    """Return the request of either ensemble: encoded files and their scales (0 = not given)."""
    scales = np.asarray(um_per_pixel, "<f4")
    images, sizes = MODELS[model].inputs
    inputs = [(images, [len(files)], bytes_tensor(files)), (sizes, [len(scales)], scales.tobytes())]
    return infer_request(model, inputs, request_id, parameters, priority)


def info_request(request_id: str) -> Any:
    """Return the request to ``service_info``."""
    return infer_request(INFO_MODEL, [(SERVICE_INFO.inputs[0], [1], bytes_tensor([b"info"]))], request_id)


def metadata_request(model: str) -> Any:
    """Return the request for a model's tensor names and types."""
    return pb.ModelMetadataRequest(name=model)


def ready_request() -> Any:
    """Return the request for readiness."""
    return pb.ServerReadyRequest()


def set_time_left(request: Any, milliseconds: int) -> None:
    """Tell the server the time left, as request parameter ``deadline_ms`` (the gRPC deadline stops at its door)."""
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
    """Return the asked-for outputs of a ``ModelInferResponse``, each checked for name, datatype, rank and size.

    Raises
    ------
    ContractMismatch
        If an output is missing or has another datatype or rank.
    InvalidAnswer
        If the bytes do not match the shape.
    """
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
