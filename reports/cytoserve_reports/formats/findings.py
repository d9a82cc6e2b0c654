"""What every format says about a sample: decided once, so that no two formats can disagree.

- **Reportable or not** is decided here. A sample that is unfamiliar, or in which no white cell was counted, has no
  ``rows``, so no format can print a number for it.
- **Notices** are whole sentences that every format carries: research use, not verified, unfamiliar or synthetic
  pictures, fewer than 100 cells, what was not analysed. They name no files: a file's name may name a patient.
- **Identity**: nothing about a patient is known unless the caller gives a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from typing import Final
from uuid import UUID, uuid4

from cytoserve_client.results import Cell
from cytoserve_files import writable_text
from cytoserve_files.selection import PARTS, SYSTEM_FILE, UNREAD

from cytoserve_reports.differential import (
    OUTSIDE_DENOMINATOR,
    SMALL_COUNT,
    ClassCount,
    is_small,
    unlabelled,
    white_cells,
)
from cytoserve_reports.familiar import BLIND_SPOT, first_line
from cytoserve_reports.formats.codes import ClassTerm, term_of
from cytoserve_reports.formats.errors import ReportFormatError
from cytoserve_reports.sample import SampleReport
from cytoserve_reports.text import NOTICE, SYNTHETIC

PRODUCT: Final = "CytoServe"
CANNOT_BE_REPORTED: Final = "CANNOT BE REPORTED"
"""The word that stands in every format where a sample has no result."""

PRELIMINARY: Final = "Preliminary: computed by a model; no person has verified it."
INTERVALS: Final = "The 95 % intervals describe the counting of so many cells, not mistakes of the classifier."


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _software() -> str:
    try:
        return metadata.version("cytoserve")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"


@dataclass(frozen=True)
class Origin:
    """What a report needs to know beside the result: who it is of, when it was made, by what.

    Raises
    ------
    ReportFormatError
        ``made`` has no time zone.
    """

    patient: str | None = None
    """The patient's number as the caller gave it; never read from a picture or a file's name."""
    calibration_sha256: str | None = None
    """Hash of the calibration that decided; None where the server does not declare it."""
    report: UUID = field(default_factory=uuid4)
    """Number of this report, the same in every format."""
    made: datetime = field(default_factory=_now)
    """When the report was made; with a time zone."""
    software: str = field(default_factory=_software)
    """Version of this program."""

    def __post_init__(self) -> None:
        if self.made.tzinfo is None:
            raise ReportFormatError(f"a report's time needs its zone, {self.made.isoformat()} has none: give UTC")

    @property
    def made_utc(self) -> datetime:
        """When the report was made, in UTC and whole seconds."""
        return self.made.astimezone(timezone.utc).replace(microsecond=0)


@dataclass(frozen=True)
class Finding:
    """One class's number."""

    term: ClassTerm
    count: int
    review: int
    """Cells of the class that were referred for review; they are in ``count``."""
    percent: float
    """Of the white cells, or per 100 white cells, with two decimals."""
    low: float
    high: float | None
    """Ends of the exact 95 % interval, with two decimals; there may be no upper one."""

    def sentence(self, white: int) -> str:
        """Return the count, the number of white cells, how many were referred, and the interval in words."""
        unit = "%" if self.term.name not in OUTSIDE_DENOMINATOR else "per 100 white cells"
        upper = "no upper limit" if self.high is None else f"{self.high:g}"
        cells = f"{self.count} of {white} white cells"
        if self.term.name in OUTSIDE_DENOMINATOR:
            cells = f"{self.count} beside {white} white cells, outside the denominator"
        return f"{cells} ({self.review} referred for review); 95 % interval {self.low:g} to {upper} {unit}"


