"""Connections of this package; those to loopback ignore the environment's proxy."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any, Final

MESSAGE_BYTES: Final = 2**31 - 1
"""Size of a message; tritonclient's own default, which it drops when other channel options are given."""

_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def channel_arguments(url: str, server_name: str = "") -> list[tuple[str, Any]]:
    """Return the gRPC channel options for ``HOST:PORT``; `server_name` is expected in the server's certificate."""
    from cytoserve_client.loopback import NO_PROXY, host_of, is_loopback

    arguments: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ]
    if is_loopback(host_of(url)):
        arguments.append(NO_PROXY)
    if server_name:
        arguments.append(("grpc.ssl_target_name_override", server_name))
    return arguments


def triton_client(url: str, server_name: str = "", **tls: Any) -> Any:
    """Return a `tritonclient.grpc.InferenceServerClient` for ``HOST:PORT``; see `channel_arguments`.

    Another machine is reached through the operator's proxy, as gRPC does. `tls` is passed on: ``ssl``,
    ``root_certificates``, ``private_key``, ``certificate_chain``.
    """
    from tritonclient import grpc

    return grpc.InferenceServerClient(url, channel_args=channel_arguments(url, server_name), **tls)


def loopback_get_ok(url: str, timeout_s: float = 2.0) -> bool:
    """Return True if a GET of a URL of this machine answers 200; no proxy is used."""
    try:
        with _DIRECT.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
