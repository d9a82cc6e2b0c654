"""Small helpers to talk to a real Triton over plain ``tritonclient``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tritonclient import grpc

ROOT = Path(__file__).resolve().parents[2]
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


def answers(result: grpc.InferResult) -> Answer:
    """Return all outputs by name."""
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}
