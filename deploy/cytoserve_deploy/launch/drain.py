"""Let the requests under way end before Triton is told to stop.

On SIGTERM Triton refuses at once what its models ask of each other (2.51: "Server not ready"), so a field that is
half way fails although its time is not over. Hence two steps before the signal: a file tells the first step of every
ensemble to refuse new requests (``[cytoserve:unavailable]``, which clients send again), and then the server's
processes are given time until they compute no more.

Triton's counters do not tell what is under way: an ensemble that fails is counted twice and a queue only before it
is served (seen on 2.51). Processor time does: every step of the local server computes on the CPU, and an idle one uses
none. Only the standard library is imported: this runs in the small supervisor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

WINDOW_S: Final = 0.25
"""Time over which processor time is looked at: a request under way shows tens of ticks in it."""

IDLE_TICKS: Final = 1
"""Most clock ticks (10 ms each) that idle processes use in a window."""


def drain(file: str, members: Callable[[], list[int]], limit_s: float) -> bool:
    """Refuse new requests, return when the processes have come to rest or `limit_s` is over.

    Parameters
    ----------
    file : str
        See `cytoserve_contract.names.ENV_DRAIN_FILE`.
    members : callable
        Returns the process ids of the server.
    limit_s : float
        Seconds.

    Returns
    -------
    bool : whether they came to rest.
    """
    until = time.monotonic() + limit_s
    Path(file).touch()
    before = processor_ticks(members())
    while time.monotonic() < until:
        time.sleep(WINDOW_S)
        now = processor_ticks(members())
        if now - before <= IDLE_TICKS:
            return True
        before = now
    return False


def processor_ticks(pids: list[int]) -> int:
    """Return the clock ticks that these processes have computed, in all; one that has ended counts nothing."""
    total = 0
    for pid in pids:
        try:
            # the name of the process, in brackets, may hold blanks: count fields after it
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total
