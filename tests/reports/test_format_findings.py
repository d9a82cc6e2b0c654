"""What all formats say about a sample: codes, whether there is a result, notices, identity."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cytoserve_reports.formats import (
    Findings,
    IdentifierRefused,
    Origin,
    ReportFormatError,
    codes,
    fhir,
    hl7v2,
    lis2,
    spreadsheet,
)
from cytoserve_reports.formats.identifiers import LONGEST, check_identifiers
from fake_server import CLASSES
from format_samples import (
    CALIBRATION,
    HOSTILE,
    SAID,
    WEIGHTS,
    field,
    findings,
    known,
    many,
    no_white_cell,
    nothing_analysed,
    unfamiliar,
    usual,
    with_everything_to_say,
    without_result,
)
from scipy import stats


def luhn(digits: str) -> int:
    """Return the check digit by Luhn's rule as ISO/IEC 7812 words it, for comparison with another wording."""
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(reversed(digits))]
    return -sum(sum(divmod(value, 10)) for value in doubled) % 10


def test_every_class_of_the_reference_model_has_a_term_and_all_codes_have_their_check_digit() -> None:
    terms = [codes.term_of(name) for name in CLASSES]
    assert [term.name for term in terms] == list(CLASSES)
    assert [term.name for term in terms if term.loinc is None] == ["platelet"]
    given = [codes.PANEL[0], *(term.loinc for term in terms if term.loinc)]
    assert len(set(given)) == len(given)
    for code in given:
        number, _, digit = code.partition("-")
        assert luhn(number) == int(digit)
        assert codes.has_valid_check_digit(code)
    assert all(term.loinc_name for term in terms if term.loinc)
    assert len({term.colour for term in terms}) == len(terms)


@pytest.mark.parametrize("wrong", ["770-1", "770-2", "26511-7", "265116", "-6", "26511-", "x-6", "26511-66", "²6-6"])
def test_a_wrong_code_is_known_as_one(wrong: str) -> None:
    """The first two stand in public repositories."""
    assert not codes.has_valid_check_digit(wrong)


def test_no_code_names_the_method_of_a_counter() -> None:
    automated = {"770-8", "736-9", "5905-5", "713-8", "706-2", "71695-1", "58413-6", "57023-4"}
    assert automated.isdisjoint({codes.PANEL[0], *(codes.term_of(name).loinc for name in CLASSES)})


def test_a_class_of_another_model_has_its_name_and_no_code() -> None:
    term = codes.term_of("hairy_cell")
    assert (term.text, term.loinc, term.unit) == ("hairy cell", None, "%")


def test_numbers_have_n_and_interval_and_leave_out_what_is_no_white_cell() -> None:
    found = usual()
    rows = {row.term.name: row for row in found.rows}
    assert found.white == 120
    assert rows["neutrophil"].percent == pytest.approx(100 * 70 / 120, abs=0.005)
    exact = stats.binomtest(70, 120).proportion_ci(method="exact")
    assert (rows["neutrophil"].low, rows["neutrophil"].high) == pytest.approx(
        (100 * exact.low, 100 * exact.high), abs=0.005
    )
    assert (rows["erythroblast"].count, rows["erythroblast"].percent) == (3, 2.5)
    assert (rows["platelet"].count, rows["platelet"].term.unit) == (5, "/100{WBCs}")
    assert sum(row.percent for row in found.rows if row.term.unit == "%") == pytest.approx(100, abs=0.05)
    ends = " to ".join(f"{100 * end:.2f}" for end in stats.binomtest(30, 120).proportion_ci(method="exact"))
    assert rows["lymphocyte"].sentence(found.white) == (
        f"30 of 120 white cells (30 referred for review); 95 % interval {ends} %"
    )
    assert "outside the denominator" in rows["erythroblast"].sentence(found.white)


@without_result
def test_what_has_no_result_has_no_rows_and_says_so_first(make: object) -> None:
    found = make()  # type: ignore[operator]
    assert not found.reportable
    assert found.rows == ()
    assert found.notices[1].startswith("CANNOT BE REPORTED: ")
    assert len(found.terms) == len(CLASSES)


def test_why_there_is_no_result() -> None:
    assert "UNFAMILIAR SAMPLE" in unfamiliar().notices[1]
    assert "no picture of the sample could be analysed" in nothing_analysed().notices[1]
    assert "1 not_an_image" in " ".join(nothing_analysed().notices)
    assert "no white cell was counted" in no_white_cell().notices[1]
    assert not any("read the intervals" in notice for notice in no_white_cell().notices)


