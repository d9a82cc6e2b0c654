"""Options that several commands share, each with its help and its environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="CYTOSERVE_URL",
        help="gRPC address HOST:PORT of a running server. Without it a local server is started and stopped.",
    ),
]
Fhir = Annotated[Path | None, typer.Option("--fhir", help="Write the result as a FHIR R4 Bundle.")]
Hl7 = Annotated[Path | None, typer.Option("--hl7", help="Write the result as HL7 v2.5.1 (`cytoserve send-hl7`).")]
Lis2 = Annotated[Path | None, typer.Option("--lis2", help="Write the result as LIS2-A2 (ASTM E1394) records.")]
Csv = Annotated[
    Path | None,
    typer.Option("--csv", help="Write a table of the cells; NAME-summary.csv beside it counts the classes."),
]
Geojson = Annotated[Path | None, typer.Option("--geojson", help="Folder for one GeoJSON per field, for QuPath.")]
DicomSr = Annotated[
    Path | None, typer.Option("--dicom-sr", help='Write a DICOM structured report (pip install "cytoserve[dicom]").')
]
PatientId = Annotated[
    str | None,
    typer.Option("--patient-id", help="The patient's number, for the hospital's formats. Without it they name nobody."),
]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON; '-' for standard output.")]
Scale = Annotated[
    float | None, typer.Option("--um-per-pixel", help="Physical scale of the images, micrometres per pixel.")
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds per request: one field, or one chunk of cells.")]
Budget = Annotated[
    int | None, typer.Option("--budget", help="Most noise samples of a cell. Default: the server's (`cytoserve info`).")
]
Alpha = Annotated[
    float | None,
    typer.Option("--alpha", help="Share of cells, 0 to below 1, whose label may differ from the whole budget's."),
]
Classes = Annotated[str | None, typer.Option("--classes", help="Only these classes may win: names joined by commas.")]
Urgency = Annotated[str, typer.Option("--priority", help="'stat' is served before waiting 'routine' requests.")]
Site = Annotated[
    str | None,
    typer.Option("--site", help="Whose calibration decides (`cytoserve info` lists the sites). Default: the model's."),
]
TlsCa = Annotated[
    Path | None,
    typer.Option("--tls-ca", envvar="CYTOSERVE_CLIENT_TLS_CA", help="PEM of the authority to trust; switches TLS on."),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", envvar="CYTOSERVE_CLIENT_TLS_CERT", help="PEM of our certificate (mutual TLS)."),
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", envvar="CYTOSERVE_CLIENT_TLS_KEY", help="PEM of our key (mutual TLS).")
]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        "--tls-server-name",
        envvar="CYTOSERVE_CLIENT_TLS_SERVER_NAME",
        help="Name in the server's certificate, where it is not that of --url.",
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", help="Keep answers in this file as they come; where it exists, go on from there."),
]
PageOut = Annotated[
    Path | None,
    typer.Option("--report", help="Write a review page: one HTML file with the cells, to look at and to judge."),
]
Language = Annotated[str, typer.Option("--language", help="Of the review page: en, de or fr.")]
Blinded = Annotated[
    bool, typer.Option("--blinded", help="The review page shows neither label nor probability, for a second reader.")
]
Audit = Annotated[
    Path | None,
    typer.Option("--audit", help="File to which one line about this call is appended; no pixels, no names."),
]
AskedBy = Annotated[
    str | None,
    typer.Option(
        "--asked-by", help="Who asks, for the audit file; default: the login name.", envvar="CYTOSERVE_ASKED_BY"
    ),
]
