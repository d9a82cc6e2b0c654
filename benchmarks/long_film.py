"""A folder of 2,000 fields through the command line: seconds, and what client's and server's memory do meanwhile.

    python -m benchmarks.long_film ../shared/data --out docs/results/long_film.json

The fields are those of `benchmarks.fields`, each in its four quarter turns as a PNG file, so that no two have the same
content. The command is the one that users run, with JSON, CSV and the review page; it keeps answers as they come
(``--resume``). Memory is read from outside, by the number of answers kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from PIL import Image

from benchmarks.fields import files_of, resident_mib
from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights

FIELDS: Final = 2000
TURNS: Final = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
EVERY_S: Final = 2.0


def fields_of(data: Path) -> list[Path]:
    """Return the real fields."""
    return [*files_of(str(data / "smears/bccd/images")), *files_of(f"{data}/smears/txl/train/images:300")]


def write_fields(folder: Path, files: list[Path], count: int) -> None:
    """Write so many fields, the unturned ones first; of files with the same picture the first is taken."""

    def read(file: Path) -> tuple[bytes, Image.Image]:
        with Image.open(file) as image:
            pixels = image.convert("RGB")
        return hashlib.sha256(pixels.tobytes()).digest(), pixels

    def write(number: int) -> None:
        turn, pixels = TURNS[number // len(different)], different[number % len(different)]
        (pixels if turn is None else pixels.transpose(turn)).save(folder / f"{number:05}.png", compress_level=1)

    with ThreadPoolExecutor(2) as pool:
        different = list(dict(pool.map(read, files)).values())
        if count > len(TURNS) * len(different):
            raise SystemExit(f"there are {len(different)} different fields, too few for {count}")
        list(pool.map(write, range(count)))


def watch(process: subprocess.Popen[bytes], server: LocalServer, kept: Path) -> list[tuple[float, int, float, float]]:
    """Return seconds gone, answers kept, the command's MiB and the server's, again and again until the command ends."""
    assert server.pid is not None
    seen, command, began = [], psutil.Process(process.pid), time.monotonic()
    while process.poll() is None:
        if kept.exists():
            try:
                answers = kept.read_bytes().count(b"\n") - 1
                seen.append((time.monotonic() - began, answers, _mib(command), resident_mib(server.pid)))
            except (FileNotFoundError, psutil.NoSuchProcess):
                break
        time.sleep(EVERY_S)
    return seen


def _mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 2**20)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures."""
    with tempfile.TemporaryDirectory() as scratch, LocalServer() as server:
        fields, out = Path(scratch) / "fields", Path(scratch) / "out"
        fields.mkdir()
        out.mkdir()
        write_fields(fields, fields_of(args.data), args.fields)
        with Client(server.grpc_url, timeout=60) as client:
            client.analyze([fields / "00000.png"])  # the first answer loads what is loaded once
        words = [sys.executable, "-m", "cytoserve_cli.main", "analyze", str(fields), "--url", server.grpc_url]
        for option in ("json", "csv", "report", "resume"):
            words += [f"--{option}", str(out / option)]
        began = time.monotonic()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        seen = watch(process, server, out / "resume")
        seconds = time.monotonic() - began
        if process.returncode not in (0, 8):
            raise SystemExit(f"the command failed: exit code {process.returncode}")
        report = json.loads((out / "json").read_text(encoding="utf-8"))
        written = {name: round((out / name).stat().st_size / 2**20, 1) for name in ("json", "csv", "report")}
    gone, done, client_mib, server_mib = np.array(seen).T
    answered = len(report["fields"])
    answering = done < answered
    return {
        "fields": args.fields,
        "answered": answered,
        "failed": len(report["failures"]),
        "skipped": len(report["skipped"]),
        "cells": {"all": sum(len(one["cells"]) for one in report["fields"]), "to_review": len(report["review"])},
        "exit_code": process.returncode,
        "seconds": round(seconds, 1),
        "seconds_until_the_last_answer": round(float(gone[~answering][0]), 1),
        "file_mib": written,
        "client_mib": _at_parts(done[answering], client_mib[answering], answered),
        "client_mib_most": round(float(client_mib.max()), 1),
        "server_mib": _at_parts(done, server_mib, answered),
    }


def _at_parts(done: Any, mib: Any, fields: int) -> dict[str, float]:
    """Return the memory after a tenth, a half and all of the answers, and its growth for a thousand after the tenth."""
    settled = done >= fields / 10
    return {
        "after_a_tenth": round(float(np.interp(fields / 10, done, mib)), 1),
        "after_a_half": round(float(np.interp(fields / 2, done, mib)), 1),
        "after_all": round(float(np.interp(fields, done, mib)), 1),
        "per_1000": round(1000 * float(np.polyfit(done[settled], mib[settled], 1)[0]), 1),
    }


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights and fields."""
    return Inputs(served_weights(), (DataRead.of(args.data, fields_of(args.data)),))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--fields", type=int, default=FIELDS)


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
