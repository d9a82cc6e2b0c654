"""The weights that were served before, as opponent: the same cells through the same server, in one run.

    python -m benchmarks.previous ../shared/data/pbc/val --out docs/results/previous.json

The previous denoiser was told one class an evaluation and dropped classes as the race went on; the present one answers
all classes at once. Its graphs and its scoring are taken from this repository's history by commit, so a clone with its
history is needed; scorer, server and client are today's. Two servers stand side by side and take turns. Evaluations are
counted by Triton at the denoiser.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_client import CellsAnalysis, Client
from cytoserve_contract import manifest
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.repository import find_repository
from cytoserve_export.refresh import refresh

from benchmarks.results import ROOT, on_first_cells, run
from benchmarks.server_speed import counted

COMMIT: Final = "d4c98e9dfb4d808e16c9934dfa48305d1ac4496b"
"""Last commit with the previous weights."""
WEIGHTS: Final = "9db379dd7f8371d0e27ad20f58c4f67f68d488f84cb37667737e65eaeddd748b"
"""SHA-256 of those weights, as their manifest has it."""
TAKEN: Final = (
    "model_repository/encoder",
    "model_repository/denoiser",
    "model_repository/scorer/1/scoring.json",
    "model_repository/service_info/1/service.json",
    "model_repository/manifest.json",
)
"""What of that commit makes a repository of the previous weights out of today's."""


def previous_repository(folder: Path) -> Path:
    """Make the repository of the previous weights below ``folder`` and return it.

    Raises
    ------
    SystemExit
        This checkout has no history, or the weights in it are not those that are named here.
    """
    shutil.copytree(find_repository(), folder / "model_repository", ignore=shutil.ignore_patterns("__pycache__"))
    packed = subprocess.run(["git", "archive", COMMIT, *TAKEN], cwd=ROOT, check=False, capture_output=True)
    if packed.returncode:
        raise SystemExit(f"commit {COMMIT[:7]} is not in this checkout: clone it with its history")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(folder, filter="data")
    made = folder / "model_repository"
    refresh(made)
    found = json.loads((made / manifest.NAME).read_text(encoding="utf-8"))["provenance"]["weights_sha256"]
    if found != WEIGHTS:
        raise SystemExit(f"commit {COMMIT[:7]} holds the weights {found}, not {WEIGHTS}")
    return made


def right(answer: CellsAnalysis, files: list[Path]) -> int:
    """Return how many cells were given the name of their folder."""
    return sum(cell.label == file.parent.name for cell, file in zip(answer.cells, files, strict=True))


def compare(files: list[Path], rounds: int) -> dict[str, Any]:
    """Return both sides' speed, cost and accuracy, and the ratio of each pair of rounds."""
    with tempfile.TemporaryDirectory() as folder:
        repository = previous_repository(Path(folder))
        with (
            LocalServer() as server,
            LocalServer(model_repository=repository) as other,
            Client(server.grpc_url, timeout=600) as present,
            Client(other.grpc_url, timeout=600) as previous,
        ):
            sides = {"present": (present, server.grpc_url), "previous": (previous, other.grpc_url)}
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            found: dict[str, Any] = {}
            for turn in range(rounds + 1):
                for name, (client, url) in sides.items():
                    answer, rows, took = counted(client, url, files)
                    if turn:  # the first warms up
                        seconds[name].append(took)
                    found[name] = {
                        "weights_sha256": answer.model.weights_sha256,
                        "evaluations_per_cell": round(rows / len(files), 2),
                        "right": right(answer, files),
                    }
    ratios = np.array(seconds["previous"]) / np.array(seconds["present"])
    for name, row in found.items():
        row["cells_per_second"] = round(len(files) / float(np.median(seconds[name])), 2)
    return {
        "cells": len(files),
        "rounds": rounds,
        "previous_commit": COMMIT,
        **found,
        "speed_ratio_min_median_max": [round(float(value), 2) for value in np.percentile(ratios, [0, 50, 100])],
        "evaluations_ratio": round(
            found["previous"]["evaluations_per_cell"] / found["present"]["evaluations_per_cell"], 2
        ),
    }


BENCHMARK = on_first_cells(__doc__, lambda files, args: compare(files, args.rounds), each=16, rounds=3)

if __name__ == "__main__":
    run(BENCHMARK)
