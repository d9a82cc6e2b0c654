r"""LIS2-A2 (ASTM E1394): the records H, P, O, R, C and L as text, without the frames of the line beneath (LIS1).

Each record ends with a carriage return. Text is escaped by section 5.4.6: ``&F& &S& &R& &E&`` for the delimiters
``| ^ \ &``, and ``&Xhh&`` for control characters. Times are UTC, which LIS2 has no field for; the header's comment says
it. Characters beyond ASCII are UTF-8.

Result status (R.9) and report type (O.26) are ``P``, preliminary; ``X`` where the sample cannot be reported, and then
no record holds a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cytoserve_reports.formats.codes import PANEL, ClassTerm
from cytoserve_reports.formats.delimited import Value, delimited
from cytoserve_reports.formats.findings import PRODUCT, Findings
from cytoserve_reports.formats.identifiers import check_identifiers

RECORD_END: Final = "\r"
_ESCAPES: Final = str.maketrans(
    {"|": "&F&", "^": "&S&", "\\": "&R&", "&": "&E&", "\r": "&X0D&", "\n": "&X0A&", "\t": "&X09&"}
)


def records(findings: Findings) -> str:
    """Return the message, its records ended by carriage returns.

    Raises
    ------
    IdentifierRefused
        The sample's name or the patient's number does not fit LIS2.
    """
    check_identifiers("lis2", findings.sample, findings.origin.patient)
    return "".join(record + RECORD_END for record in _records(findings))


def escaped(text: str) -> str:
    """Return text as a field may hold it.

    Examples
    --------
    >>> escaped("a|b&c")
    'a&F&b&E&c'
    """
    return text.translate(_ESCAPES)


def _record(kind: str, *fields: Value) -> str:
    return delimited(escaped, kind, *fields)


def _records(findings: Findings) -> Iterator[str]:
    """Yield the records of one message about one sample."""
    time = findings.origin.made_utc.strftime("%Y%m%d%H%M%S")
    sender = (PRODUCT, findings.origin.software)
    head = (findings.origin.report.hex[:20], None, sender, None, None, None, None, None, "times are UTC")
    processing = "T" if findings.report.synthetic else "P"
    # The delimiters stand where no escape may: right behind the H.
    yield "H|\\^&|" + _record("", *head, processing, "LIS2-A2", time)[1:]
    yield _record("P", 1, findings.origin.patient)
    status = "P" if findings.reportable else "X"
    panel = (*PANEL, "LN")
    # Fields 6 to 22 and 24 to 25 of O: priorities, collectors, physicians; nothing of it is known here.
    yield _record("O", 1, findings.sample, None, panel, *([None] * 17), time, None, None, status)
    for number, notice in enumerate((*findings.notices, findings.made_by), 1):
        yield _record("C", number, "I", notice, "G")
    yield from _results(findings, status, time)
    yield _record("L", 1, "N")


def _results(findings: Findings, status: str, time: str) -> Iterator[str]:
    model = f"{findings.report.model.name} {findings.report.model.version}"
    known = {finding.term.name: finding for finding in findings.rows}
    for number, term in enumerate(findings.terms, 1):
        finding = known.get(term.name)
        value = None if finding is None else finding.percent
        rest = (None, None, None, status, None, None, None, time, model)
        yield _record("R", number, _test_of(term), value, term.unit, *rest)
        if finding is not None:
            yield _record("C", 1, "I", finding.sentence(findings.white), "G")


def _test_of(term: ClassTerm) -> tuple[str, ...]:
    """Return the universal test ID: LOINC's code, name and kind, and in the fourth component our own."""
    return (term.loinc or "", term.loinc_name or "", "LN" if term.loinc else "", term.name)
