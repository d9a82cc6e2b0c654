"""FHIR R4: one ``transaction`` Bundle that a server takes at its base address as it is.

- ``DiagnosticReport`` is ``preliminary``, or ``registered`` without any Observation where the sample cannot be
  reported. It is never ``final``: only a named person can sign it.
- One ``Observation`` per class: the percentage with UCUM's unit, and as components the cells of the class, the white
  cells counted, and the exact 95 % interval.
- ``Device`` names the model by version and hashes, ``Provenance`` says that it made the report.
- Everything carries the security label ``AIAST`` (asserted by artificial intelligence), a synthetic sample also
  ``HTEST`` (test data).
- A transaction and not a collection, because a collection is stored as one lump or refused. Each entry is created only
  if its identifier is not there yet, so a Bundle that is sent twice makes one report. (``Provenance`` has no
  identifier in R4; it is the one resource that a second sending repeats.)
- The only thing said of a patient is the number that the caller gave, as a reference by identifier. When the blood was
  taken is not known, so there is no ``effective`` time; ``issued`` is when the report was made.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any, Final
from uuid import UUID, uuid5

from cytoserve_reports.formats.codes import (
    LOCAL_SYSTEM,
    LOINC_SYSTEM,
    MEASURES,
    PANEL,
    UCUM_SYSTEM,
    ClassTerm,
)
from cytoserve_reports.formats.findings import CANNOT_BE_REPORTED, PRODUCT, Finding, Findings
from cytoserve_reports.formats.identifiers import check_identifiers

Json = dict[str, Any]

_TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
AI_ASSERTED: Final[Json] = {
    "system": f"{_TERMINOLOGY}/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
"""Security label of whatever a model asserted (HL7, AI Transparency on FHIR)."""

TEST_DATA: Final[Json] = {"system": f"{_TERMINOLOGY}/v3-ActReason", "code": "HTEST", "display": "test health data"}
"""Security label of what is about no patient."""

_IDENTIFIERS: Final = "urn:ietf:rfc:3986"
"""System of identifiers that are URIs, such as ``urn:uuid:...``."""


def bundle_json(findings: Findings) -> str:
    """Return the Bundle as JSON text."""
    return json.dumps(bundle(findings), indent=2, ensure_ascii=False, allow_nan=False)


def bundle(findings: Findings) -> Json:
    """Return the Bundle: report, observations, specimen, device and provenance, in this order.

    Raises
    ------
    IdentifierRefused
        The sample's name or the patient's number does not fit FHIR.
    """
    check_identifiers("fhir", findings.sample, findings.origin.patient)
    observations = [_observation(findings, finding) for finding in findings.rows]
    resources = [_report(findings), *observations, *_specimen(findings), _device(findings)]
    resources.append(_provenance(findings, resources))
    return {
        "resourceType": "Bundle",
        "meta": _meta(findings),
        "identifier": _identifier(findings.origin.report),
        "type": "transaction",
        "timestamp": _time(findings),
        "entry": [_entry(resource) for resource in resources],
    }


def _entry(resource: Json) -> Json:
    """Return a resource with the address that others name it by, and the request to create it once."""
    address = resource.pop("fullUrl")
    request = {"method": "POST", "url": resource["resourceType"]}
    if "identifier" in resource:
        known = resource["identifier"][0]
        request["ifNoneExist"] = f"identifier={known['system']}|{known['value']}"
    return {"fullUrl": address, "resource": resource, "request": request}


def _address(findings: Findings, what: str) -> str:
    return f"urn:uuid:{uuid5(findings.origin.report, what)}"


def _resource(findings: Findings, kind: str, what: str, **content: Any) -> Json:
    """Return a resource with its address, label and identifier; ``what`` tells it from others of the report."""
    address = _address(findings, what)
    own = {"identifier": [{"system": _IDENTIFIERS, "value": address}]} if kind != "Provenance" else {}
    return {"fullUrl": address, "resourceType": kind, "meta": _meta(findings), **own, **content}


def _meta(findings: Findings) -> Json:
    return {"security": [AI_ASSERTED, TEST_DATA] if findings.report.synthetic else [AI_ASSERTED]}


def _identifier(number: UUID) -> Json:
    return {"system": _IDENTIFIERS, "value": f"urn:uuid:{number}"}


def _time(findings: Findings) -> str:
    return findings.origin.made_utc.isoformat().replace("+00:00", "Z")


def _about(findings: Findings) -> Json:
    """Return the references to patient and specimen, as far as the caller named them."""
    about: Json = {}
    if findings.origin.patient:
        about["subject"] = {"type": "Patient", "identifier": {"value": findings.origin.patient}}
    if findings.sample:
        about["specimen"] = {"reference": _address(findings, "specimen")}
    return about


def _report(findings: Findings) -> Json:
    about = _about(findings)
    if "specimen" in about:
        about["specimen"] = [about["specimen"]]
    results = [{"reference": _address(findings, finding.term.name)} for finding in findings.rows]
    return _resource(
        findings,
        "DiagnosticReport",
        "report",
        text={"status": "generated", "div": _narrative(findings)},
        status="preliminary" if findings.reportable else "registered",
        category=[{"coding": [{"system": f"{_TERMINOLOGY}/v2-0074", "code": "HM", "display": "Hematology"}]}],
        code=_loinc(*PANEL),
        **about,
        issued=_time(findings),
        **({"result": results} if results else {}),
        conclusion="\n".join(findings.notices),
    )


def _narrative(findings: Findings) -> str:
    """Return what a person reads where no software shows the rest."""
    lines = [f"<p>{_xhtml(notice)}</p>" for notice in findings.notices]
    if findings.sample:
        lines.append(f"<p>Sample {_xhtml(findings.sample)}</p>")
    rows = "".join(
        f"<tr><td>{_xhtml(finding.term.text)}</td><td>{finding.percent:g} {_xhtml(finding.term.unit)}</td>"
        f"<td>{_xhtml(finding.sentence(findings.white))}</td></tr>"
        for finding in findings.rows
    )
    table = f"<table><tbody>{rows}</tbody></table>" if rows else f"<p>{CANNOT_BE_REPORTED}</p>"
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{"".join(lines)}{table}</div>'


def _xhtml(text: str) -> str:
    return escape(text, quote=True)


def _observation(findings: Findings, finding: Finding) -> Json:
    return _resource(
        findings,
        "Observation",
        finding.term.name,
        status="preliminary",
        category=[{"coding": [{"system": f"{_TERMINOLOGY}/observation-category", "code": "laboratory"}]}],
        code=_code_of(finding.term),
        **_about(findings),
        issued=_time(findings),
        valueQuantity=_quantity(finding.percent, finding.term.unit),
        note=[{"text": text} for text in (finding.sentence(findings.white), *findings.notices)],
        method={"text": "Classification of single cells in pictures of a stained blood film by a diffusion model"},
        device={"reference": _address(findings, "device")},
        component=[
            _component("cells", valueInteger=finding.count),
            _component("referred", valueInteger=finding.review),
            _component("white_cells", valueInteger=findings.white),
            _component("interval_95", valueRange=_interval(finding)),
        ],
    )


def _interval(finding: Finding) -> Json:
    ends = {"low": _quantity(finding.low, finding.term.unit)}
    return ends if finding.high is None else {**ends, "high": _quantity(finding.high, finding.term.unit)}


def _component(measure: str, **value: Any) -> Json:
    return {"code": _local(measure, MEASURES[measure]), **value}


def _quantity(value: float, unit: str) -> Json:
    return {"value": value, "unit": unit, "system": UCUM_SYSTEM, "code": unit}


def _loinc(code: str, name: str) -> Json:
    return {"coding": [{"system": LOINC_SYSTEM, "code": code, "display": name}], "text": name}


def _local(code: str, name: str) -> Json:
    return {"coding": [{"system": LOCAL_SYSTEM, "code": code, "display": name}], "text": name}


def _code_of(term: ClassTerm) -> Json:
    """Return a class's LOINC code, or its text alone."""
    if term.loinc is None or term.loinc_name is None:
        return {"text": f"{term.text} ({term.unit})"}
    return {**_loinc(term.loinc, term.loinc_name), "text": term.text}