@dataclass(frozen=True)
class Findings:
    """What all formats say about a sample; made by `of`."""

    report: SampleReport
    origin: Origin
    sample: str | None
    """The sample's name as the caller gave it; None for an empty one."""
    refusal: str | None
    """Why the sample cannot be reported, as a sentence; None where it can."""
    rows: tuple[Finding, ...]
    """One a class, in the model's order; empty where the sample cannot be reported."""
    terms: tuple[ClassTerm, ...]
    """The model's classes, whether or not there are numbers."""
    white: int
    """White cells counted: the denominator."""
    notices: tuple[str, ...]
    """Sentences that every format carries, the most important first."""

    @property
    def reportable(self) -> bool:
        """Whether there are numbers to report."""
        return self.refusal is None

    @classmethod
    def of(cls, report: SampleReport, origin: Origin) -> Findings:
        """Return what is to be said about a sample."""
        cells = [cell for one in report.fields for cell in one.cells]
        first = first_line(report.familiarity, cells, report.site)
        white = white_cells(report.differential)
        refusal = _refusal(report, white, first.text if first.alarming else None)
        return cls(
            report=report,
            origin=origin,
            sample=writable_text(report.sample) if report.sample else None,
            refusal=refusal,
            rows=() if refusal else tuple(_rows(report.differential)),
            terms=tuple(term_of(name) for name in report.model.classes),
            white=white,
            notices=tuple(_notices(report, cells, refusal, first.text)),
        )

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of what decided, by what it is of: ``weights`` (one, or one per file) and ``calibration``."""
        weights = self.report.model.weights_sha256
        found = {f"weights {name}": value for name, value in weights.items()} if isinstance(weights, dict) else {}
        if isinstance(weights, str):
            found["weights"] = weights
        if self.origin.calibration_sha256:
            found["calibration"] = self.origin.calibration_sha256
        return found

    @property
    def made_by(self) -> str:
        """Model, version, hashes and site in one sentence, for formats without fields for them."""
        model = self.report.model
        each = "".join(f"; SHA-256 of {what} {value}" for what, value in self.hashes.items())
        return (
            f"Computed by model {model.name} {model.version}, calibration of site {self.report.site!r}, with {PRODUCT} "
            f"{self.origin.software}{each}."
        )


def _refusal(report: SampleReport, white: int, alarm: str | None) -> str | None:
    """Return why a sample has no result; None where it has one."""
    if not report.fields:
        return "no picture of the sample could be analysed."
    if alarm is not None:
        return alarm
    return None if white else "no white cell was counted, so there is no differential."


def _rows(differential: dict[str, ClassCount]) -> list[Finding]:
    return [
        Finding(
            term=term_of(name),
            count=row.count,
            review=row.review,
            percent=round(row.percent, 2),
            low=round(row.low, 2),
            high=None if row.high is None else round(row.high, 2),
        )
        for name, row in differential.items()
        if row.percent is not None and row.low is not None
    ]


def _notices(report: SampleReport, cells: Sequence[Cell], refusal: str | None, familiar: str) -> list[str]:
    """Return the sentences about a sample, the most important first."""
    told = [NOTICE]
    if refusal:
        told.append(f"{CANNOT_BE_REPORTED}: {refusal}")
    told.append(PRELIMINARY)
    if report.synthetic:
        told.append(SYNTHETIC)
    if familiar != refusal:
        told.append(familiar)
    if report.novelty is not None and report.novelty.alarm:
        told.append(report.novelty.headline)
    if is_small(report.differential):
        advice = "" if refusal else ": read the intervals, not the percentages"
        told.append(f"Fewer than {SMALL_COUNT} white cells were counted{advice}.")
    told += _not_analysed(report)
    missing = unlabelled(cells)
    if missing:
        told.append(f"{missing} white-cell candidate(s) were not scored and are in no row.")
    if report.review:
        counted = "" if refusal else "; those with a class are counted in it"
        told.append(f"{len(report.review)} cell(s) were referred for review{counted}.")
    if any(cell.familiarity is not None for cell in cells):
        told.append(BLIND_SPOT)
    return told if refusal else [*told, INTERVALS]


def _not_analysed(report: SampleReport) -> list[str]:
    """Return what of the sample is in no number: images without an answer, files that were not read."""
    told = []
    if report.failures:
        errors = Counter(failure.error for failure in report.failures)
        each = ", ".join(f"{count} {error}" for error, count in sorted(errors.items()))
        told.append(f"{len(report.failures)} image(s) got no answer and are in no number: {each}.")
    lost = sum(item.reason in UNREAD for item in report.skipped)
    if lost:
        told.append(f"{lost} file(s) that may be images of the sample were not read.")
    told += [f"{item.source}: {item.message}." for item in report.skipped if item.reason in PARTS]
    passed = sum(item.reason not in UNREAD | PARTS and item.reason != SYSTEM_FILE for item in report.skipped)
    if passed:
        told.append(f"{passed} file(s) were passed over.")
    return told
