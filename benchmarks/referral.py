"""Shift and referral together: a foreign site served with the calibration of ``pbc``, then with one of its own.

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

from cytoserve_files import write_text

from benchmarks.outputs import output_path

from .foreign import site_scale

SITE = "bccd_cells"


def halves(folder: Path) -> tuple[list[Path], list[Path]]:
    """Part the images of a folder with one folder a class: every other one in the order of the hashes of their names.

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
    told = {key: value for key, value in os.environ.items() if key not in ("CYTOSERVE_URL", "CYTOSERVE_CALIBRATION")}
    if calibration is not None:
        told["CYTOSERVE_CALIBRATION"] = str(calibration)
    command = [str(Path(sys.executable).parent / "cytoserve"), *words]
    subprocess.run(command, check=True, env=told, stdout=sys.stderr)


def summary(report: Path) -> dict[str, Any]:
    """Return what the table needs of a ``validation.json``."""
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


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/bccd_cells"))
    parser.add_argument("--fields", type=Path, default=Path("../shared/data/smears/bccd/images"))
    parser.add_argument("--um-per-pixel", type=float, help="the site's scale; measured on its fields by default")
    parser.add_argument("--tolerated-error", type=float, default=0.1)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--out", type=output_path)
    args = parser.parse_args()
    scale = {"um_per_pixel": args.um_per_pixel} if args.um_per_pixel else site_scale(args.fields, 60)
    given = ("--um-per-pixel", str(scale["um_per_pixel"]))
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        calibrating, measured = halves(args.folder)
        to_calibrate, to_measure = copy(calibrating, home / "calibrating"), copy(measured, home / "measured")
        confidence = ("--confidence", str(args.confidence))
        cytoserve("validate", str(to_measure), "--report", str(home / "before"), *given, *confidence)
        (home / "calibration").mkdir()
        made = home / "calibration" / "site.json"
        promise = ("--tolerated-error", str(args.tolerated_error), *confidence)
        cytoserve("calibrate", str(to_calibrate), "--site", SITE, "--to", str(made), *given, *promise)
        again = ("--report", str(home / "after"), *given, *confidence)
        cytoserve("validate", str(to_measure), *again, calibration=made.parent)
        document = json.loads(made.read_text())
        result = {
            "data": args.folder.name,
            "site_scale": scale,
            "calibrating": len(calibrating),
            "promise": {"tolerated_error": args.tolerated_error, "confidence": args.confidence},
            "calibration_of_pbc": summary(home / "before"),
            "calibration_of_the_site": summary(home / "after"),
            "site_file": {key: document[key] for key in ("seen", "warnings", "promise", "content_sha256")},
        }
    print(json.dumps(result, indent=1))
    if args.out:
        write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
