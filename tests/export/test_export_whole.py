"""A whole repository in one command: what it holds, what verification catches, what is refused before any work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cytoserve_contract import manifest as manifest_check
from cytoserve_contract.limits import CROP_SIZE, CROP_UM_PER_PIXEL
from cytoserve_export import configs, errors, whole_repository
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.configs import graph_config, refit
from cytoserve_export.decisions import CheckCells
from cytoserve_export.devices import PROFILES, find_profile
from cytoserve_export.networks import TracedDenoiser, build
from cytoserve_export.precision import Calibration, cast_denoiser, offered, quantise, spec_for
from cytoserve_export.precision_check import Scored, compare_scored
from cytoserve_export.specs import SPECS, denoiser_spec
from cytoserve_export.whole_repository import Order, make_repository, verify_repository
from google.protobuf import text_format
from tiny import cell_images
from tritonclient.grpc import model_config_pb2

TEMPLATE = Path(__file__).resolve().parents[2] / "model_repository"
SIZES = {"answers": 1, "size": 24, "latent_channels": 6, "latent_height": 4, "latent_width": 4}


@pytest.fixture(scope="session")
def order(embedding: Path, tmp_path_factory: pytest.TempPathFactory) -> Order:
    root = tmp_path_factory.mktemp("filled")
    cells = CheckCells(cell_images(root / "cells", ("red", "green", "blue"), 4), per_class=4, um_per_pixel=1.0)
    return Order(
        embedding, root / "repository", TEMPLATE, precision="int8", profile="cpu", cells=cells, accept_changes=True
    )


@pytest.fixture(scope="session")
def made(order: Order) -> dict[str, Any]:
    return make_repository(order)


@pytest.fixture
def copy(order: Order, made: dict[str, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(order.target, tmp_path / "repository"))


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_what_it_holds(order: Order, made: dict[str, Any]) -> None:
    assert set(made["files"]) == set(manifest_check.tree(order.target))
    models = {path.parent.name for path in order.target.glob("*/config.pbtxt")}
    assert models == {"segmenter", "encoder", "denoiser", "scorer", "service_info"}
    assert set(made["left_out"]) == {
        *whole_repository.WHOLE_FIELD,
        *whole_repository.CELLS,
    }  # this model's crops are 24 px
    assert made["built_for"] == {"runtime": "onnx", "precision": "int8", "profile": "cpu"}
    for name in ("segmenter", "encoder", "denoiser"):
        folder = order.target / name
        assert {path.stem for path in folder.glob("configs/*.pbtxt")} == set(PROFILES)
        assert (folder / "config.pbtxt").read_text() == (folder / "configs" / "cpu.pbtxt").read_text()
    assert parse((order.target / "scorer/config.pbtxt").read_text()).input[0].dims == [-1, 6, 4, 4]
    kinds = {node.op_type for node in onnx.load(order.target / "denoiser/1/model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    told = made["precision"]
    assert (told["cells"], told["offered"]) == (12, False)
    assert 0 < told["max_score_error"] < 1
    assert not list(order.target.parent.glob(".repository*"))


def test_the_scorers_of_both_lanes_take_the_checkpoints_latents(tmp_path: Path) -> None:
    """Where the crops are the release's and the autoencoder is another."""
    shape = (6, 4, 4)
    geometry = SimpleNamespace(size=CROP_SIZE, um_per_pixel=CROP_UM_PER_PIXEL, latent_shape=shape, sizes=lambda: SIZES)
    checkpoint = SimpleNamespace(geometry=geometry, has_detector=False)
    whole_repository._copy_models(TEMPLATE, tmp_path / "staged", checkpoint)  # type: ignore[arg-type]
    for name in ("scorer", "stat_scorer"):
        assert parse((tmp_path / "staged" / name / "config.pbtxt").read_text()).input[0].dims == [-1, *shape]


def test_verification_recomputes(order: Order, made: dict[str, Any], copy: Path) -> None:
    found = verify_repository(copy, order.checkpoint)
    assert found["files"] == made["files"]
    assert manifest_check.compare(copy).problems() == []
    (copy / "scorer" / "1" / "__pycache__").mkdir()
    (copy / "scorer" / "1" / "__pycache__" / "model.pyc").write_text("")
    assert manifest_check.compare(copy).problems() == []


def tamper_config(folder: Path) -> None:
    (folder / "denoiser" / "config.pbtxt").write_text("name: 'denoiser'")


