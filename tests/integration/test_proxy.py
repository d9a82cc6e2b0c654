"""The real server behind an operator's proxy: it comes up at once, and nothing of ours asks the proxy for loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cytoserve_client import Client, errors
from cytoserve_deploy.container import entrypoint
from cytoserve_deploy.container.probe import ProbeFailed, Target, ask
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.warmup import cell_png
from egress import PROXIED, LoggingProxy, logging_proxy
from triton_calls import OWN_SERVER, ROOT

pytestmark = OWN_SERVER


@pytest.fixture(params=["http_proxy", "https_proxy"])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoggingProxy]:
    with logging_proxy() as running:
        for name in (*PROXIED, "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(request.param, running.url)
        yield running


def test_the_server_comes_up_at_once_and_no_call_takes_the_proxy(proxy: LoggingProxy) -> None:
    began = time.monotonic()
    with LocalServer(model_repository=ROOT / "model_repository", ready_timeout_s=60) as server:
        assert time.monotonic() - began < 60
        port = server.layout.grpc_port
        for host in ("127.0.0.1", "localhost"):
            with Client(f"{host}:{port}", timeout=60) as client:
                assert client.classify(cell_png(), 0.18, budget=1).cells
            assert entrypoint.main(["probe", f"--url={host}:{port}", "--model=cell_analysis", "--deadline=30"]) == 0
    assert proxy.lines == []


def test_control_another_machine_is_asked_through_the_proxy(proxy: LoggingProxy, tmp_path: Path) -> None:
    with pytest.raises(ProbeFailed):
        ask(Target("cytoserve.example:8001"), "service_info", 3.0)
    with Client("cytoserve.example:8001", timeout=3) as client, pytest.raises(errors.CytoserveClientError):
        client.info()
    assert {tuple(line.split()[:2]) for line in proxy.lines} == {("CONNECT", "cytoserve.example:8001")}
