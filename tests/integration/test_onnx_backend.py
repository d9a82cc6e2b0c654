"""The Python-based backend ``onnxruntime`` on small graphs made here, served by the real Triton."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from cytoserve_deploy.errors import ServerDied
from cytoserve_deploy.launch import supervisor
from cytoserve_deploy.launch.local_server import LocalServer
from onnx import TensorProto, helper, numpy_helper
from triton_calls import OWN_SERVER, answers, sign, tensor
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

pytestmark = OWN_SERVER

TABLE = np.arange(10, dtype=np.float32) * 1.5


def graph(nodes: list[onnx.NodeProto], x: tuple, y: tuple, **weights: np.ndarray) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*x)],
        [helper.make_tensor_value_info(*y)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def add_model(root: Path, name: str, model: onnx.ModelProto, config: str, external: bool = False) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0} if external else {}
    onnx.save_model(model, str(folder / "model.onnx"), **options)
    (root / name / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "onnxruntime"\n{config}')


def lookup() -> onnx.ModelProto:
    """Row of indices -> row of values of TABLE."""
    return graph(
        [helper.make_node("Gather", ["table", "X"], ["Y"])],
        ("X", TensorProto.INT32, ["B", 1]),
        ("Y", TensorProto.FLOAT, ["B", 1]),
        table=TABLE,
    )


def fold() -> onnx.ModelProto:
    """(M, 2, 2) -> (M, 4) less the first row; there is no first row when M = 0, and ONNX Runtime refuses."""
    return graph(
        [
            helper.make_node("Reshape", ["X", "shape"], ["flat"]),
            helper.make_node("Gather", ["flat", "first"], ["row"]),
            helper.make_node("Sub", ["flat", "row"], ["Y"]),
        ],
        ("X", TensorProto.FLOAT, ["M", 2, 2]),
        ("Y", TensorProto.FLOAT, ["M", 4]),
        shape=np.array([-1, 4], np.int64),
        first=np.array([0], np.int64),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    root = tmp_path_factory.mktemp("onnx")
    one = (
        'input { name: "X" data_type: TYPE_INT32 dims: [ 1 ] }\noutput { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }\n'
    )
    rows = (
        'input { name: "X" data_type: TYPE_FP32 dims: [ -1, 2, 2 ] }\n'
        'output { name: "Y" data_type: TYPE_FP32 dims: [ -1, 4 ] }\ninstance_group { count: 1 kind: KIND_CPU }\n'
    )
    batched = "max_batch_size: 8\ninstance_group { count: 1 kind: KIND_CPU }\n"
    wait = "dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 1000000 }\n"
    threads = 'parameters { key: "intra_op_thread_count" value { string_value: "5" } }\n'
    add_model(root, "lookup", lookup(), batched + one + wait)
    add_model(root, "outside", lookup(), batched + one + threads, external=True)
    add_model(root, "fold", fold(), rows)
    sign(root)
    with LocalServer(model_repository=root, warm_up=False, onnx_threads=1) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: LocalServer) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.grpc_url) as made:
        yield made


def test_rows_come_back_in_order(client: grpc.InferenceServerClient) -> None:
    indices = np.array([[3], [0], [9], [3]], np.int32)
    result = answers(client.infer("outside", [tensor("X", indices)], client_timeout=10))
    np.testing.assert_array_equal(result["Y"], TABLE[indices])


def test_requests_of_one_batch_are_joined_and_a_bad_one_fails_alone(client: grpc.InferenceServerClient) -> None:
    sent = {"a": [[1], [2]], "bad": [[7], [999], [1]], "b": [[4]], "c": [[5], [6]]}  # 8 rows: one full batch
    found: dict[str, object] = {}

    def keep(name: str) -> object:
        return lambda result, error: found.__setitem__(name, error or answers(result)["Y"])

    for name, rows in sent.items():
        client.async_infer("lookup", [tensor("X", np.array(rows, np.int32))], callback=keep(name), client_timeout=20)
    until = time.monotonic() + 20
    while len(found) < len(sent) and time.monotonic() < until:
        time.sleep(0.02)
    bad = found.pop("bad")
    assert isinstance(bad, InferenceServerException)
    assert bad.status() == "StatusCode.INVALID_ARGUMENT"
    for name, values in found.items():
        np.testing.assert_array_equal(values, TABLE[np.array(sent[name])], err_msg=name)
    assert len(found) == 3
    statistics = client.get_inference_statistics("lookup", as_json=True)["model_stats"][0]
    assert int(statistics["execution_count"]) == 1, "the four requests were not one batch, so nothing was tested"


def test_nan_passes_through(client: grpc.InferenceServerClient) -> None:
    values = np.array([[[1, 2], [3, 4]], [[5, np.nan], [np.inf, 4]]], np.float32)
    result = answers(client.infer("fold", [tensor("X", values)], client_timeout=10))
    np.testing.assert_array_equal(result["Y"], [[0, 0, 0, 0], [4, np.nan, np.inf, 0]])


def test_no_rows_are_answered_where_the_graph_refuses(client: grpc.InferenceServerClient) -> None:
    nothing = np.zeros((0, 2, 2), np.float32)
    with pytest.raises(Exception, match="out of data bounds"):
        onnxruntime.InferenceSession(fold().SerializeToString()).run(None, {"X": nothing})
    result = answers(client.infer("fold", [tensor("X", nothing)], client_timeout=10))
    assert result["Y"].shape == (0, 4)


def test_threads_are_those_of_the_configuration(server: LocalServer) -> None:
    threads = {}
    for pid in supervisor.group_members(server.pid):
        process = psutil.Process(pid)
        if process.name() != "tritonserver":
            threads[Path(process.cmdline()[1]).parts[-3]] = process.num_threads()
    assert threads["outside"] - threads["fold"] == 4, threads


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ('input { name: "Z" data_type: TYPE_INT32 dims: [ 1 ] }', "the graph has no input Z; it has X"),
        ('input { name: "X" data_type: TYPE_STRING dims: [ 1 ] }', "X is a string tensor"),
    ],
)
def test_configuration_that_does_not_fit_the_graph(tmp_path: Path, tensors: str, reason: str) -> None:
    output = 'output { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }\n'
    add_model(tmp_path, "wrong", lookup(), f"max_batch_size: 8\n{tensors}\n{output}")
    sign(tmp_path)
    with pytest.raises(ServerDied, match=reason):
        LocalServer(model_repository=tmp_path, warm_up=False).start()
