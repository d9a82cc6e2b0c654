"""The container's entrypoint: hashes before start, Triton's arguments, and the real server behind it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from cytoserve_contract import manifest as manifest_check
from cytoserve_contract.manifest import check_repository_files
from cytoserve_deploy.container import entrypoint, probe
from cytoserve_deploy.container.probe import Target, ask
from cytoserve_deploy.errors import DeployError, ProbeFailed
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.options import CONTAINER, LOOPBACK, ServerOptions
from cytoserve_deploy.launch.triton_arguments import RESTRICTED, triton_arguments

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a small repository with its manifest."""
    folder = tmp_path / "models"
    (folder / "a/1").mkdir(parents=True)
    (folder / "a/1/model.onnx").write_text("graph")
    files = manifest_check.describe([("a/1/model.onnx", folder / "a/1/model.onnx")])
    (folder / "manifest.json").write_text(json.dumps({"schema": manifest_check.SCHEMA, "files": files}))
    return folder


def test_neither_torch_nor_onnx_is_imported() -> None:
    code = (
        "import sys, cytoserve_deploy.container.entrypoint; print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_pythons_caches_are_refused_where_models_run_in_place(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A .pyc of the right date and size is run in place of its model.py, whose hash would agree."""
    (repository / "a/1/__pycache__").mkdir()
    (repository / "a/1/__pycache__/model.cpython-312.pyc").write_text("")
    assert check_repository_files(repository).caches == ("a/1/__pycache__/model.cpython-312.pyc",)
    assert entrypoint.main(["verify", f"--model-repository={repository}"]) == 1
    assert "model.cpython-312.pyc is not named" in capsys.readouterr().err
    assert entrypoint.main(["verify", f"--model-repository={repository}", "--allow-unlisted"]) == 0
    assert "WARNING, not named there, so not checked" in capsys.readouterr().err


def test_the_command_refuses_and_the_opt_out_is_logged(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "a/1/model.onnx").write_text("changed")
    line = ["verify", f"--model-repository={repository}"]
    assert entrypoint.main(line) == 1
    assert "is not the file that was exported" in capsys.readouterr().err
    monkeypatch.setenv("CYTOSERVE_SKIP_VERIFICATION", "true")
    assert entrypoint.main(line) == 0
    assert "WARNING: the models' hashes are NOT checked" in capsys.readouterr().err
    monkeypatch.setenv("CYTOSERVE_SKIP_VERIFICATION", "perhaps")
    assert entrypoint.main(line) == 1
    assert "give true or false" in capsys.readouterr().err


def test_the_environment_stands_in_for_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOSERVE_GRPC_PORT", "9001")
    monkeypatch.setenv("CYTOSERVE_LATENCY_QUANTILES", "1")
    given = entrypoint.parser().parse_args(["serve"])
    assert (given.grpc_port, given.latency_quantiles) == (9001, True)
    assert entrypoint.parser().parse_args(["serve", "--grpc-port=7"]).grpc_port == 7
    monkeypatch.setenv("CYTOSERVE_GRPC_PORT", "many")
    with pytest.raises(SystemExit):
        entrypoint.parser().parse_args(["serve"])


def value(arguments: list[str], flag: str) -> list[str]:
    return [item.split("=", 1)[1] for item in arguments if item.startswith(f"--{flag}=")]


def test_hardened_arguments_by_default() -> None:
    arguments = triton_arguments(CONTAINER, ["/models"])
    for flag in ("model-control-mode=none", "strict-readiness=true", "exit-on-error=true", "exit-timeout-secs=60"):
        assert f"--{flag}" in arguments
    assert "--disable-auto-complete-config" in arguments
    assert not value(arguments, "trace-config")
    (grpc,) = value(arguments, "grpc-restricted-protocol")
    calls, key = grpc.split(":", 1)
    assert set(calls.split(",")) == set(RESTRICTED)
    # nobody gave a key: a long one is drawn, a new one each time
    assert len(key.split("=", 1)[1]) >= 40
    assert value(triton_arguments(CONTAINER, ["/models"]), "grpc-restricted-protocol") != [grpc]


def test_a_given_key_and_http_inference() -> None:
    arguments = triton_arguments(
        replace(CONTAINER, restricted_key="k", restricted_header="h", http_inference=True), ["/m"]
    )
    assert value(arguments, "grpc-restricted-protocol")[0].endswith(":h=k")
    assert len(value(arguments, "http-restricted-api")) == 1
    closed = value(triton_arguments(CONTAINER, ["/m"]), "http-restricted-api")
    assert closed[1].startswith("inference,metadata:")


def test_tls_arguments(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("c", "k", "ca")]
    with pytest.raises(DeployError, match="cannot be read"):
        triton_arguments(replace(CONTAINER, tls_cert=paths[0], tls_key=paths[1]), ["/m"])
    for path in paths:
        Path(path).write_text("pem")
    arguments = triton_arguments(replace(CONTAINER, tls_cert=paths[0], tls_key=paths[1]), ["/m"])
    assert "--grpc-use-ssl=true" in arguments
    assert "--grpc-use-ssl-mutual=true" not in arguments
    arguments = triton_arguments(
        replace(CONTAINER, tls_cert=paths[0], tls_key=paths[1], tls_client_ca=paths[2]), ["/m"]
    )
    assert "--grpc-use-ssl-mutual=true" in arguments
    assert value(arguments, "grpc-root-cert") == [paths[2]]
    with pytest.raises(DeployError, match="go together"):
        triton_arguments(replace(CONTAINER, tls_cert=paths[0]), ["/m"])
    with pytest.raises(DeployError, match="needs --tls-cert"):
        triton_arguments(replace(CONTAINER, tls_client_ca=paths[2]), ["/m"])


def test_the_engine_cache_has_the_folder_that_the_exported_configuration_names(tmp_path: Path) -> None:
    from cytoserve_export.configs import ENGINE_CACHE

    entrypoint.prepare_cache("a10", tmp_path)
    assert (tmp_path / "tensorrt" / "a10").is_dir()
    assert (entrypoint.CACHE / "tensorrt").as_posix() == ENGINE_CACHE
    entrypoint.prepare_cache("", tmp_path / "none")
    assert not (tmp_path / "none").exists(), "no volume, no cache"
    (tmp_path / "file").write_text("")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "tensorrt").write_text("a file in the way")
    with pytest.raises(DeployError, match="cannot be made"):
        entrypoint.prepare_cache("a10", tmp_path / "root")


