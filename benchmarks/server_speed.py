"""Evaluations per second through the server against ONNX Runtime in this process on the same graph, in one run.

    python -m benchmarks.server_speed

The opponent is the best this machine can do with the same weights: one session, all cores, full batches, no transport.
Rounds alternate, and the ratio of each pair is what counts; these machines are noisy.
"""

from __future__ import annotations

import json
import os
import time

import numpy as np
import onnxruntime
from cytoserve_client import Client
from cytoserve_deploy.local_server import LocalServer
from cytoserve_deploy.repository import find_repository

CELLS, ROUNDS, ROWS = 16, 5, 256


def direct(session: onnxruntime.InferenceSession, rows: int) -> float:
    """Return evaluations per second of the graph in process."""
    rng = np.random.default_rng(0)
    shape = session.get_inputs()[0].shape[1:]
    began = time.monotonic()
    for start in range(0, rows, ROWS):
        count = min(ROWS, rows - start)
        session.run(
            None,
            {
                "LATENT": rng.standard_normal((count, *shape)).astype(np.float32),
                "PROBE": np.zeros((count, 1), np.int32),
                "CLASS": np.zeros((count, 1), np.int32),
            },
        )
    return rows / (time.monotonic() - began)


def main() -> None:
    """Run from the command line."""
    rng = np.random.default_rng(1)
    cells = [rng.integers(0, 256, (160, 160, 3), dtype=np.uint8) for _ in range(CELLS)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    path = find_repository() / "denoiser" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), options)
    pairs = []
    with LocalServer() as server, Client(server.grpc_url, timeout=300) as client:
        for round_number in range(ROUNDS + 1):
            began = time.monotonic()
            answer = client.classify(cells, 0.18)
            served = sum(cell.evaluations or 0 for cell in answer.cells)
            through = served / (time.monotonic() - began)
            alone = direct(session, served)
            if round_number:  # the first is a warm-up
                pairs.append((through, alone, through / alone))
    low, middle, high = np.percentile([pair[2] for pair in pairs], [0, 50, 100])
    print(
        json.dumps(
            {
                "evaluations_per_second_through_server": [round(p[0], 1) for p in pairs],
                "evaluations_per_second_in_process": [round(p[1], 1) for p in pairs],
                "ratio_min_median_max": [round(float(x), 3) for x in (low, middle, high)],
                "cells_per_call": CELLS,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
