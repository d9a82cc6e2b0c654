"""What is sent again, when, and for how long (`RetryPolicy` says why): one total budget, full jitter, a throttle.

The status code comes first: only UNAVAILABLE is sent again. What that code does not say is read from the text
(`loss_of`): whether the request was ever started.

gRPC's own policy (``retryPolicy`` in the service config) cannot do this. It knows codes only, so it would send a lost
request as often as a refused one. It sends the same bytes, but each attempt carries the time left, and
carries a fresh token. And it sends to whatever answers next, while a server that comes back with another model must not
be used: the answers of two models do not make one sample.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Final

from cytoserve_client import _constants as c
from cytoserve_client._config import RetryPolicy
from cytoserve_client.errors import CytoserveClientError, DeadlineExceeded, ServerUnavailable


class Loss(Enum):
    """How a request was lost."""

    BUSY = "busy"
    """The server is there, and has no room for the request: its queue or its shared memory is full."""
    OVERLOADED = "overloaded"
    """The server has said that it cannot do it in time now: nothing was begun, and there is nothing wrong with it."""
    UNREACHABLE = "unreachable"
    """There was no connection to send it on."""
    STOPPING = "stopping"
    """Refused, or given up, by a server that says that it is stopping."""
    CRIPPLED = "crippled"
    """The process of one of the server's models has died, perhaps of this request; the server is stopped for it."""
    VANISHED = "vanished"
    """The connection broke while it was worked on: a restart, or a request that the server cannot survive."""


_TEXTS: Final = (
    ("exceeds maximum queue size", Loss.BUSY),
    ("more work waits", Loss.OVERLOADED),
    ("shared memory", Loss.BUSY),
    ("is not healthy", Loss.CRIPPLED),
    ("failed to connect", Loss.UNREACHABLE),
    ("connection refused", Loss.UNREACHABLE),
    ("dns resolution failed", Loss.UNREACHABLE),
    ("name resolution", Loss.UNREACHABLE),
    ("no route to host", Loss.UNREACHABLE),
    ("network is unreachable", Loss.UNREACHABLE),
    ("stopping", Loss.STOPPING),
    ("no available versions", Loss.STOPPING),
    ("goaway", Loss.STOPPING),
)
"""Texts of gRPC's core, of Triton and of our scorer, all under the code UNAVAILABLE. Anything else has vanished."""

NEVER_STARTED: Final = frozenset({Loss.BUSY, Loss.OVERLOADED, Loss.UNREACHABLE})
"""Losses that are known not to have been worked on: they are tried again at once."""


IN_WORK: Final = frozenset({Loss.CRIPPLED, Loss.VANISHED})
"""Losses of requests that may themselves be what ended the server: they are sent again once."""


def loss_of(error: CytoserveClientError) -> Loss | None:
    """Return how the request of this error was lost; None where the server answered it."""
    if not isinstance(error, ServerUnavailable):
        return None
    text = error.message.lower()
    return next((loss for mark, loss in _TEXTS if mark in text), Loss.VANISHED)


class Deadline:
    """A point in monotonic time that a call must not pass (a changed wall clock does not move it)."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds = seconds
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Return the seconds left, never below 0."""
        return max(0.0, self._end - self._clock())


class Throttle:
    """Retry tokens shared by all threads of a client (gRFC A6): a dead server is not hammered by many callers."""

    def __init__(self, tokens: float = c.RETRY_TOKENS, ratio: float = c.RETRY_TOKEN_RATIO) -> None:
        self._limit = tokens
        self._tokens = tokens
        self._ratio = ratio
        self._lock = threading.Lock()

    def success(self) -> None:
        """Give a part of a token back."""
        with self._lock:
            self._tokens = min(self._limit, self._tokens + self._ratio)

    def failure(self) -> bool:
        """Take a token; return whether a retry is still allowed."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1.0)
            return self._tokens > self._limit / 2


class Attempts:
    """The attempts of one request: how long to wait before the next, or an error when there is no next.

    The throttle is shared between the requests of a client; a wait that would end after the deadline is not begun.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        throttle: Throttle,
        deadline: Deadline,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._throttle = throttle
        self._deadline = deadline
        self._uniform = uniform
        self.failures = 0

    def remaining(self, source: str | None, request_id: str | None) -> float:
        """Return the seconds left for the next attempt; `DeadlineExceeded` if none are."""
        left = self._deadline.remaining()
        if left <= 0:
            raise DeadlineExceeded(
                f"no answer within {self._deadline.seconds:g} s. Give a longer timeout.",
                source=source,
                request_id=request_id,
            )
        return left

    def next_delay(self, error: CytoserveClientError) -> float:
        """Return the seconds to wait before trying again; ``error`` is raised if that is not allowed, or too late."""
        self.failures += 1
        loss = loss_of(error)
        if loss not in NEVER_STARTED:
            raise error
        # an overloaded server refuses in milliseconds and works on: callers take turns until their own deadlines
        patient = loss is Loss.OVERLOADED and self._policy.max_attempts > 1
        if not patient and (not self._throttle.failure() or self.failures >= self._policy.max_attempts):
            raise error
        delay = self._uniform(0.0, self._policy.ceiling(self.failures))
        if delay >= self._deadline.remaining():
            raise error
        return delay


class Outage:
    """Whether the server is away at the moment, and whether waiting for it is still worth it.

    One belongs to a client and is shared by everything that it has under way. Thread-safe. `RetryPolicy.outage` bounds
    the wait; a policy of one attempt never waits.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._uniform = uniform
        self._seen: tuple[float, CytoserveClientError] | None = None

    @property
    def error(self) -> CytoserveClientError | None:
        """What the outage began with, while it lasts and is worth waiting for; None otherwise."""
        seen = self._seen
        return seen[1] if seen is not None and self._clock() - seen[0] < self._policy.outage else None

    @property
    def given_up(self) -> bool:
        """Whether an outage lasts longer than the policy allows; one that another request saw end is not."""
        seen = self._seen
        return seen is not None and self._clock() - seen[0] >= self._policy.outage

    def begin(self, error: CytoserveClientError) -> None:
        """Note that the server is away; its first loss counts as the beginning."""
        if self._seen is None:
            self._seen = (self._clock(), error)

    def end(self) -> None:
        """Note that the server has answered."""
        self._seen = None

    def worth_waiting(self, error: CytoserveClientError, vanished: int) -> bool:
        """Return whether a request that was lost ``vanished`` times is sent again once the server is ready."""
        loss = loss_of(error)
        if loss in (None, Loss.BUSY, Loss.OVERLOADED) or self._policy.max_attempts == 1 or self._policy.outage == 0:
            return False
        if vanished > c.RESENDS_AFTER_LOSS:
            return False
        return not self.given_up

    def pause(self, tries: int) -> float:
        """Return the seconds to wait before the ``tries``-th check, from 1, whether the server is ready."""
        return self._uniform(0.0, self._policy.ceiling(tries))
