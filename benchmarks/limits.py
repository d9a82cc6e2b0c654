"""How near the running server comes to what this machine could do: each figure a ratio of one run.

    python -m benchmarks.limits ../shared/data/pbc/val --fields ../shared/data/smears/bccd/images \
        --out docs/results/limits.json

The *limit* of E evaluations is their time in ONNX Runtime in this process, with one encoding a cell, at the fastest
batch and on all cores: nothing is decoded, cut, judged or sent. *The same work* is the code of the models in this
process, one step after another, without server and transport. Server and opponent take turns; the ratio of each pair
counts. The caller's own processor time is measured and given beside the ratios, for both share the cores. Evaluations
are counted by Triton at the denoiser; where the answers report another number, the benchmark fails.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL

from benchmarks.fields import resident_mib
from benchmarks.in_process import InProcess, timed
from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights
from benchmarks.server_speed import counted

FILM: Final = 200
"""White cells of an ordinary differential count."""
CALLERS: Final = 8
LARGE, SMALL = 512, 10
"""Cells in a large and in a small request; the service takes 512 at most."""
ALONE: Final = 12
"""Cells that are sent one by one to an idle server in each round."""
PART: Final = 500
"""Cells of one call while memory is watched."""

Files = list[Path]


class Callers:
    """The real client in the ways that are measured.

    Parameters
    ----------
    url : str
        gRPC address of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._open = ExitStack()
        self.usual = self._client()
        self.sized = {size: self._client(cells_per_request=size, max_in_flight=1) for size in (LARGE, SMALL, CALLERS)}

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _client(self, **settings: Any) -> Client:
        return self._open.enter_context(Client(self.url, timeout=300, **settings))

    def classify(self, files: Files, client: Client | None = None) -> tuple[float, int]:
        """Return the seconds and the evaluations of cells; see `benchmarks.server_speed.counted`."""
        _, rows, seconds = counted(client or self.usual, self.url, files)
        return seconds, rows

    def one_each(self, files: Files) -> float:
        """Return the seconds in which `CALLERS` callers get an answer for one cell after another each, all at once."""

        def one_after_another(part: Files) -> None:
            for file in part:  # not counted: rows of callers at the same time cannot be told apart
                self.usual.classify([file], PBC_UM_PER_PIXEL, one_sample=False)

        with ThreadPoolExecutor(CALLERS) as pool:
            parts = [files[index::CALLERS] for index in range(CALLERS)]
            return timed(lambda: list(pool.map(one_after_another, parts)))[0]


