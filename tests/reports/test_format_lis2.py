"""The LIS2-A2 records.

The one Python library for ASTM records (``astm``) does not install on a Python of today, so the reader below follows
the standard's own words (sections 5.4 to 14) and shares no line with the writer.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from cytoserve_reports.formats import Findings, IdentifierRefused, codes, lis2
from format_samples import CALIBRATION, NAMED_IN_FILES, SAID, hostile, usual, with_everything_to_say, without_result
from scipy import stats

Record = list[list[str]]


def read(text: str) -> list[Record]:
    """Return records as fields of components; the delimiters are those that the header declares."""
    assert text.endswith("\r")
    lines = text.split("\r")[:-1]
    assert lines[0][0] == "H"
    field, _repeat, component, escape = lines[0][1:5]
    names = {"F": field, "S": component, "R": _repeat, "E": escape}

    def whole(found: re.Match[str]) -> str:
        word = found[1]
        return names[word] if word in names else bytes.fromhex(word[1:]).decode("latin-1")

    def unescaped(value: str) -> str:
        return re.sub(f"{re.escape(escape)}([FSRE]|X[0-9A-F]+){re.escape(escape)}", whole, value)

    head: Record = [["H"], [lines[0][1:5]]]
    records: list[Record] = [head + [[unescaped(v) for v in one.split(component)] for one in lines[0][6:].split(field)]]
    for line in lines[1:]:
        records.append([[unescaped(value) for value in one.split(component)] for one in line.split(field)])
    return records


def kinds(records: list[Record]) -> str:
    return "".join(record[0][0] for record in records)


def of_kind(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record[0] == [kind]]


def field(record: Record, number: int) -> str:
    """Return a field by its number in the standard, which counts from 1."""
    return "^".join(record[number - 1]) if len(record) >= number else ""


def comments(records: list[Record]) -> str:
    return " ".join(field(record, 4) for record in of_kind(records, "C"))


def test_records_come_in_the_order_of_the_standard() -> None:
    for found in (usual(), usual(patient="4711"), with_everything_to_say()):
        assert re.fullmatch(r"HPOC+(RC*){8}L", kinds(read(lis2.records(found))))


def test_head_and_end() -> None:
    records = read(lis2.records(usual()))
    head = records[0]
    assert (field(head, 3), field(head, 5)) == ("12345678123442348234", "CytoServe^0.1.0")
    assert (field(head, 11), field(head, 12), field(head, 13)) == ("times are UTC", "P", "LIS2-A2")
    assert field(head, 14) == "20261126123015"
    assert [field(records[-1], number) for number in (1, 2, 3)] == ["L", "1", "N"]
    assert field(read(lis2.records(with_everything_to_say()))[0], 12) == "T"


def test_each_class_has_code_unit_status_interval_and_n() -> None:
    records = read(lis2.records(usual()))
    results = {record[2][3]: record for record in of_kind(records, "R")}
    assert [field(record, 2) for record in results.values()] == [str(number) for number in range(1, 9)]
    neutrophils = results["neutrophil"]
    assert field(neutrophils, 3) == "26511-6^Neutrophils/Leukocytes in Blood^LN^neutrophil"
    assert (field(neutrophils, 4), field(neutrophils, 5), field(neutrophils, 9)) == (f"{7000 / 120:.2f}", "%", "P")
    assert field(neutrophils, 13) == "20261126123015"
    assert field(results["platelet"], 3) == "^^^platelet"
    assert field(results["erythroblast"], 5) == codes.PER_100_WHITE
    (order,) = of_kind(records, "O")
    assert (field(order, 3), field(order, 5).split("^")[0], field(order, 26)) == ("S-1", "69738-3", "P")
    exact = stats.binomtest(70, 120).proportion_ci(method="exact")
    behind = records[records.index(neutrophils) + 1]
    assert field(behind, 4) == (
        f"70 of 120 white cells (0 referred for review); 95 % interval {100 * exact.low:.2f} to "
        f"{100 * exact.high:.2f} %"
    )


@without_result
def test_without_a_result_each_class_is_crossed_out_and_has_no_number(make: Callable[[], Findings]) -> None:
    records = read(lis2.records(make()))
    results = of_kind(records, "R")
    assert len(results) == 8
    assert {(field(record, 4), field(record, 9)) for record in results} == {("", "X")}
    assert field(of_kind(records, "O")[0], 26) == "X"
    assert "CANNOT BE REPORTED" in comments(records)


def test_everything_is_said_and_no_file_is_named() -> None:
    text = lis2.records(with_everything_to_say())
    assert [sentence for sentence in SAID if sentence not in comments(read(text))] == []
    assert CALIBRATION in comments(read(text))
    assert NAMED_IN_FILES not in text


def test_nothing_is_invented_of_a_patient() -> None:
    (patient,) = of_kind(read(lis2.records(usual())), "P")
    assert patient == [["P"], ["1"]]


@hostile
def test_hostile_names_come_back_whole(name: str) -> None:
    records = read(lis2.records(usual(sample=name, patient=name)))
    assert re.fullmatch(r"HPOC+(RC*){8}L", kinds(records))
    assert field(of_kind(records, "O")[0], 3) == name
    assert field(of_kind(records, "P")[0], 3) == name


def test_ten_thousand_characters_and_no_more() -> None:
    records = read(lis2.records(usual(sample="x" * 10_000)))
    assert field(of_kind(records, "O")[0], 3) == "x" * 10_000
    with pytest.raises(IdentifierRefused):
        lis2.records(usual(sample="x" * 10_001))
