"""Nothing that this project starts opens a connection that its operator did not ask for.

Every command runs with an empty home and an operator's environment (no ``CI``, which would silence onnxruntime by
itself), behind a proxy that only writes down; and, where strace may trace, with every ``connect`` looked at.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pytest
from cytoserve_cli.exit_codes import UNFAMILIAR
from cytoserve_training.cells import CLASSES
from egress import CYTOSERVE, Watch, traceable, watch
from PIL import Image
from triton_calls import OWN_SERVER, ROOT

FIELD = ROOT / "examples" / "synthetic_field.png"
NOWHERE = "192.0.2.1"
"""An address of the documentation's block: nobody answers there."""


def serve(seen: Watch) -> None:
    """``cytoserve serve``, called over gRPC by ``cytoserve analyze --url``, stopped by SIGTERM."""
    ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
    server = seen.start(*CYTOSERVE, "serve", *ports, "--model-repository", ROOT / "model_repository")
    assert server.stdout is not None
    try:
        lines = iter(server.stdout.readline, "")
        ready = next((line for line in lines if "Ready" in line), None)
        assert ready, server.communicate(timeout=60)
        url = ready.split("gRPC ")[1].split()[0]
        done = seen.run(*CYTOSERVE, "analyze", FIELD, "--budget", "1", "--url", url, "--json", seen.folder / "out.json")
        assert done.returncode == UNFAMILIAR, done.stdout + done.stderr
        assert json.loads((seen.folder / "out.json").read_text())["fields"]
    finally:
        # under strace the server is its child; strace itself ignores SIGTERM while it traces
        for process in psutil.Process(server.pid).children() if seen.traced else [psutil.Process(server.pid)]:
            process.send_signal(signal.SIGTERM)
        rest, _ = server.communicate(timeout=60)
    assert "nothing is left running" in rest


def analyze(seen: Watch) -> None:
    """``cytoserve analyze`` without an address: it starts and stops the local server."""
    done = seen.run(*CYTOSERVE, "analyze", FIELD, "--budget", "1", "--json", seen.folder / "out.json")
    assert done.returncode == UNFAMILIAR, done.stdout + done.stderr


def export(seen: Watch) -> None:
    """``cytoserve export onnx`` of a tiny checkpoint: torch, diffusers, onnx, and onnxruntime in its own process."""
    code = "import tiny; from pathlib import Path; tiny.embedding_checkpoint(Path('checkpoint'))"
    made = seen.run(sys.executable, "-c", code, PYTHONPATH=str(ROOT / "tests" / "export"))
    assert made.returncode == 0, made.stderr
    done = seen.run(*CYTOSERVE, "export", "onnx", "checkpoint", "--to", "repository", "--only", "encoder")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (seen.folder / "repository" / "encoder" / "1" / "model.onnx").is_file()


