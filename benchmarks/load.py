"""The server under the load of a hospital: a stat cell while the queue is full, twice the capacity, 64 callers at 80 %.

    python -m benchmarks.load ../shared/data/pbc/val --out docs/results/load.json

One server, one shape of load after the other (``tests/load``, which has the shapes and the sender). Arrivals are drawn
beforehand and do not wait for answers; latency counts from the arrival. Capacities are measured once, in closed loops.
An hour's arrivals are not waited for: a stretch of them is run, as long as the result says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_contract.models import DENOISER
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.repository import find_repository
from tritonclient import grpc

from benchmarks.results import ROOT, Benchmark, DataRead, Inputs, run, served_weights

TESTS: Final = ROOT / "tests" / "load"
EACH: Final = 4
"""Cells of each class that the sender reads."""

SEED: Final = 7
DEADLINES: Final = {"idle": 30.0, "full": 30.0, "overload": 10.0, "mixed": 60.0}
"""Seconds that every request has, by shape, in the order of the runs."""

SHARES: Final = {"idle": 0.15, "full": 0.2, "overload": 0.25, "mixed": 0.4}
"""Part of the whole duration that each shape gets."""

DENOISER_RUNS: Final = 7


def rows_per_call(repository: Path) -> int:
    """Return the rows of one call of the denoiser by a scorer, from its configuration."""
    words = (repository / "scorer" / "config.pbtxt").read_text(encoding="utf-8").split('key: "rows_per_call"')[1]
    return int(words.split('string_value: "')[1].split('"')[0])


def denoiser_batch_s(url: str, rows: int) -> float:
    """Return the median seconds of one batch of the denoiser on the idle server."""
    latent, probe = (spec.name for spec in DENOISER.inputs)
    with grpc.InferenceServerClient(url) as triton:
        shapes = {entry.name: [rows, *entry.shape[1:]] for entry in triton.get_model_metadata(DENOISER.name).inputs}
        inputs = [
            grpc.InferInput(latent, shapes[latent], "FP32").set_data_from_numpy(np.zeros(shapes[latent], np.float32)),
            grpc.InferInput(probe, shapes[probe], "INT32").set_data_from_numpy(np.zeros(shapes[probe], np.int32)),
        ]
        seconds = []
        for _ in range(DENOISER_RUNS):
            began = time.monotonic()
            triton.infer(DENOISER.name, inputs)
            seconds.append(time.monotonic() - began)
    return float(np.median(seconds))


def put(shape: str, seconds: float, server: LocalServer, capacity: Mapping[str, float], data: Path) -> dict[str, Any]:
    """Put one shape on the server; return the sender's report.

    Raises
    ------
    SystemExit
        The sender wrote none.
    """
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, str(TESTS / "run.py"), "--shape", shape, "--seconds", f"{seconds:g}", "--out", out]
        words += ["--url", server.grpc_url, "--metrics-url", server.metrics_url, "--server-pid", str(server.pid)]
        words += ["--deadline", f"{DEADLINES[shape]:g}", "--seed", str(SEED)]
        for stream, rate in capacity.items():
            words += ["--capacity", f"{stream}={rate}"]
        environment = {**os.environ, "CYTOSERVE_DATA": str(data.resolve().parents[1])}
        subprocess.run(words, cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
        report = Path(out) / "report.json"
        if not report.exists():
            raise SystemExit(f"the load '{shape}' was not run to its end")
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def stat_lane(idle: Mapping[str, Any], full: Mapping[str, Any], batch_s: float) -> dict[str, Any]:
    """Return the latency of stat cells on the idle server and while routine fills the queue, and what it may be."""
    quiet, busy = idle["streams"]["stat cell"], full["streams"]["stat cell"]
    return {
        "idle": quiet["seconds"],
        "idle_requests": quiet["answered"],
        "denoiser_batch_s": round(batch_s, 4),
        "limit_s": round(2 * quiet["seconds"]["p95"] + batch_s, 4),
        "full": busy["seconds"],
        "full_requests": busy["answered"],
        "not_answered": busy["sent"] - busy["answered"],
        "routine": full["streams"]["routine cells"]["seconds"],
        "routine_refused": full["streams"]["routine cells"]["refused"],
    }


def overload(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what became of requests at twice the capacity, the memory, and the time to recover."""
    everything = report["streams"]["all"]
    memory = [one["mib"] for one in report["readings"] if one["mib"]]
    third = max(1, len(memory) // 3)
    return {
        **{key: everything[key] for key in ("sent", "answered", "refused", "late", "failed")},
        "deadline_s": DEADLINES["overload"],
        "seconds": everything["seconds"],
        "seconds_to_refusal": everything["seconds_to_refusal"],
        "memory_mib_first_third": round(float(np.median(memory[:third])), 1),
        "memory_mib_last_third": round(float(np.median(memory[-third:])), 1),
        "recovery_s": report["recovery_s"],
    }


def mixed(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the latencies of 64 callers at 80 % of capacity."""
    one = report["streams"]["all"]
    ratio = one["seconds"]["p99"] / one["seconds"]["p50"]
    return {
        **{key: one[key] for key in ("sent", "answered", "refused", "late", "failed")},
        "callers": report["callers"],
        "seconds": one["seconds"],
        "p99_over_p50": round(ratio, 2),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all shapes on one server."""
    repository, busy = find_repository(), os.getloadavg()[0]
    reports: dict[str, dict[str, Any]] = {}
    capacity: dict[str, float] = {}
    with LocalServer() as server:
        batch = denoiser_batch_s(server.grpc_url, rows_per_call(repository))
        for shape, share in SHARES.items():
            reports[shape] = put(shape, share * args.seconds, server, capacity, args.folder)
            capacity |= reports[shape]["capacity"]
        witness = _witness(server, args.folder)
    return {
        "seconds": {shape: share * args.seconds for shape, share in SHARES.items()},
        "load_average_before": round(busy, 1),
        "capacity_requests_per_s": {name: round(rate, 2) for name, rate in capacity.items()},
        "stat": stat_lane(reports["idle"], reports["full"], batch),
        "overload": overload(reports["overload"]),
        "mixed": mixed(reports["mixed"]),
        "witness": witness,
    }


def _witness(server: LocalServer, data: Path) -> dict[str, Any]:
    """Return the closed loop by ours, by Triton's counters and by perf_analyzer."""
    words = [sys.executable, str(TESTS / "load_witness.py"), "--seconds", "12", "--url", server.grpc_url]
    words += ["--metrics-url", server.metrics_url]
    environment = {**os.environ, "CYTOSERVE_DATA": str(data.resolve().parents[1])}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("folder", type=Path, help="pbc/val: real cells, the first of each class")
    parser.add_argument("--seconds", type=float, default=240.0, help="of all loads together")


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights, cells and the seed of the arrivals."""
    return Inputs(served_weights(), (DataRead.by_class(args.folder, EACH),), {"arrivals": SEED})


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
