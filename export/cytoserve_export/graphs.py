"""From a torch module to one plain ONNX file: traced, named by its declaration, checked, stripped, half-size on disk.

Weights that are exact in half precision are stored so, each behind a ``Cast`` to single precision. ONNX Runtime folds
those casts when it loads the file, so nothing is lost in value or speed; :func:`widen` undoes it for parsers that
want plain float weights.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from cytoserve_contract.tensors import TensorSpec
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor, nn

from cytoserve_export.errors import GraphError, MissingExternalData, UnknownOperator, UnsupportedArchitecture
from cytoserve_export.specs import MAX_IR_VERSION, GraphSpec

HALF_FROM: Final = 256
"""Tensors with fewer elements stay in single precision: a cast node costs more than it saves."""

EXTERNAL_FROM: Final = 2**30
"""Bytes of weights from which they are written beside the graph: far below protobuf's 2 GiB, which counts all."""

_STORED: Final = "_fp16"
_EXAMPLE: Final = {"B": 3, "M": 3, "height": 96, "width": 64}
# Axes whose length must be a multiple of something; the U-Net of the detector halves five times.
_MULTIPLES: Final = {"height": 32, "width": 32}


def example_inputs(spec: GraphSpec, sizes: Mapping[str, int], lengths: Mapping[str, int]) -> tuple[Tensor, ...]:
    """Return zero tensors of the declared types and shapes, dynamic axes at ``lengths``."""
    kinds = {"float32": torch.float32, "uint8": torch.uint8, "int32": torch.int32, "int64": torch.int64}
    bound = {**sizes, **lengths}
    return tuple(torch.zeros(tuple(int(d) for d in t.shape(bound)), dtype=kinds[t.dtype]) for t in spec.inputs)


def _dynamic_shapes(spec: GraphSpec, sizes: Mapping[str, int]) -> tuple[dict[int, Any], ...]:
    words = {word for tensor in spec.inputs for word in tensor.dynamic(sizes).values()}
    axes: dict[str, Any] = {}
    for word in words:
        axis = torch.export.Dim(f"_{word}" if word in _MULTIPLES else word)
        axes[word] = _MULTIPLES[word] * axis if word in _MULTIPLES else axis
    return tuple({at: axes[word] for at, word in t.dynamic(sizes).items()} for t in spec.inputs)


def export_graph(module: nn.Module, spec: GraphSpec, sizes: Mapping[str, int], path: Path) -> None:
    """Trace ``module`` and write it to ``path``: one file, or two where one cannot hold the weights.

    Protobuf cannot hold 2 GiB. From :data:`EXTERNAL_FROM` bytes of weights on they go into ``model.onnx.data`` beside
    the graph, written tensor by tensor from the torch module, without a copy in memory.

    Raises
    ------
    GraphError, UnsupportedArchitecture
        See :func:`trace`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = [*module.parameters(), *module.buffers()]
    if sum(t.numel() * t.element_size() for t in tensors) < EXTERNAL_FROM:
        onnx.save_model(trace(module, spec, sizes), path)
        return
    _traced(module, spec, sizes, external=True).save(str(path), external_data=True)
    model = onnx.load(path, load_external_data=False)
    _finish(model, spec, sizes)
    onnx.save_model(model, path)
    check(model, spec, path)


def trace(module: nn.Module, spec: GraphSpec, sizes: Mapping[str, int]) -> ModelProto:
    """Trace ``module`` with dynamic axes as declared and return a checked, plain ONNX model.

    Raises
    ------
    UnsupportedArchitecture
        The module cannot be traced.
    UnknownOperator
        The graph needs more than the standard operator set.
    GraphError
        The ONNX checker refuses it.
    """
    model = _traced(module, spec, sizes, external=False).model_proto
    _finish(model, spec, sizes)
    store_half(model)
    check(model, spec)
    return model


def _traced(module: nn.Module, spec: GraphSpec, sizes: Mapping[str, int], *, external: bool) -> Any:
    """Return torch's ``ONNXProgram`` of the module."""
    with warnings.catch_warnings(), _Quiet("torch.onnx", "torch.export", "onnxscript"):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                example_inputs(spec, sizes, _EXAMPLE),
                dynamo=True,
                opset_version=spec.opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=_dynamic_shapes(spec, sizes),
                external_data=external,
                verbose=False,
            )
        except Exception as error:  # the exporter has no tree of its own that covers what tracing may raise
            raise UnsupportedArchitecture(f"{spec.name}: torch could not trace it: {_first_line(error)}") from error
    assert program is not None
    return program


