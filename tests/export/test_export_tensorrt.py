"""The TensorRT road, on a fake that has only what the real bindings declare (recorded from the wheels)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fake_tensorrt
import onnx
import pytest
from cytoserve_export import errors
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.devices import PROFILES
from cytoserve_export.tensorrt_builder import Bindings, BuildOptions, build_engine
from cytoserve_export.tensorrt_check import build_and_check, table_sizes
from cytoserve_export.tensorrt_engine import EngineKey, check_engine, check_operators, model_hash
from fake_tensorrt import VERSIONS
from tiny import Exported

H100 = PROFILES["h100"]


@pytest.fixture(params=["heads", "embedding"])
def made(request: pytest.FixtureRequest) -> Exported:
    """One whose denoiser answers all classes, and one that is told a class."""
    found: Exported = request.getfixturevalue(f"{request.param}_export")
    return found


@pytest.fixture
def any_graph(made: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copy(made.graph("denoiser"), tmp_path / "model.onnx"))


@pytest.fixture
def graph(embedding_export: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copy(embedding_export.graph("denoiser"), tmp_path / "model.onnx"))


@pytest.mark.parametrize("version", VERSIONS)
def test_build_load_and_compare(version: str, any_graph: Path, tmp_path: Path) -> None:
    graph = any_graph
    trt, stages = fake_tensorrt.module(version), []
    cache = tmp_path / "cache" / "timing"
    options = BuildOptions(version_compatible=True, timing_cache=cache)
    found = build_and_check(
        graph, H100, Bindings(trt, "9.0"), options, None, lambda stage, done, total: stages.append(stage), device="cpu"
    )
    assert found["file"] == f"{model_hash(graph)[:16]}-trt{version}-sm90.plan"
    assert found["decision"]["changed"] == 0
    assert found["shapes"]["LATENT"] == [[1, 6, 4, 4], [256, 6, 4, 4], [256, 6, 4, 4]]
    assert cache.read_bytes() == b"+timed"
    assert "TensorRT, Building" in stages
    assert json.loads((tmp_path / (found["file"] + ".json")).read_text())["profile"] == "h100"


def test_an_engine_that_decides_otherwise_is_refused(any_graph: Path) -> None:
    bindings = Bindings(fake_tensorrt.module(VERSIONS[-1], skew=-1.0), "9.0")
    with pytest.raises(errors.DecisionChanged, match="do not serve"):
        build_and_check(any_graph, H100, bindings, BuildOptions(), device="cpu")


def test_tables_are_found_in_the_graph(exported: Exported) -> None:
    geometry = Checkpoint(exported.checkpoint).geometry
    classes = {} if geometry.all_classes else {"CLASS": len(geometry.classes)}
    assert table_sizes(exported.graph("denoiser")) == {"PROBE": 5, **classes}
    with pytest.raises(errors.MalformedFile, match="no denoiser"):
        table_sizes(exported.graph("encoder"))


def test_the_builders_refusals(graph: Path, embedding_export: Exported) -> None:
    good = fake_tensorrt.module(VERSIONS[-1])
    with pytest.raises(errors.EngineMismatch, match=r"compute capability 9\.0, this GPU has 8\.9"):
        build_engine(graph, H100, Bindings(good, "8.9"))
    nothing = Bindings(fake_tensorrt.module(VERSIONS[-1], gives_nothing=True), "9.0")
    with pytest.raises(errors.EngineBuildFailed, match="no engine"):
        build_engine(graph, H100, nothing)
    with pytest.raises(errors.EngineBuildFailed, match="no denoiser"):
        build_engine(embedding_export.graph("encoder"), H100, Bindings(good, "9.0"))
    assert not list(graph.parent.glob("*.plan*"))


def test_operators_outside_the_parsers_list(exported: Exported, tmp_path: Path) -> None:
    for name in ("encoder", "denoiser", "decoder"):
        check_operators(exported.graph(name))
    model = onnx.load(exported.graph("encoder"))
    model.graph.node[-1].op_type = "Compress"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(errors.UnknownOperator, match="Compress"):
        check_operators(tmp_path / "model.onnx")
    parser_alone = Bindings(fake_tensorrt.module(VERSIONS[0]), "9.0")
    with pytest.raises(errors.EngineBuildFailed, match="no importer"):
        parser_alone.build(tmp_path / "model.onnx", {}, BuildOptions(), lambda *a: None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compute_capability": "8.9"}, "built for compute capability 9.0, this GPU has 8.9"),
        ({"tensorrt": "10.3.0"}, "built by TensorRT 10.13.3.9, here is 10.3.0"),
        ({"tensorrt": "11.4.0.106"}, "build it again on this machine"),
        ({"model_sha256": "0" * 64}, "another graph"),
        (None, "not the engine"),
    ],
)
def test_a_foreign_engine_is_not_loaded(change: dict[str, str] | None, words: str, graph: Path) -> None:
    version = "10.13.3.9"
    build_engine(graph, H100, Bindings(fake_tensorrt.module(version), "9.0"), options=BuildOptions(True))
    path, key = graph.with_name("model.plan"), EngineKey(model_hash(graph), version, "9.0")
    check_engine(path, key)
    check_engine(path, EngineKey(key.model_sha256, "10.16.1.11", "9.0"))  # version-compatible, and later
    here: dict[str, Any] = {"model_sha256": key.model_sha256, "tensorrt": version, "compute_capability": "9.0"}
    if change is None:
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(errors.EngineMismatch, match=words):
        check_engine(path, EngineKey(**{**here, **(change or {})}))


def test_without_the_option_only_the_same_version(graph: Path) -> None:
    build_engine(graph, H100, Bindings(fake_tensorrt.module("10.13.3.9"), "9.0"))
    with pytest.raises(errors.EngineMismatch, match=r"10\.16"):
        check_engine(graph.with_name("model.plan"), EngineKey(model_hash(graph), "10.16.1.11", "9.0"))
    with pytest.raises(errors.MissingFile, match="build it here"):
        check_engine(graph.with_name("other.plan"), EngineKey("", "", ""))


def test_no_tensorrt_here_is_said() -> None:
    with pytest.raises(errors.TensorRTUnavailable, match=r"container|GPU"):
        Bindings.find()


def test_the_fake_is_strict() -> None:
    """The fake must fail where the bindings would, or the tests above would prove nothing."""
    trt = fake_tensorrt.module("11.4.0.106")
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    with pytest.raises(TypeError, match="incompatible"):
        trt.Logger("warning")
    with pytest.raises(TypeError, match="incompatible"):
        builder.create_network("STRONGLY_TYPED")
    config = builder.create_builder_config()
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    with pytest.raises(AttributeError):
        _ = trt.BuilderFlag.FP16  # gone in 11: strongly typed networks only
    assert hasattr(fake_tensorrt.module("10.3.0").BuilderFlag, "FP16")
    with pytest.raises(TypeError, match="incompatible"):
        config.set_timing_cache(config.create_timing_cache(b""))
