"""Columns of the tensor ``ANOMALY``: how strange a cell is."""

from __future__ import annotations

from typing import Final

ANOMALY_COLUMNS: Final = {
    "score": "how unlike ordinary cells of the answered class its errors are, and how undecided; higher is stranger",
    "p_value": "conformal p-value of that among all calibration cells, which decides about the cell",
    "p_value_of_kind": "the same among those that were given the same class, by which samples are judged",
    "cells_of_kind": "how many those are",
}
"""By column, in order, what it holds. All are NaN but the score where no calibration cell was given that class."""
