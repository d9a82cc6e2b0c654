"""Answers made by hand, for tests without a server."""

from __future__ import annotations

from typing import Any

from cytoserve_client import Cell


def cell(
    label: str | None = "neutrophil", kind: str = "white_cell", decision: str | None = "accept", **changes: Any
) -> Cell:
    values: dict[str, Any] = {
        "box": (0.0, 0.0, 5.0, 5.0),
        "kind": kind,
        "label": label,
        "probability": None if label is None else {label: 1.0},
        "uncertainty": 0.5,
        "anomaly": None,
        "decision": decision,
        "reasons": (),
        "evaluations": 10,
    }
    return Cell(**{**values, **changes})
