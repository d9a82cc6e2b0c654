"""Encrypted connections: the right authority works, everything else is refused."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cytoserve_client import TLS, errors
from fake_server import Fake
from tritonclient.grpc import service_pb2_grpc as pb_grpc

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two authorities, and a server and a client certificate signed by the first."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ca", "other"):
        subject = ("-subj", f"/CN={name}", "-days", "2", "-nodes")
        openssl(
            folder, "req", "-x509", "-newkey", "rsa:2048", "-keyout", f"{name}.key", "-out", f"{name}.pem", *subject
        )
    (folder / "names").write_text("subjectAltName=DNS:smears.test")
    for name in ("server", "client"):
        openssl(
            folder,
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            "csr",
            "-subj",
            f"/CN={name}",
        )
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl(folder, "x509", "-req", "-in", "csr", "-out", f"{name}.pem", *signing)
    return folder


@pytest.fixture
def address(certificates: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    read = {path.name: path.read_bytes() for path in certificates.iterdir()}
    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(Fake(), server)
    credentials = grpc.ssl_server_credentials(
        [(read["server.key"], read["server.pem"])], read["ca.pem"], require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait(5)


def test_mutual_tls(certificates: Path, address: str, open_client: Callable[..., Any]) -> None:
    tls = TLS(certificates / "ca.pem", certificates / "client.key", certificates / "client.pem", "smears.test")
    assert open_client(address, tls=tls, token=lambda: "t").analyze(b"x").fields


@pytest.mark.parametrize("wrong", ["authority", "host name", "no client certificate", "clear text"])
def test_anything_else_is_refused(
    certificates: Path, address: str, open_client: Callable[..., Any], wrong: str
) -> None:
    key, chain = certificates / "client.key", certificates / "client.pem"
    tls = {
        "authority": TLS(certificates / "other.pem", key, chain, "smears.test"),
        "host name": TLS(certificates / "ca.pem", key, chain),
        "no client certificate": TLS(certificates / "ca.pem", server_name="smears.test"),
        "clear text": None,
    }[wrong]
    with pytest.raises((errors.ServerUnavailable, errors.DeadlineExceeded)):
        open_client(address, tls=tls, timeout=3.0).analyze(b"x")
