"""The CSV tables: read by the standard library, checked for formulas by ``defusedcsv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pytest
from cytoserve_client import Failure
from cytoserve_reports.formats import Findings, spreadsheet
from defusedcsv import csv as defused
from format_samples import (
    HOSTILE,
    SAID,
    field,
    findings,
    hostile,
    many,
    usual,
    with_everything_to_say,
    without_result,
)
from scipy import stats

Rows = list[dict[str, str]]


def cells(found: Findings) -> Rows:
    return list(csv.DictReader(io.StringIO(spreadsheet.cells_csv(found), newline=""), strict=True))


def summary(found: Findings) -> Rows:
    return list(csv.DictReader(io.StringIO(spreadsheet.summary_csv(found), newline=""), strict=True))


def test_one_row_per_cell_with_all_that_is_known_of_it() -> None:
    found = usual()
    rows = cells(found)
    assert len(rows) == len(found.report.fields[0].cells)
    assert {row["row"] for row in rows} == {"cell"}
    first = rows[0]
    assert (first["label"], first["decision"], first["kind"], first["field"], first["cell"]) == (
        *("neutrophil", "accept", "white_cell", "0", "0"),
    )
    assert [float(first[name]) for name in ("x0", "y0", "x1", "y1")] == [0, 5, 8.5, 14.25]
    assert float(first["probability neutrophil"]) == 0.93
    assert float(first["p_value neutrophil"]) == 0.6
    assert (float(first["probability_low"]), float(first["probability_high"])) == (0.9, 0.95)
    assert first["made_utc"] == "2026-11-26T12:30:15Z"
    assert first["patient"] == ""
    assert {row["reasons"] for row in rows if row["decision"] == "review"} == {"near_tie", ""}
    red = next(row for row in rows if row["kind"] == "red_cell")
    assert (red["label"], red["decision"], red["probability neutrophil"]) == ("", "", "")


def test_one_row_per_class() -> None:
    rows = {row["class"]: row for row in summary(usual()) if row["row"] == "class"}
    neutrophils = rows["neutrophil"]
    exact = stats.binomtest(70, 120).proportion_ci(method="exact")
    assert (neutrophils["loinc"], neutrophils["count"], neutrophils["white_cells"]) == ("26511-6", "70", "120")
    assert (float(neutrophils["low_95"]), float(neutrophils["high_95"])) == pytest.approx(
        (100 * exact.low, 100 * exact.high), abs=0.005
    )
    assert (rows["lymphocyte"]["accepted"], rows["lymphocyte"]["review"]) == ("0", "30")
    assert {name for name, row in rows.items() if row["in_denominator"] == "false"} == {"erythroblast", "platelet"}
    inside = [float(row["value"]) for row in rows.values() if row["in_denominator"] == "true"]
    assert sum(inside) == pytest.approx(100, abs=0.05)


@without_result
def test_without_a_result_the_word_stands_in_every_row_and_no_percentage(make: Callable[[], Findings]) -> None:
    found = make()
    for rows in (cells(found), summary(found)):
        assert rows
        assert {row["status"] for row in rows} == {"cannot be reported"}
    numbers = {row[name] for row in summary(found) for name in ("count", "value", "low_95", "high_95", "white_cells")}
    assert numbers == {""}
    assert any("CANNOT BE REPORTED" in row["text"] for row in summary(found))


def test_everything_is_said() -> None:
    said = " ".join(row["text"] for row in summary(with_everything_to_say()))
    assert [sentence for sentence in SAID if sentence not in said] == []
    assert all(row["notice"] == SAID[0] for row in cells(with_everything_to_say()))
    assert {row["synthetic"] for row in cells(with_everything_to_say()) if row["row"] == "cell"} == {"true"}


def test_what_was_not_analysed_has_a_row_too() -> None:
    found = findings(
        field(many("neutrophil", 1)),
        field(source="empty.png"),
        failures=(Failure(source="b.png", error="truncated", message="no"),),
    )
    assert [(row["row"], row["source"], row["problem"]) for row in cells(found)] == [
        ("cell", "film/field 1.png", ""),
        ("no_cells", "empty.png", ""),
        ("failed", "b.png", "truncated"),
    ]
    assert [row["problem"] for row in cells(with_everything_to_say()) if row["row"] == "skipped"] == [
        row.reason for row in with_everything_to_say().report.skipped
    ]


@hostile
def test_hostile_names_come_back_whole(name: str) -> None:
    found = findings(field(many("neutrophil", 1), source=name), sample=name, patient=name)
    for row in (cells(found)[0], summary(found)[0]):
        assert spreadsheet.unprotected(row["sample"]) == name
        assert spreadsheet.unprotected(row["patient"]) == name
    assert spreadsheet.unprotected(cells(found)[0]["source"]) == name


@pytest.mark.parametrize(
    "name", [*HOSTILE.values(), "+1", "-1+1", "@SUM(A1)", "|cmd", "%x", "\t=1", "\n=1", "=cmd|' /C calc'!A1", "＝1"]
)
def test_defusedcsv_finds_nothing_to_defuse(name: str) -> None:
    """It puts an apostrophe before what spreadsheets take for a formula; a text of ours begins with none of that."""
    found = findings(field(many("neutrophil", 1), source=name), sample=name, patient=name)
    for text in (spreadsheet.cells_csv(found), spreadsheet.summary_csv(found)):
        written = list(csv.reader(io.StringIO(text, newline="")))
        out = io.StringIO()
        defused.writer(out, lineterminator="\r\n").writerows(written)
        again = list(csv.reader(io.StringIO(out.getvalue(), newline="")))
        changed = [
            (a, b) for one, two in zip(written, again, strict=True) for a, b in zip(one, two, strict=True) if a != b
        ]
        assert [pair for pair in changed if pair[1] != pair[0].replace("|", "\\|")] == []


def test_defusedcsv_would_find_it() -> None:
    """The check above must be able to fail."""
    out = io.StringIO()
    defused.writer(out).writerow(["=1+1"])
    assert out.getvalue().startswith("'=1+1")


def test_lines_end_and_fields_are_quoted_as_rfc_4180_says() -> None:
    text = spreadsheet.summary_csv(usual(sample='a,"b"\r\nc'))
    assert '"a,""b""\r\nc"' in text
    assert text.endswith("\r\n")
    assert not text.startswith("\ufeff")
