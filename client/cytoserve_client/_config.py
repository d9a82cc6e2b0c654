"""The client's settings as small frozen objects; secrets never show in a ``repr``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cytoserve_files import read_bytes

from cytoserve_client import _constants as c
from cytoserve_client.errors import ConfigurationError
from cytoserve_client.loopback import host_of, is_loopback

TokenProvider = Callable[[], str]
"""Called before every attempt; returns the bearer token. It may cache, and must be thread-safe."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and how long, a request that got no answer is sent again, within its own deadline.

    Only a server that is not there is a reason; whatever it answers is final. Sending again is safe: a request changes
    nothing on the server, and the same field gives the same answer.

    A request that no model has seen (connection refused, name not resolved, queue full) is tried ``max_attempts``
    times. If a server goes away that has answered this client before, everything that is under way or queued waits for
    it to be ready again, up to ``outage`` seconds. Its model is then checked before anything is sent: another
    model or calibration ends the call with `ContractMismatch`, because the answers of two do not make one sample. A
    request that was lost *while the server worked on it* is sent again once and no more: it may be what ended the
    server.

    Parameters
    ----------
    max_attempts : int
        Attempts in all, the first included; 1 switches everything here off.
    first_delay, max_delay : float
        Ceilings of the first and of any wait, seconds. Each wait is uniform between 0 and its ceiling (full jitter).
    multiplier : float
        Growth of the ceiling.
    outage : float
        Seconds that a server may be away, counted once for all requests of a client; 0: none are waited.
    """

    max_attempts: int = c.MAX_ATTEMPTS
    first_delay: float = c.RETRY_FIRST_DELAY_S
    max_delay: float = c.RETRY_MAX_DELAY_S
    multiplier: float = c.RETRY_MULTIPLIER
    outage: float = c.OUTAGE_S

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError(f"max_attempts must be 1 or more, not {self.max_attempts}")
        if not (0 <= self.first_delay <= self.max_delay < math.inf) or not 1 <= self.multiplier < math.inf:
            raise ConfigurationError("retry delays must satisfy 0 <= first_delay <= max_delay and multiplier >= 1")
        if not 0 <= self.outage < math.inf:
            raise ConfigurationError(f"outage must be a finite number of seconds, 0 or more, not {self.outage}")

    def ceiling(self, failures: int) -> float:
        """Return the longest wait after that many failures (1 = after the first), seconds."""
        return min(self.max_delay, self.first_delay * self.multiplier ** min(failures - 1, 64))


@dataclass(frozen=True)
class TLS:
    """Material for an encrypted connection, PEM as bytes or as a path. Certificates are always checked.

    Parameters
    ----------
    root_certificates : bytes or Path, optional
        Authorities to trust; gRPC's bundled ones when not given.
    private_key, certificate_chain : bytes or Path, optional
        The client's own identity, for servers that require one (mutual TLS); both or neither.
    server_name : str, optional
        Name the server's certificate must carry, where it differs from the address.
    """

    root_certificates: bytes | Path | None = field(default=None, repr=False)
    private_key: bytes | Path | None = field(default=None, repr=False)
    certificate_chain: bytes | Path | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ConfigurationError("mutual TLS needs both private_key and certificate_chain")

    def material(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return (root certificates, private key, certificate chain) as bytes, reading files now.

        Raises
        ------
        ConfigurationError
            If a file cannot be read.
        """
        return _pem(self.root_certificates), _pem(self.private_key), _pem(self.certificate_chain)


def _pem(value: bytes | Path | None) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    try:
        return read_bytes(value)
    except OSError as error:
        raise ConfigurationError(f"cannot read the TLS file {value}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Expectation:
    """What the caller requires of the served model; checked at first use, `ContractMismatch` if it differs.

    Parameters
    ----------
    classes : sequence of str, optional
        The class names in their order.
    weights_sha256 : str, optional
        Hash of the weights, as ``service_info`` returns it.
    version : str, optional
        Version of the served model.
    """

    classes: Sequence[str] | None = None
    weights_sha256: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class ClientConfig:
    """Everything a client was given, checked. Built by `Client` and `AsyncClient`; see there for the meaning."""

    url: str
    timeout: float = c.DEFAULT_TIMEOUT_S
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    tls: TLS | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: TokenProvider | None = field(default=None, repr=False)
    max_in_flight: int = c.MAX_IN_FLIGHT
    cells_per_request: int = c.CELLS_PER_REQUEST
    round_robin: bool = False
    expect: Expectation = field(default_factory=Expectation)

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        if self.max_in_flight < 1 or self.cells_per_request < 1:
            raise ConfigurationError("max_in_flight and cells_per_request must be 1 or more")
        if self.cells_per_request > c.MAX_CELLS:
            raise ConfigurationError(f"cells_per_request must be {c.MAX_CELLS} at most, not {self.cells_per_request}")
        for name, value in self.headers.items():
            if name != name.lower() or name.startswith("grpc-") or not value.isascii():
                raise ConfigurationError(
                    f"header {name!r}: gRPC wants a lower-case name, no 'grpc-' prefix, ASCII value"
                )
        if self.token is not None and not self.encrypted and not self.loopback:
            raise ConfigurationError(
                "a token would travel in clear text: give tls=TLS(...), or a grpcs:// address, or drop the token"
            )
        if not self.host:
            raise ConfigurationError(f"{self.url!r} is no address; use HOST:PORT, such as localhost:8001")

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.tls is not None or self.url.startswith("grpcs://")

    @property
    def authority(self) -> str:
        """The address without its scheme, ``HOST:PORT``."""
        scheme, separator, rest = self.url.partition("://")
        if not separator:
            return self.url
        if scheme not in ("grpc", "grpcs"):
            raise ConfigurationError(f"{self.url!r}: use HOST:PORT, grpc:// or grpcs:// (the gRPC port, usually 8001)")
        return rest.rstrip("/")

    @property
    def host(self) -> str:
        """The host part of the address."""
        return host_of(self.authority)

    @property
    def loopback(self) -> bool:
        """Whether the address is this machine."""
        return is_loopback(self.host)


def check_timeout(timeout: float) -> float:
    """Return ``timeout`` (seconds) if it is finite and positive.

    Raises
    ------
    ConfigurationError
        Otherwise: a call without an end is never allowed.
    """
    if not (isinstance(timeout, (int, float)) and 0 < timeout < math.inf):
        raise ConfigurationError(f"timeout must be a finite, positive number of seconds, not {timeout!r}")
    return float(timeout)
