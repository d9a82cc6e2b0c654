"""100,000 real cells at 70 % of capacity on one server: do memory, files, shared memory and latency stay flat?

    python -m benchmarks.replay ../shared/data/pbc/val --out docs/results/replay.json

Arrivals are drawn beforehand (a Poisson process, requests of one to eight cells) and wait for nobody; latency counts
from the planned arrival. Capacity is measured first, in a closed loop of the same requests. Each answer is compared
with the one that the cell got from the idle server. Flat is what the robust slope of `benchmarks.trend` calls so: for
memory no more than `TOLERATED` bytes a request, for the rest a 95 % interval that does not lie above zero, or a growth
over the whole run of less than `SMALL` of the value.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_client import CellAnswer, Client, EncodedImage, errors
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL

from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights
from benchmarks.server_state import ServerState, state_of
from benchmarks.soak import WrongAnswer, substance
from benchmarks.trend import TOLERATED, Trend

CELLS: Final = 100_000
EACH: Final = 40
SIZES: Final = (1, 2, 4, 8)
SHARE: Final = 0.7
SEED: Final = 21
CAPACITY_S: Final = 20.0
CALLERS: Final = 64
DEADLINE_S: Final = 30.0
WINDOWS: Final = 60
"""Parts of the run; each has one reading of the server and one p99."""

SMALL: Final = 0.02


@dataclass
class Replay:
    """The requests of a run and what came of them.

    Attributes
    ----------
    client : Client
    known : dict of str to CellAnswer
        The idle server's answers, by image.
    seconds : list of (float, float)
        Planned arrival after the beginning, and latency, of each request that was answered.
    outcomes : Counter of str
        Of requests.
    """

    client: Client
    images: list[EncodedImage]
    known: dict[str, CellAnswer]
    seconds: list[tuple[float, float]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, chosen: Sequence[int]) -> None:
        """Send one request and hold its answers against the idle server's.

        Raises
        ------
        WrongAnswer
            Another answer, or none for an image.
        """
        images = [self.images[i] for i in chosen]
        result = self.client.classify(images, PBC_UM_PER_PIXEL, one_sample=False)
        if len(result.cells) != len(images):
            raise WrongAnswer(f"{len(images)} images, {len(result.cells)} answers: {result.failures[:1]}")
        for image, cell in zip(images, result.cells, strict=True):
            if cell.source != image.name or substance(cell) != substance(self.known[image.name]):
                raise WrongAnswer(f"another answer than before for {image.name}: {cell.label}, {cell.decision}")

    def arrived(self, began: float, at: float, chosen: Sequence[int]) -> None:
        """Send a request of the plan and note what came of it."""
        try:
            self.send(chosen)
            outcome = "answered"
        except errors.CytoserveClientError as error:
            outcome = error.code
        except WrongAnswer as error:
            outcome = "wrong or lost"
            with self._lock:
                self.wrong.append(str(error))
        took = time.monotonic() - began - at
        with self._lock:
            self.outcomes[outcome] += 1
            if outcome == "answered":
                self.seconds.append((at, took))


def capacity(replay: Replay, seconds: float, draw: random.Random) -> float:
    """Return the requests a second of a closed loop of four callers."""
    until, done = time.monotonic() + seconds, Counter[int]()

    def loop(number: int) -> None:
        own = random.Random(draw.random())
        while time.monotonic() < until:
            replay.send(picked(own, len(replay.images)))
            done[number] += 1

    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(loop, range(4)))
    return sum(done.values()) / (time.monotonic() - began)


def picked(draw: random.Random, images: int) -> list[int]:
    """Return the images of one request."""
    return draw.sample(range(images), draw.choice(SIZES))


def planned(rate: float, cells: int, images: int, draw: random.Random) -> list[tuple[float, list[int]]]:
    """Return moments and images of all requests."""
    at, left, plan = 0.0, cells, []
    while left > 0:
        at += draw.expovariate(rate)
        plan.append((at, picked(draw, images)))
        left -= len(plan[-1][1])
    return plan


def replayed(server: LocalServer, replay: Replay, plan: list[tuple[float, list[int]]]) -> list[tuple[int, ServerState]]:
    """Send everything at its moment; return requests so far and the server's state, once a window."""
    states, began, length = list[tuple[int, ServerState]](), time.monotonic(), plan[-1][0]
    with ThreadPoolExecutor(CALLERS) as pool:
        for number, (at, chosen) in enumerate(plan):
            if at >= len(states) * length / WINDOWS:
                states.append((number, state_of(server)))
                print(f"{number} of {len(plan)} requests, {dict(replay.outcomes)}", file=sys.stderr)
            time.sleep(max(0.0, began + at - time.monotonic()))
            pool.submit(replay.arrived, began, at, chosen)
    states.append((len(plan), state_of(server)))
    return states


