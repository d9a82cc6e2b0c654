"""The hospital's formats as outputs of ``analyze``: checked before the work, written after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cytoserve_files import FileProblem, read_text, shown, write_text
from cytoserve_reports.formats.errors import ReportFormatError
from cytoserve_reports.formats.identifiers import check_identifiers
from rich.console import Console

from cytoserve_cli.outputs import STANDARD_OUTPUT, write_document
from cytoserve_cli.terminal import plain

if TYPE_CHECKING:
    from cytoserve_client import ServiceInfo
    from cytoserve_reports import SampleReport
    from cytoserve_reports.formats import Findings

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
        if self.csv is not None and str(self.csv) != STANDARD_OUTPUT:
            files["csv (summary)"] = summary_beside(self.csv)
        return files

    @property
    def wanted(self) -> bool:
        """Whether any format is."""
        return bool(self._files) or self.geojson is not None

    @property
    def standard_output(self) -> Path | None:
        """``-`` where a format goes to standard output, so that nothing else may."""
        return next((path for path in self._files.values() if str(path) == STANDARD_OUTPUT), None)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to write."""
        return tuple(self._files.values())

    def check(self, sample: str | None, per_image: bool) -> None:
        """Refuse before the work what a format cannot hold; whether its file can be written is seen with all others.

        Parameters
        ----------
        sample : str, optional
            The sample's name.
        per_image : bool
            Whether each image is a sample of its own.

        Raises
        ------
        ReportFormatError
            Several samples for formats that hold one; a patient's number and no format to hold it; a name that a
            format cannot carry; a library that is not installed.
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


def _write_geojson(folder: Path, findings: Findings, notes: Console) -> bool:
    """Write one file per field, or per whole slide; return False where one failed; the others are still written."""
    from cytoserve_reports.formats import geojson
    from cytoserve_reports.overlay_names import names_of_fields

    fields = findings.report.fields
    made: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        (one.source, partial(geojson.feature_collection, findings, number))
        for number, one in enumerate(fields)
        if one.region is None
    ]
    slides = dict.fromkeys(one.region.slide for one in fields if one.region is not None)
    made += [(slide, partial(geojson.slide_collection, findings, slide)) for slide in slides]
    names = names_of_fields([source for source, _ in made], folder, _GEOJSON_ENDING, _is_our_geojson)
    whole = True
    for (source, collection), name in zip(made, names, strict=True):
        try:
            write_text(folder / name, geojson.as_text(collection()) + "\n")
        except OSError as error:
            notes.print(plain(f"no GeoJSON of {source}: {error}", "red"))
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
