"""Compare the scale by red cells with the known one of PBC, and the white cells of BCCD with those of PBC."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_networks.detector import DetectorNet
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.extraction import ExtractionSettings
from cytoserve_scoring.vision.single_cell_scale import scale_of_single_cell
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from cytoserve_training.detector_data import clean_and_split
from cytoserve_training.detector_evaluate import FieldResult, run_field
from cytoserve_training.pictures import read_rgb

POINTS = (5, 25, 50, 75, 95)


def _pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(read_rgb(path))


def _sample(folder: Path, pattern: str, count: int, seed: int = 0) -> list[Path]:
    paths = sorted(folder.glob(pattern))
    order = np.random.default_rng(seed).permutation(len(paths))[:count]
    return [paths[row] for row in order]


def white_sizes(pixels: NDArray[np.uint8], result: FieldResult) -> list[tuple[float, float]]:
    """Return (cell, nucleus) diameters in um of the whole white cells of a field, at its final scale.

    The cell's is the side of its box; the nucleus' is that of the disc with the area of what absorbs red light in it
    (Otsu's threshold within the box).
    """
    sizes = []
    height, width = pixels.shape[:2]
    smooth = ndimage.gaussian_filter(pixels.astype(np.float32), (1, 1, 0))
    background = np.percentile(smooth.reshape(-1, 3), 95, axis=0)
    density = -np.log(np.maximum(smooth[..., 0], 4) / max(float(background[0]), 8.0))
    found = result.found
    for box in found.box[(found.kind == 0) & (found.score > ExtractionSettings().thresholds[0])]:
        if box[0] > 2 and box[1] > 2 and box[2] < width - 2 and box[3] < height - 2:
            x0, y0, x1, y1 = (round(float(value)) for value in box)
            side = float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
            inside = density[y0:y1, x0:x1]
            level = threshold_otsu(inside)
            nucleus = 2 * float(np.sqrt((inside > level).sum() / np.pi))
            sizes.append((side * result.final_um, nucleus * result.final_um))
    return sizes


def _spread(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    return np.round(np.nanpercentile(np.asarray(values, np.float64), POINTS), 4).tolist()


def calibrate(data: Path, model: Path, cache: Path | None, count: int, single: int) -> dict[str, Any]:
    """Return percentiles of the measured scale: ``count`` fields a set, ``single`` single cells a class."""
    net, settings = DetectorNet.load(model), ExtractionSettings()
    out: dict[str, Any] = {"percentiles": POINTS, "pbc_um_per_pixel": PBC_UM_PER_PIXEL}
    for name, pattern in (("pbc_train", "train/*/*.webp"), ("pbc_val", "val/*/*.webp")):
        results = [run_field(net, _pixels(path), None, settings) for path in _sample(data / "pbc", pattern, count)]
        known = [result.final_um for result in results if result.source == "red_cells"]
        out[f"{name}_fields_final"] = _spread(known)
        out[f"{name}_fields_guess"] = _spread([result.guess_um for result in results])
        out[f"{name}_fields_with_red_cells"] = f"{len(known)} of {len(results)}"
    for part in ("train", "val"):
        rows = []
        for folder in sorted((data / "pbc" / part).iterdir()):
            rows += [scale_of_single_cell(_pixels(path)) for path in _sample(folder, "*.webp", single)]
        values = np.array([row.um_per_pixel for row in rows])
        out[f"pbc_{part}_single_cell"] = _spread(values)
        out[f"pbc_{part}_single_cell_within"] = {
            f"{share:.0%}": round(float(np.mean(np.abs(values / PBC_UM_PER_PIXEL - 1) < share)), 3)
            for share in (0.1, 0.2, 0.3)
        }
        out[f"pbc_{part}_single_cell_by_itself"] = round(float(np.mean([r.source != "red_cells" for r in rows])), 3)
    out["white_cells"] = _white_cells(net, data, cache, count)
    return out


def _white_cells(net: DetectorNet, data: Path, cache: Path | None, count: int) -> dict[str, Any]:
    """Compare white cells at the scale by red cells: neutrophils of pbc/train against BCCD's training fields."""
    settings = ExtractionSettings()
    fields = [f for f in clean_and_split(data, cache) if f.source == "bccd" and f.part == "train"]
    # The crops of bccd_cells are named after their field, which tells a field's class.
    named = {path.name[:16] for path in (data / "bccd_cells/neutrophil").glob("*.jpg")}
    chosen = [data / "smears" / field.path for field in fields if Path(field.path).stem in named]
    order = np.random.default_rng(0).permutation(len(chosen))[:count]
    sets = {
        "pbc_neutrophil": _sample(data / "pbc/train/neutrophil", "*.webp", count),
        "bccd_neutrophil": [chosen[row] for row in order],
    }
    out: dict[str, Any] = {}
    for name, paths in sets.items():
        sizes: list[tuple[float, float]] = []
        for path in paths:
            pixels = _pixels(path)
            result = run_field(net, pixels, None, settings)
            sizes += white_sizes(pixels, result) if result.source == "red_cells" else []
        out[name] = {"cells": len(sizes), "cell_um": _spread([s[0] for s in sizes])}
        out[name]["nucleus_um"] = _spread([s[1] for s in sizes])
    return out


def main() -> None:
    """Command line: ``python -m cytoserve_training.detector_calibrate --data DIR --model DIR``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--single", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(calibrate(given.data, given.model, given.cache, given.count, given.single), indent=2))


if __name__ == "__main__":
    main()
