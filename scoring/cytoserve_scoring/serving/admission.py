"""How much work is under way in this server, and whether another request is let in: refused early, or served in time.

Without it every request is taken, and at twice the capacity the queue grows until all of them miss their deadlines.
An ensemble's step cannot bound its queue (``max_queue_size`` on a step leaves requests hanging in Triton before 2.67),
so the first step asks here before it decodes anything, and the last step says here that a request has ended.

The processes of one server share a small file. Each request under way is a row in it: its *ticket*, its work, and when
it is given up for lost. A file lock, which the kernel takes from a dead process, guards it. Work is counted in *units*:
one cell is one unit, a request costs one more, a field `FIELD_UNITS`. Seconds per unit are measured while requests
compete.

The ticket travels to the last step as the tensor ``DEADLINE``: it is the deadline itself, made different from all
others by the least bits of the number, or a number below -1 where there is no deadline.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from cytoserve_contract.admission_table import COLUMNS, LANE, PAUSE, RESERVED, ROUTINE, TICKET, UNITS, UNTIL
from numpy.typing import NDArray

from cytoserve_scoring.errors import Unavailable

FIELD_UNITS: Final = 9.0
"""Work of a field: decoding, the detector, and the cells of an ordinary one. On two CPU cores a field takes as long as
nine single cells (docs/benchmarks.md, "Load")."""

REQUEST_UNITS: Final = 1.0
"""Work that a request costs whatever it holds."""

ROWS: Final = 1024
"""Most requests under way; beyond, all are refused. They follow one row that holds measured units and seconds, the last
moment at which a request ended while others were under way (0: none were), and the number of tickets given."""

KNOWN_UNITS: Final = 40.0
KNOWN_SECONDS: Final = 2.0
"""What is believed of the speed before anything was measured: a slow CPU. A first, cold answer hardly changes it."""

MEMORY_UNITS: Final = 400.0
"""Units over which the measured speed is averaged."""

LOST_FACTOR: Final = 3.0
LOST_S: Final = 4.0
"""A ticket is given up after `LOST_FACTOR` times the time expected for it and these seconds: its request failed, or was
cancelled, between the first step and the last. No more than that factor is believed of one measurement either."""

STAT_FACTOR: Final = 2.0
"""A stat request is let in where so many times the work of its own lane waits, whatever waits in the other."""

OVERLOADED: Final = "more work waits than this server does in time"
"""What the client knows a refusal by (`cytoserve_client._retry`): nothing was begun, so it may be sent again."""


class Admission:
    """The requests under way in the server that owns a file.

    Parameters
    ----------
    file : str or Path or None
        Shared by all processes of the server; made when missing. None: everything is let in.
    max_wait_s : float
        Longest wait that a request is let in to.
    clock : callable
        Seconds; the same in all processes.
    """

    def __init__(self, file: str | Path | None, max_wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_wait_s = max_wait_s
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: NDArray[np.float64] | None = None
        if file:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            size = (ROWS + 1) * COLUMNS * 8
            if os.fstat(self._descriptor).st_size < size:
                os.ftruncate(self._descriptor, size)
            self._memory = mmap.mmap(self._descriptor, size)
            self._rows = np.frombuffer(self._memory, np.float64).reshape(ROWS + 1, COLUMNS)

    def enter(self, units: float, deadline: float, lane: int = ROUTINE) -> float:
        """Let a request in and return its ticket, which is `leave`'s argument.

        Parameters
        ----------
        units : float
            Its work.
        deadline : float
            Moment it is due; infinite if it may take any time.
        lane : int
            One of `cytoserve_contract.admission_table`: stat is taken before routine requests.

        Raises
        ------
        Unavailable
            It would wait longer than `max_wait_s`, or miss its deadline. Never where nothing else is under way.
        """
        if self._rows is None:
            return deadline if np.isfinite(deadline) else -1.0
        with self._locked() as rows:
            now = self._clock()
            head, table = rows[0], rows[1:]
            table[table[:, UNTIL] < now] = 0.0
            if not table[:, TICKET].any():
                head[2] = 0.0
            pace = self._pace(head)
            in_lane = table if lane == ROUTINE else table[table[:, LANE] != ROUTINE]
            ahead = float(in_lane[:, UNITS].sum()) * pace
            free = np.flatnonzero(table[:, TICKET] == 0.0)
            longest = self.max_wait_s * (1.0 if lane == ROUTINE else STAT_FACTOR)
            if not len(free) or (ahead > 0 and (ahead > longest or now + ahead + units * pace > deadline)):
                raise Unavailable(
                    f"{OVERLOADED}: about {ahead:.1f} s of it; send the request again later, or give it more time"
                )
            head[3] += 1.0
            ticket = _ticket(deadline, head[3], table[:, TICKET])
            late = now + LOST_FACTOR * (ahead + units * pace)
            table[free[0]] = ticket, units, min(late + LOST_S, deadline), lane, late if lane == RESERVED else 0.0
            return ticket

    def leave(self, ticket: float) -> None:
        """Note that the request of a ticket has ended, however it did; a ticket that is not known changes nothing."""
        if self._rows is None or ticket == -1.0:
            return
        with self._locked() as rows:
            now = self._clock()
            head, table = rows[0], rows[1:]
            found = np.flatnonzero(table[:, TICKET] == ticket)
            if not len(found):
                return
            units = float(table[found[0], UNITS])
            table[found[0]] = 0.0
            others = bool((table[:, UNTIL] > now).any())
            if head[2] and others:
                _measure(head, units, min(now - head[2], LOST_FACTOR * units * self._pace(head)))
            head[2] = now if others else 0.0  # speed is measured only while requests compete

    def is_stat_waiting(self) -> bool:
        """Return whether a request of the reserved lane is under way, for which routine work may pause.

        One that takes `LOST_FACTOR` times the time expected for it counts no more: it was cancelled, or needs no help.
        No lock is taken: a row that is being written costs a moment.
        """
        return self._rows is not None and bool((self._rows[1:, PAUSE] > self._clock()).any())

    def units(self) -> float:
        """Return the work under way."""
        if self._rows is None:
            return 0.0
        with self._locked() as rows:
            return float(rows[1:][rows[1:, UNTIL] > self._clock()][:, UNITS].sum())

    def pace(self) -> float:
        """Return the seconds that a unit takes, as measured."""
        if self._rows is None:
            return KNOWN_SECONDS / KNOWN_UNITS
        with self._locked() as rows:
            return self._pace(rows[0])

    @staticmethod
    def _pace(head: NDArray[np.float64]) -> float:
        return float(head[1] / head[0]) if head[0] else KNOWN_SECONDS / KNOWN_UNITS

    @contextmanager
    def _locked(self) -> Iterator[NDArray[np.float64]]:
        """Keep the other processes, and this one's other threads, out of the table."""
        assert self._rows is not None
        with self._lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield self._rows
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _measure(head: NDArray[np.float64], units: float, seconds: float) -> None:
    """Take units done in some seconds into the average, in which the old counts less and less."""
    if not head[0]:
        head[:2] = KNOWN_UNITS, KNOWN_SECONDS
    keep = max(0.0, 1.0 - units / MEMORY_UNITS)
    head[0] = head[0] * keep + units
    head[1] = head[1] * keep + seconds


def _ticket(deadline: float, number: float, taken: NDArray[np.float64]) -> float:
    """Return a number that no request under way has, and that says when this one is due."""
    if not np.isfinite(deadline):
        return -1.0 - number
    while (taken == deadline).any():
        deadline = float(np.nextafter(deadline, np.inf))
    return deadline
