"""A proxy of the environment: never for this machine, by any of its names; always for another one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from cytoserve_client import errors
from cytoserve_client._config import ClientConfig
from cytoserve_client.loopback import host_of, is_loopback
from egress import PROXIED, LoggingProxy, logging_proxy
from fake_server import Fake
from tritonclient.grpc import service_pb2_grpc as pb_grpc

Open = Callable[..., Any]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoggingProxy]:
    """Yield a logging proxy that every variable names, with no exception made."""
    with logging_proxy() as running:
        for name in PROXIED:
            monkeypatch.setenv(name, running.url)
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield running


def six() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.fixture
def port() -> Iterator[int]:
    """Yield the port of a fake server that listens on both loopback addresses."""
    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(Fake(), server)
    number = server.add_insecure_port("0.0.0.0:0")
    if six():
        server.add_insecure_port(f"[::1]:{number}")
    server.start()
    yield number
    server.stop(None).wait(5)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "LocalHost", "[::1]"])
def test_this_machine_is_asked_directly(proxy: LoggingProxy, port: int, open_client: Open, host: str) -> None:
    if host == "[::1]" and not six():
        pytest.skip("no IPv6 loopback here")
    client = open_client(f"{host}:{port}")
    assert client.config.loopback
    client.wait_until_ready(10)
    assert client.analyze(b"x").fields
    assert proxy.lines == []


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("localhost", True),
        ("localhost.:1", True),
        ("127.1:1", True),
        ("127.255.255.254:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("::1", True),
        ("[::1%lo]:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("ipv6:[::1]:1", True),
        ("126.255.255.255:1", False),
        ("127.0.0.1.example:1", False),
        ("::", False),
        ("", False),
    ],
)
def test_which_addresses_are_this_machine(address: str, loopback: bool) -> None:
    assert is_loopback(host_of(address)) is loopback


@pytest.mark.parametrize("scheme", ["grpc", "grpcs"])
def test_another_machine_is_asked_through_the_operators_proxy(
    proxy: LoggingProxy, open_client: Open, scheme: str
) -> None:
    with pytest.raises((errors.ServerUnavailable, errors.DeadlineExceeded)):
        open_client(f"{scheme}://cytoserve.example:8001", timeout=2.0).analyze(b"x")
    assert proxy.lines
    assert {line.split()[:2][1] for line in proxy.lines} == {"cytoserve.example:8001"}


@pytest.mark.parametrize("host", ["127.example.org", "localhost.example.org", "[2001:db8::1]", "10.0.0.1", "128.0.0.1"])
def test_what_only_looks_like_this_machine_gets_no_token_in_clear_text(host: str) -> None:
    config = ClientConfig(f"{host}:8001")
    assert not config.loopback
    assert config.host == host.strip("[]")
    with pytest.raises(errors.ConfigurationError, match="clear text"):
        ClientConfig(f"{host}:8001", token=lambda: "secret")
