"""Report the detector on held-out fields, end to end as a user gets it, beside a classical baseline."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_files import write_text
from cytoserve_networks.detector import DetectorNet
from cytoserve_scoring.constants import RED_CELL_DIAMETER_UM
from cytoserve_scoring.vision.extraction import Detections, ExtractionSettings, detect, refine_scale
from cytoserve_scoring.vision.scale import BOX_TO_DIAMETER, prepare_field, segmenter_geometry
from numpy.typing import NDArray

from cytoserve_training.detector_classical import find_cells
from cytoserve_training.detector_data import LabelledField, clean_and_split, red_cell_side
from cytoserve_training.detector_metrics import FieldMatch, match, summary
from cytoserve_training.pictures import read_rgb

LOW_THRESHOLDS = (0.03, 0.03, 0.03)
"""Average precision covers the whole curve, so weak detections are kept for it."""


@dataclass(frozen=True)
class FieldResult:
    """Detections of one field, and its scale in um per pixel: first guess, final value, and where that came from."""

    found: Detections
    guess_um: float
    final_um: float
    source: str


def read_field(smears: Path, field: LabelledField) -> NDArray[np.uint8]:
    """Read a field's pixels, (H, W, 3) uint8."""
    return np.asarray(read_rgb(smears / field.path))


def true_scale(field: LabelledField, shape: tuple[int, ...]) -> float | None:
    """Return the scale by the labelled red cells, or None where there are fewer than four."""
    side = red_cell_side(field, (shape[1], shape[0]))
    return None if np.isnan(side) else RED_CELL_DIAMETER_UM / (side * BOX_TO_DIAMETER)


@torch.no_grad()
def run_field(
    net: DetectorNet, pixels: NDArray[np.uint8], um_per_pixel: float | None, settings: ExtractionSettings
) -> FieldResult:
    """Run one field through scale, network and extraction."""
    prepared = prepare_field(pixels, um_per_pixel)
    maps = net(torch.from_numpy(prepared.segmenter_input)).numpy()
    used = float(prepared.scale_guess[0])
    found = detect(maps, segmenter_geometry(pixels.shape, used), settings)
    strong = found.score >= np.asarray(ExtractionSettings().thresholds, np.float32)[found.kind]
    firm = Detections(found.box[strong], found.kind[strong], found.score[strong])
    final, _, source, _ = refine_scale(firm, pixels.shape, prepared.scale_guess, settings)
    return FieldResult(found, used, final, source)


def match_field(found: Detections, field: LabelledField) -> list[FieldMatch]:
    """Match one field's detections with its labels, per kind."""
    boxes, kinds = field.box_array(), field.kind_array()
    return [match(found.box[found.kind == k], found.score[found.kind == k], boxes[kinds == k]) for k in range(3)]


def evaluate(
    net: DetectorNet, fields: Sequence[LabelledField], smears: Path, with_truth: bool = False
) -> tuple[dict[str, Any], list[FieldResult]]:
    """Return the figures of ``fields`` and the result of each.

    Parameters
    ----------
    with_truth : bool
        Give the scale of the labelled red cells as a caller would, instead of having it guessed.
    """
    settings = replace(ExtractionSettings(), thresholds=LOW_THRESHOLDS)
    results = []
    for field in fields:
        pixels = read_field(smears, field)
        results.append(run_field(net, pixels, true_scale(field, pixels.shape) if with_truth else None, settings))
    return figures_of(list(zip(results, fields, strict=True))), results


def figures_of(pairs: Sequence[tuple[FieldResult, LabelledField]]) -> dict[str, Any]:
    """Return the figures of results compared with labels."""
    matches = [match_field(result.found, field) for result, field in pairs]
    return summary(matches, ExtractionSettings().thresholds[0])


def evaluate_classical(fields: Sequence[LabelledField], smears: Path) -> dict[str, Any]:
    """Return the same figures for the threshold-and-watershed baseline."""
    matches = [match_field(find_cells(read_field(smears, field)), field) for field in fields]
    return summary(matches, 0.0)


def relabelled(fields: Sequence[LabelledField], everything: Sequence[LabelledField]) -> list[LabelledField]:
    """Return the TXL labels of those BCCD ``fields`` that TXL holds unaltered."""
    names = {field.path for field in fields}
    return [field for field in everything if field.source == "txl_bccd" and field.twin in names]


def report(data: Path, model: Path, out: Path, cache: Path | None = None, part: str = "test") -> dict[str, Any]:
    """Write every figure of docs/segmenter.md as JSON to ``out`` and return it.

    Parameters
    ----------
    data : Path
        The shared data folder.
    model : Path
        Folder with ``config.json`` and ``model.safetensors``.
    part : str
        ``test`` (reported) or ``validation`` (for choosing).
    """
    everything = clean_and_split(data, cache)
    fields = [field for field in everything if field.source == "bccd" and field.part == part]
    net, smears = DetectorNet.load(model), data / "smears"
    guessed, results = evaluate(net, fields, smears)
    twins = relabelled(fields, everything)
    twin_names = {field.twin for field in twins}
    by_name = {field.path: result for field, result in zip(fields, results, strict=True)}
    same = [field for field in fields if field.path in twin_names]
    figures: dict[str, Any] = {
        "fields": len(fields),
        "end_to_end": guessed,
        "true_scale": evaluate(net, fields, smears, with_truth=True)[0],
        "classical": evaluate_classical(fields, smears),
        "fields_relabelled_by_txl": len(twins),
        # The pictures are the same, so the detections are too; only the labels differ.
        "those_with_bccd_labels": figures_of([(by_name[field.path], field) for field in same]),
        "those_with_txl_labels": figures_of([(by_name[field.twin], field) for field in twins]),
        "scale": scale_errors(fields, results, smears),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(figures, indent=2) + "\n")
    return figures


def scale_errors(fields: Sequence[LabelledField], results: Sequence[FieldResult], smears: Path) -> dict[str, Any]:
    """Return percentiles of guessed and of final scale over the scale by the labels."""
    rows = []
    for field, result in zip(fields, results, strict=True):
        truth = true_scale(field, read_field(smears, field).shape)
        if truth is not None:
            rows.append((result.guess_um / truth, result.final_um / truth))
    table = np.array(rows)
    points = [0, 5, 25, 50, 75, 95, 100]
    return {
        "percentiles": points,
        "guess_over_truth": np.round(np.nanpercentile(table[:, 0], points), 3).tolist(),
        "final_over_truth": np.round(np.nanpercentile(table[:, 1], points), 3).tolist(),
        "sources": {name: sum(r.source == name for r in results) for name in sorted({r.source for r in results})},
    }


def main() -> None:
    """Command line: ``python -m cytoserve_training.detector_evaluate --data DIR --model DIR --out FILE``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--cache", type=Path, default=None, help="JSON file that keeps the cleaned split")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(report(given.data, given.model, given.out, given.cache, given.part), indent=2))


if __name__ == "__main__":
    main()
