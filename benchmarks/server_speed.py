"""Evaluations per second through the server against ONNX Runtime in this process on the same graph, in one run.

    python -m benchmarks.server_speed ../shared/data/pbc/val --out docs/results/server_speed.json

The cells are real: the first of each class by name. The baseline is the best this machine can do with the same
weights: one session, all cores, its better batch size, the latents of the same cells, no transport. Rounds alternate,
and the ratio of each pair is what counts; these machines are noisy. Evaluations are counted by Triton at the denoiser;
where the answers report another number, the benchmark fails.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_client import CellsAnalysis, Client
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.repository import find_repository
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from tritonclient import grpc

from benchmarks.place import ServedGraphs
from benchmarks.results import on_first_cells, run

BATCHES = (64, 256)
"""Batch sizes tried for the baseline; the faster one counts."""


class Baseline:
    """The denoiser's graph in this process, fed with the latents of real cells."""

    def __init__(self, repository: Path, files: list[Path]) -> None:
        self.graphs = ServedGraphs(repository, len(os.sched_getaffinity(0)))
        self.latents = self.graphs.latents(files, PBC_UM_PER_PIXEL)

    def seconds(self, rows: int, batch: int) -> float:
        """Return the time of ``rows`` evaluations in batches."""
        cells = np.arange(rows) % len(self.latents)
        began = time.monotonic()
        for part in np.split(cells, range(batch, rows, batch)):
            numbers = np.zeros(len(part), np.int32)
            self.graphs.evaluate(self.latents[part], numbers, None if self.graphs.all_classes else numbers)
        return time.monotonic() - began

    def best_batch(self, rows: int) -> int:
        """Return the faster of `BATCHES`."""
        return min(BATCHES, key=lambda batch: self.seconds(rows, batch))


def received(url: str) -> int:
    """Return the rows that the denoiser has received since the server's start, by Triton's own counter."""
    with grpc.InferenceServerClient(url) as triton:
        return int(triton.get_inference_statistics("denoiser").model_stats[0].inference_count)


def counted(client: Client, url: str, files: list[Path]) -> tuple[CellsAnalysis, int, float]:
    """Classify the cells; return the answer, the evaluations and the seconds it took.

    Raises
    ------
    SystemExit
        The answers report another number of evaluations than the denoiser received.
    """
    before = received(url)
    began = time.monotonic()
    answer = client.classify(files, PBC_UM_PER_PIXEL, one_sample=False)
    seconds = time.monotonic() - began
    rows, reported = received(url) - before, sum(cell.evaluations or 0 for cell in answer.cells)
    if rows != reported:
        raise SystemExit(f"the denoiser received {rows} rows, the answers report {reported}")
    return answer, rows, seconds


def compare(files: list[Path], rounds: int) -> dict[str, Any]:
    """Return both speeds, round by round, and their ratio."""
    repository = find_repository()
    baseline = Baseline(repository, files)
    through, alone = [], []
    with LocalServer() as server, Client(server.grpc_url, timeout=300) as client:
        answer, rows, _ = counted(client, server.grpc_url, files)  # warms both up, and chooses the batch
        batch = baseline.best_batch(rows)
        for _ in range(rounds):
            _, rows, seconds = counted(client, server.grpc_url, files)
            through.append(rows / seconds)
            alone.append(rows / baseline.seconds(rows, batch))
    low, middle, high = np.percentile(np.array(through) / alone, [0, 50, 100])
    return {
        "cells": len(files),
        "weights_sha256": answer.model.weights_sha256,
        "evaluations_per_cell": round(rows / len(files), 2),
        "cells_per_second_through_server": round(float(np.median(through)) * len(files) / rows, 2),
        "evaluations_per_second_through_server": [round(x, 1) for x in through],
        "evaluations_per_second_in_process": [round(x, 1) for x in alone],
        "baseline_batch": batch,
        "ratio_min_median_max": [round(float(x), 3) for x in (low, middle, high)],
    }


BENCHMARK = on_first_cells(__doc__, lambda files, args: compare(files, args.rounds), each=8, rounds=5)

if __name__ == "__main__":
    run(BENCHMARK)
