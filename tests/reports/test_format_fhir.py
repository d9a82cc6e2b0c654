"""The FHIR Bundle, validated by two outside libraries: ``fhirclient`` (R4, 4.0.1) and ``fhir.resources`` (R4B, 4.3).

``fhir.resources`` has no R4 models for pydantic 2; R4B differs from R4 in none of the resources used here. It checks
more (formats of times, codes, URIs), ``fhirclient`` has exactly the elements of R4.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest
from cytoserve_reports.formats import Findings, codes, fhir
from fhir.resources.R4B.bundle import Bundle as BundleR4B
from fhirclient.models.bundle import Bundle as BundleR4
from format_samples import (
    CALIBRATION,
    MADE,
    NAMED_IN_FILES,
    SAID,
    WEIGHTS,
    hostile,
    unfamiliar,
    usual,
    with_everything_to_say,
    without_result,
)
from scipy import stats


def checked(findings: Findings) -> dict[str, Any]:
    """Return the Bundle after both libraries took it, and gave it back unchanged."""
    document: dict[str, Any] = json.loads(fhir.bundle_json(findings))
    assert BundleR4(document, strict=True).as_json() == document
    BundleR4B.model_validate(document)
    return document


def resources(document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in document["entry"] if entry["resource"]["resourceType"] == kind]


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_both_libraries_take_it(make: Callable[[], Findings]) -> None:
    checked(make())


def test_the_libraries_refuse_what_is_wrong() -> None:
    """The validation above must be able to fail."""
    document = json.loads(fhir.bundle_json(usual()))
    document["entry"][0]["resource"]["status"] = "finished"
    document["entry"][1]["resource"]["valueQuantity"]["value"] = "many"
    with pytest.raises(ValueError, match="valueQuantity"):
        BundleR4B.model_validate(document)
    document["entry"][0]["resource"]["note"] = [{"text": "an element of R5"}]
    with pytest.raises(Exception, match="note"):
        BundleR4(document, strict=True)


def test_every_reference_leads_to_an_entry() -> None:
    document = checked(usual(patient="4711"))
    addresses = [entry["fullUrl"] for entry in document["entry"]]
    assert len(set(addresses)) == len(addresses)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["reference"]] if "reference" in value else []
            return own + [found for each in value.values() for found in references(each)]
        return [found for each in value for found in references(each)] if isinstance(value, list) else []

    found = references(document)
    assert found
    assert set(found) <= set(addresses)


def test_the_report_is_preliminary_and_names_its_observations() -> None:
    document = checked(usual())
    (report,) = resources(document, "DiagnosticReport")
    assert report["status"] == "preliminary"
    assert report["code"]["coding"][0]["code"] == "69738-3"
    assert len(report["result"]) == len(resources(document, "Observation")) == 8
    assert "resultsInterpreter" not in report
    assert report["issued"] == "2026-11-26T12:30:15Z"


def test_an_observation_has_unit_count_interval_and_n() -> None:
    document = checked(usual())
    by_code = {
        one["code"].get("coding", [{"code": None}])[0]["code"]: one for one in resources(document, "Observation")
    }
    assert set(by_code) == {None, *(codes.term_of(name).loinc for name in codes.CODED_CLASSES)}
    neutrophils = by_code["26511-6"]
    assert neutrophils["status"] == "preliminary"
    assert neutrophils["valueQuantity"] == {
        "value": round(100 * 70 / 120, 2),
        "unit": "%",
        "system": "http://unitsofmeasure.org",
        "code": "%",
    }
    parts = {part["code"]["coding"][0]["code"]: part for part in neutrophils["component"]}
    assert (parts["cells"]["valueInteger"], parts["white_cells"]["valueInteger"]) == (70, 120)
    ends = parts["interval_95"]["valueRange"]
    exact = stats.binomtest(70, 120).proportion_ci(method="exact")
    assert (ends["low"]["value"], ends["high"]["value"]) == (round(100 * exact.low, 2), round(100 * exact.high, 2))
    assert by_code["19048-8"]["valueQuantity"]["code"] == "/100{WBCs}"
    assert by_code[None]["code"]["text"] == "Platelets (/100{WBCs})"


@without_result
def test_without_a_result_it_is_registered_and_holds_no_number(make: Callable[[], Findings]) -> None:
    document = checked(make())
    (report,) = resources(document, "DiagnosticReport")
    assert report["status"] == "registered"
    assert "result" not in report
    assert resources(document, "Observation") == []
    assert "valueQuantity" not in json.dumps(document)
    assert "CANNOT BE REPORTED" in report["conclusion"]
    assert "CANNOT BE REPORTED" in report["text"]["div"]


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_nothing_is_final_and_all_is_marked_as_of_a_machine(make: Callable[[], Findings]) -> None:
    document = checked(make())
    statuses = {entry["resource"].get("status") for entry in document["entry"]}
    assert statuses <= {"preliminary", "registered", None}
    for entry in document["entry"]:
        assert entry["resource"]["meta"]["security"][0]["code"] == "AIAST"


def test_a_synthetic_sample_is_test_data() -> None:
    labels = [label["code"] for label in checked(with_everything_to_say())["meta"]["security"]]
    assert labels == ["AIAST", "HTEST"]
    assert "HTEST" not in json.dumps(checked(usual()))


def test_everything_is_said_and_no_file_is_named() -> None:
    document = checked(with_everything_to_say())
    (report,) = resources(document, "DiagnosticReport")
    assert [sentence for sentence in SAID if sentence not in report["conclusion"]] == []
    for one in resources(document, "Observation"):
        notes = " ".join(note["text"] for note in one["note"])
        assert [sentence for sentence in SAID if sentence not in notes] == []
    assert NAMED_IN_FILES not in json.dumps(document)


def test_the_device_is_the_model_and_the_same_one_each_time() -> None:
    (device,) = resources(checked(usual()), "Device")
    versions = {one["type"]["text"]: one["value"] for one in device["version"]}
    assert versions["model version"] == "1.2.3"
    assert versions["SHA-256 of weights"] == WEIGHTS
    assert versions["SHA-256 of calibration"] == CALIBRATION
    assert versions["site of the calibration"] == "home"
    (other,) = resources(checked(unfamiliar()), "Device")
    assert device["identifier"] == other["identifier"]


def test_the_patient_is_who_the_caller_named_and_nobody_else() -> None:
    document = checked(usual(patient="4711"))
    (report,) = resources(document, "DiagnosticReport")
    assert report["subject"] == {"type": "Patient", "identifier": {"value": "4711"}}
    assert "subject" not in json.dumps(checked(usual()))
    assert resources(document, "Patient") == []


def test_sent_twice_it_makes_one_report() -> None:
    for entry in checked(usual())["entry"]:
        request = entry["request"]
        assert request["method"] == "POST"
        known = entry["resource"].get("identifier")
        if known:
            assert request["ifNoneExist"] == f"identifier={known[0]['system']}|{known[0]['value']}"
        else:
            assert request["url"] == "Provenance"


@hostile
def test_hostile_names_come_back_whole(name: str) -> None:
    document = checked(usual(sample=name, patient=name))
    parsed = BundleR4B.model_validate_json(json.dumps(document))
    specimen = next(one.resource for one in parsed.entry if one.resource.get_resource_type() == "Specimen")
    assert specimen.identifier[1].value == name
    assert specimen.subject.identifier.value == name
    (report,) = resources(document, "DiagnosticReport")
    page = ElementTree.fromstring(report["text"]["div"])
    assert page.find(".//{http://www.w3.org/1999/xhtml}script") is None
    shown = [element.text for element in page.iter() if (element.text or "").startswith("Sample ")]
    assert [" ".join((text or "").split()) for text in shown] == [" ".join(f"Sample {name}".split())]


def test_ten_thousand_characters() -> None:
    (specimen,) = resources(checked(usual(sample="x" * 10_000)), "Specimen")
    assert specimen["identifier"][1]["value"] == "x" * 10_000
