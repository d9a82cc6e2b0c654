"""Find a Python model whose process has died under a server that lives on.

Triton 2.51 neither starts such a process again nor says that it is not ready: every request that reaches the dead
instance fails with ``Stub process ... is not healthy``, for good, while the model's other instances answer (fixed in
2.65 as far as readiness goes). So a dead process counts as a dead server. The server never reaps it, hence the sign: it
stays a zombie. A process that ends because its model is unloaded is reaped at once.

Only the standard library is imported: this runs in the small supervisor and in the container's probe.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
SERVER: Final = "tritonserver"
STUB: Final = "triton_python_backend_stub"
COMM_LENGTH: Final = 15
"""Characters of a process's name that the kernel keeps."""


def model_processes(server: int) -> list[int]:
    """Return the process ids of a server's Python models, dead ones included."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            name, _state, parent = _status(int(entry.name))
            if name == STUB[:COMM_LENGTH] and parent == server:
                found.append(int(entry.name))
    return sorted(found)


def dead(pids: list[int]) -> list[int]:
    """Return those of the processes that have died and were not reaped."""
    return [pid for pid in pids if _status(pid)[1] == "Z"]


def dead_in_container(server: int = 1) -> list[int]:
    """Return the dead model processes of the server that a container runs as its first process; none elsewhere."""
    return dead(model_processes(server)) if _status(server)[0] == SERVER else []


def _status(pid: int) -> tuple[str, str, int]:
    """Return name, state and parent of a process; empty and 0 where it is gone."""
    with contextlib.suppress(OSError, ValueError):
        text = (PROC / str(pid) / "stat").read_text()
        name, rest = text.split("(", 1)[1].rsplit(")", 1)
        state, parent = rest.split()[:2]
        return name, state, int(parent)
    return "", "", 0