def _finish(model: ModelProto, spec: GraphSpec, sizes: Mapping[str, int]) -> None:
    """Strip the traced graph and give its axes their declared names."""
    _strip(model)
    for declared, value in zip((*spec.inputs, *spec.outputs), (*model.graph.input, *model.graph.output), strict=True):
        _name_axes(declared, value, sizes)


class _Quiet:
    """Hold named loggers at ERROR while the exporter runs: it warns about packages that are not needed here."""

    def __init__(self, *names: str) -> None:
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *exc: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {(str(cause).strip() or 'no message').splitlines()[0]}"


def _strip(model: ModelProto) -> None:
    """Remove what the exporter notes for debugging: it holds source paths and makes files differ between machines."""
    model.doc_string = ""
    model.producer_version = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def _name_axes(declared: TensorSpec, value: ValueInfoProto, sizes: Mapping[str, int]) -> None:
    """Write the declared dimensions over the traced ones; a fixed one that differs stays, and parity refuses it."""
    for want, dim in zip(declared.shape(sizes), value.type.tensor_type.shape.dim, strict=True):
        if isinstance(want, str) and dim.WhichOneof("value") == "dim_param":
            dim.dim_param = want


def store_half(model: ModelProto) -> int:
    """Store every float initializer that is exact in fp16 as fp16 behind a Cast; return how many were."""
    casts: list[NodeProto] = []
    kept: list[TensorProto] = []
    for tensor in model.graph.initializer:
        stored = _half(tensor)
        if stored is not None:
            casts.append(helper.make_node("Cast", [stored.name], [tensor.name], f"{tensor.name}_cast", to=1))
        kept.append(tensor if stored is None else stored)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    return len(casts)


def _half(tensor: TensorProto) -> TensorProto | None:
    if tensor.data_type != TensorProto.FLOAT:
        return None
    wide = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float16)
    if wide.size < HALF_FROM or not np.array_equal(narrow.astype(np.float32), wide):
        return None
    return numpy_helper.from_array(narrow, f"{tensor.name}{_STORED}")


def widen(model: ModelProto) -> ModelProto:
    """Return a copy with plain single-precision weights: the inverse of :func:`store_half`."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    stored = {t.name: t for t in out.graph.initializer if t.name.endswith(_STORED)}
    nodes = [n for n in out.graph.node if not (n.op_type == "Cast" and n.input[0] in stored)]
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    for name, tensor in stored.items():
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, name.removesuffix(_STORED)))
    return out


def check(model: ModelProto, spec: GraphSpec, path: Path | None = None) -> None:
    """Refuse a graph that is not plain ONNX of the declared opset; ``path``: where it lies, if with external data.

    Raises
    ------
    UnknownOperator, GraphError
    """
    check_operators(model, spec)
    try:
        onnx.checker.check_model(model if path is None else str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{spec.name}: the ONNX checker refuses the graph: {_first_line(error)}") from error


def check_operators(model: ModelProto, spec: GraphSpec) -> None:
    """Refuse operators outside the standard set, another opset, and a file version too new for the runtimes.

    Raises
    ------
    UnknownOperator, GraphError
    """
    custom = sorted({f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain not in ("", "ai.onnx")})
    if custom or model.functions:
        names = custom or sorted(f.name for f in model.functions)
        raise UnknownOperator(f"{spec.name}: {names} are not standard ONNX operators; serving runtimes lack them")
    opsets = {item.domain: item.version for item in model.opset_import}
    if opsets.get("") != spec.opset:
        raise GraphError(f"{spec.name}: traced to opset {opsets.get('')}, declared is {spec.opset}")
    if model.ir_version > MAX_IR_VERSION:
        raise GraphError(f"{spec.name}: ONNX file version {model.ir_version} is newer than {MAX_IR_VERSION}")


def external_files(path: Path) -> tuple[str, ...]:
    """Return the names of the files beside ``path`` that hold its weights, checked to be whole.

    Raises
    ------
    MissingExternalData
        One is absent or shorter than the graph says.
    GraphError
        ``path`` is not an ONNX file.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, an OSError: whatever it is, it is no graph
        raise GraphError(f"{path} is not a readable ONNX file: {_first_line(error)}; export it again") from error
    ends: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            noted = {entry.key: entry.value for entry in tensor.external_data}
            end = int(noted.get("offset", 0)) + int(noted.get("length", 0))
            ends[noted["location"]] = max(end, ends.get(noted["location"], 0))
    for name, end in sorted(ends.items()):
        beside = path.parent / name
        have = beside.stat().st_size if beside.is_file() else None
        if have is None or have < end:
            state = "absent" if have is None else f"{have} bytes long instead of {end}"
            raise MissingExternalData(
                f"{path} keeps its weights in {name}, which is {state}: copy both files together, or export again"
            )
    return tuple(sorted(ends))