def many(files: Files, count: int) -> Files:
    """Return that many files, some repeatedly where there are fewer."""
    return (files * -(-count // len(files)))[:count]


def spread(values: list[float]) -> dict[str, float]:
    """Return the median of some ratios with the least and the greatest."""
    low, middle, high = np.percentile(values, [0, 50, 100])
    return {"median": round(float(middle), 3), "least": round(float(low), 3), "greatest": round(float(high), 3)}


def cells(callers: Callers, alone: InProcess, files: Files, rounds: int) -> dict[str, Any]:
    """Return the ratios that cells give."""
    found: dict[str, list[float]] = defaultdict(list)
    film, single = many(files, FILM), files[:: max(1, len(files) // ALONE)][:ALONE]
    for _ in range(rounds):
        used = time.process_time()
        seconds, rows = callers.classify(film)
        found["caller"].append((time.process_time() - used) / seconds)
        found["seconds"].append(seconds)
        found["rows"].append(rows / FILM)
        found["film_to_limit"].append(seconds / alone.limit(FILM, rows))
        same = timed(lambda: alone.classified([file.read_bytes() for file in film]))[0]
        found["film_to_same_work"].append(seconds / same)
        # all of them before the opponent: its threads spin on for a while and would take a core from the server
        answered = [callers.classify([file]) for file in single]
        took = [(seconds, alone.limit(1, rows)) for seconds, rows in answered]
        found["single"].append(float(np.median([seconds for seconds, _ in took])))
        found["one_cell_to_limit"].append(float(np.median([seconds / limit for seconds, limit in took])))
        large, small = (
            callers.classify(many(files, count), callers.sized[size])[0] / count
            for size, count in ((LARGE, LARGE), (SMALL, 16 * SMALL))
        )
        found["large_to_small"].append(large / small)
        some = many(files, 8 * CALLERS)
        together = callers.classify(some, callers.sized[CALLERS])[0]
        found["one_each_to_together"].append(together / callers.one_each(some))
    plain = {name: float(np.median(found.pop(name))) for name in ("caller", "seconds", "rows", "single")}
    return {
        "film_seconds": round(plain["seconds"], 2),
        "cells_per_second": round(FILM / plain["seconds"], 1),
        "one_cell_seconds": round(plain["single"], 4),
        "evaluations_per_cell": round(plain["rows"], 2),
        "caller_processor_share": round(plain["caller"], 3),
        **{name: spread(values) for name, values in found.items()},
    }


def fields(callers: Callers, alone: InProcess, files: Files, rounds: int) -> dict[str, Any]:
    """Return what the way of a field through the server costs beside the same work in this process."""
    pictures = [file.read_bytes() for file in files]
    pairs = []
    for _ in range(rounds):
        seconds = timed(lambda: [callers.usual.analyze([file]) for file in files])[0]
        pairs.append(timed(lambda: [alone.analysed(picture) for picture in pictures])[0] / seconds)
    # a process of its own: the threads of ONNX Runtime spin on for a while after the opponent's work
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        own = process.submit(client_cost, callers.url, files, rounds).result()
    return {"fields": len(files), "fields_to_same_work": spread(pairs), "client_ms_per_field": spread(own)}


def client_cost(url: str, files: Files, rounds: int) -> list[float]:
    """Return, by round, the processor time that the client takes for a field, all threads of this process, ms."""
    found = []
    with Client(url, timeout=300) as client:
        client.analyze([files[0]])
        for _ in range(rounds):
            used = time.process_time()
            for file in files:
                client.analyze([file])
            found.append(1000 * (time.process_time() - used) / len(files))
    return found


def memory(callers: Callers, pid: int, files: Files, count: int) -> dict[str, Any]:
    """Return the server's memory after the first hundred cells and after many, MiB."""
    first = resident_mib(pid)
    for _ in range(0, count, PART):
        callers.classify(many(files, PART))
    last = resident_mib(pid)
    return {"memory_cells": count, "memory_mib": [round(first, 1), round(last, 1)], "memory_ratio": last / first}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("cells", type=Path, nargs="?", default=Path("../shared/data/pbc/val"))
    parser.add_argument("--each", type=int, default=25, help="cells of each class, the first by name")
    parser.add_argument("--fields", type=Path, default=Path("../shared/data/smears/bccd/images"))
    parser.add_argument("--most-fields", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-cells", type=int, default=10_000)


def sources(args: argparse.Namespace) -> tuple[DataRead, DataRead]:
    """Return the cells and the fields."""
    chosen = sorted(args.fields.iterdir())[: args.most_fields]
    return DataRead.by_class(args.cells, args.each), DataRead.of(args.fields, chosen)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every ratio on one server of its own."""
    single_cells, pictures = (list(source.files) for source in sources(args))
    alone = InProcess(single_cells)
    alone.analysed(pictures[0].read_bytes())
    began = time.monotonic()
    with LocalServer() as server, Callers(server.grpc_url) as callers:
        ready = time.monotonic() - began
        assert server.pid is not None
        callers.classify(many(single_cells, 100))
        callers.usual.analyze([pictures[0]])
        return {
            "ready_after_seconds": round(ready, 2),
            "baseline_batch": alone.batch,
            **memory(callers, server.pid, single_cells, args.memory_cells),
            **cells(callers, alone, single_cells, args.rounds),
            **fields(callers, alone, pictures, args.rounds),
        }


BENCHMARK = Benchmark(__doc__, add_arguments, lambda args: Inputs(served_weights(), sources(args)), measure)

if __name__ == "__main__":
    run(BENCHMARK)
