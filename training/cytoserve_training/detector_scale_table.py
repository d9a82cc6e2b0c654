"""Error of the classical scale guess against the labelled red cells, over every field that has four whole ones."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from cytoserve_scoring.vision.scale import guess_um_per_pixel

from cytoserve_training.detector_data import LabelledField, clean_and_split
from cytoserve_training.detector_evaluate import true_scale
from cytoserve_training.pictures import read_rgb

SOURCES = ("bccd", "txl_bccd_altered", "txl_pbc", "txl_raabin")


def ratio(smears: Path, field: LabelledField) -> float:
    """Return guessed over labelled scale of one field; NaN without four whole red cells."""
    rgb = read_rgb(smears / field.path)
    truth = true_scale(field, (rgb.height, rgb.width))
    if truth is None:
        return float("nan")
    if field.stretch != (1.0, 1.0):
        rgb = rgb.resize((round(rgb.width * field.stretch[0]), round(rgb.height * field.stretch[1])))
    return guess_um_per_pixel(np.asarray(rgb)) / truth


def main() -> None:
    """Command line: ``python -m cytoserve_training.detector_scale_table --data DIR``; prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None)
    given = parser.parse_args()
    fields = clean_and_split(given.data, given.cache)
    print("| source | fields | min | 5 % | 25 % | median | 75 % | 95 % | max | within 0.7 .. 1.45 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for source in SOURCES:
        values = np.array([ratio(given.data / "smears", field) for field in fields if field.source == source])
        values = values[np.isfinite(values)]
        shown = " | ".join(f"{value:.2f}" for value in np.percentile(values, [0, 5, 25, 50, 75, 95, 100]))
        inside = np.mean((values > 0.7) & (values < 1.45))
        print(f"| {source} | {len(values)} | {shown} | {inside:.1%} |", flush=True)


if __name__ == "__main__":
    main()
