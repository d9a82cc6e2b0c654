"""The review list: which cells a person should look at, most urgent first.

Cells without a label come first, then by the most urgent of their reasons (`cytoserve_contract.reasons`). Within one
urgency the more uncertain cell comes first, and equal ones stay in the order of the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cytoserve_client.results import FieldAnalysis, ScoredCell
from cytoserve_contract.reasons import UNKNOWN_URGENCY, Reason

_URGENCY: Final = {reason.value: reason.urgency for reason in Reason}


class ReviewItem(NamedTuple):
    """A cell for a person to look at: ``report.fields[field].cells[cell]``. In JSON: ``[field, cell]``."""

    field: int
    cell: int


def urgency(cell: ScoredCell) -> tuple[int, float]:
    """Return a sort key, smaller is more urgent: (rank of the gravest reason, minus uncertainty)."""
    uncertainty = cell.uncertainty if cell.uncertainty is not None else 1.0
    if cell.label is None:
        return 0, -uncertainty
    rank = min((_URGENCY.get(reason, UNKNOWN_URGENCY) for reason in cell.reasons), default=UNKNOWN_URGENCY)
    return rank, -uncertainty


def needs_review(cell: ScoredCell) -> bool:
    """Return whether a cell belongs on the list: decided so, or a white-cell candidate without a label."""
    return cell.decision == "review" or (cell.kind == "white_cell" and cell.label is None)


def review_list(fields: Iterable[FieldAnalysis]) -> tuple[ReviewItem, ...]:
    """Return (field, cell) index pairs of the cells to look at, most urgent first."""
    found = [
        (urgency(cell), ReviewItem(f, i))
        for f, field in enumerate(fields)
        for i, cell in enumerate(field.cells)
        if needs_review(cell)
    ]
    return tuple(item for _, item in sorted(found, key=lambda pair: pair[0]))


def review_order(cells: Sequence[ScoredCell]) -> tuple[int, ...]:
    """Return indices into ``cells`` of those to look at, most urgent first (for `CellsAnalysis.cells`)."""
    wanted = [i for i, cell in enumerate(cells) if needs_review(cell)]
    return tuple(sorted(wanted, key=lambda i: urgency(cells[i])))