def tamper_entry(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["models"]["encoder"]["opset"] = {"ai.onnx": 17}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (tamper_config, "not the file that was exported"),
        (tamper_entry, "opset"),
        (lambda f: (f / "scorer" / "1" / "extra.py").write_text("import os"), "extra.py is not named in manifest.json"),
        (lambda f: (f / "encoder" / "1" / "model.onnx").unlink(), "missing"),
        (lambda f: (f / "manifest.json").write_text('{"schema": "cytoserve.manifest/1"}'), "read as a manifest"),
    ],
)
def test_verification_catches(damage: Any, words: str, copy: Path) -> None:
    damage(copy)
    with pytest.raises(errors.ManifestMismatch, match=words):
        verify_repository(copy)


def test_verification_wants_the_same_weights(context: Path, copy: Path) -> None:
    with pytest.raises(errors.ManifestMismatch, match="give the checkpoint it was made from"):
        verify_repository(copy, context)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"precision": "fp8"}, errors.PrecisionRefused, "known are fp32"),
        ({"precision": "bf16"}, errors.PrecisionRefused, "no bf16 convolution on CPUs"),
        ({"profile": "h100"}, errors.PrecisionRefused, "int8 is made for CPUs"),
        ({"profile": "b200"}, errors.UnknownModel, "known are cpu"),
        ({"precision": "fp16", "runtime": "tensorrt"}, errors.TargetError, "on the GPU that will run it"),
        ({"replace": False}, errors.TargetError, "give --replace"),
        ({"template": Path("nowhere"), "replace": True}, errors.MissingFile, "--template"),
    ],
)
def test_refused_before_any_work(
    change: dict[str, Any], kind: type[errors.ExportError], words: str, order: Order, made: dict[str, Any]
) -> None:
    before = (order.target / "manifest.json").stat().st_mtime_ns
    with pytest.raises(kind, match=words) as caught:
        make_repository(replace(order, **change))
    assert type(caught.value) is kind
    assert (order.target / "manifest.json").stat().st_mtime_ns == before


def test_a_folder_that_is_no_repository_is_not_replaced(order: Order, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.TargetError, match="not replaced"):
        make_repository(replace(order, target=tmp_path, replace=True))


def test_a_mount_point_is_refused_before_the_work(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytoserve_export.whole_repository._graphs", lambda *_: pytest.fail("work was done"))
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "volume")
    (tmp_path / "volume").mkdir()
    with pytest.raises(errors.TargetError, match="mount point"):
        make_repository(replace(order, target=tmp_path / "volume"))


