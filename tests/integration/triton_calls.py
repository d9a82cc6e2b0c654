"""Small helpers to talk to a real Triton over plain ``tritonclient``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cytoserve_contract import manifest as manifest_check
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
