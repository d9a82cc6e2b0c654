"""CSV for spreadsheets and statistics: one row per cell, and one row per class.

Both tables are RFC 4180 in UTF-8 without a byte-order mark, with a header of one row; missing values are empty.

- `cells_csv`: a row per cell (``row`` is ``cell``). A field without cells has one row (``no_cells``), and so has every
  image without an answer (``failed``) and every file that was not read (``skipped``), so that nothing is missing
  without a trace. ``status`` stands in every row: ``preliminary``, or ``cannot be reported``.
- `summary_csv`: a row per class with count, percentage, interval and the white cells counted, then a row per notice.
- No cell of a table is a formula: text that a spreadsheet could take for one (it begins with ``= + - @ | %``, a tab, a
  line break, or an apostrophe) gets an apostrophe in front, which is to be taken away on reading.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cytoserve_client.results import Cell, FieldAnalysis

from cytoserve_reports.differential import OUTSIDE_DENOMINATOR
from cytoserve_reports.formats.codes import LOINC_SYSTEM
from cytoserve_reports.formats.findings import CANNOT_BE_REPORTED, Findings
from cytoserve_reports.formats.identifiers import check_identifiers
from cytoserve_reports.text import NOTICE

STATUS: Final = {True: "preliminary", False: CANNOT_BE_REPORTED.lower()}

_OF_FIELD: Final = (
    *("row", "status", "notice", "report", "sample", "patient", "made_utc", "model", "site", "calibration_sha256"),
    *("field", "source", "synthetic", "um_per_pixel", "problem"),
)
_OF_CELL: Final = (
    *("cell", "kind", "x0", "y0", "x1", "y1", "label", "decision", "reasons", "uncertainty"),
    *("probability_low", "probability_high", "anomaly_p_value", "familiarity_p_value", "familiarity_cause"),
    *("prediction_set_95", "detection_score", "evaluations"),
)
SUMMARY_HEADER: Final = (
    *("row", "status", "report", "sample", "patient", "made_utc", "model", "site", "calibration_sha256"),
    *("class", "loinc", "count", "accepted", "review", "value", "unit", "low_95", "high_95", "white_cells"),
    *("in_denominator", "text"),
)
"""The columns of `summary_csv`."""
_FORMULA: Final = (*"=+-@|%\t\r\n'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet may take for the beginning of a formula, in full width too; and our own mark."""

Value = str | int | float | bool | None


def protected(text: str) -> str:
    """Return text that no spreadsheet takes for a formula.

    Examples
    --------
    >>> protected("=1+1"), protected("f.png")
    ("'=1+1", 'f.png')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def unprotected(text: str) -> str:
    """Return what `protected` was given."""
    return text[1:] if text.startswith("'") else text


def cells_header(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of `cells_csv`: those of the field, of the cell, and two per class."""
    probabilities = (f"probability {name}" for name in classes)
    p_values = (f"p_value {name}" for name in classes)
    return (*_OF_FIELD, *_OF_CELL, *probabilities, *p_values)


def cells_csv(findings: Findings) -> str:
    """Return the table with one row per cell.

    Raises
    ------
    IdentifierRefused
        The sample's name or the patient's number does not fit a spreadsheet's cell.
    """
    check_identifiers("csv", findings.sample, findings.origin.patient)
    return _table(cells_header(findings.report.model.classes), _cell_rows(findings))


def summary_csv(findings: Findings) -> str:
    """Return the table with one row per class, and one per notice.

    Raises
    ------
    IdentifierRefused
        The sample's name or the patient's number does not fit a spreadsheet's cell.
    """
    check_identifiers("csv", findings.sample, findings.origin.patient)
    return _table(SUMMARY_HEADER, _summary_rows(findings))


def _table(header: Sequence[str], rows: Iterable[dict[str, Value]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\r\n")
    table.writerow([protected(name) for name in header])
    for row in rows:
        table.writerow([_written(row.get(name)) for name in header])
    return text.getvalue()


def _written(value: Value) -> Value:
    if isinstance(value, bool):
        return str(value).lower()
    return protected(value) if isinstance(value, str) else value


def _common(findings: Findings) -> dict[str, Value]:
    model = findings.report.model
    return {
        "status": STATUS[findings.reportable],
        "notice": NOTICE,
        "report": str(findings.origin.report),
        "sample": findings.sample,
        "patient": findings.origin.patient,
        "made_utc": findings.origin.made_utc.isoformat().replace("+00:00", "Z"),
        "model": f"{model.name} {model.version}",
        "site": findings.report.site,
        "calibration_sha256": findings.origin.calibration_sha256,
    }


def _cell_rows(findings: Findings) -> Iterator[dict[str, Value]]:
    common = _common(findings)
    for number, field in enumerate(findings.report.fields):
        of_field = {**common, **_field(number, field)}
        for place, cell in enumerate(field.cells):
            yield {**of_field, "row": "cell", "cell": place, **_cell(cell)}
        if not field.cells:
            yield {**of_field, "row": "no_cells"}
    for failure in findings.report.failures:
        yield {**common, "row": "failed", "source": failure.source, "problem": failure.error}
    for item in findings.report.skipped:
        yield {**common, "row": "skipped", "source": item.source, "problem": item.reason}


def _field(number: int, field: FieldAnalysis) -> dict[str, Value]:
    return {
        "field": number,
        "source": field.source,
        "synthetic": field.synthetic,
        "um_per_pixel": field.um_per_pixel,
    }


def _cell(cell: Cell) -> dict[str, Value]:
    row: dict[str, Value] = {
        "kind": cell.kind,
        "label": cell.label,
        "decision": cell.decision,
        "reasons": " ".join(cell.reasons),
        "uncertainty": cell.uncertainty,
        "anomaly_p_value": cell.anomaly.p_value if cell.anomaly else None,
        "familiarity_p_value": cell.familiarity.p_value if cell.familiarity else None,
        "familiarity_cause": cell.familiarity.cause if cell.familiarity else None,
        "prediction_set_95": None if cell.prediction_set_95 is None else " ".join(cell.prediction_set_95),
        "detection_score": cell.detection_score,
        "evaluations": cell.evaluations,
    }
    if cell.box is not None:
        row.update(zip(("x0", "y0", "x1", "y1"), cell.box, strict=True))
    if cell.probability_interval is not None:
        row["probability_low"], row["probability_high"] = cell.probability_interval
    row.update({f"probability {name}": value for name, value in (cell.probability or {}).items()})
    row.update({f"p_value {name}": value for name, value in (cell.conformal or {}).items()})
    return row


def _summary_rows(findings: Findings) -> Iterator[dict[str, Value]]:
    common = _common(findings)
    numbers = {finding.term.name: finding for finding in findings.rows}
    for term in findings.terms:
        row: dict[str, Value] = {**common, "row": "class", "class": term.name, "loinc": term.loinc}
        inside = term.name not in OUTSIDE_DENOMINATOR
        row.update(unit="percent" if inside else "per 100 white cells", in_denominator=inside)
        if term.name in numbers:
            finding, counts = numbers[term.name], findings.report.differential[term.name]
            row.update(count=counts.count, accepted=counts.accepted, review=counts.review)
            row.update(value=finding.percent, low_95=finding.low, high_95=finding.high, white_cells=findings.white)
        yield row
    for notice in (*findings.notices, findings.made_by):
        yield {**common, "row": "notice", "text": notice}
    if any(term.loinc for term in findings.terms):
        yield {**common, "row": "notice", "text": f"Codes of the column loinc are from LOINC ({LOINC_SYSTEM})."}