def latencies(seconds: Sequence[tuple[float, float]], length: float) -> list[dict[str, float]]:
    """Return median and p99 of each window."""
    ordered = sorted(seconds)
    out = []
    for window in range(WINDOWS):
        low, high = window * length / WINDOWS, (window + 1) * length / WINDOWS
        own = [took for at, took in ordered if low <= at < high]
        out.append({"p50": round(float(np.median(own)), 4), "p99": round(float(np.percentile(own, 99)), 4)})
    return out


def flat(x: Sequence[float], values: Sequence[float], tolerated: float = 0.0) -> dict[str, Any]:
    """Return the slope of something over the requests, its growth over the run as a share, and whether it is flat."""
    found = Trend.of(x, values)
    level = float(np.median(values))
    grown = found.slope * (x[-1] - x[0]) / level if level else 0.0
    return {
        "first": values[0],
        "last": values[-1],
        "slope_per_request": found.slope,
        "interval": [found.low, found.high],
        "grown_share": round(grown, 4),
        "flat": not found.is_leak(tolerated) or abs(grown) < SMALL,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Replay the cells on a server of its own."""
    draw = random.Random(SEED)
    images = [EncodedImage(f"cell {i}", file.read_bytes()) for i, file in enumerate(_data(args).files)]
    with LocalServer() as server, Client(server.grpc_url, timeout=DEADLINE_S) as client:
        idle = client.classify(images, PBC_UM_PER_PIXEL, one_sample=False)
        replay = Replay(client, images, {cell.source: cell for cell in idle.cells})
        able = capacity(replay, CAPACITY_S, draw)
        plan = planned(SHARE * able, args.cells, len(images), draw)
        began = time.monotonic()
        states = replayed(server, replay, plan)
        worked = time.monotonic() - began
    requests = [float(number) for number, _ in states]
    windows = latencies(replay.seconds, plan[-1][0])
    ends = [float(len(plan) * (window + 1) / WINDOWS) for window in range(WINDOWS)]

    def held(name: str, tolerated: float = 0.0) -> dict[str, Any]:
        return flat(requests, [float(getattr(state, name)) for _, state in states], tolerated)

    return {
        "cells": sum(len(chosen) for _, chosen in plan),
        "requests": len(plan),
        "different_cells": len(images),
        "seconds": round(worked),
        "capacity_requests_per_s": round(able, 2),
        "share_of_capacity": SHARE,
        "outcomes": dict(replay.outcomes.most_common()),
        "wrong": replay.wrong[:5],
        "tolerated_bytes_per_request": TOLERATED,
        "memory": held("memory", TOLERATED),
        "files": held("files"),
        "threads": held("threads"),
        "shared_bytes": held("shared_bytes"),
        "p50": flat(ends, [one["p50"] for one in windows]),
        "p99": flat(ends, [one["p99"] for one in windows]),
    }


def _data(args: argparse.Namespace) -> DataRead:
    return DataRead.by_class(args.folder, EACH)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/pbc/val"))
    parser.add_argument("--cells", type=int, default=CELLS)


BENCHMARK = Benchmark(
    __doc__,
    add_arguments,
    lambda args: Inputs(served_weights(), (_data(args),), {"arrivals": SEED}),
    measure,
)

if __name__ == "__main__":
    run(BENCHMARK)
