"""What is accepted at home, at external sites and of spoilt cells, with the check of familiar pictures and without.

    python -m benchmarks.away ../shared/data --out docs/results/away.json

Every cell goes through the real Triton with the model's own calibration. The check adds one reason for review and
changes nothing else, so "without" counts the cells that no other reason holds back. Each cell is judged by itself: what
the sample's test would add is in ``benchmarks.familiarity``. A cell is wrong if its label is not the name of its
folder; external sites lack some of the model's classes, which stay candidates.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_client import Client
from cytoserve_client.results import CellsAnalysis
from cytoserve_contract.reasons import Reason
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.imaging import decode_picture
from rich.console import Console
from rich.progress import track

from benchmarks.familiarity import EXTERNAL, SCALES, SEED, share, unlearned_files, ways
from benchmarks.intake import Pixels, png
from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights

HOME: Final = "pbc/test"
EACH: Final = 12
"""Cells of each class of the home test set that are spoilt in every way."""
CHANNELS: Final = ("channels swapped (BGR)", "inverted", "YCbCr read as RGB")
MANY: Final = 1000
"""Cells of the home test set that are spoilt in the ways of `CHANNELS`."""
AT_ONCE: Final = 256
"""Cells that are spoilt and sent in one call: bounds the memory."""


class Outcomes:
    """Counts of what became of cells."""

    def __init__(self) -> None:
        self.cells = self.unfamiliar = 0
        self.refused: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()

    def add(self, answer: CellsAnalysis, truth: Sequence[str]) -> None:
        """Count the answer about cells of these classes."""
        names = [cell.source for cell in answer.cells] + [failure.source for failure in answer.failures]
        of = dict(zip(sorted(names, key=_position), truth, strict=True))
        self.cells += len(truth)
        self.refused.update(failure.error for failure in answer.failures)
        for cell in answer.cells:
            strange = Reason.UNFAMILIAR_IMAGE.value in cell.reasons
            self.unfamiliar += strange
            if strange and cell.familiarity is not None:
                self.causes[cell.familiarity.cause] += 1
            for check, taken in (
                ("with", cell.decision == "accept"),
                ("without", cell.label is not None and set(cell.reasons) <= {Reason.UNFAMILIAR_IMAGE.value}),
            ):
                self.accepted[check] += taken
                self.wrong[check] += taken and cell.label != of[cell.source]

    def json(self) -> dict[str, Any]:
        """Return the counts with exact 95 % intervals."""
        return {
            "cells": self.cells,
            "refused": dict(self.refused),
            "unfamiliar": share(self.unfamiliar, self.cells),
            "usual_cause": self.causes.most_common(1)[0][0] if self.causes else None,
            **{
                check: {
                    "accepted": share(self.accepted[check], self.cells),
                    "wrong_of_all": share(self.wrong[check], self.cells),
                    "wrong_of_accepted": share(self.wrong[check], self.accepted[check]),
                }
                for check in ("with", "without")
            },
        }


def _position(source: str) -> int:
    """Return i of ``bytes[i]``."""
    return int(source.removeprefix("bytes[").removesuffix("]"))


def outcomes(
    client: Client,
    files: Sequence[Path],
    um_per_pixel: float | None,
    picture: Callable[[Path], bytes] = Path.read_bytes,
) -> dict[str, Any]:
    """Return what becomes of cells; ``picture`` makes what is sent of each file."""
    found = Outcomes()
    for start in range(0, len(files), AT_ONCE):
        part = files[start : start + AT_ONCE]
        answer = client.classify([picture(file) for file in part], um_per_pixel, one_sample=False)
        found.add(answer, [file.parent.name for file in part])
    return found.json()


def spoilt(client: Client, files: Sequence[Path], names: Sequence[str]) -> dict[str, Any]:
    """Return, by way of spoiling, what becomes of home cells."""
    known = ways()
    out = {}
    for name in track(names, "ways of spoiling", console=Console(stderr=True)):
        factor, change = known[name]
        out[name] = outcomes(client, files, PBC_UM_PER_PIXEL * factor, spoiling(change))
    return out


def spoiling(change: Callable[[Pixels], Pixels]) -> Callable[[Path], bytes]:
    """Return what makes the spoilt picture of a file, from its pixels as the service sees them."""
    return lambda file: png(change(decode_picture(file.read_bytes()).pixels))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights and cells."""
    cells = (DataRead.by_class(args.data / HOME), *(unlearned_files(args.data, site) for site in EXTERNAL))
    return Inputs(served_weights(), cells, {"cells that are spoilt": SEED})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Classify everything on a local server of its own."""
    home = DataRead.by_class(args.data / HOME)
    few = DataRead.by_class(args.data / HOME, EACH).files
    many = np.random.default_rng(SEED).permutation(len(home.files))[:MANY]
    with LocalServer() as server, Client(server.grpc_url, timeout=300, cells_per_request=16, max_in_flight=2) as client:
        sites = {home.name: outcomes(client, home.files, PBC_UM_PER_PIXEL)}
        for site in EXTERNAL:
            sites[site] = outcomes(client, unlearned_files(args.data, site).files, SCALES[site])
        changed = {
            **spoilt(client, few, [name for name in ways() if name not in CHANNELS]),
            **spoilt(client, [home.files[i] for i in sorted(many)], CHANNELS),
        }
    return {"home": home.name, "sites": sites, "spoilt": changed}


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
