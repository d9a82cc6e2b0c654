"""The committed model repositories: what the manifest says, what the graphs say, what the configurations say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from cytoserve_contract import manifest as manifest_check
from cytoserve_contract.models import MODELS
from cytoserve_contract.tensors import REFERENCE_SIZES, TensorSpec
from cytoserve_export import manifest
from cytoserve_export.specs import SPECS
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {name: ROOT / MODELS[name].repository for name in SPECS}
REPOSITORIES = sorted(set(FOLDERS.values()))

ORT = {
    "float32": "tensor(float)",
    "uint8": "tensor(uint8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
}
SIZES = {**REFERENCE_SIZES, "maps": 15}
"""The reference model's sizes; ``maps`` are 3 centres and 3 x 4 sides."""


def pinned(tensor: TensorSpec) -> list[int]:
    """Return the dimensions in the contract's numbers, -1 where they are dynamic."""
    return [dim if isinstance(dim, int) else -1 for dim in tensor.shape(SIZES)]


@pytest.mark.parametrize("folder", REPOSITORIES, ids=lambda path: path.name)
def test_manifest_holds(folder: Path) -> None:
    made = manifest.verify(folder)
    graphs = {path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx")}
    assert graphs == {entry["file"] for entry in made["models"].values()}
    named = set(made["files"])
    assert named == set(manifest_check.tree(folder)), "cytoserve export manifest DIR"
    assert graphs | {path.relative_to(folder).as_posix() for path in folder.glob("*/config.pbtxt")} <= named
    for entry in made["models"].values():
        assert max(m["used"] for m in entry["parity"]["measured"]) <= 1


def test_decisions_were_checked_on_real_cells() -> None:
    decision = manifest.verify(ROOT / "model_repository")["decision"]
    assert decision is not None, "export again with --cells"
    assert decision["cells"] >= 128
    assert decision["changed"] == 0


def test_both_repositories_come_from_one_checkpoint() -> None:
    sources = [manifest.verify(folder)["provenance"]["weights_sha256"] for folder in REPOSITORIES]
    assert len(set(sources)) == 1
    service = json.loads((ROOT / "model_repository/service_info/1/service.json").read_text())
    assert service["weights_sha256"] == sources[0]


def test_scoring_fits_the_denoiser() -> None:
    scoring = json.loads((ROOT / "model_repository/scorer/1/scoring.json").read_text())
    service = json.loads((ROOT / "model_repository/service_info/1/service.json").read_text())
    assert scoring["classes"] == service["classes"]
    assert len(scoring["classes"]) == 8
    assert scoring["probes"] == service["probes"]
    assert scoring["latent_shape"] == [24, 16, 16]


@pytest.mark.parametrize("name", SPECS)
def test_graph_has_the_contracts_signature(name: str) -> None:
    spec = replace(SPECS[name], model=MODELS[name])  # the denoiser in the form of the committed weights
    session = ort.InferenceSession(str(FOLDERS[name] / spec.path), providers=["CPUExecutionProvider"])
    for declared, found in ((spec.inputs, session.get_inputs()), (spec.outputs, session.get_outputs())):
        assert [value.name for value in found] == [tensor.name for tensor in declared]
        for tensor, value in zip(declared, found, strict=True):
            assert value.type == ORT[tensor.dtype]
            assert [dim if isinstance(dim, int) else -1 for dim in value.shape] == pinned(tensor)


@pytest.mark.parametrize("name", SPECS)
def test_configuration_agrees_with_the_graph(name: str) -> None:
    spec, path = replace(SPECS[name], model=MODELS[name]), FOLDERS[name] / name / "config.pbtxt"
    config: Any = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    assert config.name == name
    batched = config.max_batch_size > 0
    assert batched == (spec.inputs[0].dims[0] == "B")
    for declared, written in ((spec.inputs, config.input), (spec.outputs, config.output)):
        assert [tensor.name for tensor in declared] == [value.name for value in written]
        for tensor, value in zip(declared, written, strict=True):
            assert model_config_pb2.DataType.Name(value.data_type) == f"TYPE_{tensor.datatype}"
            dims = pinned(tensor)[1:] if batched else pinned(tensor)
            # A configuration may leave an axis open that the graph fixes, never the other way round.
            assert len(value.dims) == len(dims)
            assert all(have in (want, -1) for have, want in zip(value.dims, dims, strict=True))


def test_repositories_are_small_enough_to_commit() -> None:
    total = sum(path.stat().st_size for folder in REPOSITORIES for path in folder.rglob("*") if path.is_file())
    assert total < 40e6
