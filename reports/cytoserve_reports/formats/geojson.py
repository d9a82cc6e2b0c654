"""GeoJSON of a field or a whole slide (RFC 7946), with the properties by which QuPath reads classes and measurements.

- A Feature per cell: a Polygon (the cell's box) in pixels of the picture as displayed, or of the slide at full
  resolution, x to the right and y down.
  QuPath measures so; RFC 7946 itself has degrees only, so these files are for QuPath and not for maps.
- ``classification`` has the class's name and colour; a cell for review is ``Review: <class>``, one of a sample that
  cannot be reported ``Cannot be reported: <class>`` in grey, so no class of it is seen without that word.
- ``measurements`` hold numbers only: probabilities, their interval, uncertainty, p-values.
- Members of our own, which RFC 7946 allows, are under ``cytoserve``: notices, model, site, source.
"""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import uuid5

from cytoserve_client.results import Cell, FieldAnalysis

from cytoserve_reports.formats.codes import NO_CLASS, RED_CELL, term_of
from cytoserve_reports.formats.findings import CANNOT_BE_REPORTED, Findings
from cytoserve_reports.formats.identifiers import check_identifiers
from cytoserve_reports.review import needs_review

Json = dict[str, Any]

MEMBER: Final = "cytoserve"
"""Name of our own member of a collection; a file without it is not ours to overwrite."""

GREY: Final = (128, 128, 128)
REVIEW: Final = "Review"


def feature_collection(findings: Findings, field: int) -> Json:
    """Return the cells of ``findings.report.fields[field]`` as a FeatureCollection.

    Raises
    ------
    IdentifierRefused
        The sample's name or the patient's number is out of all bounds.
    """
    check_identifiers("geojson", findings.sample, findings.origin.patient)
    one = findings.report.fields[field]
    return {
        "type": "FeatureCollection",
        "features": [_feature(findings, field, place, cell) for place, cell in enumerate(one.cells) if cell.box],
        MEMBER: _about(findings, one),
    }


def slide_collection(findings: Findings, slide: str) -> Json:
    """Return the cells of all fields of a slide as one FeatureCollection, in pixels of the slide at full resolution.

    Raises
    ------
    IdentifierRefused
        The sample's name or the patient's number is out of all bounds.
    """
    fields = [
        number
        for number, one in enumerate(findings.report.fields)
        if one.region is not None and one.region.slide == slide
    ]
    parts = [feature_collection(findings, number) for number in fields]
    about = {
        **parts[0][MEMBER],
        "source": slide,
        "width": None,
        "height": None,
        "cells": sum(part[MEMBER]["cells"] for part in parts),
    }
    return {**parts[0], "features": [feature for part in parts for feature in part["features"]], MEMBER: about}


def as_text(collection: Json) -> str:
    """Return a collection as JSON text."""
    return json.dumps(collection, ensure_ascii=False, allow_nan=False)


def _about(findings: Findings, field: FieldAnalysis) -> Json:
    """Return what is said about the whole field."""
    model = findings.report.model
    return {
        "notices": list(findings.notices),
        "status": "preliminary" if findings.reportable else CANNOT_BE_REPORTED.lower(),
        "report": str(findings.origin.report),
        "made": findings.origin.made_utc.isoformat().replace("+00:00", "Z"),
        "sample": findings.sample,
        "patient": findings.origin.patient,
        "source": field.source,
        "width": field.width,
        "height": field.height,
        "um_per_pixel": field.um_per_pixel,
        "synthetic": field.synthetic,
        "model": {"name": model.name, "version": model.version, "sha256": findings.hashes},
        "site": findings.report.site,
        "cells": len(field.cells),
    }


def _feature(findings: Findings, field: int, place: int, cell: Cell) -> Json:
    region = findings.report.fields[field].region
    x, y = (0, 0) if region is None else (region.x, region.y)
    x0, y0, x1, y1 = (at + by for at, by in zip(cell.box or (0.0, 0.0, 0.0, 0.0), (x, y, x, y), strict=True))
    # Counter-clockwise by the numbers (RFC 7946, 3.1.6), and closed.
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    properties: Json = {
        "objectType": "detection",
        "name": f"field {field}, cell {place}",
        "classification": _classification(findings, cell),
        "measurements": _measurements(cell),
        "metadata": _metadata(cell),
    }
    return {
        "type": "Feature",
        "id": str(uuid5(findings.origin.report, f"{field}/{place}")),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": properties,
    }


def _classification(findings: Findings, cell: Cell) -> Json:
    if cell.label is not None:
        term = term_of(cell.label)
    else:
        term = {"red_cell": RED_CELL, "platelet": term_of("platelet")}.get(cell.kind or "", NO_CLASS)
    if not findings.reportable:
        return {"name": f"{CANNOT_BE_REPORTED.capitalize()}: {term.text}", "color": list(GREY)}
    name = f"{REVIEW}: {term.text}" if needs_review(cell) else term.text
    return {"name": name, "color": list(term.colour)}


def _measurements(cell: Cell) -> dict[str, float]:
    """Return the cell's numbers by name; what was not computed is left out, because a measurement is a number."""
    values: dict[str, float | None] = {
        f"Probability: {name}": value for name, value in (cell.probability or {}).items()
    }
    if cell.probability_interval is not None:
        values["Probability interval: low"], values["Probability interval: high"] = cell.probability_interval
    values.update({f"Conformal p-value: {name}": value for name, value in (cell.conformal or {}).items()})
    values["Uncertainty"] = cell.uncertainty
    values["Anomaly p-value"] = cell.anomaly.p_value if cell.anomaly else None
    values["Familiarity p-value"] = cell.familiarity.p_value if cell.familiarity else None
    values["Detection score"] = cell.detection_score
    return {name: float(value) for name, value in values.items() if value is not None}


def _metadata(cell: Cell) -> dict[str, str]:
    """Return the cell's words by name, as QuPath shows them."""
    words = {
        "Decision": cell.decision or "not decided",
        "Reasons": " ".join(cell.reasons),
        "95 % set": " ".join(cell.prediction_set_95 or ()),
    }
    return {name: word for name, word in words.items() if word}
