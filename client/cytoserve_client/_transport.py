"""One gRPC channel, its options, and single attempts on it; once blocking, once for asyncio.

The two classes differ only in how they wait. What is sent again, and for how long, is decided in `_flow` and `_retry`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from typing import Any

import grpc
import grpc.aio

from cytoserve_client import _constants as c
from cytoserve_client import _wire
from cytoserve_client._config import ClientConfig
from cytoserve_client._trace import trace_headers
from cytoserve_client._wire import Call
from cytoserve_client.errors import ClientClosed, CytoserveClientError, error_from_status
from cytoserve_client.loopback import NO_PROXY

log = logging.getLogger("cytoserve_client")


def channel_options(config: ClientConfig) -> list[tuple[str, Any]]:
    """Return the channel's options; every one that matters is given, because the defaults do not suit."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", c.MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", c.MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", c.KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", c.KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.initial_reconnect_backoff_ms", c.RECONNECT_FIRST_MS),
        ("grpc.min_reconnect_backoff_ms", c.RECONNECT_FIRST_MS),
        ("grpc.max_reconnect_backoff_ms", c.RECONNECT_MAX_MS),
        # A name service in front of us must not add retries of its own to ours.
        ("grpc.service_config_disable_resolution", 1),
    ]
    if config.round_robin:
        options.append(("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})))
    if config.loopback:
        # gRPC would send even loopback calls through the proxy of the environment.
        options.append(NO_PROXY)
    if config.tls is not None and config.tls.server_name:
        options.append(("grpc.ssl_target_name_override", config.tls.server_name))
    return options


def _target(config: ClientConfig) -> str:
    # dns:/// makes every address behind a headless service visible to the balancer.
    return f"dns:///{config.authority}" if config.round_robin else config.authority


def _credentials(config: ClientConfig) -> grpc.ChannelCredentials | None:
    if not config.encrypted:
        return None
    roots, key, chain = config.tls.material() if config.tls else (None, None, None)
    return grpc.ssl_channel_credentials(roots, key, chain)


def _metadata(config: ClientConfig, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    pairs: list[tuple[str, str | bytes]] = list({**trace_headers(), **config.headers}.items())
    if request_id:
        pairs.append(("x-request-id", request_id))
    if config.token is not None:
        pairs.append(("authorization", f"Bearer {config.token()}"))
    return tuple(pairs)


def _open(channels: Any, config: ClientConfig) -> tuple[Any, dict[str, Any]]:
    """Return a new channel of the module ``channels`` (`grpc` or `grpc.aio`), and its methods by name."""
    credentials, options = _credentials(config), channel_options(config)
    if credentials is None:
        channel = channels.insecure_channel(_target(config), options=options)
    else:
        channel = channels.secure_channel(_target(config), credentials, options=options)
    return channel, {
        rpc.name: channel.unary_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
        for rpc in _wire.RPCS
    }


def _prepare(call: Call) -> float:
    """Put the time left into an inference request (others have no parameters); return the time on the clock."""
    if call.rpc is _wire.INFER:
        _wire.set_time_left(call.request, int(1000 * (call.timeout - c.DEADLINE_MARGIN_S)))
    return time.monotonic()


def _failure(failed: Any, call: Call, closed: bool) -> CytoserveClientError:
    """Return what the failure of an attempt means."""
    status, details, of = failed.code().name, failed.details() or "", call.request_id
    log.info("%s: %s, request %s", call.rpc.name, status, of)
    if closed:
        return ClientClosed("the client was closed while the call was under way", source=call.source, request_id=of)
    return error_from_status(status, details, source=call.source, request_id=of or None)


def _log_answered(call: Call, started: float) -> None:
    log.debug("%s answered in %.3f s, request %s", call.rpc.name, time.monotonic() - started, call.request_id)


def _closed_error() -> ClientClosed:
    return ClientClosed("this client is closed; make a new one (`with Client(url) as client:`)")


class SyncTransport:
    """A channel for threads. Thread-safe; not to be used across ``fork`` (make the client in the child)."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._closed = threading.Event()
        self._channel, self._methods = _open(grpc, config)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """Close the channel; calls under way end with `ClientClosed`. Calling it again does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            self._channel.close()

    def attempt(self, call: Call) -> Any:
        """Send a request once and return its answer; a failure is a `CytoserveClientError`."""
        if self.closed:
            raise _closed_error()
        started = _prepare(call)
        try:
            metadata = _metadata(self._config, call.request_id)
            answer = self._methods[call.rpc.name](call.request, timeout=call.timeout, metadata=metadata)
        except grpc.RpcError as failed:
            raise _failure(failed, call, self.closed) from failed
        except ValueError:
            if self.closed:  # what grpc raises when it is closed between the check and the call
                raise _closed_error() from None
            raise
        _log_answered(call, started)
        return answer

    def pause(self, seconds: float) -> None:
        """Wait; closing the client ends the wait."""
        self._closed.wait(seconds)


class AsyncTransport:
    """The same channel for one asyncio event loop."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._closed = False
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def close(self) -> None:
        """Close the channel; calls under way end with `ClientClosed`. Calling it again does nothing."""
        if not self._closed:
            self._closed = True
            if self._channel is not None:
                await self._channel.close(None)

    async def attempt(self, call: Call) -> Any:
        """Send a request once; see `SyncTransport.attempt`."""
        if self._closed:
            raise _closed_error()
        if self._channel is None:  # grpc.aio binds a channel to the loop that runs when it is made
            self._channel, self._methods = _open(grpc.aio, self._config)
        started = _prepare(call)
        try:
            metadata = _metadata(self._config, call.request_id)
            answer = await self._methods[call.rpc.name](call.request, timeout=call.timeout, metadata=metadata)
        except grpc.aio.AioRpcError as failed:
            raise _failure(failed, call, self._closed) from failed
        except asyncio.CancelledError:
            if self._closed and not _task_cancelled():  # what grpc.aio raises when the channel was closed
                raise _closed_error() from None
            raise
        except grpc.aio.UsageError:
            raise _closed_error() from None
        _log_answered(call, started)
        return answer

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def _task_cancelled() -> bool:
    """Return whether the running task itself was cancelled (known from Python 3.11 on)."""
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)
    return cancelling is not None and cancelling() > 0
