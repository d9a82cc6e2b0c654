"""Is a calibration folder with cells of two scanners refused, and one with those of a single site let pass?

    python -m benchmarks.mixture ../shared/data --out docs/results/mixture.json

Cells are drawn from each set alone, and from two sets in two proportions, and parted as ``cytoserve calibrate`` does it
(:mod:`cytoserve_validation.mixture`), told nothing but classes and pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_validation.mixture import furthest_parts
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.familiarity import EXTERNAL, SCALES, SEED, site_files, statistics_of
from benchmarks.results import Benchmark, DataRead, Inputs, run

HOME: Final = "pbc/val"
SIZES: Final = (300, 100)
"""Cells of a folder; of a set that has fewer, all of them."""
MINORITIES: Final = (0.5, 0.1)
"""Share of the cells that the second set makes."""
DRAWS: Final = 12

Cells = tuple[NDArray[np.float32], NDArray[np.str_]]


def drawn(cells: Cells, count: int, rng: np.random.Generator) -> Cells:
    """Return so many cells of a set, or all there are."""
    rows = rng.permutation(len(cells[1]))[:count]
    return cells[0][rows], cells[1][rows]


def is_refused(*parts: Cells) -> bool:
    """Return whether a folder of these cells would be refused."""
    values, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    found = furthest_parts(values, labels.tolist())
    return found is not None and found.mixed


def rates(cells: Mapping[str, Cells], size: int) -> dict[str, Any]:
    """Return how often folders of this size were refused: of one set, and of two by proportion and pair."""
    rng = np.random.default_rng(SEED)
    alone = {name: sum(is_refused(drawn(own, size, rng)) for _ in range(DRAWS)) for name, own in cells.items()}
    mixed: dict[str, dict[str, int]] = {}
    pairs: Sequence[tuple[str, str]] = list(permutations(cells, 2))
    for minority in MINORITIES:
        few = round(size * minority)
        mixed[f"{minority:g}"] = {
            f"{one} with {other}": sum(
                is_refused(drawn(cells[one], size - few, rng), drawn(cells[other], few, rng)) for _ in range(DRAWS)
            )
            for one, other in track(pairs, f"{size} cells, {minority:.0%}", console=Console(stderr=True))
            if minority < 0.5 or one < other
        }
    return {"alone": alone, "mixed": mixed}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))


def sources(data: Path) -> dict[str, DataRead]:
    """Return the cells of each set."""
    return {HOME: DataRead.by_class(data / HOME), **{site: site_files(data, site) for site in EXTERNAL}}


def inputs(args: argparse.Namespace) -> Inputs:
    """Return the cells; no weights are used."""
    return Inputs(None, tuple(sources(args.data).values()), {"draws": SEED})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the pictures once, then draw."""
    cells = {
        name: (
            statistics_of(source.files, SCALES.get(name, PBC_UM_PER_PIXEL)),
            np.array([file.parent.name for file in source.files]),
        )
        for name, source in sources(args.data).items()
    }
    return {"draws": DRAWS, "sizes": {str(size): rates(cells, size) for size in SIZES}}


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
