"""A server that goes away and comes back: what is sent again, what waits, and for how long.

One `Outage` belongs to a client and is shared by everything that it has under way. Sending again is safe because a
request changes nothing on the server: the same field gives the same answer, however often it is asked.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from enum import Enum

from cytoserve_client import _constants as c
from cytoserve_client._config import RetryPolicy
from cytoserve_client._retry import never_started
from cytoserve_client.errors import CytoserveClientError, ServerUnavailable


class Loss(Enum):
    """How a request was lost."""

    BUSY = "busy"
    """The server is there and its queue is full; `cytoserve_client._retry` has tried again already."""
    REFUSED = "refused"
    """Not worked on, or given up by a server that says that it is stopping."""
    VANISHED = "vanished"
    """The connection broke while it was worked on: a restart, or a request that the server cannot survive."""


_BUSY = "exceeds maximum queue size"
_STOPPING = ("stopping", "no available versions", "goaway")


def loss_of(error: CytoserveClientError) -> Loss | None:
    """Return how the request of this error was lost; None where the server answered it."""
    if not isinstance(error, ServerUnavailable):
        return None
    text = error.message.lower()
    if _BUSY in text:
        return Loss.BUSY
    if never_started("UNAVAILABLE", text) or any(mark in text for mark in _STOPPING):
        return Loss.REFUSED
    return Loss.VANISHED


class Outage:
    """Whether the server is away at the moment, and whether waiting for it is still worth it. Thread-safe.

    Parameters
    ----------
    policy : RetryPolicy
        `RetryPolicy.outage` bounds the wait; a policy of one attempt never waits.
    clock, uniform : callable
        As `time.monotonic` and `random.uniform`.
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
        """Return whether the request of ``error`` is to be sent again once the server is ready.

        Parameters
        ----------
        error : CytoserveClientError
            How it failed.
        vanished : int
            How often this request was lost while it was worked on, this time included.
        """
        loss = loss_of(error)
        if loss is None or loss is Loss.BUSY or self._policy.max_attempts == 1 or self._policy.outage == 0:
            return False
        if vanished > c.RESENDS_AFTER_LOSS:
            return False
        return not self.given_up

    def pause(self, tries: int) -> float:
        """Return the seconds to wait before the server is asked, for the ``tries``-th time from 1, if it is ready."""
        return self._uniform(0.0, self._policy.ceiling(tries))
