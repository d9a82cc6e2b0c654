"""Whom the load may hit, and the connection to it: this machine, or a host that the operator has named twice.

A load test floods a laboratory's server. So another machine is refused unless its name is repeated
(``--yes-load-this-host NAME``), and then the time and the rate are bounded. A token never travels in clear text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from cytoserve_client.loopback import NO_PROXY, host_of, is_loopback
from cytoserve_contract.limits import MAX_MESSAGE_BYTES

ENV_TOKEN: Final = "CYTOSERVE_LOAD_TOKEN"
"""A bearer token; in the environment, because other users of a machine see the arguments of a process."""

MAX_SECONDS: Final = 600
MAX_RATE_ELSEWHERE: Final = 50.0
"""Most requests a second that are put on another machine unless ``--max-rate`` says otherwise."""


class NotAllowed(SystemExit):
    """The target must not be loaded, or not like this; ends the program with the reason."""


@dataclass(frozen=True)
class Target:
    """A server and how it is reached.

    Attributes
    ----------
    address : str
        ``HOST:PORT``.
    yes_host : str
        The host's name once more, for a server that is not this machine.
    ca, cert, key : str
        PEM files: the authority to trust, and the client's own certificate and key. ``ca`` switches TLS on.
    server_name : str
        Name that the server's certificate carries, where it is not the address's.
    """

    address: str
    yes_host: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise NotAllowed("--tls-cert and --tls-key go together")
        if self.cert and not self.ca:
            raise NotAllowed("--tls-cert needs --tls-ca: the connection is not encrypted without it")
        if not self.is_here and self.yes_host != self.host:
            raise NotAllowed(
                f"load is put on this machine only, not on {self.host}. If that is a server of yours that may be slow "
                f"or refuse its users meanwhile, add --yes-load-this-host {self.host}"
            )
        if self.token and not self.ca and not self.is_here:
            raise NotAllowed(f"{ENV_TOKEN} would travel in clear text: give --tls-ca as well")

    @property
    def host(self) -> str:
        """The host of the address."""
        return host_of(self.address.removeprefix("http://"))

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return is_loopback(self.host)

    @property
    def token(self) -> str:
        """The bearer token, or nothing."""
        return os.environ.get(ENV_TOKEN, "")

    def channel(self) -> Any:
        """Return a new connection, not shared with others of this process."""
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self.is_here:
            options.append(NO_PROXY)
        if self.server_name:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        address = self.address.removeprefix("http://")
        if self.ca:
            files = [Path(name).read_bytes() if name else None for name in (self.ca, self.key, self.cert)]
            channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*files), options)
        else:
            channel = grpc.insecure_channel(address, options)
        return grpc.intercept_channel(channel, EveryCall(self.token))


class EveryCall(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """What holds for every call: it has a deadline, and carries the token if there is one."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Send the call on; one without a deadline is a mistake of this program."""
        if details.timeout is None:
            raise ValueError(f"{details.method} was called without a deadline")
        if self._token:
            details = _Details(details, (*(details.metadata or ()), ("authorization", f"Bearer {self._token}")))
        return continuation(details, request)


class _Details(grpc.ClientCallDetails):  # type: ignore[misc]
    """The details of a call with other metadata."""

    def __init__(self, of: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self.method, self.timeout, self.metadata = of.method, of.timeout, metadata
        self.credentials, self.wait_for_ready, self.compression = of.credentials, of.wait_for_ready, of.compression
