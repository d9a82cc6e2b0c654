"""The checks must fail on graphs that are wrong: each kind of wrong is made here, by hand, in a real graph."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cytoserve_export import errors, isolation
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.decisions import CheckCells, compare, read_cells
from cytoserve_export.graphs import check, widen
from cytoserve_export.isolation import Job, check_apart
from cytoserve_export.parity import check_graph, measure
from cytoserve_export.progress import silent
from cytoserve_export.specs import SPECS, Tolerance
from onnx import ModelProto, helper, numpy_helper
from tiny import Exported, cell_images

LOOSE = Tolerance(atol=1e-3, rtol=1e-2)


def test_what_the_manifest_records(exported: Exported) -> None:
    checkpoint = Checkpoint(exported.checkpoint)
    for manifest in exported.manifests.values():
        for name, entry in manifest["models"].items():
            parity, spec = entry["parity"], checkpoint.spec(name)
            assert (parity["atol"], parity["rtol"]) == (spec.tolerance.atol, spec.tolerance.rtol)
            assert [m["sizes"] for m in parity["measured"]] == list(spec.parity_sizes)
            assert max(m["used"] for m in parity["measured"]) <= 1
            assert parity["max_abs"] == max(m["max_abs"] for m in parity["measured"])
    decision = exported.manifests["repository"]["decision"]
    assert decision["changed"] == 0
    assert decision["probes"] == 3  # the checkpoint's default budget
    geometry = checkpoint.geometry
    classes = len(geometry.classes)
    assert decision["cells"] == 3 * classes
    assert decision["evaluations"] == 3 * classes * 3 * (1 if geometry.all_classes else classes)
    # Reports of one moment may be merged, so which graph is named under "parity" depends on the machine's speed.
    assert {"tracing", "decisions, torch", "decisions, ONNX Runtime"} <= set(exported.stages)
    assert any(stage.startswith("parity, ") for stage in exported.stages)


def scaled(model: ModelProto) -> None:
    """Make one convolution's weights 2 % larger: the kind of fault a wrong precision makes."""
    weight = next(t for t in model.graph.initializer if "conv_out" in t.name and t.name.endswith("weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.02), weight.name))


def poisoned(model: ModelProto) -> None:
    weight = next(t for t in model.graph.initializer if "conv_out" in t.name and t.name.endswith("weight"))
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def renamed(model: ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = ["LOSS" if name == "ERROR" else name for name in node.output]
    model.graph.output[0].name = "LOSS"


def frozen(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3


def retyped(model: ModelProto) -> None:
    """Take PROBE as int64 on the outside; a Cast inside keeps the graph valid."""
    model.graph.input[1].name = "PROBE"
    for node in model.graph.node:
        node.input[:] = ["probe32" if name == "PROBE" else name for name in node.input]
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    model.graph.node.insert(0, helper.make_node("Cast", ["PROBE"], ["probe32"], to=onnx.TensorProto.INT32))


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (scaled, errors.ToleranceExceeded, "allowed are atol"),
        (poisoned, errors.NotFiniteOutput, "from ONNX Runtime not finite"),
        (renamed, errors.SignatureMismatch, "LOSS"),
        (frozen, errors.SignatureMismatch, "axes"),
        (retyped, errors.SignatureMismatch, "int64"),
    ],
)
def test_a_wrong_graph_fails(
    embedding_export: Exported,
    tmp_path: Path,
    fault: Callable[[ModelProto], None],
    kind: type[errors.ParityError],
    words: str,
) -> None:
    checkpoint, path = Checkpoint(embedding_export.checkpoint), tmp_path / "model.onnx"
    model = widen(onnx.load(embedding_export.graph("denoiser")))
    onnx.save(model, path)
    check_graph(checkpoint.spec("denoiser"), path, checkpoint, 1)  # without the fault it passes
    fault(model)
    onnx.save(model, path)
    with pytest.raises(kind, match=words) as caught:
        check_graph(checkpoint.spec("denoiser"), path, checkpoint, 1)
    assert type(caught.value) is kind


def test_foreign_operators_are_refused(embedding_export: Exported) -> None:
    model = onnx.load(embedding_export.graph("encoder"))
    check(model, SPECS["encoder"])
    model.graph.node[-1].domain = "com.microsoft"
    with pytest.raises(errors.UnknownOperator, match=r"com\.microsoft"):
        check(model, SPECS["encoder"])


def test_measure_counts_and_never_divides_by_zero() -> None:
    want = np.array([0.0, 1.0, -100.0], np.float32)
    found = measure(want + np.array([1e-4, 0, 0.5], np.float32), want, LOOSE, "x", {"B": 3})
    assert found.max_abs == pytest.approx(0.5)
    assert found.max_rel == pytest.approx(0.005)
    assert found.used == pytest.approx(0.5 / (1e-3 + 1.0), rel=1e-4)
    with pytest.raises(errors.SignatureMismatch):
        measure(want[:2], want, LOOSE, "x", {})
    with pytest.raises(errors.NotFiniteOutput, match="torch"):
        measure(want, np.array([0, np.inf, 0], np.float32), LOOSE, "x", {})
    empty = np.zeros((0, 2), np.float32)
    assert measure(empty, empty, LOOSE, "x", {"M": 0}).max_abs == 0


def test_a_changed_decision_is_an_error() -> None:
    want = np.array([[0.50, 0.51, 0.9], [0.2, 0.1, 0.3]])
    labels = np.array([0, 1])
    same = compare(want, want + 0.004, labels, 4, 24)
    assert (same.changed, same.evaluations, same.agreement) == (0, 24, 1.0)
    assert same.smallest_margin == pytest.approx(0.01)
    moved = want.copy()
    moved[0, 1] = 0.499
    with pytest.raises(errors.DecisionChanged, match="1 of 2 cells"):
        compare(want, moved, labels, 4, 24)


def test_cells_are_spread_and_missing_ones_named(embedding_export: Exported, tmp_path: Path) -> None:
    checkpoint = Checkpoint(embedding_export.checkpoint)
    folder = cell_images(tmp_path / "cells", checkpoint.geometry.classes, 5)
    crops, labels = read_cells(CheckCells(folder, per_class=3, um_per_pixel=1.0), checkpoint)
    assert crops.shape == (9, 24, 24, 3)
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    (folder / "green" / "0.png").unlink()
    with pytest.raises(errors.MissingFile, match="4 images, 5 of each"):
        read_cells(CheckCells(folder, per_class=5, um_per_pixel=1.0), checkpoint)


def test_errors_of_the_parity_process_keep_their_class(embedding_export: Exported, tmp_path: Path) -> None:
    model = widen(onnx.load(embedding_export.graph("encoder")))
    model.graph.input[0].name = "PIXELS"
    for node in model.graph.node:
        node.input[:] = ["PIXELS" if name == "CROP" else name for name in node.input]
    onnx.save(model, tmp_path / "model.onnx")
    job = Job(embedding_export.checkpoint, {"encoder": tmp_path / "model.onnx"}, None, None, None, 1)
    with pytest.raises(errors.SignatureMismatch, match="PIXELS"):
        check_apart(job, silent)


def die(pipe: object, job: Job) -> None:
    os._exit(7)


def test_a_dead_parity_process_is_noticed(embedding: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_child", die)
    with pytest.raises(errors.ParityProcessDied, match="code 7"):
        check_apart(Job(embedding, {}, None, None, None, 1), silent)
