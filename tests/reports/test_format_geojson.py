"""GeoJSON, validated by ``geojson-pydantic`` (RFC 7946) and by the rules that QuPath's reader has.

QuPath's reader (``PathObjectTypeAdapters``, 0.4 and later) takes per Feature: ``id`` a UUID, ``properties.objectType``,
``name``, ``classification`` with ``name`` and ``color`` of three whole numbers, ``measurements`` an object of numbers,
``metadata`` an object of simple values.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from cytoserve_reports.formats import Findings, geojson
from format_samples import (
    CALIBRATION,
    SAID,
    WEIGHTS,
    field,
    findings,
    hostile,
    many,
    unfamiliar,
    usual,
    with_everything_to_say,
)
from geojson_pydantic import FeatureCollection
from pydantic import ValidationError


def checked(found: Findings, number: int = 0) -> dict[str, Any]:
    """Return the document after the library took it and QuPath's rules were held."""
    document: dict[str, Any] = json.loads(geojson.as_text(geojson.feature_collection(found, number)))
    read = FeatureCollection.model_validate(document)
    assert len(read.features) == len(document["features"])
    assert "crs" not in document
    for feature in document["features"]:
        assert str(UUID(feature["id"])) == feature["id"]
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert len(properties["classification"]["color"]) == 3
        assert all(isinstance(part, int) and 0 <= part <= 255 for part in properties["classification"]["color"])
        assert all(isinstance(value, float) for value in properties["measurements"].values())
        assert all(isinstance(value, str) for value in properties["metadata"].values())
    return document


def area(ring: list[list[float]]) -> float:
    """Return the signed area by the shoelace formula: above zero where the ring runs counter-clockwise."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2


def test_a_polygon_per_cell_in_pixels() -> None:
    found = usual()
    document = checked(found)
    cells = found.report.fields[0].cells
    assert len(document["features"]) == len(cells) == document["cytoserve"]["cells"]
    for feature, cell in zip(document["features"], cells, strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        x0, y0, x1, y1 = cell.box or (0, 0, 0, 0)
        assert area(ring) == pytest.approx((x1 - x0) * (y1 - y0))
        assert ring[0] == ring[-1] == [x0, y0]
    assert len({feature["id"] for feature in document["features"]}) == len(cells)


def test_the_library_refuses_what_is_wrong() -> None:
    """The validation above must be able to fail."""
    document = checked(usual())
    document["features"][0]["geometry"]["coordinates"][0].pop()
    with pytest.raises(ValidationError):
        FeatureCollection.model_validate(document)


def test_classes_colours_and_measurements() -> None:
    features = checked(usual())["features"]
    first = features[0]["properties"]
    assert first["classification"] == {"name": "Neutrophils", "color": [230, 159, 0]}
    assert first["measurements"]["Probability: neutrophil"] == 0.93
    assert first["measurements"]["Conformal p-value: neutrophil"] == 0.6
    assert first["measurements"]["Anomaly p-value"] == 0.4
    assert first["measurements"]["Familiarity p-value"] == 0.6
    assert first["measurements"]["Uncertainty"] == 0.07
    names = {feature["properties"]["classification"]["name"] for feature in features}
    assert names == {
        *("Neutrophils", "Review: Lymphocytes", "Monocytes", "Nucleated red cells", "Platelets", "Red cell"),
        "Review: Not scored",
    }
    red = next(one["properties"] for one in features if one["properties"]["classification"]["name"] == "Red cell")
    assert red["measurements"] == {"Detection score": 0.9}


def test_no_class_of_an_unfamiliar_sample_is_seen_without_the_word() -> None:
    document = checked(unfamiliar())
    assert document["cytoserve"]["status"] == "cannot be reported"
    for feature in document["features"]:
        assert feature["properties"]["classification"] == {
            "name": "Cannot be reported: Neutrophils",
            "color": [128, 128, 128],
        }
    assert any("CANNOT BE REPORTED" in notice for notice in document["cytoserve"]["notices"])


def test_everything_is_said_beside_the_cells() -> None:
    about = checked(with_everything_to_say())["cytoserve"]
    assert [sentence for sentence in SAID if sentence not in " ".join(about["notices"])] == []
    assert about["synthetic"] is True
    assert about["model"]["sha256"] == {"weights": WEIGHTS, "calibration": CALIBRATION}
    assert about["made"] == "2026-11-26T12:30:15Z"
    assert about["patient"] is None


def test_a_field_without_cells_is_an_empty_collection() -> None:
    found = findings(field(many("neutrophil", 1)), field(source="empty.png"))
    assert checked(found, 1)["features"] == []
    assert checked(found, 1)["cytoserve"]["source"] == "empty.png"


@hostile
def test_hostile_names_come_back_whole(name: str) -> None:
    found = findings(field(many("neutrophil", 1), source=name), sample=name, patient=name)
    about = checked(found)["cytoserve"]
    assert (about["sample"], about["patient"], about["source"]) == (name, name, name)


def test_one_made_again_has_the_same_numbers_of_cells() -> None:
    make: Callable[[], Findings] = usual
    assert [one["id"] for one in checked(make())["features"]] == [one["id"] for one in checked(make())["features"]]
