"""The hospital's formats as outputs of ``analyze``: checked before the work, written after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cytoserve_files import (
    FileProblem,
    NotWritable,
    check_output,
    check_output_folder,
    is_regular_or_new,
    read_text,
    shown,
    write_text,
)
from cytoserve_reports.formats.errors import ReportFormatError
from cytoserve_reports.formats.identifiers import check_identifiers
from rich.console import Console

from cytoserve_cli.outputs import write_document
from cytoserve_cli.terminal import plain

if TYPE_CHECKING:
    from cytoserve_client import ServiceInfo
    from cytoserve_reports import SampleReport
    from cytoserve_reports.formats import Findings

_STANDARD_OUTPUT: Final = "-"
_GEOJSON_ENDING: Final = ".geojson"


@dataclass(frozen=True)
class FormatOutputs:
    """Where the result goes in which format; None for a format that is not wanted."""

    fhir: Path | None = None
    hl7: Path | None = None
    lis2: Path | None = None
    csv: Path | None = None
    geojson: Path | None = None
    """A folder."""
    dicom_sr: Path | None = None
    patient: str | None = None
    """The patient's number, as the caller gave it."""

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The files by their option, the summary beside the table of cells too."""
        named = {"fhir": self.fhir, "hl7": self.hl7, "lis2": self.lis2, "csv": self.csv, "dicom-sr": self.dicom_sr}
        files = {option: path for option, path in named.items() if path is not None}
        if self.csv is not None and str(self.csv) != _STANDARD_OUTPUT:
            files["csv (summary)"] = summary_beside(self.csv)
        return files

    @property
    def wanted(self) -> bool:
        """Whether any format is."""
        return bool(self._files) or self.geojson is not None

    @property
    def standard_output(self) -> Path | None:
        """``-`` where a format goes to standard output, so that nothing else may."""
        return next((path for path in self._files.values() if str(path) == _STANDARD_OUTPUT), None)

    def check(
        self, sample: str | None, per_image: bool, others: Iterable[Path | None], sources: Sequence[Path]
    ) -> None:
        """Refuse before the work what could not be written after it.

        Parameters
        ----------
        sample : str, optional
            The sample's name.
        per_image : bool
            Whether each image is a sample of its own.
        others : iterable of Path or None
            Further outputs of the command, which must have other names.
        sources : sequence of Path
            The images, which must not be overwritten.

        Raises
        ------
        ReportFormatError
            Several samples for formats that hold one; a patient's number and no format to hold it; a name that a
            format cannot carry; a library that is not installed.
        NotWritable
            A folder or write-protected, an image of the sample, or two outputs of one name.
        """
        if not self.wanted:
            if self.patient is not None:
                raise ReportFormatError("--patient-id is written by --fhir, --hl7 and their like: give one of them")
            return
        if per_image:
            raise ReportFormatError(
                "--fhir, --hl7, --lis2, --csv, --geojson and --dicom-sr hold one sample, but with --per-image each "
                "image is a sample of its own: call the command once for each"
            )
        self._check_names(sample)
        for path in self._files.values():
            if str(path) != _STANDARD_OUTPUT:
                check_output(path)
        if self.geojson is not None:
            check_output_folder(self.geojson)
        _check_distinct([*self._files.values(), *(path for path in others if path is not None)], sources)

    def _check_names(self, sample: str | None) -> None:
        forms = {option for option in self._files if option != "csv (summary)"}
        for form in sorted(forms | ({"geojson"} if self.geojson is not None else set())):
            check_identifiers(form, sample, self.patient)
        if self.dicom_sr is not None:
            from cytoserve_reports.formats.dicom_sr import check_library

            check_library()

    def write(self, report: SampleReport, service: ServiceInfo | None, notes: Console) -> bool:
        """Write every format that is wanted; return False where one could not be, the others are still written."""
        if not self.wanted:
            return True
        from cytoserve_reports.formats import Findings, Origin

        site = None if service is None else service.site(report.site)
        digest = None if site is None else site.content_sha256
        findings = Findings.of(report, Origin(patient=self.patient, calibration_sha256=digest))
        writers = _writers()
        whole = True
        for option, path in self._files.items():
            title, content = writers[option]
            try:
                whole &= write_document(title, path, partial(content, findings), notes)
            except Exception as error:  # whatever it is, it concerns this format and not the next
                notes.print(plain(f"cannot write the result as {title}: {error}", "red"))
                whole = False
        return whole if self.geojson is None else _write_geojson(self.geojson, findings, notes) and whole


def summary_beside(csv: Path) -> Path:
    """Return where the summary of a table of cells goes: ``cells.csv`` has ``cells-summary.csv`` beside it."""
    return csv.with_name(f"{csv.stem}-summary{csv.suffix}")


def _writers() -> dict[str, tuple[str, Callable[[Findings], bytes]]]:
    """Return title and function of each file, by its option."""
    from cytoserve_reports.formats import dicom_sr, fhir, hl7v2, lis2, spreadsheet

    def encoded(text: Callable[[Findings], str]) -> Callable[[Findings], bytes]:
        return lambda findings: text(findings).encode("utf-8")

    return {
        "fhir": ("FHIR", encoded(lambda findings: fhir.bundle_json(findings) + "\n")),
        "hl7": ("HL7 v2", encoded(hl7v2.message)),
        "lis2": ("LIS2", encoded(lis2.records)),
        "csv": ("CSV, cells", encoded(spreadsheet.cells_csv)),
        "csv (summary)": ("CSV, summary", encoded(spreadsheet.summary_csv)),
        "dicom-sr": ("DICOM SR", dicom_sr.document_bytes),
    }


def _check_distinct(outputs: Sequence[Path], sources: Sequence[Path]) -> None:
    """Refuse two outputs of one name, and an output that is an image of the sample."""
    images = {_place(source) for source in sources}
    seen = set()
    for path in outputs:
        standard = str(path) == _STANDARD_OUTPUT
        if not standard and not is_regular_or_new(path):
            continue  # what goes through a device or a pipe replaces nothing
        place = _STANDARD_OUTPUT if standard else _place(path)
        if place in images:
            raise NotWritable(f"cannot write {shown(path)}: it is one of the images; give another name")
        if place in seen:
            raise NotWritable(f"cannot write {shown(path)}: two outputs have this name; give each its own")
        seen.add(place)


def _place(path: Path) -> tuple[int, int] | str:
    """Return what two names of one file have in common."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def _write_geojson(folder: Path, findings: Findings, notes: Console) -> bool:
    """Write one file per field; return False where one failed; the others are still written."""
    from cytoserve_reports.formats import geojson
    from cytoserve_reports.overlay_names import names_of_fields

    sources = [field.source for field in findings.report.fields]
    whole = True
    for number, name in enumerate(names_of_fields(sources, folder, _GEOJSON_ENDING, _is_our_geojson)):
        try:
            write_text(folder / name, geojson.field_json(findings, number) + "\n")
        except OSError as error:
            notes.print(plain(f"no GeoJSON of {sources[number]}: {error}", "red"))
            whole = False
            continue
        notes.print(plain(f"GeoJSON: {shown(folder / name)}"))
    return whole


def _is_our_geojson(path: Path) -> bool:
    """Return whether an earlier run wrote the file; any other file is kept."""
    import json

    from cytoserve_reports.formats.geojson import MEMBER

    try:
        found = json.loads(read_text(path))
    except (FileProblem, OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("type") == "FeatureCollection" and MEMBER in found