def test_an_engine_cache_without_a_name_lacks_one_level_only(tmp_path: Path) -> None:
    """`config.pbtxt` names a folder of the cache too, and ONNX Runtime makes the last level of its path, not two."""
    entrypoint.prepare_cache("", tmp_path)
    assert (tmp_path / "tensorrt").is_dir()
    (tmp_path / "tensorrt" / "h100").mkdir(parents=False)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "tensorrt").write_text("a file in the way")
    entrypoint.prepare_cache("", tmp_path / "file")  # it is not known whether anything here wants the cache


def test_traces_never_hold_tensors() -> None:
    settings = value(triton_arguments(replace(CONTAINER, otel_url="http://o:4318/v1/traces"), ["/m"]), "trace-config")
    assert "level=TIMESTAMPS" in settings
    assert not any("TENSORS" in item for item in settings)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with tls.crt, tls.key (for localhost, usable by server and client) and ca.crt."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.timezone.utc)

    def issue(name: str, authority: bool, key: Any, issuer: Any, signer: Any) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(signer, hashes.SHA256())
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = issue("test-ca", True, ca_key, None, ca_key)
    leaf = issue("localhost", False, key, ca.subject, ca_key)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.public_bytes(pem))
    (folder / "tls.crt").write_bytes(leaf.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.key").write_bytes(private)
    return folder


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


@pytest.fixture(scope="module")
def secured(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, int]]:
    """Return the target of the real server behind ``serve``, with mutual TLS, and its HTTP port."""
    grpc, http, metrics = free_ports(3)
    folder = tmp_path_factory.mktemp("serve")
    line = [
        *(sys.executable, "-m", "cytoserve_deploy.container.entrypoint", "serve"),
        *(f"--model-repository={ROOT / 'model_repository'}", "--address=127.0.0.1", "--exit-timeout=5"),
        *(f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"),
        *(f"--tls-cert={certificates / 'tls.crt'}", f"--tls-key={certificates / 'tls.key'}"),
        f"--tls-client-ca={certificates / 'ca.crt'}",
    ]
    env = {**os.environ, "TMPDIR": str(folder), entrypoint.ENV_KEY: "the-key"}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(line, env=env, stdout=log, stderr=log)
    files = {f"tls_{name}": str(certificates / path) for name, path in (("cert", "tls.crt"), ("key", "tls.key"))}
    target = Target(f"127.0.0.1:{grpc}", str(certificates / "ca.crt"), **files, tls_server_name="localhost")
    try:
        until = time.monotonic() + 180
        while True:
            try:
                ask(target, "cell_analysis", 60)
                break
            except ProbeFailed:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.fail((folder / "log").read_text(errors="replace")[-3000:])
                time.sleep(0.5)
        # the entrypoint became the server: signals need no go-between
        assert "tritonserver" in os.readlink(f"/proc/{server.pid}/exe")
        assert b"the-key" not in Path(f"/proc/{server.pid}/environ").read_bytes()
        yield target, http
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
    # ended by itself, not by the signal; a busy machine may need longer to unload than --exit-timeout, hence no 0
    assert status >= 0


@pytest.mark.integration
def test_the_probe_asks_the_real_server_over_mutual_tls(secured: tuple[Target, int]) -> None:
    assert "one drawn cell answered: class" in ask(secured[0], "cell_analysis", 60)
    assert "8 classes" in ask(secured[0], "service_info", 60)


@pytest.mark.integration
def test_a_client_without_a_certificate_is_turned_away(secured: tuple[Target, int]) -> None:
    target = secured[0]
    with pytest.raises(ProbeFailed):
        ask(Target(target.url, target.tls_ca, tls_server_name="localhost"), "service_info", 10)
    with pytest.raises(ProbeFailed):
        ask(Target(target.url), "service_info", 10)


@pytest.mark.integration
def test_restricted_calls_need_the_key(secured: tuple[Target, int]) -> None:
    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    target = secured[0]
    arguments = [("grpc.ssl_target_name_override", "localhost")]
    with grpc.InferenceServerClient(
        target.url,
        ssl=True,
        root_certificates=target.tls_ca,
        private_key=target.tls_key,
        certificate_chain=target.tls_cert,
        channel_args=arguments,
    ) as client:
        closed = (
            client.get_inference_statistics,
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            client.get_log_settings,
            client.get_trace_settings,
            lambda: client.get_model_config("denoiser"),
        )
        for call in closed:
            with pytest.raises(InferenceServerException, match="restricted"):
                call()
        headers = {"triton-grpc-protocol-cytoserve-admin": "the-key"}
        assert client.get_model_repository_index(headers=headers).models


@pytest.mark.integration
def test_plain_http_answers_health_and_nothing_else(secured: tuple[Target, int]) -> None:
    import urllib.error
    import urllib.request

    base = f"http://127.0.0.1:{secured[1]}/v2"
    assert urllib.request.urlopen(f"{base}/health/ready", timeout=20).status == 200
    for path, data in (
        ("models/service_info/infer", b"{}"),
        ("models/service_info", None),
        ("models/service_info/config", None),
        ("repository/index", b"{}"),
        ("models/stats", None),
        ("systemsharedmemory/status", None),
        ("logging", None),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{base}/{path}", data, timeout=20)
        assert refused.value.code == 403, path
        refused.value.close()


def test_a_probe_of_nothing_fails_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert entrypoint.main(["probe", f"--url=127.0.0.1:{port}", "--deadline=2"]) == 1
    assert "service_info at" in capsys.readouterr().err


def test_a_probe_fails_where_a_models_process_has_died(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the model that is asked answers; the real processes: tests/faults/test_faults_processes.py."""
    monkeypatch.setattr(probe, "dead_in_container", lambda: [7])
    assert entrypoint.main(["probe"]) == 1
    assert "1 model process(es) of this server have died" in capsys.readouterr().err


@pytest.mark.integration
def test_warm_starts_answers_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = free_ports(3)
    names = ("http_port", "grpc_port", "metrics_port")
    monkeypatch.setattr(entrypoint, "WARM_PORTS", dict(zip(names, ports, strict=True)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = ["warm", f"--model-repository={ROOT / 'model_repository'}", "--timeout=180"]
    assert entrypoint.main(line) == 0
    # nothing listens any more
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_warm_says_that_the_server_died(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "a" / "config.pbtxt").write_text('name: "a"\nbackend: "nonesuch"\n')
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert entrypoint.main(["warm", f"--model-repository={repository}", "--timeout=60"]) == 1


def test_the_local_server_restricts_nothing_and_binds_to_loopback() -> None:
    arguments = triton_arguments(ServerOptions(), ["/m"])
    assert [item for item in arguments if "restricted" in item or "ssl" in item] == []
    assert {value(arguments, f"{service}-address")[0] for service in ("grpc", "http", "metrics")} == {LOOPBACK}
    with pytest.raises(DeployError, match="this machine only"):
        LocalServer(address="0.0.0.0").start()


def test_every_option_of_serve_reaches_the_options_of_the_server() -> None:
    """An option under a name that no field of `ServerOptions` has would be read and dropped."""
    line = ["serve", "--grpc-port=7", "--exit-timeout=9", "--tls-cert=c", "--otel-rate=3", "--log-verbose=2"]
    given = entrypoint.parser().parse_args(line)
    reserved = {"command", "model_repository", "fallback_repository", "manifest_sha256", "allow_unlisted"}
    assert set(vars(given)) - reserved <= {field.name for field in fields(ServerOptions)}
    options = entrypoint._options(given)
    assert (options.grpc_port, options.exit_timeout_s, options.tls_cert) == (7, 9, "c")
    assert (options.otel_rate, options.log_verbose, options.address) == (3, 2, CONTAINER.address)
