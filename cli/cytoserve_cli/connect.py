"""Where the server is: the one asked for, or a local one that lives as long as the command; and how to trust it."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from cytoserve_client._config import TLS
from cytoserve_client.errors import ConfigurationError, ServerUnavailable
from rich.console import Console

from cytoserve_cli import exit_codes
from cytoserve_cli.mounts import MOUNTS, missing

TlsCa = Annotated[
    Path | None,
    typer.Option("--tls-ca", envvar="CYTOSERVE_CLIENT_TLS_CA", help="PEM of the authority to trust; switches TLS on."),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", envvar="CYTOSERVE_CLIENT_TLS_CERT", help="PEM of our certificate (mutual TLS)."),
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", envvar="CYTOSERVE_CLIENT_TLS_KEY", help="PEM of our key (mutual TLS).")
]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        "--tls-server-name",
        envvar="CYTOSERVE_CLIENT_TLS_SERVER_NAME",
        help="Name in the server's certificate, where it is not that of --url.",
    ),
]


def tls_of(
    url: str | None, ca: Path | None, cert: Path | None, key: Path | None, server_name: str | None
) -> TLS | None:
    """Return the material of the TLS options, files read now; None where none was given.

    Raises
    ------
    ConfigurationError
        Certificate without key, a file that cannot be read, or no address that they could be for.
    """
    if not (ca or cert or key or server_name):
        return None
    if not url:
        raise ConfigurationError(
            "--tls-ca, --tls-cert, --tls-key and --tls-server-name (or CYTOSERVE_CLIENT_TLS_...) need --url: "
            "the local server is called on loopback without TLS"
        )
    roots, private, chain = TLS(ca, key, cert).material()
    return TLS(roots, private, chain, server_name)


@contextmanager
def server_address(url: str | None, notes: Console) -> Iterator[str]:
    """Yield the gRPC address; without ``url`` start the local server and stop it at the end.

    Parameters
    ----------
    url : str or None
        ``HOST:PORT`` of a running server.
    notes : Console
        Takes progress notes (standard error).

    Raises
    ------
    MissingPart
        If the local server is not installed.
    ServerUnavailable
        If it did not start.
    """
    if url:
        yield url
        return
    try:
        local = importlib.import_module("cytoserve_deploy.launch.local_server")
        failed: type[Exception] = importlib.import_module("cytoserve_deploy.errors").DeployError
    except ModuleNotFoundError as error:
        raise missing("serve", MOUNTS["serve"], error) from error
    with _termination_as_exit():
        server = local.LocalServer()
        try:
            with notes.status("Starting the local server (give --url to use a running one) ..."):
                server.start()
        except failed as error:
            raise ServerUnavailable(f"the local server did not start: {error}") from error
        try:
            yield server.grpc_url
        finally:
            server.stop()


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Turn SIGTERM into an ordinary exit, so that the local server is stopped on the way out."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(exit_codes.TERMINATED)

    try:
        previous = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: the caller owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
