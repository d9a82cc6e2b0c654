"""The local server starts, says what is wrong, and leaves no process, shared memory or file behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from cytoserve_contract.manifest import ENV_SKIP
from cytoserve_deploy.errors import (
    DeployError,
    IncompleteRepository,
    MissingRepository,
    PortTaken,
    RepositoryRefused,
    ServerDied,
    ServerProblem,
    WarmUpFailed,
)
from cytoserve_deploy.launch import supervisor
from cytoserve_deploy.launch.local_server import LocalServer
from triton_calls import OWN_SERVER, ROOT, answers, files, sign, tensor
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

pytestmark = OWN_SERVER


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def traces(group: int, shm_prefix: str, scratch: str | os.PathLike[str]) -> list[str]:
    """Name what is left of a server."""
    left = [f"process {pid}" for pid in supervisor.group_members(group)]
    left += [str(path) for path in supervisor.shared_memory(shm_prefix)]
    return left + ([str(scratch)] if Path(scratch).exists() else [])


def start(repository: Path, **changes: object) -> LocalServer:
    return LocalServer(model_repository=repository, warm_up=False, **changes).start()


def test_start_answer_stop_leaves_nothing(small_repository: Path) -> None:
    before = sorted(small_repository.rglob("*"))
    server = start(small_repository)
    try:
        here = (server.pid, server.layout.shm_prefix, server.layout.scratch)
        # positive control: what is looked for afterwards is there now
        assert len(supervisor.group_members(server.pid)) == 2, "tritonserver and one stub"
        assert len(supervisor.shared_memory(server.layout.shm_prefix)) == 1
        assert server.layout.scratch.is_dir()
        with grpc.InferenceServerClient(server.grpc_url) as client:
            result = client.infer("service_info", [tensor("QUERY", files([b"info"]))], client_timeout=10)
            assert b'"small"' in answers(result)["INFO"][0]
    finally:
        server.stop()
    assert traces(*here) == []
    assert not server.is_alive()
    assert sorted(small_repository.rglob("*")) == before, "the repository was written to"
    server.stop()


def test_listens_on_loopback_only(small_repository: Path) -> None:
    with start(small_repository) as server:
        ours = {server.layout.grpc_port, server.layout.http_port, server.layout.metrics_port}
        for _ in range(100):
            # The kernel's table is read in pieces while other tests' sockets come and go: a row may be missed once.
            listening = [c.laddr for c in psutil.net_connections("tcp") if c.pid == server.pid and c.status == "LISTEN"]
            if {address.port for address in listening} >= ours:
                break
            time.sleep(0.1)
    assert {address.port for address in listening} == ours
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_two_servers_at_once(small_repository: Path) -> None:
    with start(small_repository) as one, start(small_repository) as two:
        assert one.grpc_url != two.grpc_url
        assert one.layout.shm_prefix != two.layout.shm_prefix
        one.stop()
        with grpc.InferenceServerClient(two.grpc_url) as client:
            assert client.is_server_ready()


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT", "exit"])
def test_nothing_is_left_when_the_caller_goes(small_repository: Path, how: str) -> None:
    code = (
        "import sys\n"
        "from cytoserve_deploy.launch.local_server import LocalServer\n"
        "s = LocalServer(model_repository=sys.argv[1], warm_up=False).start()\n"
        "print(s.pid, s.layout.shm_prefix, s.layout.scratch, flush=True)\n"
        "sys.stdin.read()\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code, str(small_repository)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A suite that runs in the background of a shell ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert caller.stdin is not None
    assert caller.stdout is not None
    pid, prefix, scratch = caller.stdout.readline().split()
    assert len(traces(int(pid), prefix, scratch)) == 4, "two processes, one region, one folder"
    if how == "exit":
        caller.stdin.close()
    else:
        caller.send_signal(getattr(signal, how))
    caller.wait(30)
    assert wait_for(lambda: not traces(int(pid), prefix, scratch)), traces(int(pid), prefix, scratch)


def test_supervisor_killed(small_repository: Path) -> None:
    server = start(small_repository)
    here = (server.pid, server.layout.shm_prefix, server.layout.scratch)
    os.kill(psutil.Process(server.pid).ppid(), signal.SIGKILL)
    assert wait_for(lambda: not supervisor.group_members(here[0])), "the kernel tells the server that its parent died"
    server.stop()
    assert traces(*here) == []


def test_killed_server_is_noticed_and_cleaned_up(small_repository: Path) -> None:
    server = start(small_repository)
    here = (server.pid, server.layout.shm_prefix, server.layout.scratch)
    server.check()
    os.kill(server.pid, signal.SIGKILL)
    assert wait_for(lambda: not server.is_alive())
    with pytest.raises(ServerDied, match="signal 9"):
        server.check()
    server.stop()
    assert traces(*here) == []


def test_server_killed_during_a_call_does_not_hang_the_caller(small_repository: Path) -> None:
    (small_repository / "service_info" / "1" / "model.py").write_text(
        "import time\nclass TritonPythonModel:\n    def execute(self, requests):\n        time.sleep(60)\n"
    )
    sign(small_repository)
    server = start(small_repository)
    outcome: list[object] = []
    try:
        with grpc.InferenceServerClient(server.grpc_url) as client:
            client.async_infer(
                "service_info",
                [tensor("QUERY", files([b""]))],
                callback=lambda result, error: outcome.append(error),
                client_timeout=30,
            )
            time.sleep(0.5)
            os.kill(server.pid, signal.SIGKILL)
            assert wait_for(lambda: bool(outcome), 10)
        assert isinstance(outcome[0], InferenceServerException)
        assert outcome[0].status() == "StatusCode.UNAVAILABLE"
    finally:
        server.stop()


def test_taken_port(small_repository: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=str(port)):
            start(small_repository, grpc_port=port)


def test_given_ports_and_log_file(small_repository: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "logs" / "server.log"
    with start(small_repository, grpc_port=port, log_file=log) as server:
        assert server.grpc_url == f"127.0.0.1:{port}"
    assert "Started GRPCInferenceService" in log.read_text(), "a log file that was asked for stays"


def test_missing_and_empty_repository(tmp_path: Path) -> None:
    with pytest.raises(MissingRepository, match="not a folder"):
        start(tmp_path / "nowhere")
    with pytest.raises(MissingRepository, match="holds no models"):
        start(tmp_path)


def test_repository_without_its_graphs(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text((ROOT / "model_repository" / "encoder" / "config.pbtxt").read_text())
    with pytest.raises(IncompleteRepository, match=r"encoder/1/model\.onnx.*cytoserve export"):
        start(tmp_path)


def test_a_repository_that_is_not_its_manifests_is_refused(
    small_repository: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_repository / "service_info" / "1" / "service.json").write_text('{"name": "other", "classes": ["a"]}')
    (small_repository / "service_info" / "1" / "more.py").write_text("import os")
    server = LocalServer(model_repository=small_repository, warm_up=False)
    with pytest.raises(RepositoryRefused, match=r"(?s)service\.json is not the file.*more\.py is not named.*manifest"):
        server.start()
    with pytest.raises(ServerProblem, match="not started"):
        _ = server.pid
    with start(small_repository, skip_verification=True) as running:
        assert running.is_ready
    assert f"the hashes of {small_repository} are NOT checked" in caplog.text
    # the environment opts out too, the argument rules over it
    caplog.clear()
    monkeypatch.setenv(ENV_SKIP, "true")
    with pytest.raises(RepositoryRefused):
        start(small_repository, skip_verification=False)
    with start(small_repository) as running:
        assert running.is_ready
    assert "NOT checked" in caplog.text
    monkeypatch.setenv(ENV_SKIP, "perhaps")
    with pytest.raises(DeployError, match="give true or false"):
        start(small_repository)


def test_model_that_cannot_load_is_named_with_its_reason(small_repository: Path) -> None:
    (small_repository / "service_info" / "1" / "service.json").write_text("{ broken")
    sign(small_repository)
    server = LocalServer(model_repository=small_repository, warm_up=False)
    with pytest.raises(ServerDied, match="JSONDecodeError"):
        server.start()
    assert traces(server.pid, server.layout.shm_prefix, server.layout.scratch) == []


def test_failing_first_inference_means_not_ready(small_repository: Path) -> None:
    server = LocalServer(model_repository=small_repository)
    with pytest.raises(WarmUpFailed, match="cell_analysis"):
        server.start()
    assert traces(server.pid, server.layout.shm_prefix, server.layout.scratch) == []


def test_synthesis_models_are_loaded_when_asked_for(small_repository: Path) -> None:
    with pytest.raises(MissingRepository, match="synthesis"):
        start(small_repository, with_synthesis=True)
    name = "model_repository_synthesis"
    shutil.copytree(ROOT / name, small_repository.parent / name)
    with start(small_repository, with_synthesis=True) as server, grpc.InferenceServerClient(server.grpc_url) as client:
        latents = np.zeros((2, 24, 16, 16), np.float32)
        pictures = answers(client.infer("decoder", [tensor("LATENT", latents)], client_timeout=30))["CROP_FLOAT"]
        assert pictures.shape == (2, 96, 96, 3)
        assert pictures.min() >= 0
        assert pictures.max() <= 1
        inputs = [
            tensor("LATENT_NOISY", latents),
            tensor("TIMESTEP", np.array([[5], [500]], np.int64)),
            tensor("CLASS", np.array([[0], [1]], np.int32)),
        ]
        noise = answers(client.infer("noise_predictor", inputs, client_timeout=30))["NOISE"]
        assert noise.shape == latents.shape
        assert np.isfinite(noise).all()


def test_misuse_is_told() -> None:
    server = LocalServer()
    with pytest.raises(ServerProblem, match="not started"):
        _ = server.grpc_url
    with pytest.raises(TypeError):
        LocalServer(colour="blue")


def test_errors_of_a_model_carry_code_and_no_content(small_repository: Path, tmp_path: Path) -> None:
    (small_repository / "service_info" / "1" / "model.py").write_text(
        "from cytoserve_scoring.serving.adapter import TritonModel\n"
        "from cytoserve_scoring.errors import BadShape, DeadlineExceeded\n"
        "class TritonPythonModel(TritonModel):\n"
        "    def answer(self, tensors, request):\n"
        "        raise {b'shape': BadShape, b'late': DeadlineExceeded}.get(tensors['QUERY'][0], KeyError)('PATIENT')\n"
    )
    sign(small_repository)
    log = tmp_path / "log"
    with start(small_repository, log_file=log) as server, grpc.InferenceServerClient(server.grpc_url) as client:
        found = {}
        for query in (b"shape", b"late", b"bug"):
            with pytest.raises(InferenceServerException) as caught:
                client.infer("service_info", [tensor("QUERY", files([query]))], client_timeout=10)
            found[query] = (caught.value.status(), caught.value.message())
    assert found[b"shape"] == ("StatusCode.INVALID_ARGUMENT", "[cytoserve:bad_shape] PATIENT")
    assert found[b"late"] == ("StatusCode.CANCELLED", "[cytoserve:deadline] PATIENT")
    status, text = found[b"bug"]
    assert status == "StatusCode.INTERNAL"
    assert text.startswith("[cytoserve:internal] service_info failed with KeyError")
    assert "KeyError at model.py:5" in log.read_text()
    assert "PATIENT" not in text + log.read_text()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_serve_command(name: str, tmp_path: Path) -> None:
    """The real repository in the foreground: ready by its own word, logs on the console, nothing left."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "cytoserve_cli.serve", "--log-file", str(log)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--scorer-instances", "1"]
    command += ["--model-repository", str(ROOT / "model_repository")]
    serve = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert serve.stdout is not None
    seen = ""
    for line in serve.stdout:
        seen += line
        if "Ready" in line:
            break
    else:
        pytest.fail(seen)
    url = seen.split("gRPC ")[1].split()[0]
    group = next(
        child.pid for child in psutil.Process(serve.pid).children(recursive=True) if child.name() == "tritonserver"
    )
    with grpc.InferenceServerClient(url) as client:
        assert client.is_model_ready("smear_analysis")
        count = client.get_model_config("scorer", as_json=True)["config"]["instance_group"][0]["count"]
        assert count == 1
    serve.send_signal(getattr(signal, name))
    rest, _ = serve.communicate(timeout=40)
    assert serve.returncode == 0, rest
    assert "nothing is left running" in rest
    assert supervisor.group_members(group) == []
    assert "Started GRPCInferenceService" in log.read_text()


def test_serve_command_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cytoserve_cli.serve", "--model-repository", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "holds no models" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_command_refuses_a_changed_repository_and_takes_the_opt_out(small_repository: Path) -> None:
    (small_repository / "service_info" / "1" / "model.py").write_text("raise ValueError('changed by hand')\n")
    command = [sys.executable, "-m", "cytoserve_cli.serve", "--model-repository", str(small_repository)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 1
    assert "model.py is not the file that was exported" in refused.stderr
    assert "cytoserve export manifest" in refused.stderr
    served = subprocess.run([*command, "--skip-verification"], capture_output=True, text=True, timeout=240, check=False)
    assert "are NOT checked" in served.stderr
    assert "changed by hand" in served.stderr, "it got as far as Triton, which cannot load it"
