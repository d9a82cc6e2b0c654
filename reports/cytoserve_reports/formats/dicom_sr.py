"""DICOM: an Enhanced SR document by template TID 1500 (Measurement Report), written with highdicom.

- One measurement group per class: the number with UCUM's unit, the cells of the class and those of them referred, the
  white cells counted, the ends of the 95 % interval. Where the sample cannot be reported there is none of them.
- The document is ``PARTIAL``, ``UNVERIFIED`` and ``PRELIMINARY``. The observer is a device: the model with its version.
- A first group holds the status (``CANNOT BE REPORTED`` where it is so), and the notices as comments.
- No picture is referenced: the pictures that were analysed have no DICOM identity.
- The only thing said of a patient is the number that the caller gave; the sample's name is the specimen's identifier.

Needs ``pip install "cytoserve[dicom]"``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from cytoserve_reports.formats.codes import LOCAL_TABLE, MEASURES, PANEL, ClassTerm
from cytoserve_reports.formats.errors import LibraryMissing
from cytoserve_reports.formats.findings import PRODUCT, Finding, Findings
from cytoserve_reports.formats.identifiers import check_identifiers

if TYPE_CHECKING:
    import highdicom

_MOST_MEANING: Final = 64
"""Most characters of a code's meaning (DICOM's LO)."""


def check_library() -> None:
    """See that highdicom is installed.

    Raises
    ------
    LibraryMissing
    """
    if find_spec("highdicom") is None:
        raise LibraryMissing('--dicom-sr needs highdicom, which is not installed: pip install "cytoserve[dicom]"')


def document_bytes(findings: Findings) -> bytes:
    """Return the document as a DICOM file (explicit little endian).

    Raises
    ------
    LibraryMissing
        The extra ``dicom`` is not installed.
    IdentifierRefused
        The sample's name or the patient's number does not fit DICOM.
    """
    file = io.BytesIO()
    document(findings).save_as(file, enforce_file_format=True)
    return file.getvalue()


def document(findings: Findings) -> highdicom.sr.EnhancedSR:
    """Return the document as highdicom holds it.

    Raises
    ------
    LibraryMissing
        The extra ``dicom`` is not installed.
    IdentifierRefused
        The sample's name or the patient's number does not fit DICOM.
    """
    check_library()
    check_identifiers("dicom-sr", findings.sample, findings.origin.patient)
    from highdicom import sr

    origin = findings.origin
    made = sr.EnhancedSR(
        evidence=[_patient_and_study(findings)],
        content=_content(findings)[0],
        series_instance_uid=_uid(uuid5(origin.report, "series")),
        series_number=1,
        sop_instance_uid=_uid(origin.report),
        instance_number=1,
        manufacturer=PRODUCT,
        is_complete=False,
        is_final=False,
        is_verified=False,
        record_evidence=False,
        manufacturer_model_name=PRODUCT,
        software_versions=origin.software,
        series_description="Differential of a blood film; for research use",
    )
    _correct(made, findings)
    return made


def _correct(made: Any, findings: Findings) -> None:
    """Put right what highdicom takes from the clock on the wall and from the stand-in for a picture."""
    date, time = _date_and_time(findings)
    made.SpecificCharacterSet = "ISO_IR 192"
    made.ContentDate = made.InstanceCreationDate = date
    made.ContentTime = made.InstanceCreationTime = time
    made.TimezoneOffsetFromUTC = "+0000"
    for equipment in made.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = f"{date}{time}+0000"
    for evidence in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        if evidence in made:
            delattr(made, evidence)


def _uid(number: UUID) -> str:
    """Return the UID of a number, under the root that needs no registration (2.25, ITU-T X.667)."""
    return f"2.25.{number.int}"


def _date_and_time(findings: Findings) -> tuple[str, str]:
    made = findings.origin.made_utc
    return made.strftime("%Y%m%d"), made.strftime("%H%M%S")


def _patient_and_study(findings: Findings) -> Any:
    """Return what highdicom copies into the document: patient and study, empty but for what the caller gave."""
    from pydicom import Dataset

    study = Dataset()
    study.PatientID = findings.origin.patient or ""
    study.StudyInstanceUID = _uid(uuid5(findings.origin.report, "study"))
    for empty in (
        *("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
        "ReferringPhysicianName",
    ):
        setattr(study, empty, "")
    # highdicom asks for a picture that the document is about; `_correct` takes its name out again.
    study.SOPClassUID, study.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", _uid(uuid5(findings.origin.report, "none"))
    study.SeriesInstanceUID = _uid(uuid5(findings.origin.report, "none of a series"))
    return study


def _content(findings: Findings) -> Any:
    """Return the content tree."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=_uid(uuid5(UUID(int=0), f"{findings.report.model!r}")),
            name=findings.report.model.name,
            manufacturer_name=PRODUCT,
            model_name=f"{findings.report.model.name} {findings.report.model.version}",
        ),
    )
    groups = [_notes(findings), *(_group(findings, finding) for finding in findings.rows)]
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=device, subject_context=_subject(findings) if findings.sample else None
        ),
        procedure_reported=sr.CodedConcept(PANEL[0], "LN", PANEL[1]),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )


