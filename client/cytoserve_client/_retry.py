"""Deadlines and retries: one total budget, full jitter, a throttle, and a narrow idea of what may be retried."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from cytoserve_client import _constants as c
from cytoserve_client._config import RetryPolicy
from cytoserve_client.errors import CytoserveClientError, DeadlineExceeded

_NEVER_STARTED = (
    "failed to connect",
    "connection refused",
    "dns resolution failed",
    "name resolution",
    "no route to host",
    "network is unreachable",
    "exceeds maximum queue size",  # Triton's queue is full: refused at the door
)
"""Texts of gRPC's core and of Triton for a request that no model has seen. Anything else counts as started."""


def never_started(status: str, details: str) -> bool:
    """Return whether a failed request is known not to have been worked on.

    Parameters
    ----------
    status : str
        Name of the gRPC status code.
    details : str
        Text of the status.
    """
    text = details.lower()
    return status == "UNAVAILABLE" and any(mark in text for mark in _NEVER_STARTED)


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
    """The attempts of one request: says how long to wait before the next, or raises when there is no next.

    Parameters
    ----------
    policy : RetryPolicy
        Number of attempts and waits.
    throttle : Throttle
        Shared between the requests of a client.
    deadline : Deadline
        Total budget: a wait that would end after it is not begun.
    uniform : callable
        Source of jitter, as `random.uniform`.
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
        """Return the seconds left for the next attempt.

        Raises
        ------
        DeadlineExceeded
            If none are left.
        """
        left = self._deadline.remaining()
        if left <= 0:
            raise DeadlineExceeded(
                f"no answer within {self._deadline.seconds:g} s. Give a longer timeout.",
                source=source,
                request_id=request_id,
            )
        return left

    def next_delay(self, status: str, details: str, error: CytoserveClientError) -> float:
        """Return the seconds to wait before trying again.

        Raises
        ------
        CytoserveClientError
            ``error`` itself, if the request may not be retried or the budget is spent.
        """
        self.failures += 1
        if not never_started(status, details):
            raise error
        allowed = self._throttle.failure()
        if not allowed or self.failures >= self._policy.max_attempts:
            raise error
        delay = self._uniform(0.0, self._policy.ceiling(self.failures))
        if delay >= self._deadline.remaining():
            raise error
        return delay
