"""An external site served with the calibration of ``pbc``, then with a calibration of its own.

    python -m benchmarks.referral --out docs/results/referral.json

Half of ``bccd_cells`` (by hash of the file name, class by class) calibrates the site through the live server, the other
half is measured before and after. These are the commands that a laboratory would give: ``cytoserve validate``,
``cytoserve calibrate``, ``cytoserve validate`` again with the file in force.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_scoring.vision.scale import guess_um_per_pixel
from cytoserve_statistics.resampling import SEED
from PIL import Image

from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights

SITE = "bccd_cells"
SCALE_FIELDS = 60
"""Fields on which the site's scale is measured."""


def scale_fields(folder: Path) -> list[Path]:
    """Return about `SCALE_FIELDS` fields of a folder, evenly spread by name."""
    files = sorted(folder.iterdir())
    return files[:: max(1, len(files) // SCALE_FIELDS)][:SCALE_FIELDS]


def site_scale(files: list[Path]) -> dict[str, Any]:
    """Measure a microscope's scale: the median over fields of the scale that the red cells give."""
    found = []
    for file in files:
        with Image.open(file) as image:
            found.append(guess_um_per_pixel(np.asarray(image.convert("RGB"))))
    return {"um_per_pixel": round(float(np.median(found)), 5), "fields": len(files)}


def halves(folder: Path) -> tuple[list[Path], list[Path]]:
    """Split the images of a folder with one folder a class: every other one in the order of the hashes of their names.

    A class of a single image goes to the half that is measured.
    """
    calibrating: list[Path] = []
    measured: list[Path] = []
    for home in sorted(item for item in folder.iterdir() if item.is_dir()):
        files = sorted(home.iterdir(), key=lambda file: hashlib.sha256(file.name.encode()).hexdigest())
        measured += files[::2]
        calibrating += files[1::2]
    return calibrating, measured


def copy(files: list[Path], to: Path) -> Path:
    """Copy images into one folder a class."""
    for file in files:
        home = to / file.parent.name
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, home / file.name)
    return to


def cytoserve(*words: str, calibration: Path | None = None) -> None:
    """Run one of the product's commands beside this interpreter, its notes on our stderr.

    Raises
    ------
    subprocess.CalledProcessError
        It did not end well.
    """
    ours = ("CYTOSERVE_URL", "CYTOSERVE_CALIBRATION")
    env = {key: value for key, value in os.environ.items() if key not in ours}
    if calibration is not None:
        env["CYTOSERVE_CALIBRATION"] = str(calibration)
    command = [str(Path(sys.executable).parent / "cytoserve"), *words]
    subprocess.run(command, check=True, env=env, stdout=sys.stderr)


def summary(report: Path) -> dict[str, Any]:
    """Return the part of a ``validation.json`` that the table shows."""
    whole = json.loads((report / "validation.json").read_text())
    overall = whole["overall"]
    return {
        "cells": overall["cells"],
        "accuracy": overall["headline"]["accuracy"],
        "accepted": overall["headline"]["accepted"],
        "error_among_accepted": overall["headline"]["error_among_accepted"],
        "acceptance": overall["acceptance"],
        "calibration": whole["calibration"],
        "model": whole["model"],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/bccd_cells"))
    parser.add_argument("--fields", type=Path, default=Path("../shared/data/smears/bccd/images"))
    parser.add_argument("--tolerated-error", type=float, default=0.1)
    parser.add_argument("--confidence", type=float, default=0.9)


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights, the site's cells, and the fields that its scale is measured on."""
    cells = DataRead.by_class(args.folder)
    fields = DataRead.of(args.fields, scale_fields(args.fields))
    return Inputs(served_weights(), (cells, fields), {"bootstrap": SEED})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Calibrate on one half; measure the other before and after."""
    scale = site_scale(scale_fields(args.fields))
    given = ("--um-per-pixel", str(scale["um_per_pixel"]))
    confidence = ("--confidence", str(args.confidence))
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        calibrating, measured = halves(args.folder)
        to_calibrate, to_measure = copy(calibrating, home / "calibrating"), copy(measured, home / "measured")
        cytoserve("validate", str(to_measure), "--report", str(home / "before"), *given, *confidence)
        (home / "calibration").mkdir()
        made = home / "calibration" / "site.json"
        guarantee = ("--tolerated-error", str(args.tolerated_error), *confidence)
        cytoserve("calibrate", str(to_calibrate), "--site", SITE, "--to", str(made), *given, *guarantee)
        again = ("--report", str(home / "after"), *given, *confidence)
        cytoserve("validate", str(to_measure), *again, calibration=made.parent)
        document = json.loads(made.read_text())
        return {
            "data": args.folder.name,
            "site_scale": scale,
            "calibrating": len(calibrating),
            "promise": {"tolerated_error": args.tolerated_error, "confidence": args.confidence},
            "calibration_of_pbc": summary(home / "before"),
            "calibration_of_the_site": summary(home / "after"),
            "site_file": {key: document[key] for key in ("seen", "warnings", "promise", "content_sha256")},
        }


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
