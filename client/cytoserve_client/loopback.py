"""Which addresses are this machine's own: they are never called through a proxy, and need no encryption."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Any, Final

NO_PROXY: Final[tuple[str, Any]] = ("grpc.enable_http_proxy", 0)
"""gRPC channel option: leave ``grpc_proxy``, ``https_proxy`` and ``http_proxy`` of the environment alone."""

_SHORT_IPV4 = re.compile(r"[0-9]+(\.[0-9]+){0,3}")
_RESOLVER = re.compile(r"^(ipv4|ipv6|dns):(?://[^/]*/)?")


def host_of(address: str) -> str:
    """Return the host of ``HOST:PORT``, ``[IPV6]:PORT`` or one of gRPC's names for a target, without brackets."""
    address = _RESOLVER.sub("", address)
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, separator, _ = address.rpartition(":")
    # several colons without brackets: an IPv6 address without a port
    return host if separator and ":" not in host else address


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is this machine: ``localhost``, 127.0.0.0/8 in any spelling, or ``::1``.

    A name that only looks like it (``127.example.org``) is not, whatever it may resolve to.
    """
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        if _SHORT_IPV4.fullmatch(name):
            # as the resolver reads it: 127.1 is 127.0.0.1
            return ipaddress.ip_address(socket.inet_aton(name)).is_loopback
        found = ipaddress.ip_address(name.partition("%")[0])
    except (ValueError, OSError):
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
