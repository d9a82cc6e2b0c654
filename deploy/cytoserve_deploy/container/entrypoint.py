"""What the container runs: ``python3 -m cytoserve_deploy.container.entrypoint serve | warm | verify | probe``.

``serve`` compares the models with the hashes of their manifest and then *becomes* ``tritonserver`` (exec), so that
signals reach it directly. ``warm`` starts the same server on loopback, waits for one inference and stops
it: that builds TensorRT engines into the cache on the node's own GPU. ``probe`` sends one real inference over gRPC
(Kubernetes' exec probes, ``helm test``).

Every option of the first three can be given as an environment variable instead: ``--grpc-port`` is
``CYTOSERVE_GRPC_PORT``. The key of the restricted calls comes from ``CYTOSERVE_RESTRICTED_KEY`` only. Exit codes: 0
done, 1 refused or failed (one sentence on standard error says why), 2 usage. Triton's flags: its documentation,
``docs/customization_guide/deploy.md`` and ``inference_protocols.md``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from cytoserve_contract.manifest import ENV_SKIP
from cytoserve_contract.names import ENV_ADMISSION_FILE
from cytoserve_contract.telemetry import without_telemetry

from cytoserve_deploy.container.probe import Target, ask, check_models_live
from cytoserve_deploy.errors import DeployError, ServerDied, ServerNotReady
from cytoserve_deploy.launch import runtime
from cytoserve_deploy.launch.layout import environment, lay_out
from cytoserve_deploy.launch.options import CONTAINER, LOOPBACK, ServerOptions, truth
from cytoserve_deploy.launch.triton_arguments import triton_arguments
from cytoserve_deploy.verification import verify_files

ENV_KEY: Final = "CYTOSERVE_RESTRICTED_KEY"
CACHE: Final = Path("/var/cache/cytoserve")
"""Where the image has its writable volume for TensorRT engines (`cytoserve_export.configs`)."""
WARM_PORTS: Final = {"http_port": 18000, "grpc_port": 18001, "metrics_port": 18002}
"""Other ports than those of the service, so that the server of ``warm`` is not mistaken for it."""


def assemble(
    options: ServerOptions, repositories: Sequence[str], environ: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return command line and environment of the server that is installed here.

    NVIDIA's container has ``tritonserver`` on the path, with its native backends. Elsewhere (the image's target
    ``cpu``) the one of the wheel ``nvidia-pytriton`` is used, with our Python-based ``onnxruntime`` backend.

    Raises
    ------
    DeployError
        There is neither.
    """
    native = shutil.which("tritonserver", path=environ.get("PATH"))
    if native:
        return [native, *triton_arguments(options, repositories)], {**own_file(), **without_telemetry(environ)}
    found = runtime.find_runtime()
    layout = lay_out(options, found, [Path(folder).resolve() for folder in repositories])
    # the links of the layout stand in for the folders, whose paths may hold blanks
    arguments = triton_arguments(options, layout.repositories, layout)
    return [str(found.binary), *arguments], {**own_file(), **environment(options, found, environ)}


def own_file() -> dict[str, str]:
    """Return the variable that names the file in which the server keeps what is under way.

    It lies in memory: the moments in it are of a clock that begins again when the machine does.
    """
    return {ENV_ADMISSION_FILE: f"/dev/shm/cytoserve-under-way-{os.getpid()}"}


def prepare_cache(name: str, root: Path = CACHE) -> None:
    """Make the folder that the configurations name for TensorRT's engines; the volume comes empty.

    ONNX Runtime makes one level of a missing path and fails at two. Without a name it is not known here which folder
    `config.pbtxt` asks for, if any: the level above is made.

    Raises
    ------
    DeployError
        The volume cannot be written, and `name` asks for a folder on it.
    """
    if root.is_dir():
        folder = root / "tensorrt" / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not name:
                return
            raise DeployError(
                f"{folder} cannot be made ({error}); mount a volume there that uid 1000 may write"
            ) from None


def serve(options: ServerOptions, repositories: Sequence[str]) -> None:
    """Replace this process by the server."""
    prepare_cache(options.model_config_name)
    command, env = assemble(options, repositories, os.environ)
    # the arguments hold the key now: keep it out of the environment, which the server's children inherit
    env.pop(ENV_KEY, None)
    _say(f"starting {command[0]}; gRPC {options.grpc_port}, HTTP {options.http_port}, metrics {options.metrics_port}")
    sys.stdout.flush()
    os.execve(command[0], command, env)


