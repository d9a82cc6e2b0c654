"""Samples for the tests of the review page: the recorded demo, and made-up ones with pictures of their own."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_client import Cell, FieldAnalysis, ModelInfo, SmearAnalysis
from cytoserve_reports import SampleReport, summarise
from cytoserve_reports.page import PageSettings
from cytoserve_reports.page.binding import content_sha256, read_analysis
from cytoserve_reports.page.language import visible
from cytoserve_reports.page.pictures import file_of
from cytoserve_reports.page.verdicts import VerdictDocument, own_sha256
from made_cells import cell
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).parent / "recorded_demo.json"
"""What ``cytoserve analyze examples/synthetic_field.png --site demo --json`` wrote on 2026-11-26."""

CLASSES = ("basophil", "eosinophil", "erythroblast", "lymphocyte", "monocyte", "neutrophil")
MODEL = ModelInfo(name="m", version="1", classes=CLASSES, weights_sha256="00")


def recorded() -> tuple[SampleReport, str]:
    """Return the recorded demo and the hash of its content."""
    return read_analysis(RECORDED)


def of_the_checkout(field: FieldAnalysis) -> bytes:
    """Return the picture of a recorded field, wherever the tests run."""
    return (ROOT / field.source).read_bytes()


def settings(language: str = "en", **chosen: Any) -> PageSettings:
    """Return settings under which the recorded demo finds its picture."""
    return PageSettings(language, read=of_the_checkout, **chosen)


def picture(size: tuple[int, int] = (320, 240), seed: int = 0) -> bytes:
    """Return a picture that compresses no better than a photograph: noise on the demo's field."""
    with Image.open(ROOT / "examples" / "synthetic_field.png") as image:
        pixels = np.asarray(image.convert("RGB").resize(size), np.float64)
    noisy = pixels + np.random.default_rng(seed).normal(0, 8, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def scored(label: str, column: int, row: int, decision: str = "accept", **changes: Any) -> Cell:
    """Return a cell of 24 x 24 pixels at a place of a grid."""
    rest = {name: 0.02 for name in CLASSES if name != label}
    probability = {label: 1 - sum(rest.values()), **rest}
    box = (10.0 + 30 * column, 10.5 + 30 * row, 34.0 + 30 * column, 34.5 + 30 * row)
    made: dict[str, Any] = {"probability": probability, "uncertainty": 0.1, "conformal": {label: 0.5}}
    return cell(label, decision=decision, box=box, **{**made, **changes})


def field_of(path: Path, cells: Sequence[Cell], size: tuple[int, int] = (320, 240), **changes: Any) -> FieldAnalysis:
    """Return the answer for a field in a file."""
    values: dict[str, Any] = {"um_per_pixel": 0.25, "scale_source": "file", "median_red_cell_um": None}
    return FieldAnalysis(source=str(path), width=size[0], height=size[1], cells=tuple(cells), **{**values, **changes})


def sample(folder: Path, **changes: Any) -> SampleReport:
    """Return a sample of two fields with seven scored cells, and write its pictures."""
    folder.mkdir(exist_ok=True)
    fields = []
    for number in range(2):
        path = folder / f"field {number}.png"
        path.write_bytes(picture(seed=number))
        cells = [scored("neutrophil", 0, 0), scored("lymphocyte", 1, 0), scored("monocyte", 2, number)]
        fields.append((path, cells))
    fields[0][1][1] = scored("lymphocyte", 1, 0, "review", reasons=("near_tie", "ambiguous"), uncertainty=0.6)
    fields[1][1][2] = scored("monocyte", 2, 1, "review", reasons=("anomalous",), uncertainty=0.3)
    fields[1][1].append(cell(None, decision="review", box=(200.0, 20.0, 230.0, 50.0), probability=None))
    fields[0][1].append(cell(None, "red_cell", None, box=(100.0, 100.0, 130.0, 130.0)))
    made = SmearAnalysis(
        model=MODEL, fields=tuple(field_of(path, cells) for path, cells in fields), **{"sample": "S-1", **changes}
    )
    return summarise(made)


def written(report: SampleReport, path: Path) -> str:
    """Write an analysis as the command does; return the hash of its content."""
    text = report.model_dump_json(indent=2) + "\n"
    path.write_text(text, encoding="utf-8")
    return content_sha256(json.loads(text))


def exported(
    report: SampleReport,
    analysis_sha256: str,
    judged: dict[tuple[int, int], tuple[str, str | None]],
    reviewer: str = "AB",
    read: Callable[[FieldAnalysis], bytes] = file_of,
    **changes: Any,
) -> dict[str, Any]:
    """Return a file of verdicts as the page exports it; ``judged`` maps a cell to (verdict, class)."""
    rows = [
        {
            "field": field,
            "field_sha256": hashlib.sha256(read(report.fields[field])).hexdigest(),
            "cell": index,
            "box": report.fields[field].cells[index].box,
            "verdict": verdict,
            "class": name,
            "reviewer": reviewer,
            "time": "2026-11-26T18:00:00.000Z",
        }
        for (field, index), (verdict, name) in judged.items()
    ]
    shown = [one for f in report.fields for one in f.cells if one.kind == "white_cell" or one.label]
    made: dict[str, Any] = {
        "schema": "cytoserve.verdicts/1",
        "notice": "For research use; not a medical device.",
        "analysis_sha256": analysis_sha256,
        "sample": None if report.sample is None else visible(report.sample),
        "site": report.site,
        "model": report.model.model_dump(mode="json", exclude={"classes"}),
        "classes": report.model.classes,
        "blinded": False,
        "synthetic": report.synthetic,
        "exported": "2026-11-26T18:05:00.000Z",
        "cells_shown": len(shown),
        "verdicts": rows,
        **changes,
    }
    return resigned(made)


def resigned(made: dict[str, Any]) -> dict[str, Any]:
    """Return a file of verdicts with the hash that its content gives: what a forger would do."""
    read = VerdictDocument.model_validate({**made, "content_sha256": "0" * 64})
    return json.loads(json.dumps({**made, "content_sha256": own_sha256(read)}))
