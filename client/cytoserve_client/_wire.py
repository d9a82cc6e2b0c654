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
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from cytoserve_client.errors import ContractMismatch, InvalidAnswer

SERVICE: Final = "inference.GRPCInferenceService"

Parameter = int | float | str
"""Value of a request parameter."""

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
}
"""Datatypes of the contract, little-endian as on the wire."""


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


@dataclass(frozen=True)
class TensorSpec:
    """Name, datatype and rank (number of dimensions) of a tensor in the contract.

    ``optional`` numbers may be missing one by one: :data:`NOT_COMPUTED` stands for them.
    """

    name: str
    datatype: str
    rank: int
    optional: bool = False


NOT_COMPUTED: Final = -1.0
"""On the wire, a number that was not computed or is not known (NaN is no JSON); NaN once it is read."""


SCORER_OUTPUTS: Final = (
    TensorSpec("LABEL", "INT32", 1),
    TensorSpec("POSTERIOR", "FP32", 2, optional=True),
    TensorSpec("POSTERIOR_INTERVAL", "FP32", 2, optional=True),
    TensorSpec("SCORES", "FP32", 2, optional=True),
    TensorSpec("UNCERTAINTY", "FP32", 1, optional=True),
    TensorSpec("ANOMALY", "FP32", 2, optional=True),
    TensorSpec("DECISION", "UINT8", 1),
    TensorSpec("REASONS", "BYTES", 1),
    TensorSpec("EVALUATIONS", "INT32", 1),
    TensorSpec("CONFORMAL", "FP32", 2, optional=True),
)

SMEAR_MODEL: Final = "smear_analysis"
CELL_MODEL: Final = "cell_analysis"
INFO_MODEL: Final = "service_info"

INPUTS: Final = (TensorSpec("IMAGE", "BYTES", 1), TensorSpec("UM_PER_PIXEL", "FP32", 1))

OUTPUTS: Final[dict[str, tuple[TensorSpec, ...]]] = {
    SMEAR_MODEL: (
        TensorSpec("FIELD_SIZE", "INT32", 1),
        TensorSpec("BOX", "FP32", 2),
        TensorSpec("KIND", "UINT8", 1),
        TensorSpec("DETECTION_SCORE", "FP32", 1),
        TensorSpec("SCALE", "FP32", 1, optional=True),
        TensorSpec("SCALE_SOURCE", "BYTES", 1),
        TensorSpec("CELL_INDEX", "INT32", 1),
        TensorSpec("CELL_FLAGS", "INT32", 1),
        *SCORER_OUTPUTS,
    ),
    CELL_MODEL: (
        TensorSpec("SCALE", "FP32", 1, optional=True),
        TensorSpec("CELL_FLAGS", "INT32", 1),
        TensorSpec("CELL_ERROR", "BYTES", 1),
        *SCORER_OUTPUTS,
    ),
    INFO_MODEL: (TensorSpec("INFO", "BYTES", 1),),
}
"""What each model must answer (docs/contract.md)."""

_UNUSED: Final = frozenset({"CELL_FLAGS"})
"""Outputs of the contract that this client does not ask for, to save bytes; they must exist all the same."""


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
    for spec in OUTPUTS[model]:
        if spec.name not in _UNUSED:
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
    inputs = [
        (INPUTS[0], [len(files)], bytes_tensor(files)),
        (INPUTS[1], [len(scales)], scales.tobytes()),
    ]
    return infer_request(model, inputs, request_id, parameters, priority)


def info_request(request_id: str) -> Any:
    """Return the request to ``service_info``."""
    return infer_request(INFO_MODEL, [(TensorSpec("QUERY", "BYTES", 1), [1], bytes_tensor([b"info"]))], request_id)


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
    for spec in OUTPUTS[model]:
        if spec.name in _UNUSED:
            continue
        if spec.name not in given:
            raise ContractMismatch(f"{model} did not answer {spec.name}; the server is of another release")
        output, raw = given[spec.name]
        shape = tuple(int(side) for side in output.shape)
        if output.datatype != spec.datatype or len(shape) != spec.rank:
            raise ContractMismatch(
                f"{model} answers {spec.name} as {output.datatype} {list(shape)}, "
                f"the contract says {spec.datatype} with {spec.rank} dimension(s)"
            )
        count = int(np.prod(shape, dtype=np.int64))
        if spec.datatype == "BYTES":
            items = split_bytes(raw)
            if len(items) != count:
                raise InvalidAnswer(f"{model}: {spec.name} has {len(items)} items, its shape says {count}")
            texts[spec.name] = [item.decode("utf-8", "replace") for item in items]
            continue
        dtype = _DTYPES[spec.datatype]
        if len(raw) != count * dtype.itemsize:
            raise InvalidAnswer(f"{model}: {spec.name} has {len(raw)} bytes, its shape says {count * dtype.itemsize}")
        values = np.frombuffer(raw, dtype).reshape(shape)
        arrays[spec.name] = np.where(values == NOT_COMPUTED, np.float32(np.nan), values) if spec.optional else values
    return Tensors(arrays, texts)