def warm(options: ServerOptions, repositories: Sequence[str], timeout_s: float) -> None:
    """Start the server on loopback, wait until one cell was answered, stop it.

    Raises
    ------
    ServerDied, ServerNotReady
        It ended by itself, or had not answered after `timeout_s`.
    """
    prepare_cache(options.model_config_name)
    command, env = assemble(options, repositories, os.environ)
    env.pop(ENV_KEY, None)
    target = Target(f"{LOOPBACK}:{options.grpc_port}")
    until = time.monotonic() + timeout_s
    server = subprocess.Popen(command, env=env)
    try:
        last = "no answer yet"
        while time.monotonic() < until:
            if server.poll() is not None:
                raise ServerDied(
                    f"tritonserver ended with status {server.returncode} before its first answer; see its log above"
                )
            try:
                _say(ask(target, "cell_analysis", max(1.0, min(60.0, until - time.monotonic()))))
                return
            except DeployError as error:
                last = str(error)
                time.sleep(1)
        raise ServerNotReady(
            f"no first answer after {timeout_s:.0f} s ({last}); give --timeout more seconds or look at the log above"
        )
    finally:
        server.terminate()
        try:
            server.wait(options.exit_timeout_s + 10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _say(text: str) -> None:
    print(f"cytoserve: {text}", file=sys.stderr, flush=True)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.skip_verification:
        _say(f"WARNING: the models' hashes are NOT checked (--skip-verification or {ENV_SKIP} is set)")
        return
    strict = not arguments.allow_unlisted
    for index, folder in enumerate(arguments.model_repository):
        expected = arguments.manifest_sha256 if index == 0 else ""
        _say(verify_files(Path(folder), expected, strict=strict, caches=strict).sentence())


def _options(arguments: argparse.Namespace, **changes: Any) -> ServerOptions:
    names = {field.name for field in fields(ServerOptions)} - {"model_repository"}
    values = {name: value for name, value in vars(arguments).items() if name in names}
    return replace(CONTAINER, **{**values, "restricted_key": os.environ.get(ENV_KEY, ""), **changes})


class _Parser(argparse.ArgumentParser):
    """A parser whose options default to environment variables."""

    def option(self, name: str, default: object, text: str, **more: object) -> None:
        """Add ``--name``; its default is ``CYTOSERVE_NAME`` where that is set, else `default`."""
        variable = "CYTOSERVE_" + name.replace("-", "_").upper()
        given = os.environ.get(variable)
        text = f"{text} [{variable}]"
        if default is False:
            self.add_argument(f"--{name}", action="store_true", default=truth(variable, given), help=text)
            return
        kind = type(default) if default is not None else str
        # a string default is parsed by argparse like an argument, so a bad variable is refused in the same words
        self.add_argument(f"--{name}", type=kind, default=default if given is None else given, help=text, **more)  # type: ignore[arg-type]


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = _Parser(
        prog="cytoserve_deploy.container.entrypoint",
        description="CytoServe's container. For research use; not a medical device.",
    )
    commands = top.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for name in ("serve", "warm", "verify"):
        sub = commands.add_parser(name)
        given = os.environ.get("CYTOSERVE_MODEL_REPOSITORY")
        sub.add_argument(
            "--model-repository", action="append", metavar="DIR",
            help="Folder of models; may be repeated. [CYTOSERVE_MODEL_REPOSITORY, else /models]",
        )  # fmt: skip
        sub.set_defaults(fallback_repository=given or "/models")
        sub.option("manifest-sha256", "", "Expected sha256 of the first repository's manifest.json.")
        sub.option("allow-unlisted", False, "Serve files that the manifest does not name; a warning is logged.")
        sub.option("skip-verification", False, "Do not check hashes; a warning is logged.")
        sub.option("model-config-name", "", "Use configs/NAME.pbtxt of each model.")
    add_serve_options(commands.choices["serve"])
    commands.choices["warm"].option("timeout", 1800.0, "Seconds until the first answer.")
    probe = commands.add_parser("probe")
    probe.option("url", "localhost:8001", "gRPC address.")
    probe.option("model", "service_info", "What to ask.", choices=("service_info", "cell_analysis"))
    probe.option("deadline", 10.0, "Seconds for the answer.")
    probe.add_argument("--tls-ca", default="", help="PEM of the server's CA; switches TLS on.")
    probe.add_argument("--tls-cert", default="", help="PEM of the client's certificate.")
    probe.add_argument("--tls-key", default="", help="PEM of the client's key.")
    probe.add_argument(
        "--tls-server-name", default="", help="Name in the server's certificate, where it is not the address."
    )
    return top


def add_serve_options(sub: _Parser) -> None:
    """Add what only ``serve`` takes."""
    sub.option("http-port", CONTAINER.http_port, "HTTP port.")
    sub.option("grpc-port", CONTAINER.grpc_port, "gRPC port.")
    sub.option("metrics-port", CONTAINER.metrics_port, "Metrics port.")
    sub.option("address", CONTAINER.address, "Address the ports are bound to.")
    sub.option("http-inference", False, "Offer inference over plain HTTP too.")
    sub.option(
        "restricted-header", CONTAINER.restricted_header, f"Header of the restricted calls; the key is {ENV_KEY}."
    )
    sub.option("tls-cert", "", "PEM of the server's certificate.")
    sub.option("tls-key", "", "PEM of its key.")
    sub.option("tls-client-ca", "", "PEM of the CA of clients; asks for their certificates.")
    sub.option(
        "exit-timeout", CONTAINER.exit_timeout_s, "Seconds for requests in flight at the end.", dest="exit_timeout_s"
    )
    sub.option("rate-limit", CONTAINER.rate_limit, "Triton's rate limiter.", choices=("off", "execution_count"))
    sub.option("log-verbose", CONTAINER.log_verbose, "Triton's verbose level.")
    sub.option("latency-quantiles", False, "Export latency quantiles.")
    sub.option("otel-url", "", "OTLP/HTTP address of a trace collector.")
    sub.option("otel-service", CONTAINER.otel_service, "Name of this service in traces.")
    sub.option("otel-rate", CONTAINER.otel_rate, "0: only requests with a trace context; N: also every N-th.")
    sub.add_argument("extra", nargs="*", help="After --: further arguments of tritonserver.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        given = parser().parse_args(arguments)
        if given.command == "probe":
            target = Target(given.url, given.tls_ca, given.tls_cert, given.tls_key, given.tls_server_name)
            check_models_live()
            print(ask(target, given.model, given.deadline))
            return 0
        given.model_repository = given.model_repository or [given.fallback_repository]
        _check(given)
        if given.command == "warm":
            warm(_options(given, address=LOOPBACK, **WARM_PORTS), given.model_repository, given.timeout)
        elif given.command == "serve":
            serve(_options(given, extra=tuple(given.extra)), given.model_repository)
    except DeployError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
