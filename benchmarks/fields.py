"""Real fields through the whole ensemble: failures, seconds per field, cells found, the server's memory.

    python -m benchmarks.fields ../shared/data/smears/bccd/images ../shared/data/smears/txl/train/images:300 \
        --out docs/results/fields.json

``FOLDER:N`` takes the first N files by name. Fields travel one after another, so seconds are latencies.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from rich.console import Console
from rich.progress import track

from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights

SETTLED = 50
"""Fields after which memory is first read: until then arenas and caches fill."""


def resident_mib(pid: int) -> float:
    """Return the memory of a process and its children, MiB: private pages, and shared ones divided by their users."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def files_of(argument: str) -> list[Path]:
    """Read ``FOLDER`` or ``FOLDER:N``."""
    folder, _, count = argument.partition(":")
    return sorted(Path(folder).iterdir())[: int(count) if count else None]


def send(files: list[Path], server: LocalServer) -> dict[str, Any]:
    """Send every field and return the figures."""
    seconds, kinds, failures, memory, white = [], {"white_cell": 0, "red_cell": 0, "platelet": 0}, [], [], []
    assert server.pid is not None
    with Client(server.grpc_url, timeout=60) as client:
        client.analyze([files[0]])
        for index, file in enumerate(track(files, "fields", console=Console(stderr=True))):
            began = time.monotonic()
            analysis = client.analyze([file])
            seconds.append(time.monotonic() - began)
            failures += [failure.model_dump() for failure in analysis.failures]
            for field in analysis.fields:
                for cell in field.cells:
                    kinds[cell.kind or "white_cell"] += 1
                white.append(sum(cell.kind == "white_cell" for cell in field.cells))
            if index % 25 == 0:
                memory.append((index, resident_mib(server.pid)))
    late = [(i, m) for i, m in memory if i >= SETTLED]
    at, used = np.array(late or [(0, 0.0)]).T
    slope = float(np.polyfit(at, used, 1)[0]) if len(late) > 2 else None
    single = [s for s, n in zip(seconds, white, strict=True) if n == 1]
    return {
        "fields": len(files),
        "failures": failures,
        "cells_found": kinds,
        "seconds_per_field_median": round(float(np.median(seconds)), 3),
        "seconds_per_field_p95": round(float(np.percentile(seconds, 95)), 3),
        "seconds_per_field_with_one_white_cell_median": round(float(np.median(single)), 3) if single else None,
        "fields_per_second": round(len(files) / sum(seconds), 2),
        "memory_mib": [[i, round(m, 1)] for i, m in memory],
        "memory_slope_mib_per_field": None if slope is None else round(slope, 4),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("folders", nargs="+", help="FOLDER, or FOLDER:N for its first N files by name")


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights and fields."""
    return Inputs(served_weights(), tuple(DataRead.of(files[0].parent, files) for files in map(files_of, args.folders)))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Analyse every field on a local server of its own."""
    files = [file for argument in args.folders for file in files_of(argument)]
    began = time.monotonic()
    with LocalServer() as server:
        ready = time.monotonic() - began
        return {"ready_after_seconds": round(ready, 2), **send(files, server)}


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