def test_a_few_cells_that_are_all_unfamiliar_are_no_result_either() -> None:
    """They are too few to judge the sample by, and each is unlike the calibration by itself."""
    odd = many("neutrophil", 1, familiarity=known(0.005), decision="review", reasons=("unfamiliar_image",))
    found = findings(field(odd))
    assert found.report.familiarity is not None
    assert not found.report.familiarity.rejected
    assert not found.reportable
    assert "too few to judge the sample" in found.notices[1]


def test_a_usual_sample_is_not_warned_of() -> None:
    said = " ".join(usual().notices)
    assert "Familiar: " in said
    assert not any(word in said for word in ("Fewer than", "SYNTHETIC", "CANNOT", "got no answer"))


def test_everything_is_said_without_the_name_of_a_file() -> None:
    said = " ".join(with_everything_to_say().notices)
    assert [sentence for sentence in SAID if sentence not in said] == []
    assert "Meier" not in said


def test_who_made_it() -> None:
    found = usual()
    assert found.hashes == {"weights": WEIGHTS, "calibration": CALIBRATION}
    assert "reference 1.2.3" in found.made_by
    assert CALIBRATION in found.made_by
    assert "site 'home'" in found.made_by


def test_the_time_is_utc_wherever_the_machine_is() -> None:
    there = timezone(timedelta(hours=9))
    origin = Origin(made=datetime(2026, 11, 27, 1, 2, 3, 4, tzinfo=there))
    assert origin.made_utc.isoformat() == "2026-11-26T16:02:03+00:00"
    assert Origin().report != Origin().report
    with pytest.raises(ReportFormatError, match="zone"):
        Origin(made=datetime(2026, 11, 27))


def test_lone_surrogates_of_a_command_line_become_text() -> None:
    found = usual(sample="caf\udce9")
    assert found.sample == "caf\\xe9"
    assert usual(sample="").sample is None


@pytest.mark.parametrize("form", LONGEST)
def test_a_name_that_a_format_cannot_carry_whole_is_refused_and_not_cut(form: str) -> None:
    most_sample, most_patient = LONGEST[form]
    check_identifiers(form, "x" * most_sample, "1" * most_patient)
    with pytest.raises(IdentifierRefused, match=r"at most .* of --sample"):
        check_identifiers(form, "x" * (most_sample + 1), None)
    with pytest.raises(IdentifierRefused, match=r"at most .* of --patient-id"):
        check_identifiers(form, None, "1" * (most_patient + 1))
    for character in ("\0", "\x1b", "\x0b", "\x1c", "\x7f", "\x85"):
        with pytest.raises(IdentifierRefused, match=rf"U\+{ord(character):04X} in --sample"):
            check_identifiers(form, f"a{character}b", None)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_every_other_name_is_carried(name: str) -> None:
    for form in LONGEST:
        check_identifiers(form, name, None)


@pytest.mark.parametrize("wrong", [" a", "a "])
def test_dicom_drops_spaces_at_the_ends_so_they_are_refused(wrong: str) -> None:
    for names in ((wrong, None), (None, wrong)):
        with pytest.raises(IdentifierRefused, match="space"):
            check_identifiers("dicom-sr", *names)
        check_identifiers("hl7", *names)


@pytest.mark.parametrize("wrong", ["a\\b", "a\nb"])
def test_dicoms_patient_number_takes_no_separator_of_values(wrong: str) -> None:
    with pytest.raises(IdentifierRefused, match="--patient-id"):
        check_identifiers("dicom-sr", None, wrong)


@pytest.mark.parametrize("write", [fhir.bundle, hl7v2.message, lis2.records])
def test_the_library_refuses_as_the_command_does(write: object) -> None:
    found: Findings = usual(patient="a\0b")
    with pytest.raises(IdentifierRefused):
        write(found)  # type: ignore[operator]


def test_writing_needs_no_library_that_the_base_installation_lacks() -> None:
    names = "fhir, hl7v2, lis2, spreadsheet, geojson, dicom_sr, mllp"
    heavy = ("highdicom", "pydicom", "fhir", "fhirclient", "hl7apy", "hl7", "geojson_pydantic", "defusedcsv")
    code = (
        f"import sys; from cytoserve_reports.formats import {names}; print([n for n in {heavy!r} if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


def test_every_column_and_option_is_in_the_documents() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "usage.md").read_text(encoding="utf-8")
    section = page.partition("## The hospital's formats")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`([^`]+)`", section))
    columns = {*spreadsheet.cells_header(()), *spreadsheet.SUMMARY_HEADER}
    assert columns - documented == set()
    assert {f"--{form}" for form in LONGEST} - {word.split()[0] for word in documented} == set()
