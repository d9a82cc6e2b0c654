"""Samples for the tests of the hospital's formats: a usual one, and one for each thing that every format must say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import pytest
from cytoserve_client import Anomaly, Cell, Failure, Familiarity, FieldAnalysis, ModelInfo, Skipped, SmearAnalysis
from cytoserve_files.selection import UNSUPPORTED
from cytoserve_reports import summarise
from cytoserve_reports.formats import Findings, Origin
from fake_server import CLASSES
from made_cells import cell

WEIGHTS, CALIBRATION = "ab" * 32, "01" * 32
MODEL = ModelInfo(name="reference", version="1.2.3", classes=CLASSES, weights_sha256=WEIGHTS)
ORIGIN = Origin(
    calibration_sha256=CALIBRATION,
    report=UUID("12345678-1234-4234-8234-123456789abc"),
    made=datetime(2026, 11, 26, 12, 30, 15, 999, tzinfo=timezone.utc),
    software="0.1.0",
)

HOSTILE = {
    "delimiters": r"a|b^c~d\e&f",
    "looks like an escape": r"\F\ &F& &X0D& \X0D\ \.br\ end",
    "line breaks": "one\r\ntwo\nthree\rfour\tfive",
    "a segment of its own": "S1\rOBX|1|NM|26511-6||99",
    "script": "<script>alert('x')</script>&amp;\"",
    "right to left": "\u202eabc\u202c\u200f",
    "formula": '=HYPERLINK("http://x";"y")',
    "letters beyond ASCII": "Müller-Łódź 血液 🩸",
    "quote first": "'=1",
}
"""Names of samples that a format must carry unharmed."""

hostile = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)


def known(p_value: float = 0.6) -> Familiarity:
    return Familiarity(distance=1, p_value=p_value, p_value_of_kind=p_value, cells_of_kind=500, cause="edges-")


def probability(label: str) -> dict[str, float]:
    return {name: 0.93 if name == label else 0.01 for name in CLASSES}


def many(label: str | None, count: int, **changes: Any) -> list[Cell]:
    full: dict[str, Any] = {
        "probability": None if label is None else probability(label),
        "probability_interval": None if label is None else (0.9, 0.95),
        "conformal": None if label is None else {name: 0.6 if name == label else 0.01 for name in CLASSES},
        "anomaly": Anomaly(score=1.0, p_value=0.4),
        "familiarity": known(),
        "uncertainty": 0.07,
        "detection_score": 0.9,
    }
    if label is None:
        full.update(anomaly=None, familiarity=None, uncertainty=None)
    return [cell(label, **{**full, **changes}) for _ in range(count)]


def field(*groups: list[Cell], source: str = "film/field 1.png", synthetic: bool = False) -> FieldAnalysis:
    """Return a field whose cells stand side by side."""
    cells = [each for group in groups for each in group]
    placed = [each.model_copy(update={"box": (10.0 * i, 5.0, 10.0 * i + 8.5, 14.25)}) for i, each in enumerate(cells)]
    return FieldAnalysis(
        source=source,
        width=20_000,
        height=480,
        um_per_pixel=0.15,
        scale_source="red_cells",
        median_red_cell_um=7.4,
        synthetic=synthetic,
        cells=tuple(placed),
    )


def usual_cells() -> list[list[Cell]]:
    """120 white cells, 3 nucleated red cells and 5 platelets outside the denominator, a red cell, one unscored."""
    return [
        many("neutrophil", 70),
        many("lymphocyte", 30, decision="review", reasons=("near_tie",)),
        many("monocyte", 20),
        many("erythroblast", 3),
        many(None, 5, kind="platelet", decision=None),
        many(None, 1, kind="red_cell", decision=None),
        many(None, 1, decision="review"),
    ]


def findings(
    *fields: FieldAnalysis,
    sample: str | None = "S-1",
    patient: str | None = None,
    failures: tuple[Failure, ...] = (),
    skipped: tuple[Skipped, ...] = (),
    model: ModelInfo = MODEL,
) -> Findings:
    analysis = SmearAnalysis(model=model, fields=fields, sample=sample, failures=failures, skipped=skipped)
    origin = Origin(patient, ORIGIN.calibration_sha256, ORIGIN.report, ORIGIN.made, ORIGIN.software)
    return Findings.of(summarise(analysis), origin)


def usual(sample: str | None = "S-1", patient: str | None = None) -> Findings:
    return findings(field(*usual_cells()), sample=sample, patient=patient)


def unfamiliar() -> Findings:
    """A sample whose pictures, taken together, are unlike the calibration's."""
    return findings(field(many("neutrophil", 130, familiarity=known(0.004))))


def nothing_analysed() -> Findings:
    return findings(failures=(Failure(source="Meier, Anna.png", error="not_an_image", message="no"),))


def no_white_cell() -> Findings:
    return findings(field(many(None, 3, kind="red_cell", decision=None)))


def with_everything_to_say() -> Findings:
    """Few cells, synthetic, two images without an answer, a file not read, one passed over."""
    return findings(
        field(many("neutrophil", 4), many(None, 2, decision="review"), source="Meier, Anna.png", synthetic=True),
        failures=(
            Failure(source="Meier, Bert.png", error="truncated", message="no"),
            Failure(source="c.png", error="truncated", message="no"),
        ),
        skipped=(Skipped("Meier.svs", UNSUPPORTED, "no"), Skipped("d.png", "duplicate", "no")),
    )


SAID: tuple[str, ...] = (
    "For research use; not a medical device.",
    "Preliminary: computed by a model; no person has verified it.",
    "SYNTHETIC: generated by a model",
    "Fewer than 100 white cells were counted: read the intervals",
    "2 image(s) got no answer and are in no number: 2 truncated.",
    "1 file(s) that may be images of the sample were not read.",
    "1 file(s) were passed over.",
    "2 white-cell candidate(s) were not scored and are in no row.",
)
"""What every format says of `with_everything_to_say`."""

NO_RESULT = {"unfamiliar": unfamiliar, "nothing analysed": nothing_analysed, "no white cell": no_white_cell}
without_result = pytest.mark.parametrize("make", NO_RESULT.values(), ids=NO_RESULT)

NAMED_IN_FILES = "Meier"
"""A patient's name in file names: messages to the hospital must not hold it."""

MADE: dict[str, Callable[[], Findings]] = {
    "usual": usual,
    "with a patient": lambda: usual(patient="4711"),
    "without a name": lambda: usual(sample=None),
    "everything": with_everything_to_say,
    **NO_RESULT,
}
"""Every kind of sample, for tests that hold for all of them."""
