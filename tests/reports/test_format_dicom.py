"""The DICOM structured report, opened by pydicom and by highdicom's own reader."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pydicom
import pytest
from cytoserve_reports.formats import Findings, IdentifierRefused, LibraryMissing, dicom_sr
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
from highdicom import sr
from scipy import stats


def checked(found: Findings) -> tuple[sr.EnhancedSR, pydicom.Dataset]:
    """Return the document as highdicom and as pydicom read it, both strict about values."""
    data = dicom_sr.document_bytes(found)
    with StrictReading():
        dataset = pydicom.dcmread(io.BytesIO(data))
        text = str(dataset)
    assert text
    return sr.srread(io.BytesIO(data)), dataset


class StrictReading:
    """While it is open, pydicom raises for a value that its type does not allow."""

    def __enter__(self) -> None:
        self.before = pydicom.config.settings.reading_validation_mode
        pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE

    def __exit__(self, *_: object) -> None:
        pydicom.config.settings.reading_validation_mode = self.before


def items(dataset: Any, kind: str) -> Iterator[Any]:
    """Yield every content item of a kind, wherever it hangs."""
    for item in dataset.get("ContentSequence", ()):
        if item.ValueType == kind:
            yield item
        yield from items(item, kind)


def name(item: Any) -> str:
    concept = item.ConceptNameCodeSequence[0]
    return str(concept.get("CodeValue") or concept.get("LongCodeValue"))


def texts(dataset: Any, code: str) -> list[str]:
    return [str(item.TextValue) for item in items(dataset, "TEXT") if name(item) == code]


def groups(dataset: Any) -> dict[str, dict[str, Any]]:
    """Return the measured values by tracking identifier and code."""
    found: dict[str, dict[str, Any]] = {}
    for group in items(dataset, "CONTAINER"):
        tracking = texts(group, "112039")
        if tracking and name(group) == "125007":
            found[tracking[0]] = {name(one): one.MeasuredValueSequence[0] for one in items(group, "NUM")}
    return found


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_both_libraries_open_it_and_it_is_never_verified(make: Callable[[], Findings]) -> None:
    document, dataset = checked(make())
    assert dataset.SOPClassUID == pydicom.uid.EnhancedSRStorage
    assert (dataset.CompletionFlag, dataset.VerificationFlag, dataset.PreliminaryFlag) == (
        *("PARTIAL", "UNVERIFIED", "PRELIMINARY"),
    )
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert isinstance(document.content, sr.MeasurementReport)
    assert document.content.get_observer_contexts(observer_type=pydicom.sr.codedict.codes.DCM.Device)
    assert document.get_evidence() == []
    assert dataset.SpecificCharacterSet == "ISO_IR 192"


def test_each_class_is_a_group_with_unit_interval_and_n() -> None:
    document, dataset = checked(usual())
    assert len(document.content.get_image_measurement_groups()) == 9
    found = groups(dataset)
    neutrophils = found["neutrophil"]
    exact = stats.binomtest(70, 120).proportion_ci(method="exact")
    values = {code: float(value.NumericValue) for code, value in neutrophils.items()}
    assert values == {
        "26511-6": round(7000 / 120, 2),
        "cells": 70,
        "referred": 0,
        "white_cells": 120,
        "low_95": round(100 * exact.low, 2),
        "high_95": round(100 * exact.high, 2),
    }
    assert neutrophils["26511-6"].MeasurementUnitsCodeSequence[0].CodeValue == "%"
    assert found["erythroblast"]["19048-8"].MeasurementUnitsCodeSequence[0].CodeValue == "/100{WBCs}"
    assert set(found["platelet"]) == {"platelet", "cells", "referred", "white_cells", "low_95", "high_95"}
    assert found["notices"] == {}


@without_result
def test_without_a_result_it_holds_no_number_and_says_so(make: Callable[[], Findings]) -> None:
    _, dataset = checked(make())
    assert list(items(dataset, "NUM")) == []
    assert groups(dataset) == {"notices": {}}
    status = [item.ConceptCodeSequence[0].CodeMeaning for item in items(dataset, "CODE") if name(item) == "status"]
    assert status == ["CANNOT BE REPORTED"]
    assert "CANNOT BE REPORTED" in " ".join(texts(dataset, "121106"))


def test_everything_is_said_and_no_file_is_named() -> None:
    _, dataset = checked(with_everything_to_say())
    said = " ".join(texts(dataset, "121106"))
    assert [sentence for sentence in SAID if sentence not in said] == []
    assert CALIBRATION in said
    assert NAMED_IN_FILES not in str(dataset)


def test_times_are_utc() -> None:
    _, dataset = checked(usual())
    assert (dataset.ContentDate, dataset.ContentTime, dataset.TimezoneOffsetFromUTC) == ("20261126", "123015", "+0000")
    assert all(one.ContributionDateTime.endswith("+0000") for one in dataset.get("ContributingEquipmentSequence", ()))


def test_the_patient_is_who_the_caller_named_and_nobody_else() -> None:
    _, dataset = checked(usual())
    assert [str(dataset[name].value or "") for name in ("PatientID", "PatientName", "PatientBirthDate")] == [""] * 3
    assert checked(usual(patient="4711"))[1].PatientID == "4711"


@hostile
def test_hostile_names_come_back_whole(name: str) -> None:
    _, dataset = checked(usual(sample=name))
    assert texts(dataset, "121041") == [name]
    _, dataset = checked(usual(patient="<Müller> 血^=1"))
    assert dataset.PatientID == "<Müller> 血^=1"


def test_ten_thousand_characters() -> None:
    assert texts(checked(usual(sample="x" * 10_000))[1], "121041") == ["x" * 10_000]
    with pytest.raises(IdentifierRefused, match="64"):
        dicom_sr.document_bytes(usual(patient="x" * 65))


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_sr, "find_spec", lambda _: None)
    monkeypatch.delitem(sys.modules, "highdicom", raising=False)
    with pytest.raises(LibraryMissing, match=r'pip install "cytoserve\[dicom\]"'):
        dicom_sr.document_bytes(usual())
