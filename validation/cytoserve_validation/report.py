"""The report as one document: what was measured, on what, with which caveats."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_client.results import ModelInfo
from cytoserve_contract.names import VALIDATION
from cytoserve_files import NotWritable, check_output_folder, write_text
from cytoserve_reports.text import NOTICE
from cytoserve_statistics.resampling import DRAWS, FEW_SLIDES, SEED, draw

from cytoserve_validation.anomalies import describe_anomalies
from cytoserve_validation.answers import Answered
from cytoserve_validation.errors import AlreadyThere, BadTarget
from cytoserve_validation.familiarity import describe_familiarity
from cytoserve_validation.figures import describe, restricted
from cytoserve_validation.grouped import describe_groups
from cytoserve_validation.labelled import Groups

SCHEMA: Final = VALIDATION
JSON_NAME: Final = "validation.json"
HTML_NAME: Final = "validation.html"

INDEPENDENT: Final = (
    "No slide ids were given: every interval assumes independent cells. Cells of one slide or one patient are alike, "
    "so the true uncertainty is larger; give a table with a slide column to have slides resampled."
)


@dataclass(frozen=True)
class MeasuredSet:
    """Where the cells come from."""

    name: str  # of the labelled folder, without its path
    data_sha256: str
    created: str  # UTC, ISO 8601
    um_per_pixel: float | None
    budget: int | None  # most probes of a cell that were requested; None: the server's default
    failed: Sequence[Mapping[str, str]] = ()  # images without an answer or a label
    remarks: Sequence[str] = ()  # what else a reader must know about the data: repeated files, ignored files
    anomalies_failed: Sequence[Mapping[str, str]] = ()  # the same for the anomalies
    calibration: Any = None  # the site calibration in force, as the server declares it; None: the model's own


def build(
    cells: Answered,
    model: ModelInfo,
    source: MeasuredSet,
    groups: Groups | None = None,
    anomalies: Answered | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Measure everything; the same answers give the same document.

    Parameters
    ----------
    cells : Answered
        With their true classes.
    groups : Groups, optional
        In the order of ``cells``.
    anomalies : Answered, optional
        Cells unlike the classes of the model.
    level : float
        Confidence of the one-sided bounds on the error among accepted cells.
    """
    slides = groups.slide if groups else None
    names = groups.group if groups else [""] * len(cells)
    strata = [f"{name}\0{truth}" for name, truth in zip(names, cells.truth, strict=True)]
    resampler = draw(strata, slides, groups.group if groups else None)
    failed = [item for item in source.failed if item["error"] != "not_scored"]
    absent = [name for c, name in enumerate(cells.classes) if not (cells.truth == c).any()]
    right, images = int(cells.right.sum()), len(cells) + len(failed)
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "created": source.created,
        "model": model.model_dump(mode="json"),
        "calibration": source.calibration,
        "data": {
            "name": source.name,
            "data_sha256": source.data_sha256,
            "um_per_pixel": source.um_per_pixel,
            "budget": source.budget,
            "images": images,
            "per_class": {name: int((cells.truth == c).sum()) for c, name in enumerate(cells.classes)},
            "absent": absent,
            "slides": resampler.slides,
            "failed": [dict(item) for item in source.failed],
            "accuracy_if_failures_count_as_wrong": right / images,
        },
        "method": {"draws": DRAWS, "seed": SEED, "interval_level": 0.95},
        "notes": _notes(resampler.slides, absent, failed, source, anomalies),
        "overall": describe(cells, resampler, level, slides),
        "familiarity": describe_familiarity(cells, resampler, groups, level),
        "restricted": restricted(cells, resampler),
        "groups": None if groups is None else describe_groups(cells, resampler, groups, level),
        "anomalies": None if anomalies is None else describe_anomalies(anomalies, cells, resampler, groups),
        "anomalies_failed": [dict(item) for item in source.anomalies_failed],
    }


def _notes(
    slides: int | None,
    absent: Sequence[str],
    failed: Sequence[Mapping[str, str]],
    source: MeasuredSet,
    anomalies: Answered | None,
) -> list[str]:
    if slides is None:
        notes = [INDEPENDENT]
    else:
        notes = [f"Intervals come from resampling {slides} slides, and are never narrower than those of single cells."]
        if slides < FEW_SLIDES:
            notes.append(f"With fewer than {FEW_SLIDES} slides such intervals are still too narrow.")
    notes.append("Every interval holds by itself at 95 %; among many figures and groups some miss by chance.")
    if absent:
        notes.append(
            f"No cell of {', '.join(absent)}: their sensitivity is unknown. Labels are the best of all classes; the "
            "section on the classes present repeats the main figures with only those in the race."
        )
    if failed:
        notes.append(
            f"{len(failed)} image(s) got no answer; they are named, and outside every figure but the last of the data."
        )
    if anomalies is not None:
        notes.append("Strangers are taken as independent of one another.")
    return [*notes, *source.remarks]


def refuse_to_overwrite(folder: Path) -> None:
    """Say so before any work is done: also if the reports could not be written after it.

    Raises
    ------
    AlreadyThere
    BadTarget
        The folder cannot be written into.
    """
    for name in (JSON_NAME, HTML_NAME):
        if os.path.lexists(folder / name):
            raise AlreadyThere(f"{folder / name} exists; reports are kept, not overwritten: give another folder")
    if folder.exists() and not folder.is_dir():
        raise AlreadyThere(f"{folder} is a file; give a folder")
    try:
        check_output_folder(folder)
    except NotWritable as error:
        raise BadTarget(str(error)) from error


def to_json(report: Mapping[str, Any]) -> str:
    """Return the document as JSON text; a NaN, which JSON does not know, becomes null."""
    return json.dumps(_clean(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return float(f"{number:.6g}") if math.isfinite(number) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def write(folder: Path, report: Mapping[str, Any], page: str) -> None:
    """Write ``validation.json`` and ``validation.html``, each whole or not at all.

    Raises
    ------
    AlreadyThere
    """
    refuse_to_overwrite(folder)
    write_text(folder / JSON_NAME, to_json(report))
    write_text(folder / HTML_NAME, page)