def _subject(findings: Findings) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    specimen = sr.SubjectContextSpecimen(
        uid=_uid(uuid5(findings.origin.report, "specimen")), identifier=findings.sample
    )
    return sr.SubjectContext(subject_class=codes.DCM.Specimen, subject_class_specific_context=specimen)


def _algorithm(findings: Findings) -> Any:
    from highdicom import sr

    parameters = [f"SHA-256 of {what}: {value}" for what, value in findings.hashes.items()]
    parameters.append(f"site of the calibration: {findings.report.site}")
    model = findings.report.model
    return sr.AlgorithmIdentification(name=model.name, version=model.version, parameters=parameters)


def _notes(findings: Findings) -> Any:
    """Return the group that holds the notices, one text each."""
    from highdicom import sr

    tracking = sr.TrackingIdentifier(uid=_uid(uuid5(findings.origin.report, "notices")), identifier="notices")
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        algorithm_id=_algorithm(findings),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                name=_local("status", "Status of the report"),
                value=_local("preliminary", "Preliminary, not verified by a person")
                if findings.reportable
                else _local("cannot_report", "CANNOT BE REPORTED"),
            )
        ],
    )
    name = _comment()
    for notice in (*findings.notices, findings.made_by):
        group[0].ContentSequence.append(
            sr.TextContentItem(name=name, value=notice, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        )
    return group


def _comment() -> Any:
    from highdicom import sr

    return sr.CodedConcept("121106", "DCM", "Comment")


def _group(findings: Findings, finding: Finding) -> Any:
    """Return the measurement group of one class."""
    from highdicom import sr

    name = finding.term.name
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=_uid(uuid5(findings.origin.report, name)), identifier=name),
        finding_type=_local(name, finding.term.text),
        algorithm_id=_algorithm(findings),
        measurements=[
            sr.Measurement(name=code, value=value, unit=sr.CodedConcept(unit, "UCUM", unit))
            for code, value, unit in _numbers(findings, finding)
        ],
    )


def _numbers(findings: Findings, finding: Finding) -> Iterator[tuple[Any, float, str]]:
    """Yield code, value and unit of a class's measurements."""
    unit = finding.term.unit
    yield _code_of(finding.term), finding.percent, unit
    yield _local("cells", MEASURES["cells"]), finding.count, "{cells}"
    yield _local("referred", MEASURES["referred"]), finding.review, "{cells}"
    yield _local("white_cells", MEASURES["white_cells"]), findings.white, "{cells}"
    yield _local("low_95", "Lower end of the 95 % interval"), finding.low, unit
    if finding.high is not None:
        yield _local("high_95", "Upper end of the 95 % interval"), finding.high, unit


def _code_of(term: ClassTerm) -> Any:
    from highdicom import sr

    if term.loinc is None or term.loinc_name is None:
        return _local(term.name, f"{term.text} {term.unit}")
    return sr.CodedConcept(term.loinc, "LN", term.loinc_name[:_MOST_MEANING])


def _local(code: str, meaning: str) -> Any:
    from highdicom import sr

    return sr.CodedConcept(code, LOCAL_TABLE, meaning[:_MOST_MEANING])
