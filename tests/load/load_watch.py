"""What the server does meanwhile: memory of its processes and requests that wait, read every second.

Memory is PSS (private pages, and shared ones divided by their users). Waiting requests are Triton's own gauge; against
a cluster there is neither, unless the address of the metrics is given.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psutil

EVERY_S = 1.0
WAITING = re.compile(r'^nv_inference_pending_request_count\{[^}]*model="(\w+)"[^}]*\} (\S+)', re.MULTILINE)
COUNTS = re.compile(
    r'^nv_inference_(request_success|request_duration_us)\{[^}]*model="(\w+)"[^}]*\} (\S+)', re.MULTILINE
)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def metrics(url: str) -> str:
    """Return the text of the server's metrics; no proxy is used."""
    with _DIRECT.open(url, timeout=5) as answer:
        return str(answer.read().decode())


def served(text: str) -> dict[str, tuple[float, float]]:
    """Return, by model, how many requests Triton answered and the seconds it spent on them since its start."""
    found: dict[str, dict[str, float]] = {}
    for what, model, value in COUNTS.findall(text):
        found.setdefault(model, {})[what] = float(value)
    return {
        model: (one.get("request_success", 0.0), one.get("request_duration_us", 0.0) / 1e6)
        for model, one in found.items()
    }


def waiting(text: str) -> dict[str, int]:
    """Return how many requests wait, by model."""
    return {model: int(float(value)) for model, value in WAITING.findall(text)}


def memory_mib(pid: int) -> float:
    """Return the memory of a process and its children, MiB."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 2**20


@dataclass
class Watch:
    """Readings of a server while the block lasts.

    Attributes
    ----------
    pid : int or None
        The server's process, where it is this machine's.
    metrics_url : str
        Empty: nothing is known of the queue.
    readings : list of dict
        ``at`` (seconds of the monotonic clock), ``mib``, ``waiting`` by model.
    """

    pid: int | None
    metrics_url: str = ""
    readings: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(10)

    def _read(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(OSError, psutil.Error):  # a reading that failed is missing in the plot
                reading = {
                    "at": time.monotonic(),
                    "mib": round(memory_mib(self.pid), 1) if self.pid else None,
                    "waiting": waiting(metrics(self.metrics_url)) if self.metrics_url else {},
                }
                self.readings.append(reading)
            self._end.wait(EVERY_S)

    def since(self, began: float) -> list[dict[str, Any]]:
        """Return the readings after a moment of the monotonic clock, counted from it."""
        return [{**one, "at": round(one["at"] - began, 2)} for one in self.readings if one["at"] >= began]


@contextmanager
def server(url: str | None, pid: int | None = None, metrics_url: str = "") -> Iterator[tuple[str, int | None, str]]:
    """Yield address, process and metrics of the server: the one given, or one of our own for as long as it lasts."""
    if url:
        yield url, pid, metrics_url
        return
    from cytoserve_deploy.launch.local_server import LocalServer

    with LocalServer() as local:
        yield local.grpc_url, local.pid, local.metrics_url
