"""A whole slide, until 200 white cells are found: seconds, regions, and what the client's memory does meanwhile.

    python -m benchmarks.slide ../shared/data --out docs/results/slide.json

The slide is a mosaic of real fields at 0.25 um per pixel (a 40x scanner): blocks of red cells (``chula_rbc``, with
what white cells there are among them), and one in `EVERY` blocks with the white cells of nine fields of BCCD, so that
white cells are about as rare as in blood. It says how long a film takes, not how right it is: it is of many people,
microscopes and seams.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from cytoserve_client import Client, FieldAnalysis
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_slides import Film, Slide
from numpy.typing import NDArray
from PIL import Image

from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights

Pixels = NDArray[np.uint8]

SCALE: Final = 0.25
RBC_SCALE: Final = 0.19
BCCD_SCALE: Final = 0.0777
BLOCK: Final = (480, 360)
"""Width and height of a block, pixels: 120 x 90 um."""

EVERY: Final = 40
"""One block in so many has white cells put in, five or six of them: one for 0.08 mm2, which with 45 % of the area
covered by red cells of 40 um2 is one for about 900 red ones."""

GLASS: Final = 232.0
SEED: Final = 4
WANTED: Final = 200


def block(file: Path, um_per_pixel: float) -> Pixels:
    """Return a picture at the slide's scale, its glass as bright as that of all others: a scanner has one lamp."""
    with Image.open(file) as image:
        size = tuple(max(1, round(side * um_per_pixel / SCALE)) for side in image.size)
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), np.float32)  # type: ignore[arg-type]
    return np.clip(pixels * (GLASS / np.percentile(pixels, 98, axis=(0, 1))), 0, 255).astype(np.uint8)


def red_block(file: Path) -> Pixels:
    """Return a block without white cells."""
    return block(file, RBC_SCALE)[: BLOCK[1], : BLOCK[0]]


def white_block(files: list[Path]) -> Pixels:
    """Return a block of nine fields with white cells."""
    parts = [block(file, BCCD_SCALE) for file in files]
    rows = [np.concatenate(parts[start : start + 3], axis=1) for start in (0, 3, 6)]
    whole = np.concatenate(rows, axis=0)[: BLOCK[1], : BLOCK[0]]
    missing = ((0, BLOCK[1] - whole.shape[0]), (0, BLOCK[0] - whole.shape[1]), (0, 0))
    return np.pad(whole, missing, mode="reflect")


def write_slide(path: Path, data: Path, side: int) -> None:
    """Write a pyramid of ``side`` x ``side`` blocks as Aperio's scanners do."""
    import tifffile

    draw = np.random.default_rng(SEED)
    red = [red_block(file) for file in rbc_files(data)]
    white = bccd_files(data)
    whole = np.empty((side * BLOCK[1], side * BLOCK[0], 3), np.uint8)
    for number in range(side * side):
        row, column = divmod(number, side)
        if number % EVERY == EVERY // 2:
            chosen = white_block([white[i] for i in draw.choice(len(white), 9, replace=False)])
        else:
            chosen = red[int(draw.integers(len(red)))]
        whole[row * BLOCK[1] : (row + 1) * BLOCK[1], column * BLOCK[0] : (column + 1) * BLOCK[0]] = chosen
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "metadata": None}
    about = f"Aperio Image Library v1\r\n{whole.shape[1]}x{whole.shape[0]} (256x256)|AppMag = 40|MPP = {SCALE}"
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, step in enumerate((1, 4, 16)):
            said = about if level == 0 else "Aperio Image Library v1"
            file.write(whole[::step, ::step], description=said, subfiletype=int(level > 0), **options)  # type: ignore[arg-type]


def rbc_files(data: Path) -> list[Path]:
    """Return the fields of red cells."""
    return sorted((data / "chula_rbc" / "images").iterdir())


def bccd_files(data: Path) -> list[Path]:
    """Return the fields with white cells."""
    return sorted((data / "smears" / "bccd" / "images").iterdir())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures."""
    with tempfile.TemporaryDirectory() as folder, LocalServer() as server:
        file = Path(folder) / "film.svs"
        write_slide(file, args.data, args.side)
        bytes_of_file = file.stat().st_size
        with Client(server.grpc_url, timeout=120) as client, Slide(file) as slide:
            client.analyze([rbc_files(args.data)[0]])  # the first answer loads what is loaded once
            film, white, memory, own = Film(slide), 0, [], psutil.Process()
            began = time.monotonic()
            with client.analyze_stream(film.fields(), film.um_per_pixel) as stream:
                for answer in stream:
                    assert isinstance(answer, FieldAnalysis), answer
                    white += sum(cell.kind == "white_cell" for cell in film.placed(answer).cells)
                    memory.append(own.memory_info().rss / 2**20)
                    if white >= args.cells:
                        break
            seconds = time.monotonic() - began
            reading = time_to_read(slide)
    tally = film.tally
    return {
        "pixels": [*slide.size],
        "file_mib": round(bytes_of_file / 2**20),
        "regions": tally.regions,
        "regions_answered": len(memory),
        "regions_not_single": tally.not_single,
        "white_cells": white,
        "wanted": args.cells,
        "seconds": round(seconds, 1),
        "seconds_a_region": round(seconds / len(memory), 3),
        "seconds_to_read_a_region": round(reading, 3),
        "area_mm2": round(slide.size[0] * slide.size[1] * SCALE**2 / 1e6, 2),
        "client_mib": {"after_a_quarter": round(memory[len(memory) // 4]), "in_the_end": round(memory[-1])},
    }


def time_to_read(slide: Slide, count: int = 10) -> float:
    """Return the seconds that a region takes to be read, judged and encoded, with nothing else under way."""
    fields = Film(slide).fields()
    next(fields)
    began = time.monotonic()
    for _ in range(count):
        next(fields)
    return (time.monotonic() - began) / count


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights and fields."""
    data = (DataRead.of(args.data, rbc_files(args.data)), DataRead.of(args.data, bccd_files(args.data)))
    return Inputs(served_weights(), data, {"blocks": SEED})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--side", type=int, default=44, help="blocks across and down")
    parser.add_argument("--cells", type=int, default=WANTED)


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
