"""Whom a load may hit: this machine, or a host named twice; a token is never sent in clear text."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "client"))

from fake_server import Fake  # noqa: E402
from load_target import ENV_TOKEN, NotAllowed, Target  # noqa: E402
from load_wire import images_request  # noqa: E402
from run import arguments, locust_command, plan_of  # noqa: E402
from tritonclient.grpc import service_pb2_grpc as pb_grpc  # noqa: E402


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "http://127.0.0.1:8001"])
def test_this_machine_is_allowed(address: str) -> None:
    assert Target(address).is_here


@pytest.mark.parametrize("address", ["10.1.2.3:8001", "smears.test:8001", "127.example.org:8001", "http://ward:80"])
def test_another_machine_is_not(address: str) -> None:
    with pytest.raises(NotAllowed, match="--yes-load-this-host"):
        Target(address)


def test_the_name_must_be_that_of_the_address() -> None:
    with pytest.raises(NotAllowed):
        Target("smears.test:8001", yes_host="smear.test")
    assert not Target("smears.test:8001", yes_host="smears.test").is_here


def test_another_machine_has_a_bound_of_its_rate() -> None:
    chosen = arguments(["--url", "smears.test:8001", "--yes-load-this-host", "smears.test"])
    assert plan_of(chosen, Target("smears.test:8001", yes_host="smears.test"), "")["max_rate"] == 50.0
    assert plan_of(arguments([]), Target("127.0.0.1"), "")["max_rate"] == 0.0


@pytest.mark.parametrize(
    "words",
    [
        ["--seconds", "601"],
        ["--seconds", "0"],
        ["--deadline", "0"],
        ["--max-rate", "0"],
        ["--shape", "flood"],
        ["--capacity", "routine cells"],
        ["--capacity", "nobody=3"],
        ["--capacity", "routine cells=-1"],
    ],
)
def test_what_is_not_bounded_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(words)


def test_the_page_listens_on_loopback_and_ends_by_itself() -> None:
    command = locust_command(arguments(["--page"]), "127.0.0.1:1")
    assert command[command.index("--web-host") + 1] == "127.0.0.1"
    assert command[command.index("--run-time") + 1] == "600s"
    assert "--headless" not in command


def test_a_token_goes_nowhere_in_clear_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_TOKEN, "secret")
    with pytest.raises(NotAllowed, match="clear text"):
        Target("smears.test:8001", yes_host="smears.test")


def test_a_certificate_without_its_key_or_without_tls_is_a_mistake() -> None:
    for given in ({"cert": "a.pem"}, {"key": "a.key"}, {"cert": "a.pem", "key": "a.key"}):
        with pytest.raises(NotAllowed):
            Target("127.0.0.1:8001", **given)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_a_load_over_tls_brings_certificate_and_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem"]
    words += ["-subj", "/CN=smears.test", "-addext", "subjectAltName=DNS:smears.test"]
    subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    key, cert = (str(tmp_path / name) for name in ("key.pem", "cert.pem"))
    pem = [(Path(key).read_bytes(), Path(cert).read_bytes())]
    credentials = grpc.ssl_server_credentials(pem, Path(cert).read_bytes(), require_client_auth=True)
    fake, server = Fake(), grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    monkeypatch.setenv(ENV_TOKEN, "secret")
    request = images_request("cell_analysis", [b"cell"], 0.2, 5)
    try:
        target = Target(f"127.0.0.1:{port}", ca=cert, cert=cert, key=key, server_name="smears.test")
        with target.channel() as channel:
            infer = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            infer(request, timeout=5)
            with pytest.raises(ValueError, match="without a deadline"):
                infer(request)
        assert fake.calls[-1].metadata["authorization"] == "Bearer secret"
        without = Target(f"127.0.0.1:{port}", ca=cert, server_name="smears.test")
        with without.channel() as channel, pytest.raises(grpc.RpcError):
            pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=2)
    finally:
        server.stop(None)
