"""The HL7 v2.5.1 message, validated by ``hl7apy`` (strict) and read back by ``hl7`` (python-hl7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import hl7
import pytest
from cytoserve_reports.formats import Findings, IdentifierRefused, codes, hl7v2
from format_samples import (
    CALIBRATION,
    MADE,
    NAMED_IN_FILES,
    SAID,
    hostile,
    usual,
    with_everything_to_say,
    without_result,
)
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats


def checked(findings: Findings) -> hl7.Message:
    """Return the message as python-hl7 reads it, after hl7apy took it against the structure of ORU_R01."""
    text = hl7v2.message(findings)
    assert parse_message(text, validation_level=VALIDATION_LEVEL.STRICT).validate()
    return hl7.parse(text)


def values(message: hl7.Message, segment: str, field: int) -> list[str]:
    return [str(one[field]) if len(one) > field else "" for one in message.segments(segment)]


def notes(message: hl7.Message) -> str:
    return " ".join(message.unescape(text) for text in values(message, "NTE", 3))


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_hl7apy_takes_it(make: Callable[[], Findings]) -> None:
    checked(make())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("\rOBR|", "\rPV9|"),
        ("|69738-3^Differential panel, method unspecified - Blood^LN|", "||"),
        ("20261126123015+0000", "yesterday"),
    ],
)
def test_hl7apy_refuses_what_is_wrong(right: str, wrong: str) -> None:
    """The validation above must be able to fail."""
    text = hl7v2.message(usual())
    assert right in text
    with pytest.raises((HL7apyException, ValueError)):
        parse_message(text.replace(right, wrong), validation_level=VALIDATION_LEVEL.STRICT).validate()


def test_the_head() -> None:
    (head,) = values(checked(usual()), "MSH", 9)
    assert head == "ORU^R01^ORU_R01"
    message = checked(usual())
    assert values(message, "MSH", 7) == ["20261126123015+0000"]
    assert values(message, "MSH", 10) == [hl7v2.control_id(usual())] == ["12345678123442348234"]
    assert values(message, "MSH", 11) == ["P"]
    assert values(message, "MSH", 12) == ["2.5.1"]
    assert values(message, "MSH", 18) == ["UNICODE UTF-8"]
    assert values(checked(with_everything_to_say()), "MSH", 11) == ["T"]


def test_each_class_has_code_unit_interval_and_n() -> None:
    message = checked(usual())
    assert set(values(message, "OBX", 11)) == {"P"}
    assert values(message, "OBR", 25) == ["P"]
    by_code = {str(one[3]).split("^")[0]: one for one in message.segments("OBX")}
    assert {codes.term_of(name).loinc for name in codes.CODED_CLASSES} < set(by_code)
    assert str(by_code["white_cells"][5]) == "120"
    neutrophils = by_code["26511-6"]
    assert (str(neutrophils[2]), str(neutrophils[5]), str(neutrophils[6])) == (
        "NM",
        f"{100 * 70 / 120:.2f}",
        "%^percent^UCUM",
    )
    assert str(by_code["platelet"][3]) == "platelet^Platelets^99CYTO"
    assert str(by_code["19048-8"][6]) == "/100{WBCs}^per 100 white cells^UCUM"
    same_class = [one for one in message.segments("OBX") if str(one[4]) == str(neutrophils[4])]
    exact = stats.binomtest(70, 120).proportion_ci(method="exact")
    assert [str(one[5]) for one in same_class] == [
        str(neutrophils[5]),
        "70",
        f"^{100 * exact.low:.2f}^-^{100 * exact.high:.2f}",
    ]
    assert f"70 of 120 white cells (0 referred for review); 95 % interval {100 * exact.low:.2f} to" in notes(message)


def test_results_are_numbered_without_gaps() -> None:
    numbers = [int(number) for number in values(checked(usual()), "OBX", 1)]
    assert numbers == list(range(1, len(numbers) + 1))


@without_result
def test_without_a_result_each_class_is_crossed_out_and_has_no_number(make: Callable[[], Findings]) -> None:
    message = checked(make())
    assert set(values(message, "OBX", 11)) == {"X"}
    assert set(values(message, "OBX", 5)) == {""}
    assert len(values(message, "OBX", 1)) == 8
    assert values(message, "OBR", 25) == ["I"]
    assert "CANNOT BE REPORTED" in notes(message)


def test_everything_is_said_and_no_file_is_named() -> None:
    message = checked(with_everything_to_say())
    assert [sentence for sentence in SAID if sentence not in notes(message)] == []
    assert CALIBRATION in notes(message)
    assert NAMED_IN_FILES not in str(message)


def test_nothing_is_invented_of_a_patient() -> None:
    assert "\rPID" not in hl7v2.message(usual())
    message = checked(usual(patient="4711"))
    assert values(message, "PID", 3) == ["4711"]
    assert values(message, "PID", 5) == ["^^^^^^U"]


@hostile
def test_hostile_names_come_back_whole(name: str) -> None:
    message = checked(usual(sample=name, patient=name))
    for segment, field in (("SPM", 2), ("PID", 3)):
        (escaped,) = values(message, segment, field)
        assert message.unescape(escaped) == name
    assert len(values(message, "SPM", 1)) == len(values(message, "PID", 1)) == 1
    assert len(values(message, "OBX", 1)) == len(values(checked(usual()), "OBX", 1))


@settings(deadline=None, max_examples=50)
@given(
    name=st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\r\n\t"), min_size=1, max_size=60)
)
def test_any_text_comes_back_whole(name: str) -> None:
    assert hl7.parse(r"MSH|^~\&|x" + "\r").unescape(hl7v2.escaped(name)) == name
    assert not set("|^~&\r\n\t") & set(hl7v2.escaped(name))


def test_an_interval_without_an_upper_end() -> None:
    found = usual()
    rows = tuple(replace(row, high=None) for row in found.rows)
    message = checked(replace(found, rows=rows))
    intervals = [str(one[5]) for one in message.segments("OBX") if str(one[2]) == "SN"]
    assert intervals == [f">=^{row.low:g}" for row in rows]
    assert "no upper limit" in notes(message)


def test_a_name_longer_than_hl7s_is_refused() -> None:
    checked(usual(sample="x" * 199, patient="y" * 199))
    with pytest.raises(IdentifierRefused, match="199"):
        hl7v2.message(usual(sample="x" * 10_000))
