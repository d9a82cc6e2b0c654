"""Let the requests under way end before Triton is stopped.

On SIGTERM Triton refuses at once what its models ask of each other (2.51: "Server not ready"), so a field that is
half way fails although its time is not over. Hence two steps before the signal: a file tells the first step of every
ensemble to refuse new requests (``[cytoserve:unavailable]``, which clients send again), and then the server's
processes are given time until they compute no more.

Triton's counters do not show what is under way: an ensemble that fails is counted twice and a queue only before it
is served (seen on 2.51). Processor time does: every step of the local server computes on the CPU, and an idle one uses
none. On a busy machine a step can wait for its turn longer than a window (seen: 0 ticks in 0.25 s with fields half
way), so a thread that is ready to run counts as work too. And a request can be between two steps, where nothing runs
for a moment: the table of requests that were let in shows it until its last step. Only the standard library is
imported: this runs in the small supervisor.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cytoserve_contract.admission_table import COLUMNS, TICKET, UNTIL

WINDOW_S: Final = 0.25
"""Time over which processor time is measured: a request under way uses tens of ticks in it."""

CHECKS: Final = 5
"""Times in a window that the threads' states are read."""

QUIET: Final = 8
"""Windows at rest, one after another, after which a request that is still in the table is taken for lost: cancelled
between two steps, nobody notes its end."""

IDLE_TICKS: Final = 1
"""Most clock ticks (10 ms each) that idle processes use in a window."""

WORKING: Final = "RD"
"""States of a thread that runs, waits for a processor, or waits for the disk (``man 5 proc``)."""


def drain(
    file: str, members: Callable[[], list[int]], limit_s: float, under_way: Callable[[], bool] = lambda: False
) -> bool:
    """Refuse new requests and wait at most `limit_s` seconds until the processes are at rest; return whether they are.

    The existence of `file` is the sign to refuse (`cytoserve_contract.names.ENV_DRAIN_FILE`); `members` returns the
    process ids of the server, `under_way` whether a request has been let in whose end is not known.
    """
    until = time.monotonic() + limit_s
    with contextlib.suppress(OSError):  # a full disk: what is under way is waited for all the same
        Path(file).touch()
    quiet = 0
    while time.monotonic() < until:
        quiet = quiet + 1 if at_rest(members) else 0
        if quiet >= QUIET or (quiet and not under_way()):
            return True
    return False


def requests_under_way(table: str) -> bool:
    """Return whether the server's own table holds a request (`cytoserve_contract.admission_table`).

    A request whose end nobody noted is given up after some seconds, so this does not stay true. Without a table: False.
    """
    row = struct.Struct(f"={COLUMNS}d")
    try:
        content = Path(table).read_bytes()
    except OSError:
        return False
    now = time.monotonic()
    rows = list(row.iter_unpack(content[: len(content) // row.size * row.size]))
    return any(one[TICKET] != 0.0 and one[UNTIL] > now for one in rows[1:])


def at_rest(members: Callable[[], list[int]]) -> bool:
    """Watch the processes for a window; return whether they computed nothing and none was waiting to."""
    before = processor_ticks(members())
    for _ in range(CHECKS):
        time.sleep(WINDOW_S / CHECKS)
        if any(map(is_working, members())):
            return False
    return processor_ticks(members()) - before <= IDLE_TICKS


def is_working(pid: int) -> bool:
    """Return whether a thread of the process is in one of the states `WORKING`."""
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError, IndexError):  # the thread has ended
            if _after_name(path)[0] in WORKING:
                return True
    return False


def processor_ticks(pids: list[int]) -> int:
    """Return the clock ticks that these processes have computed, in all; one that has ended counts nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            fields = _after_name(Path(f"/proc/{pid}/stat"))
            total += int(fields[11]) + int(fields[12])
    return total


def _after_name(stat: Path) -> list[str]:
    """Return the fields of a ``stat`` file after the process's name, which stands in brackets and may hold blanks."""
    return stat.read_text().rsplit(")", 1)[1].split()
