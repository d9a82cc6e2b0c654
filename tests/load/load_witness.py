"""The same closed loop measured by others: NVIDIA's ``perf_analyzer`` where it runs, and Triton's own counters.

    python tests/load/load_witness.py --seconds 20 --out out/witness.json

``pip install perf-analyzer==2.60.0`` needs glibc 2.38 (the version must be given: on an older system pip takes a
placeholder of that name, 0.1.0, in its stead). Without the program the two other witnesses are compared, and the result
says that it did not run.
"""

from __future__ import annotations

import argparse
import base64
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from load_caller import Caller, closed_loop
from load_inputs import Pictures, pictures
from load_samples import summary
from load_shapes import Stream
from load_target import Target
from load_watch import metrics, served, server
from load_wire import packed

STREAM: Final = Stream("closed loop", "cell_analysis", (8,))
CALLERS: Final = 4
WARM_S: Final = 3.0
PROGRAM: Final = "perf_analyzer"
NOT_RUN: Final = "not run: the program is not installed, or not for this system"


def input_data(found: Pictures, cells: int) -> dict[str, Any]:
    """Return one request as perf_analyzer reads it: BYTES as base64 of the tensor's bytes on the wire."""
    images = base64.b64encode(packed(found.some(cells, 0))).decode("ascii")
    scales = [found.um_of_cells] * cells
    return {
        "data": [
            {
                "IMAGE": {"content": {"b64": images}, "shape": [cells]},
                "UM_PER_PIXEL": {"content": scales, "shape": [cells]},
            }
        ]
    }


def command(program: str, address: str, data: Path, table: Path, requests: int) -> list[str]:
    """Return perf_analyzer's command for the closed loop of `CALLERS`."""
    return [
        *(program, "-m", STREAM.model, "-i", "grpc", "-u", address, "--input-data", str(data), "-f", str(table)),
        *("--concurrency-range", f"{CALLERS}:{CALLERS}", "--measurement-mode", "count_windows"),
        *("--measurement-request-count", str(requests), "--stability-percentage", "20", "--max-trials", "5"),
    ]


def read_table(table: Path) -> dict[str, float]:
    """Return requests a second and the median latency, seconds, of perf_analyzer's table."""
    with open(table, encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    return {
        "requests_per_s": round(float(row["Inferences/Second"]), 2),
        "p50": round(float(row["p50 latency"]) / 1e6, 4),
    }


def perf_analyzer(program: str | None, address: str, scratch: Path, requests: int) -> dict[str, Any]:
    """Run perf_analyzer; return its figures, or why there are none."""
    if program is None:
        return {"why": NOT_RUN}
    data, table = scratch / "input.json", scratch / "perf.csv"
    data.write_text(json.dumps(input_data(pictures(), STREAM.sizes[0])), encoding="utf-8")
    words = command(program, address, data, table, requests)
    done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode or not table.exists():
        said = (done.stderr or done.stdout).strip().splitlines()
        return {"why": f"not run: {said[0] if said else f'exit code {done.returncode}'}"[:300]}
    return read_table(table)


def compare(address: str, metrics_url: str, seconds: float, scratch: Path, program: str | None) -> dict[str, Any]:
    """Return the figures of the closed loop by ours, by Triton's counters and by perf_analyzer."""
    caller = Caller(Target(address), pictures(), deadline_s=60)
    try:
        closed_loop(caller, STREAM, WARM_S, CALLERS)
        before = served(metrics(metrics_url)).get(STREAM.model, (0.0, 0.0))
        samples = closed_loop(caller, STREAM, seconds, CALLERS)
        after = served(metrics(metrics_url))[STREAM.model]
    finally:
        caller.close()
    whole = max(one.at + one.seconds for one in samples)
    count = after[0] - before[0]
    ours = summary(samples)
    return {
        "callers": CALLERS,
        "cells_per_request": STREAM.sizes[0],
        "ours": {
            "requests": ours["answered"],
            "requests_per_s": round(ours["answered"] / whole, 2),
            "p50": ours["seconds"]["p50"],
            "mean": round(float(np.mean([one.seconds for one in samples])), 4),
        },
        "triton": {
            "requests": int(count),
            "requests_per_s": round(count / whole, 2),
            "mean": round((after[1] - before[1]) / max(count, 1), 4),
        },
        "perf_analyzer": perf_analyzer(program, address, scratch, max(20, len(samples))),
    }


def main() -> int:
    """Run from the command line."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--url", help="a server of this machine that runs already; its metrics are needed too")
    parser.add_argument("--metrics-url", default="")
    parser.add_argument("--perf-analyzer", default=shutil.which(PROGRAM), help="path of the program")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, server(chosen.url, None, chosen.metrics_url) as (address, _, url):
        found = compare(address, url, chosen.seconds, Path(scratch), chosen.perf_analyzer)
    print(json.dumps(found, indent=1))
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
