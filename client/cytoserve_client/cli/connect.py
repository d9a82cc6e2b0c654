"""Where the server is: the one asked for, or a local one that lives as long as the command."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from cytoserve_client.cli import exit_codes
from cytoserve_client.cli.mounts import MOUNTS, missing
from cytoserve_client.errors import ServerUnavailable


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
        local = importlib.import_module("cytoserve_deploy.local_server")
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
