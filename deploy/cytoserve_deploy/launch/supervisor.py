"""A small process between the caller and ``tritonserver``: however the caller ends, nothing is left behind.

Run as ``python -m cytoserve_deploy.launch.supervisor PLAN``; ``PLAN`` is JSON (see `Plan`). It starts the server in a
process group of its own, prints the server's process id, and waits. It stops the server when its standard input
closes (the caller ended or asked for it), on SIGTERM, or when its parent changes. A server that was ready (the caller
says so by one byte on standard input) first gets time for the requests under way (`.drain`). In the
end it sees that the whole group is gone and removes shared memory and scratch files. It exits with the server's
status.

Notes
-----
Triton's Python stubs ignore SIGTERM and SIGINT and are ended by the server; a server killed hard leaves them to
notice by themselves and leaves their shared memory behind. Hence the sweep.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cytoserve_deploy.launch.drain import drain, requests_under_way
from cytoserve_deploy.launch.model_processes import dead, model_processes

PR_SET_PDEATHSIG: Final = 1
SHARED_MEMORY: Final = Path("/dev/shm")
POLL_S: Final = 0.05
POLLS_A_CHECK: Final = 4
"""Polls between two looks at the models' processes; one that is dead at two looks in a row has crashed."""

SIGNALLED: Final = 128
"""A server ended by signal N makes the supervisor exit with this plus N, as a shell does."""


@dataclass(frozen=True)
class Plan:
    """What to run and what to clean up after it.

    The output of ``command`` is appended to ``log``. At the end the folder ``scratch`` and the files in ``/dev/shm``
    whose names begin with ``shm_prefix`` are removed. Requests under way get ``drain_s`` seconds before SIGTERM
    (`cytoserve_deploy.launch.drain.drain`), the server ``grace_s`` after it. ``parent`` is the caller's process id.
    """

    command: list[str]
    log: str
    scratch: str
    shm_prefix: str
    drain_file: str
    admission_file: str
    drain_s: float
    grace_s: float
    parent: int

    def to_json(self) -> str:
        """Return the plan as one line of JSON."""
        return json.dumps(asdict(self))


def main() -> int:
    """Run the plan given as the first argument; return the server's exit status."""
    plan = Plan(**json.loads(sys.argv[1]))
    asked = False

    def ask(_signum: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)
    with open(plan.log, "ab") as log:
        server = subprocess.Popen(
            plan.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    print(server.pid, flush=True)
    ready = False
    models = ModelWatch()
    while server.poll() is None and not asked and os.getppid() == plan.parent:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if readable:
            if not os.read(sys.stdin.fileno(), 1):
                break
            ready = True
            models.pids = model_processes(server.pid)
        if models.have_crashed():
            _note(plan.log, f"error: the process of a model has ended (pid {models.crashed}); the server is stopped")
            break
    # its log is still to be read where the caller did not ask for the end
    by_itself = server.poll() is not None or bool(models.crashed)
    if ready and server.poll() is None:
        under_way = partial(requests_under_way, plan.admission_file)
        drain(plan.drain_file, lambda: group_members(server.pid), plan.drain_s, under_way)
    # asked to end, a server whose model has no process any more waits for it without end
    status = _stop(server, 0 if models.crashed else plan.grace_s)
    # a server that ended by itself has its log in the scratch folder: the caller reads it, then removes the folder
    sweep(server.pid, plan.shm_prefix, None if by_itself else plan.scratch)
    return status if status >= 0 else SIGNALLED - status


class ModelWatch:
    """The processes of a ready server's models, and whether one of them has crashed."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.crashed: list[int] = []
        self._suspects: list[int] = []
        self._polls = 0

    def have_crashed(self) -> bool:
        """Look at the processes now and then; return True once one was dead twice in a row (`crashed` has its id)."""
        self._polls += 1
        if self._polls % POLLS_A_CHECK == 0:
            now = dead(self.pids)
            self.crashed = [pid for pid in now if pid in self._suspects]
            self._suspects = now
        return bool(self.crashed)


def _note(log: str, line: str) -> None:
    """Add a line to the server's log; a full disk must not keep the supervisor from its work."""
    with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when this supervisor dies (runs in the child, before exec)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(server: subprocess.Popen[bytes], grace_s: float) -> int:
    """Ask the server to end, insist after `grace_s`; return its status."""
    if server.poll() is None:
        server.terminate()
        try:
            return server.wait(grace_s)
        except subprocess.TimeoutExpired:
            server.kill()
    return server.wait()


def sweep(group: int, shm_prefix: str, scratch: str | None, patience_s: float = 5.0) -> list[int]:
    """End the remaining processes of the group, remove its shared memory and scratch folder (None: leave it).

    Returned are the ids of processes still there after `patience_s` seconds (none, unless the kernel holds one up).
    """
    until = time.monotonic() + patience_s
    left = group_members(group)
    while left and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
        left = group_members(group)
    for region in shared_memory(shm_prefix):
        region.unlink(missing_ok=True)
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
    return left


def group_members(group: int) -> list[int]:
    """Return the living (not zombie) processes of a process group, from ``/proc``."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # the name of the process, in brackets, may hold blanks: count fields after it
            state, _parent, pgrp = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
        except (OSError, ValueError):
            continue
        if int(pgrp) == group and state not in "ZX":
            members.append(int(entry.name))
    return members


def shared_memory(prefix: str) -> list[Path]:
    """Return the shared-memory files whose name begins with `prefix`."""
    if not prefix:
        raise ValueError("an empty prefix would match everybody's shared memory")
    return sorted(SHARED_MEMORY.glob(f"{prefix}*"))


if __name__ == "__main__":
    sys.exit(main())
