"""TensorRT engines on disk: their names, the file of facts beside each, and when one must not be loaded.

An engine is machine code for one compute capability and one TensorRT: loaded elsewhere it fails, or worse, runs slowly.
So its name says what it was built from and for, and :func:`check_engine` compares that with where it is to run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import onnx
from cytoserve_files import write_bytes, write_text

from cytoserve_export.checkpoint import hash_file
from cytoserve_export.errors import EngineMismatch, MissingFile, UnknownOperator
from cytoserve_export.files import read_json
from cytoserve_export.graphs import external_files

SUFFIX: Final = ".plan"
MAX_OPSET: Final = 22
"""Newest opset of a graph made here (bf16); TensorRT 10.0's parser names 9 to 20, later ones more."""

UNSUPPORTED: Final = frozenset(
    {
        "AffineGrid",
        "Bernoulli",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "BlackmanWindow",
        "Col2Im",
        "CenterCropPad",
        "Compress",
        "ConcatFromSequence",
        "ConvInteger",
        "DFT",
        "Det",
        "DynamicQuantizeLinear",
        "HammingWindow",
        "HannWindow",
        "ImageDecoder",
        "MatMulInteger",
        "MaxRoiPool",
        "MaxUnpool",
        "MelWeightMatrix",
        "Multinomial",
        "NegativeLogLikelihoodLoss",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "QLinearConv",
        "QLinearMatMul",
        "RegexFullMatch",
        "STFT",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SoftmaxCrossEntropyLoss",
        "SplitToSequence",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "TfIdfVectorizer",
        "Unique",
    }
)
"""Standard operators that TensorRT's ONNX parser does not take: onnx-tensorrt, docs/operators.md of 10.1 GA."""


@dataclass(frozen=True)
class EngineKey:
    """What an engine was built from and for: hash of the graph, TensorRT's version, the GPU's ``major.minor``.

    ``version_compatible``: whether a later TensorRT of the same major version may load it.
    """

    model_sha256: str
    tensorrt: str
    compute_capability: str
    version_compatible: bool = False

    @property
    def file_name(self) -> str:
        """Return the engine's file name: model hash, TensorRT version and compute capability."""
        capability = self.compute_capability.replace(".", "")
        return f"{self.model_sha256[:16]}-trt{self.tensorrt}-sm{capability}{SUFFIX}"


def model_hash(path: Path) -> str:
    """Return the hash of an ONNX file; with external data, one hash over the hashes of all its files.

    Raises
    ------
    MissingExternalData, GraphError
    """
    beside = external_files(path)
    if not beside:
        return hash_file(path)
    lines = "".join(f"{hash_file(path.parent / name)}\n" for name in (path.name, *beside))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_operators(path: Path) -> None:
    """Refuse a graph that TensorRT's ONNX parser does not take.

    Raises
    ------
    UnknownOperator
        An operator outside the standard set or on the parser's list of unsupported ones, or an asymmetric quantiser.
    """
    model = onnx.load(path, load_external_data=False)
    foreign = {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    odd = sorted(foreign | ({node.op_type for node in model.graph.node} & UNSUPPORTED))
    if odd:
        raise UnknownOperator(f"{path}: TensorRT's ONNX parser does not take {odd}; serve this graph by ONNX Runtime")
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if not 9 <= opset <= MAX_OPSET:
        raise UnknownOperator(f"{path} is of opset {opset}; TensorRT 10 reads 9 to 20, later ones to {MAX_OPSET}")


def write_engine(path: Path, engine: bytes, key: EngineKey, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write an engine and ``<engine>.json`` beside it, each whole or not at all; return the facts."""
    written = {**asdict(key), **facts, "sha256": hashlib.sha256(engine).hexdigest(), "bytes": len(engine)}
    write_text(path.with_name(path.name + ".json"), json.dumps(written, indent=1) + "\n")
    write_bytes(path, engine)
    return written


def check_engine(path: Path, here: EngineKey) -> dict[str, Any]:
    """Return the facts beside an engine if it may be loaded ``here``: this graph, TensorRT and GPU.

    Raises
    ------
    MissingFile
        The engine or its facts are not there.
    EngineMismatch
        It was built from another graph, for another GPU, by another TensorRT, or is not the file that was built.
    """
    if not path.is_file():
        raise MissingFile(f"{path} is missing; build it here: cytoserve export tensorrt MODEL.onnx --profile GPU")
    facts = read_json(path.with_name(path.name + ".json"))
    cure = "build it again on this machine: cytoserve export tensorrt MODEL.onnx --profile GPU"
    if facts.get("sha256") != hash_file(path):
        raise EngineMismatch(f"{path} is not the engine that its .json describes; {cure}")
    if facts.get("model_sha256") != here.model_sha256:
        raise EngineMismatch(f"{path} was built from another graph than the one beside it; {cure}")
    if facts.get("compute_capability") != here.compute_capability:
        raise EngineMismatch(
            f"{path} was built for compute capability {facts.get('compute_capability')}, this GPU has "
            f"{here.compute_capability}; {cure}"
        )
    built, have = str(facts.get("tensorrt")), here.tensorrt
    later = bool(facts.get("version_compatible")) and _major(built) == _major(have) and _parts(have) >= _parts(built)
    if built != have and not later:
        raise EngineMismatch(f"{path} was built by TensorRT {built}, here is {have}; {cure}")
    return facts


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _major(version: str) -> str:
    return version.split(".", maxsplit=1)[0]
