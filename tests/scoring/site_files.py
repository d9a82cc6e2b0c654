"""Calibrations of sites for tests of the server that reads them: a small model, and files that fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cytoserve_scoring.serving.site import SCHEMA, content_sha256, procedure_sha256
from ordinary_pictures import FAMILIAR

WEIGHTS = "ab" * 32
CLASSES = ["lymphocyte", "neutrophil"]
BAND = {"value": 0.2, "low": 0.1, "high": 0.35, "cells": 400}

SCORING: dict[str, Any] = {
    "classes": CLASSES,
    "latent_shape": [1, 2, 2],
    "probes": 2,
    "default_budget": 1,
    "temperature": [1.0, 1.0],
    "accept_threshold": [0.9, 0.9],
}


def model(folder: Path) -> Path:
    """Write the part of a repository that sites are bound to, and return its ``scoring.json``."""
    scorer, beside = folder / "scorer" / "1", folder / "service_info" / "1"
    scorer.mkdir(parents=True)
    beside.mkdir(parents=True)
    (beside / "service.json").write_text(json.dumps({"weights_sha256": WEIGHTS}))
    (scorer / "scoring.json").write_text(json.dumps(SCORING))
    return scorer / "scoring.json"


def calibration(**changes: Any) -> dict[str, Any]:
    """Return a document that fits the model; a change to None is kept, so that it can be tested."""
    document = {
        "schema": SCHEMA,
        "site": "north",
        "weights_sha256": WEIGHTS,
        "procedure_sha256": procedure_sha256(SCORING),
        "default_budget": 2,
        "temperature": [2.0, 2.0],
        "accept_threshold": [None, 0.99],
        "anomaly_reference": [{}, {"lymphocyte": [0.5]}],
        "conformal_reference": [{}, {}],
        "familiar": FAMILIAR.to_json(),
        "expected_referral": BAND,
        "calibrated": [2],
        "promise": {"n": 400},
        "by_budget": {},
        **changes,
    }
    return signed(document)


def signed(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with the hash of what it says now."""
    return {**document, "content_sha256": content_sha256(document)}


def put(folder: Path, name: str = "north.json", **changes: Any) -> dict[str, Any]:
    """Write a calibration into a folder, which is made if need be, and return it."""
    document = calibration(**changes)
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(document))
    return document