def _specimen(findings: Findings) -> list[Json]:
    if not findings.sample:
        return []
    about = {name: value for name, value in _about(findings).items() if name == "subject"}
    specimen = _resource(
        findings,
        "Specimen",
        "specimen",
        type={
            "coding": [{"system": f"{_TERMINOLOGY}/v2-0487", "code": "BLD", "display": "Whole blood"}],
            "text": "Stained film of blood",
        },
        **about,
    )
    specimen["identifier"].append({"value": findings.sample})
    return [specimen]


def _device(findings: Findings) -> Json:
    model = findings.report.model
    versions = [("model version", model.version), (f"{PRODUCT} version", findings.origin.software)]
    versions += [(f"SHA-256 of {what}", value) for what, value in findings.hashes.items()]
    versions.append(("site of the calibration", findings.report.site))
    device = _resource(
        findings,
        "Device",
        "device",
        deviceName=[{"name": model.name, "type": "model-name"}],
        type={"text": "Software: classifier of blood cells (artificial intelligence)"},
        version=[{"type": {"text": what}, "value": value} for what, value in versions],
        note=[{"text": findings.notices[0]}],
    )
    # One model is one device, whatever it reports on: the identifier is of what it consists of.
    device["identifier"] = [_identifier(uuid5(UUID(int=0), json.dumps([model.name, versions])))]
    return device


def _provenance(findings: Findings, resources: list[Json]) -> Json:
    made = [r["fullUrl"] for r in resources if r["resourceType"] in ("DiagnosticReport", "Observation")]
    return _resource(
        findings,
        "Provenance",
        "provenance",
        target=[{"reference": address} for address in made],
        recorded=_time(findings),
        agent=[
            {
                "type": {"coding": [{"system": f"{_TERMINOLOGY}/provenance-participant-type", "code": "assembler"}]},
                "who": {"reference": _address(findings, "device")},
            }
        ],
    )