def test_int8_needs_cells(order: Order, made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(errors.PrecisionRefused, match="--cells"):
        quantise(order.target / "denoiser/1/model.onnx", tmp_path / "model.onnx", None)


def test_a_precision_is_offered_only_on_evidence(order: Order) -> None:
    assert offered(1, 200)
    assert not offered(2, 200)
    assert not offered(0, 199)
    scores = np.array([[0.1, 0.2], [0.3, 0.2]], np.float32)
    exact = Scored(scores, np.array([0, 1], np.int32), np.array([0, 1], np.uint8), 1.0)
    reduced = Scored(scores + 0.01, np.array([0, 0], np.int32), np.array([1, 1], np.uint8), 0.5)
    found = compare_scored("int8", exact, reduced, 3)
    assert (found.labels_changed, found.decisions_changed, found.offered) == (1, 2, False)
    assert found.max_score_error == pytest.approx(0.01, rel=1e-4)
    with pytest.raises(errors.DecisionChanged, match="too few to judge"):
        whole_repository._refuse_changes(replace(order, accept_changes=False), found)
    with pytest.raises(errors.DecisionChanged, match="not compared"):
        whole_repository._refuse_changes(replace(order, accept_changes=False), None)


@pytest.mark.parametrize(("precision", "least", "most"), [("fp16", 1e-7, 1e-2), ("bf16", 1e-5, 5e-2)])
def test_half_precisions_are_near_and_not_equal(embedding: Path, precision: str, least: float, most: float) -> None:
    checkpoint = Checkpoint(embedding)
    exact, cast = build("denoiser", checkpoint), build("denoiser", checkpoint)
    assert isinstance(cast, TracedDenoiser)
    cast_denoiser(cast, precision)
    rows = torch.randn(8, 6, 4, 4), torch.zeros(8, 1, dtype=torch.int32), torch.ones(8, 1, dtype=torch.int32)
    with torch.no_grad():
        want, got = exact(*rows), cast(*rows)
    assert got.dtype == torch.float32
    assert least < float(((got - want) / want).abs().max()) < most
    assert spec_for(precision, checkpoint).opset == {"fp16": 18, "bf16": 22}[precision]
    with pytest.raises(errors.PrecisionRefused, match="no floating precision"):
        cast_denoiser(cast, "int8")


def test_calibration_runs_round_probes_and_classes() -> None:
    rows = Calibration.spread(np.zeros((10, 6, 4, 4), np.float32), 5, 3)
    assert [len(feed["LATENT"]) for feed in rows.batches()] == [4, 4, 2]
    assert rows.inputs["PROBE"][:, 0].tolist() == [0, 1, 2, 3, 4] * 2
    assert set(rows.inputs["CLASS"][:, 0].tolist()) <= {0, 1, 2}
    every = Calibration.spread(np.zeros((10, 6, 4, 4), np.float32), 5, None)
    assert set(every.inputs) == {"LATENT", "PROBE"}


def test_configurations_by_processor() -> None:
    spec = denoiser_spec(all_classes=False)
    cpu = parse(graph_config(spec, SIZES, PROFILES["cpu"], runtime="onnx"))
    assert (cpu.backend, cpu.max_batch_size, list(cpu.input[0].dims)) == ("onnxruntime", 256, [6, 4, 4])
    assert [sample.batch_size for sample in cpu.model_warmup] == [1, 8]
    assert cpu.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    h100 = graph_config(spec, SIZES, PROFILES["h100"], runtime="onnx", execution_provider="tensorrt", precision="bf16")
    provider = parse(h100).optimization.execution_accelerators.gpu_execution_accelerator[0]
    assert provider.name == "tensorrt"
    assert provider.parameters["trt_engine_cache_path"] == f"{configs.ENGINE_CACHE}/h100"
    assert provider.parameters["precision_mode"] == "BF16"
    assert provider.parameters["trt_profile_max_shapes"] == "LATENT:256x6x4x4,PROBE:256x1,CLASS:256x1"
    engine = parse(graph_config(spec, SIZES, PROFILES["a100"], runtime="tensorrt", heavy=True))
    assert (engine.platform, engine.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert (engine.instance_group[0].count, engine.optimization.cuda.graphs) == (1, True)
    encoder = parse(graph_config(SPECS["encoder"], SIZES, PROFILES["cpu"], runtime="onnx"))
    assert encoder.max_batch_size == 0
    assert (encoder.dynamic_batching.priority_levels, encoder.dynamic_batching.default_priority_level) == (2, 2)
    assert cpu.dynamic_batching.priority_levels == 0, "the scorer's calls of the denoiser carry no priority"
    assert list(encoder.model_warmup[1].inputs["CROP"].dims) == [8, 24, 24, 3]
    with pytest.raises(errors.UnknownModel):
        find_profile("abacus")


def test_cuda_graphs_are_captured_for_the_batches_that_warm_up_and_the_greatest() -> None:
    """Left to itself, Triton's TensorRT backend captures 1 and 256 rows for a model with a dynamic batcher."""
    config = parse(graph_config(denoiser_spec(all_classes=False), SIZES, PROFILES["a10"], runtime="tensorrt"))
    assert [graph.batch_size for graph in config.optimization.cuda.graph_spec] == [1, 8, 64, 256]
    assert {sample.batch_size for sample in config.model_warmup} == {1, 8, 64}
    h200 = parse(graph_config(denoiser_spec(all_classes=False), SIZES, PROFILES["h200"], runtime="tensorrt"))
    assert [graph.batch_size for graph in h200.optimization.cuda.graph_spec] == [1, 8, 256], "each once"
    onnx_config = parse(graph_config(denoiser_spec(all_classes=False), SIZES, PROFILES["a10"], runtime="onnx"))
    assert not onnx_config.optimization.HasField("cuda"), "only the TensorRT backend reads it"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_tensorrts_provider_computes_each_graph_in_its_own_precision(
    embedding: Path, tmp_path: Path, precision: str
) -> None:
    """Only the denoiser is reduced: encoder and detector stay in single precision on a GPU too."""
    wanted = Order(embedding, tmp_path, TEMPLATE, precision=precision, profile="h100", execution_provider="tensorrt")
    whole_repository._write_configs(wanted, Checkpoint(embedding), tmp_path, ("encoder", "denoiser", "segmenter"))
    modes = {}
    for name in ("encoder", "denoiser", "segmenter"):
        optimization = parse((tmp_path / name / "config.pbtxt").read_text()).optimization
        (provider,) = optimization.execution_accelerators.gpu_execution_accelerator
        modes[name] = provider.parameters["precision_mode"]
    assert modes == {"encoder": "FP32", "denoiser": precision.upper(), "segmenter": "FP32"}


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text("name: scorer {")
    with pytest.raises(errors.TargetError, match="is not a Triton configuration"):
        refit(tmp_path / "config.pbtxt", SIZES)
