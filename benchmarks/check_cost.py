"""What the check of familiar pictures costs, beside the server's time a cell.

    python -m benchmarks.check_cost ../shared/data/pbc/test --out docs/results/check_cost.json

The server classifies the cells, two requests at a time; then the check does its work on the same cells in this process.
Crop and lamp are not counted: the classification needs them too. The check runs on one core and the server on all of
them, both by the clock, so this says too much rather than too little.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_scoring.classifier.familiarity import FamiliarPictures
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.crops import background_level, resample
from cytoserve_scoring.vision.image_statistics import image_statistics
from cytoserve_scoring.vision.imaging import decode_picture

from benchmarks.results import REPOSITORY, Benchmark, DataRead, Inputs, run, served_weights

EACH: Final = 32
"""Cells of each class."""
ROUNDS: Final = 5
"""Times that either side is measured; the median counts."""


def server_ms(files: list[Path]) -> list[float]:
    """Return the server's time a cell of each round, milliseconds; a first round is not counted."""
    images = [file.read_bytes() for file in files]
    times = []
    with LocalServer() as server, Client(server.grpc_url, timeout=300, cells_per_request=16, max_in_flight=2) as client:
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            client.classify(images, PBC_UM_PER_PIXEL, one_sample=False)
            times.append(1e3 * (time.perf_counter() - began) / len(images))
    return times[1:]


def check_ms(files: list[Path]) -> list[float]:
    """Return the check's time a cell of each round, milliseconds."""
    scoring = json.loads((REPOSITORY / "scorer" / "1" / "scoring.json").read_text(encoding="utf-8"))
    familiar = FamiliarPictures.from_json(scoring["familiar"])
    cells = []
    for file in files:
        pixels = decode_picture(file.read_bytes()).pixels
        center = (pixels.shape[1] / 2, pixels.shape[0] / 2)
        cells.append((pixels, center, resample(pixels, center, PBC_UM_PER_PIXEL)[0], background_level(pixels)))
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for pixels, center, crop, lamp in cells:
            familiar.assess(image_statistics(pixels, center, PBC_UM_PER_PIXEL, crop, lamp)[None])
        times.append(1e3 * (time.perf_counter() - began) / len(cells))
    return times


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/pbc/test"))


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights and cells."""
    return Inputs(served_weights(), (DataRead.by_class(args.folder, EACH),))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides on the same cells."""
    files = list(DataRead.by_class(args.folder, EACH).files)
    server, check = server_ms(files), check_ms(files)
    return {
        "cells": len(files),
        "server_ms": [round(value, 2) for value in server],
        "check_ms": [round(value, 3) for value in check],
        "share": round(float(np.median(check) / np.median(server)), 4),
    }


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
