"""What a running server holds: open files, threads, memory, shared memory; summed over its processes."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.supervisor import group_members, shared_memory

PROC: Final = Path("/proc")
_PSS: Final = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class ServerState:
    """What the processes of one server hold together.

    Attributes
    ----------
    processes, files, threads : int
        Living processes, their open file descriptors, their threads.
    memory : int
        Proportional set size without files, bytes: a page that several processes share counts once. Pages of files
        (libraries) are left out: their share falls and rises with what else runs on the machine.
    shared_files, shared_bytes : int
        The server's files in ``/dev/shm``, and the space they take.
    """

    processes: int
    files: int
    threads: int
    memory: int
    shared_files: int
    shared_bytes: int

    def more_than(self, before: ServerState, threads: int = 0, files: int = 0) -> dict[str, tuple[int, int]]:
        """Return what is held now beyond what was held before, as (before, now).

        Memory is left out: allocators keep some (`benchmarks.soak` measures its trend). So is the size of the shared
        memory, which Triton's Python backend enlarges and never gives back. ``threads`` and ``files`` more are
        allowed.
        """
        then, now = asdict(before), asdict(self)
        then["threads"] += threads
        then["files"] += files
        return {
            name: (then[name], now[name])
            for name in ("processes", "files", "threads", "shared_files")
            if now[name] > then[name]
        }


def state_of(server: LocalServer) -> ServerState:
    """Return what a running server holds."""
    pids = group_members(server.pid)
    regions = shared_memory(server.layout.shm_prefix)
    return ServerState(
        processes=len(pids),
        files=sum(_entries(pid, "fd") for pid in pids),
        threads=sum(_entries(pid, "task") for pid in pids),
        memory=sum(_memory(pid) for pid in pids),
        shared_files=len(regions),
        shared_bytes=sum(_blocks(region) for region in regions),
    )


def released(server: LocalServer, before: ServerState, seconds: float = 10.0, threads: int = 0, files: int = 0) -> None:
    """Wait until a server holds no more than before.

    Raises
    ------
    AssertionError
        It still does after ``seconds``; the message names what.
    """
    lasting = wait_for(lambda: not state_of(server).more_than(before, threads, files), seconds)
    more = state_of(server).more_than(before, threads, files)
    if not lasting and more:
        raise AssertionError(f"still held, as (before, now): {more}")


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether a condition comes true within some seconds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _entries(pid: int, what: str) -> int:
    with contextlib.suppress(OSError):
        return sum(1 for _ in (PROC / str(pid) / what).iterdir())
    return 0


def _memory(pid: int) -> int:
    with contextlib.suppress(OSError):
        return 1024 * sum(map(int, _PSS.findall((PROC / str(pid) / "smaps_rollup").read_text())))
    return 0


def _blocks(file: Path) -> int:
    with contextlib.suppress(OSError):
        return 512 * file.stat().st_blocks
    return 0
