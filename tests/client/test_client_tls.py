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
from click.testing import Result
from cytoserve_cli.main import app
from cytoserve_client import TLS, errors
from fake_server import Fake
from PIL import Image
from tritonclient.grpc import service_pb2_grpc as pb_grpc
from typer.testing import CliRunner

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


def cli(address: str, picture: Path, *words: object, **variables: str) -> Result:
    """Run ``cytoserve analyze`` on one field."""
    env = {"COLUMNS": "160", **variables}
    command = ["analyze", picture, "--url", address, "--timeout", "3", *words]
    return CliRunner(env=env).invoke(app, [str(word) for word in command])


@pytest.fixture
def field(tmp_path: Path) -> Path:
    path = tmp_path / "field.png"
    Image.new("RGB", (64, 64)).save(path)
    return path


def material(certificates: Path) -> dict[str, str]:
    files = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
    return {**{name: str(certificates / file) for name, file in files.items()}, "server-name": "smears.test"}


def test_the_command_line_takes_a_private_authority(certificates: Path, address: str, field: Path) -> None:
    given = material(certificates)
    options = [word for name, value in given.items() for word in (f"--tls-{name}", value)]
    result = cli(address, field, *options)
    assert result.exit_code == 0, result.output
    runner = CliRunner()
    told = runner.invoke(app, ["info", "--url", address, *options])
    assert told.exit_code == 0, told.output
    assert "weights_sha256" in told.output
    cells = runner.invoke(app, ["classify", str(field), "--url", address, *options])
    assert cells.exit_code == 0, cells.output


def test_the_environment_takes_it_too(certificates: Path, address: str, field: Path) -> None:
    names = {f"CYTOSERVE_CLIENT_TLS_{k.upper().replace('-', '_')}": v for k, v in material(certificates).items()}
    assert cli(address, field, **names).exit_code == 0


@pytest.mark.parametrize("lacking", ["ca", "cert and key", "server-name", "everything"])
def test_the_command_line_is_refused_without(certificates: Path, address: str, field: Path, lacking: str) -> None:
    given = {} if lacking == "everything" else material(certificates)
    for name in lacking.split(" and "):
        given.pop(name, None)
    result = cli(address, field, *(word for name, value in given.items() for word in (f"--tls-{name}", value)))
    assert result.exit_code in (5, 6), result.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--tls-ca", "nowhere.pem"), "cannot read the TLS file nowhere.pem"),
        (("--tls-cert", "client.pem"), "both private_key and certificate_chain"),
    ],
)
def test_wrong_material_is_refused_before_anything_is_sent(
    address: str, field: Path, words: tuple[str, ...], sentence: str
) -> None:
    result = cli(address, field, *words)
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.output.split())


def test_tls_without_an_address_is_refused_rather_than_ignored(certificates: Path, field: Path) -> None:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(
        app, ["analyze", str(field), "--tls-ca", str(certificates / "ca.pem")]
    )
    assert result.exit_code == 2
    assert "need --url" in result.output


@pytest.mark.parametrize("command", ["calibrate", "validate"])
def test_the_commands_for_a_site_take_it(certificates: Path, address: str, tmp_path: Path, command: str) -> None:
    pytest.importorskip("scipy")
    pytest.importorskip("matplotlib")
    from cytoserve_cli.validation import calibrate_app, validate_app

    for index in range(40):
        (tmp_path / "cells" / "neutrophil").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (index, 0, 0)).save(tmp_path / "cells" / "neutrophil" / f"{index}.png")
    own = {
        "calibrate": ("--site", "s", "--to", str(tmp_path / "site.json")),
        "validate": ("--report", str(tmp_path / "r")),
    }
    words = [str(tmp_path / "cells"), *own[command], "--url", address, "--timeout", "5"]
    options = [word for name, value in material(certificates).items() for word in (f"--tls-{name}", value)]
    which = {"calibrate": calibrate_app, "validate": validate_app}[command]
    assert CliRunner(env={"COLUMNS": "200"}).invoke(which, words).exit_code in (5, 6)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(which, [*words, *options])
    # forty like cells make no calibration, which is said after the server was asked for its classes and answers
    assert result.exit_code == 0 or "unavailable" not in result.output, result.output
    assert result.exit_code in (0, 2), result.output