def train(seen: Watch) -> None:
    """``cytoserve train denoiser``, one step on noise."""
    generator = np.random.default_rng(0)
    data = seen.folder / "data"
    folders = [data / "pbc" / split / name for split in ("train", "val") for name in CLASSES]
    for folder in folders:
        folder.mkdir(parents=True)
        for index in range(2):
            pixels = generator.integers(0, 256, (160, 160, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    field = np.full((160, 160, 3), 240, np.uint8)
    field[20:60, 20:60], field[80:140, 20:140] = (90, 40, 150), (220, 180, 190)  # a nucleus, red cells
    (data / "draaslan" / "images").mkdir(parents=True)
    Image.fromarray(field).save(data / "draaslan" / "images" / "field.png")
    # matplotlib keeps a list of fonts beside its settings: not telemetry, so it gets a place of its own
    fonts = {"MPLCONFIGDIR": str(seen.folder / "fonts")}
    done = seen.run(
        *CYTOSERVE, "train", "denoiser", "--data", "data", "--sites", "pbc", "--out", "run", "--steps", "1", **fonts
    )
    assert done.returncode == 0, done.stdout + done.stderr


COMMANDS: dict[str, Callable[[Watch], None]] = {
    "serve": serve,
    "analyze": analyze,
    "export": export,
    "train": train,
}


@pytest.fixture(scope="module", params=COMMANDS)
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    with watch(tmp_path_factory.mktemp(request.param)) as seen:
        assert "CI" not in seen.environment
        COMMANDS[request.param](seen)
        yield seen


class TestNothingGoesOut:
    pytestmark = OWN_SERVER

    def test_the_proxy_of_the_environment_is_not_asked(self, watched: Watch) -> None:
        assert watched.proxy.lines == []

    def test_no_address_but_loopback_is_connected_to(self, watched: Watch) -> None:
        if not watched.traced:
            pytest.skip("strace is not here or may not trace; the proxy and the home folder were looked at")
        assert watched.went_out() == []

    def test_nothing_is_written_at_home(self, watched: Watch) -> None:
        assert watched.left_at_home() == []


def python(seen: Watch, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return seen.run(sys.executable, "-c", textwrap.dedent(code), **variables)


def test_control_a_call_through_the_proxy_is_caught(tmp_path: Path) -> None:
    with watch(tmp_path / "w") as seen:
        code = """
            import contextlib, urllib.request
            for url in ('http://events.example/a', 'https://events.example/b'):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(url, timeout=10)
        """
        assert python(seen, code).returncode == 0
        assert [line.split()[:2] for line in seen.proxy.lines] == [
            ["GET", "http://events.example/a"],
            ["CONNECT", "events.example:443"],
        ]


def test_control_a_connection_past_the_proxy_is_caught(tmp_path: Path) -> None:
    if not traceable():
        pytest.skip("strace is not here or may not trace")
    with watch(tmp_path / "w") as seen:
        code = f"""
            import socket, pathlib
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                out = socket.socket(socket.AF_INET, kind)
                out.setblocking(False)
                out.connect_ex(('{NOWHERE}', 9))
            six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            six.connect_ex(('2001:db8::1', 9))
            with socket.create_server(('127.0.0.1', 0)) as here:
                socket.create_connection(here.getsockname()).close()
            (pathlib.Path.home() / 'deviceid').write_text('x')
        """
        assert python(seen, code).returncode == 0
        assert seen.went_out() == [NOWHERE, NOWHERE, "2001:db8::1"]
        assert seen.calls_seen() == 4
        assert seen.left_at_home() == ["deviceid"]


@pytest.mark.parametrize("own", [None, "0", ""], ids=["unset", "0", "empty"])
def test_control_onnxruntime_left_to_itself_is_caught_and_the_operators_word_stays(
    tmp_path: Path, own: str | None
) -> None:
    """Without the variable it keeps a device id at home; with ours it does not; an explicit 0 is the operator's."""
    if tuple(map(int, version("onnxruntime").split(".")[:2])) < (1, 29):
        pytest.skip("this onnxruntime has no telemetry on Linux")
    session = f"onnxruntime.InferenceSession('{ROOT / 'model_repository/encoder/1/model.onnx'}')"
    variables = {} if own is None else {"ORT_DISABLE_TELEMETRY": own}
    with watch(tmp_path / "bare") as bare:
        assert python(bare, f"import onnxruntime; {session}", **variables).returncode == 0
        assert any(name.endswith("deviceid") for name in bare.left_at_home())
    with watch(tmp_path / "ours") as ours:
        assert python(ours, f"import cytoserve_deploy, onnxruntime; {session}", **variables).returncode == 0
        assert bool(ours.left_at_home()) == (own == "0")


@pytest.mark.parametrize("package", ["cytoserve_deploy", "cytoserve_export", "cytoserve_training", "benchmarks"])
def test_importing_a_package_switches_telemetry_off(package: str) -> None:
    code = f"import os, {package}; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['HF_HUB_OFFLINE'])"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
