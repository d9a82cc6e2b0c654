"""What binds a reader's verdicts to an analysis: the hash of its content, and how an analysis is read back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from cytoserve_contract.names import ANALYSES, ANALYSIS
from cytoserve_files import read_bytes, shown
from pydantic import ValidationError

from cytoserve_reports.page.errors import NotAnAnalysis
from cytoserve_reports.sample import SampleReport

MOST_BYTES: Final = 512 * 1024 * 1024
"""Largest analysis or file of verdicts that is read."""


def content_sha256(document: Any) -> str:
    """Return the hash of a JSON document's content, whatever its spaces and the order of its keys."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def sha256_of(report: SampleReport) -> str:
    """Return the hash of a report's content, the same as that of the JSON file written of it."""
    return content_sha256(json.loads(report.model_dump_json()))


def read_analysis(path: Path) -> tuple[SampleReport, str]:
    """Return the analysis in a file that ``cytoserve analyze --json`` wrote, and the hash of its content.

    Raises
    ------
    NotAnAnalysis
        It is another document, or damaged.
    OSError
        It cannot be read.
    """
    document = read_json(path, NotAnAnalysis)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema == ANALYSES:
        raise NotAnAnalysis(f"{shown(path)} holds several samples; analyse each sample by itself (without --per-image)")
    if schema != ANALYSIS:
        raise NotAnAnalysis(f"{shown(path)} is no {ANALYSIS} document; give the file that `analyze --json` wrote")
    try:
        report = SampleReport.model_validate(document)
    except ValidationError as error:
        raise NotAnAnalysis(f"{shown(path)} is damaged: {first_problem(error)}") from error
    return report, content_sha256(document)


def read_json(path: Path, refused: type[Exception]) -> Any:
    """Return a file's JSON; an error of the kind given says what is wrong with it."""
    data = read_bytes(path)
    if len(data) > MOST_BYTES:
        raise refused(f"{shown(path)} is larger than {MOST_BYTES // 2**20} MiB")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise refused(f"{shown(path)} is no JSON ({error}); export or write it again") from error


def first_problem(error: ValidationError) -> str:
    """Return the first thing wrong with a document, and where."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where or 'the document'}: {first['msg']}"


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
