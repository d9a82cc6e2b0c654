r"""HL7 v2.5.1: one unsolicited result, ``ORU^R01^ORU_R01``.

===== ==================================================================================================
MSH   character set UTF-8; processing ID ``P``, or ``T`` where a picture is synthetic; the control ID is the
      report's number, so a message that is sent twice is known as one
PID   only where the caller gave a number: PID-3 is required by the standard, and nothing is invented
OBR   LOINC 69738-3; OBR-25 is ``P``, or ``I`` (no results available) where the sample cannot be reported
NTE   the notices, and which model and calibration decided, each its own
OBX   for each class its number, its cells and its interval (``SN``, low^-^high), tied together by the sub-ID; before
      them the white cells counted. OBX-11 is ``P``. Where the sample cannot be reported each class has one OBX
      without a value and OBX-11 ``X`` (results cannot be obtained)
SPM   the sample's name in SPM-2
===== ==================================================================================================

Text is escaped by section 2.7: ``\F\ \S\ \T\ \R\ \E\``, line breaks and tabs as ``\X..\``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cytoserve_reports.formats.codes import (
    LOCAL_TABLE,
    MEASURES,
    PANEL,
    PER_100_WHITE,
    PERCENT,
    ClassTerm,
)
from cytoserve_reports.formats.delimited import Value, delimited
from cytoserve_reports.formats.findings import PRODUCT, Finding, Findings
from cytoserve_reports.formats.identifiers import check_identifiers

SEGMENT_END: Final = "\r"
_ESCAPES: Final = str.maketrans(
    {
        "\\": "\\E\\",
        "|": "\\F\\",
        "^": "\\S\\",
        "&": "\\T\\",
        "~": "\\R\\",
        "\r": "\\X0D\\",
        "\n": "\\X0A\\",
        "\t": "\\X09\\",
    }
)
_UNIT_NAMES: Final = {PERCENT: "percent", PER_100_WHITE: "per 100 white cells"}
_METHOD: Final = "Classification of cells in pictures by a diffusion model"


def message(findings: Findings) -> str:
    """Return the message, its segments ended by carriage returns.

    Raises
    ------
    IdentifierRefused
        The sample's name or the patient's number does not fit HL7 v2.
    """
    check_identifiers("hl7", findings.sample, findings.origin.patient)
    segments = [
        *_head(findings),
        *_notes((*findings.notices, findings.made_by)),
        *_results(findings),
        *_specimen(findings),
    ]
    return "".join(segment + SEGMENT_END for segment in segments)


def escaped(text: str) -> str:
    r"""Return text as a field may hold it.

    Examples
    --------
    >>> escaped("a|b")
    'a\\F\\b'
    """
    return text.translate(_ESCAPES)


def _segment(name: str, *fields: Value) -> str:
    return delimited(escaped, name, *fields)


def _time(findings: Findings) -> str:
    return findings.origin.made_utc.strftime("%Y%m%d%H%M%S+0000")


def control_id(findings: Findings) -> str:
    """Return MSH-10: twenty digits and letters of the report's number."""
    return findings.origin.report.hex[:20]


def _head(findings: Findings) -> list[str]:
    processing = "T" if findings.report.synthetic else "P"
    named = ("ORU", "R01", "ORU_R01")
    head = _segment(
        *("MSH", PRODUCT, None, None, None, _time(findings), None, named, control_id(findings), processing, "2.5.1"),
        *(None, None, None, None, None, "UNICODE UTF-8"),
    )
    segments = [head.replace("MSH|", r"MSH|^~\&|", 1)]
    if findings.origin.patient:
        # PID-5 is required too; name type U says that no name is known
        segments.append(_segment("PID", 1, None, findings.origin.patient, None, ("", "", "", "", "", "", "U")))
    report = (str(findings.origin.report), PRODUCT)
    status = "P" if findings.reportable else "I"
    empty = [None] * 17
    return [*segments, _segment("OBR", 1, None, report, (*PANEL, "LN"), *empty, _time(findings), None, "HM", status)]


def _notes(texts: tuple[str, ...]) -> list[str]:
    return [_segment("NTE", number, "L", text) for number, text in enumerate(texts, 1)]


def _results(findings: Findings) -> Iterator[str]:
    """Yield the OBX segments, numbered, each class's note behind its number."""
    number = 1
    if not findings.reportable:
        for group, term in enumerate(findings.terms, 1):
            yield _result(findings, number, "NM", _code_of(term), group, None, term.unit, "X")
            number += 1
        return
    yield _result(findings, number, "NM", _local("white_cells"), 0, findings.white, None, "P")
    for group, finding in enumerate(findings.rows, 1):
        unit = finding.term.unit
        yield _result(findings, number + 1, "NM", _code_of(finding.term), group, finding.percent, unit, "P")
        yield from _notes((finding.sentence(findings.white),))
        yield _result(findings, number + 2, "NM", _local("cells"), group, finding.count, None, "P")
        yield _result(findings, number + 3, "SN", _local("interval_95"), group, _range(finding), unit, "P")
        number += 3


def _range(finding: Finding) -> tuple[str, ...]:
    """Return the interval as a structured number: low^-^high, or ``>=`` where there is no upper end."""
    return (">=", f"{finding.low:g}") if finding.high is None else ("", f"{finding.low:g}", "-", f"{finding.high:g}")


def _result(
    findings: Findings,
    number: int,
    kind: str,
    code: tuple[str, ...],
    group: int,
    value: Value,
    unit: str | None,
    status: str,
) -> str:
    model = (f"{findings.report.model.name} {findings.report.model.version}", PRODUCT)
    units = None if unit is None else (unit, _UNIT_NAMES[unit], "UCUM")
    return _segment(
        *("OBX", number, kind, code, str(group), value, units, None, None, None, None, status),
        *(None, None, None, None, None, ("", _METHOD), model, _time(findings)),
    )


def _code_of(term: ClassTerm) -> tuple[str, ...]:
    """Return a class's LOINC code with our name of it, or our name alone."""
    own = (term.name, term.text, LOCAL_TABLE)
    return own if term.loinc is None or term.loinc_name is None else (term.loinc, term.loinc_name, "LN", *own)


def _local(measure: str) -> tuple[str, ...]:
    return (measure, MEASURES[measure], LOCAL_TABLE)


def _specimen(findings: Findings) -> list[str]:
    if not findings.sample:
        return []
    return [_segment("SPM", 1, findings.sample, None, ("BLD", "Whole blood", "HL70487"))]
