"""Small helpers to talk to a real Triton over plain ``tritonclient``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cytoserve_contract import manifest as manifest_check
from cytoserve_scoring.serving import site as site_file
from tritonclient import grpc

ROOT = Path(__file__).resolve().parents[2]
OWN_SERVER = [pytest.mark.integration, pytest.mark.usefixtures("own_server")]
"""Marks of a test that starts servers of its own (see the fixture)."""

Answer = dict[str, np.ndarray]
Ask = Callable[..., Answer]

TYPES = {"float32": "FP32", "int32": "INT32", "uint8": "UINT8", "float64": "FP64", "int64": "INT64", "object": "BYTES"}


def tensor(name: str, values: np.ndarray) -> grpc.InferInput:
    """Make an input tensor of an array; object arrays become BYTES."""
    made = grpc.InferInput(name, list(values.shape), TYPES[values.dtype.name])
    made.set_data_from_numpy(values)
    return made


def files(contents: list[bytes]) -> np.ndarray:
    """Make a BYTES array of file contents, also of none."""
    out = np.empty(len(contents), dtype=np.object_)
    out[:] = contents
    return out


def sign(repository: Path) -> None:
    """Write the manifest of a repository that a test made."""
    names = manifest_check.describe((name, repository / name) for name in manifest_check.tree(repository))
    text = json.dumps({"schema": manifest_check.SCHEMA, "files": names})
    (repository / manifest_check.NAME).write_text(text)


def answers(result: grpc.InferResult) -> Answer:
    """Return all outputs by name."""
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def calibration(site: str, **changes: Any) -> dict[str, Any]:
    """Return the model's own calibration as that of another site, with its hash."""
    scoring, service = (
        json.loads((ROOT / "model_repository" / model / "1" / name).read_text())
        for model, name in (("scorer", "scoring.json"), ("service_info", "service.json"))
    )
    document = {
        **{key: scoring[key] for key in site_file.FITTED if key in scoring},
        "schema": site_file.SCHEMA,
        "site": site,
        "created": "2026-11-26T00:00:00Z",
        "weights_sha256": service["weights_sha256"],
        "procedure_sha256": site_file.procedure_sha256(scoring),
        "expected_referral": {"value": 0.2, "low": 0.1, "high": 0.3, "cells": 400},
        **changes,
    }
    return {**document, "content_sha256": site_file.content_sha256(document)}
