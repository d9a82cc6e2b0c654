"""Verdicts as a review page exports them, ``cytoserve.verdicts/1``: read, and checked against their analysis.

A file is bound to the analysis by the hash of its content, and each verdict to its cell by the hash of the field's
file, the cell's index and its box. Its own hash shows changes after the export; it is no signature: who can write the
file can make a new hash.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cytoserve_client.results import Box
from cytoserve_contract.names import VERDICTS, VerdictsSchema
from cytoserve_files import shown
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cytoserve_reports.page.binding import first_problem, read_json
from cytoserve_reports.page.document import Place, shown_places
from cytoserve_reports.page.errors import EditedVerdicts, NotVerdicts, OtherAnalysis, UnknownCell
from cytoserve_reports.page.language import visible
from cytoserve_reports.sample import SampleReport

VerdictKind = Literal["agree", "reclassify", "classify", "cannot_tell"]
"""``agree`` and ``reclassify`` need the model's label in sight; ``classify`` is what a blinded reader says."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Reviewer = Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,32}$")]
Time = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Verdict(_Strict):
    """What one reader said of one cell."""

    field: int = Field(ge=0, description="index of the field in the analysis")
    field_sha256: Sha256 | None = Field(description="hash of the field's file; null if the page could not read it")
    cell: int = Field(ge=0, description="index of the cell in its field")
    box: Box | None = Field(description="pixels of the displayed field")
    verdict: VerdictKind
    class_: str | None = Field(alias="class", description="the class by the reader; null for cannot_tell")
    reviewer: Reviewer = Field(description="the reader's code")
    time: Time = Field(description="when it was given, UTC")

    @property
    def place(self) -> Place:
        """The cell: index of its field, its own index."""
        return self.field, self.cell


class VerdictDocument(_Strict):
    """One reader's verdicts on one sample."""

    schema_: VerdictsSchema = Field(alias="schema")
    notice: str
    analysis_sha256: Sha256
    sample: str | None = Field(description="as the page showed it")
    site: str
    model: dict[str, Any]
    classes: tuple[str, ...]
    blinded: bool = Field(description="whether the reader saw neither label nor probability")
    synthetic: bool
    exported: Time
    cells_shown: int = Field(ge=0, description="cells that the page asked about")
    verdicts: tuple[Verdict, ...]
    content_sha256: Sha256 = Field(description="see `own_sha256`")

    @property
    def reviewers(self) -> tuple[str, ...]:
        """The codes that occur, most frequent first."""
        return tuple(name for name, _ in Counter(one.reviewer for one in self.verdicts).most_common())


def own_sha256(document: VerdictDocument) -> str:
    """Return the hash that the page's script wrote into a file of this content (``exported()`` in ``page.js``)."""
    rows = [[v.field, v.field_sha256, v.cell, v.verdict, v.class_, v.reviewer, v.time] for v in document.verdicts]
    signed = [
        document.schema_,
        document.analysis_sha256,
        document.blinded,
        list(document.classes),
        document.exported,
        document.cells_shown,
        rows,
    ]
    text = json.dumps(signed, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_verdicts(path: Path) -> VerdictDocument:
    """Return a file of verdicts that is whole and was not changed after its export.

    Raises
    ------
    NotVerdicts
        It is another document, or damaged.
    EditedVerdicts
        Its content is not what was exported.
    OSError
        It cannot be read.
    """
    document = read_json(path, NotVerdicts)
    if not isinstance(document, dict) or document.get("schema") != VERDICTS:
        raise NotVerdicts(f"{shown(path)} is no {VERDICTS} document; export the verdicts from the review page")
    try:
        read = VerdictDocument.model_validate(document)
        [datetime.fromisoformat(one.time.removesuffix("Z")) for one in read.verdicts]
        agrees = own_sha256(read) == read.content_sha256
    except ValidationError as error:
        raise NotVerdicts(f"{shown(path)} is damaged: {first_problem(error)}; export it again") from error
    except ValueError as error:  # a time that is none, or a text that no file can hold
        raise NotVerdicts(f"{shown(path)} is damaged: {error}; export it again") from error
    if not agrees:
        raise EditedVerdicts(
            f"{shown(path)} was changed after its export: its content does not give the hash in it; export it again"
        )
    _check_sense(read, path)
    return read


def _check_sense(read: VerdictDocument, path: Path) -> None:
    """Refuse what no page exports, whatever the hash says."""
    allowed = {"classify", "cannot_tell"} if read.blinded else {"agree", "reclassify", "cannot_tell"}
    seen: set[Place] = set()
    for one in read.verdicts:
        where = f"{shown(path)}: field {one.field}, cell {one.cell}"
        if one.place in seen:
            raise EditedVerdicts(f"{where} has two verdicts; export the file again")
        if one.verdict not in allowed:
            raise EditedVerdicts(f"{where}: {one.verdict!r} does not belong on this page; export the file again")
        if (one.class_ is None) != (one.verdict == "cannot_tell") or one.class_ not in (*read.classes, None):
            raise EditedVerdicts(f"{where}: class {visible(str(one.class_))!r} does not go with {one.verdict!r}")
        seen.add(one.place)
    if len(seen) > read.cells_shown:
        raise EditedVerdicts(f"{shown(path)} has more verdicts than the page showed cells; export it again")


def check_binding(document: VerdictDocument, report: SampleReport, analysis_sha256: str) -> None:
    """See that verdicts were given on this analysis, cell by cell.

    Raises
    ------
    OtherAnalysis
        They were given on another one, or on this one before it was changed.
    UnknownCell
        A verdict is about a cell that the analysis does not show, or shows at another place.
    EditedVerdicts
        What the file repeats of the analysis is not what stands there.
    """
    if document.analysis_sha256 != analysis_sha256:
        raise OtherAnalysis(
            f"the verdicts were given on the analysis {document.analysis_sha256[:12]}, this one is "
            f"{analysis_sha256[:12]}: give the JSON that was written with the page, unchanged"
        )
    repeated = {
        "sample": (document.sample, None if report.sample is None else visible(report.sample)),
        "site": (document.site, visible(report.site)),
        "classes": (document.classes, report.model.classes),
        "synthetic": (document.synthetic, report.synthetic),
        "model": (document.model, report.model.model_dump(mode="json", exclude={"classes"})),
        "cells_shown": (document.cells_shown, len(shown_places(report))),
    }
    for name, (there, here) in repeated.items():
        if there != here:
            raise EditedVerdicts(f"the verdicts' {name} is not that of the analysis; export the file again")
    _check_cells(document, report)


def _check_cells(document: VerdictDocument, report: SampleReport) -> None:
    places = set(shown_places(report))
    files: dict[int, str | None] = {}
    for one in document.verdicts:
        where = f"field {one.field}, cell {one.cell}"
        if one.place not in places:
            raise UnknownCell(f"{where}: the analysis shows no such cell; export the verdicts again")
        cell = report.fields[one.field].cells[one.cell]
        if one.box != cell.box:
            raise UnknownCell(f"{where}: the verdict's box is not the cell's; export the verdicts again")
        if files.setdefault(one.field, one.field_sha256) != one.field_sha256:
            raise EditedVerdicts(f"{where}: two files are named for one field; export the verdicts again")
        if (one.verdict == "agree") != (one.class_ == cell.label) and one.verdict in ("agree", "reclassify"):
            raise EditedVerdicts(f"{where}: {one.verdict!r} does not go with the label; export the verdicts again")
