"""A sample's report in the formats that hospitals read, all written from one `Findings`.

==================== ============================================================
`fhir`               FHIR R4 transaction Bundle
`hl7v2`              HL7 v2.5.1 ORU^R01; `mllp` sends one
`lis2`               LIS2-A2 (ASTM E1394) records
`spreadsheet`        CSV, one row per cell, and one row per class
`geojson`            regions of one field, as QuPath opens them
`dicom_sr`           DICOM structured report, TID 1500 (extra ``dicom``)
==================== ============================================================

>>> from cytoserve_reports import summarise
>>> from cytoserve_reports.formats import Findings, Origin, fhir
>>> text = fhir.bundle_json(Findings.of(summarise(analysis), Origin()))     # doctest: +SKIP
"""

from cytoserve_reports.formats.errors import IdentifierRefused, LibraryMissing, ReportFormatError
from cytoserve_reports.formats.findings import Finding, Findings, Origin

__all__ = ["Finding", "Findings", "IdentifierRefused", "LibraryMissing", "Origin", "ReportFormatError"]
