"""A client for a command: of the server at ``--url``, or of a local one that lives as long as the command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from cytoserve_client import DEFAULT_TIMEOUT_S, TLS, Client, ConfigurationError, ServerUnavailable
from rich.console import Console

from cytoserve_cli import exit_codes
from cytoserve_cli.mounts import MissingPart, missing


def tls_of(
    url: str | None, ca: Path | None, cert: Path | None, key: Path | None, server_name: str | None
) -> TLS | None:
    """Return the material of the TLS options, files read now; None where none was given."""
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
def connected(url: str | None, tls: TLS | None, notes: Console, timeout: float = DEFAULT_TIMEOUT_S) -> Iterator[Client]:
    """Yield a client; without ``url`` a local server is started, and stopped at the end."""
    with nullcontext(url) if url else _local_server(notes) as address, Client(address, timeout=timeout, tls=tls) as own:
        yield own


@contextmanager
def _local_server(notes: Console) -> Iterator[str]:
    try:
        from cytoserve_deploy.errors import DeployError
        from cytoserve_deploy.launch.local_server import LocalServer
    except ModuleNotFoundError as error:
        raise MissingPart(f"{missing('serve', error)}, or give --url HOST:PORT of a running server.") from error
    with _termination_as_exit():
        server = LocalServer()
        try:
            with notes.status("Starting the local server (give --url to use a running one) ..."):
                server.start()
        except DeployError as error:
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
