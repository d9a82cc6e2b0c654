"""External sites served with the model's own calibration, then with a calibration of their own.

    python -m benchmarks.own_site ../shared/data --out docs/results/own_site.json

Part of a site's cells calibrates it through the live server, the others are measured before and after: half of
``bccd_cells`` by hash of the file name; of ``bcisc`` and ``chula_wbc`` every second subject or slide of those that no
weight was trained on. These are the commands that a laboratory would give: ``cytoserve validate``, ``cytoserve
calibrate``, ``cytoserve validate --site``. Where slides or subjects are known a site is calibrated by slide, and once
more, for comparison, as if cells were independent.
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
from cytoserve_files import write_text
from cytoserve_scoring.vision.scale import guess_um_per_pixel
from cytoserve_statistics.resampling import SEED
from PIL import Image

from benchmarks.familiarity import GROUPED, SCALES, group_of, unlearned_files
from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights

SITES = ("bccd_cells", "bcisc", "chula_wbc")
FIELDS = "smears/bccd/images"
"""Whole fields of the microscope of ``bccd_cells``, whose scale no file tells."""
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
        "model": whole["model"],
    }


def parted(data: Path, site: str) -> tuple[list[Path], list[Path]]:
    """Return the cells that calibrate a site, and those that are measured."""
    if site == "bccd_cells":
        return halves(data / site)
    files = list(unlearned_files(data, site).files)
    slides = sorted({group_of(site, file) for file in files})
    calibrating = {file for file in files if group_of(site, file) in slides[::2]}
    return [file for file in files if file in calibrating], [file for file in files if file not in calibrating]


def slide_table(site: str, files: list[Path], to: Path) -> tuple[str, ...]:
    """Write the table of slides (or subjects) for ``--groups`` and return that option; nothing where none are known."""
    if site not in GROUPED:
        return ()
    rows = [f"{file.parent.name}/{file.name},{site},{group_of(site, file)}" for file in files]
    write_text(to, "\n".join(["file,group,slide", *rows]) + "\n")
    return ("--groups", str(to))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--tolerated-error", type=float, default=0.1)
    parser.add_argument("--confidence", type=float, default=0.9)


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights, the sites' cells, and the fields that one site's scale is measured on."""
    folder = args.data / FIELDS
    cells = (unlearned_files(args.data, site) for site in SITES)
    return Inputs(served_weights(), (*cells, DataRead.of(folder, scale_fields(folder))), {"bootstrap": SEED})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Calibrate each site on a part of its cells; measure the rest before and after."""
    return {"sites": {site: measure_site(args, site) for site in SITES}}


def measure_site(args: argparse.Namespace, site: str) -> dict[str, Any]:
    """Calibrate one site and measure it before and after."""
    known = SCALES[site]
    scale = site_scale(scale_fields(args.data / FIELDS)) if known is None else {"um_per_pixel": known}
    given = ("--um-per-pixel", str(scale["um_per_pixel"]))
    confidence = ("--confidence", str(args.confidence))
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        calibrating, measured = parted(args.data, site)
        to_calibrate, to_measure = copy(calibrating, home / "calibrating"), copy(measured, home / "measured")
        cytoserve("validate", str(to_measure), "--report", str(home / "before"), *given, *confidence)
        guarantee = ("--tolerated-error", str(args.tolerated_error), *confidence)
        slides = slide_table(site, calibrating, home / "groups.csv")

        def with_its_own(name: str, *groups: str) -> dict[str, Any]:
            """Calibrate in a folder of that name and measure; return the summary and the file's own words."""
            made = home / name / "site.json"
            made.parent.mkdir()
            cytoserve("calibrate", str(to_calibrate), "--site", site, "--to", str(made), *given, *guarantee, *groups)
            report = home / f"after {name}"
            again = ("--site", site, "--report", str(report), *given, *confidence)
            cytoserve("validate", str(to_measure), *again, calibration=made.parent)
            document = json.loads(made.read_text())
            kept = ("seen", "warnings", "promise", "expected_referral", "content_sha256")
            return {**summary(report), "site_file": {key: document[key] for key in kept}}

        return {
            "scale": scale,
            "calibrating": len(calibrating),
            "promise": {"tolerated_error": args.tolerated_error, "confidence": args.confidence},
            "calibration_of_pbc": summary(home / "before"),
            "calibration_of_the_site": with_its_own("own", *slides),
            "calibration_by_cell": with_its_own("by cell") if slides else None,
        }


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
