"""The differential count of a sample: what is counted, out of what, with which interval.

- Every white-cell candidate counts by its label, accepted or not; ``accepted`` and ``review`` count the two apart.
- **Denominator**: the candidates whose label is a white cell. Nucleated red cells (``erythroblast``) and platelets
  are no white cells: they stay outside, and their ``percent`` means "per 100 white cells", so it may exceed 100.
- **Platelets**: detected platelets count too. They carry no decision, so for this row ``accepted`` plus
  ``review`` may be less than ``count``.
- **Intervals** are exact at 95 %: Clopper-Pearson for a share of the white cells; for a number per 100 white cells
  the conditional interval for the ratio of two Poisson counts, because the white cells are a sample as well. They
  speak of the counting only, not of mistakes of the classifier.
- Candidates without a label (not scored) are in no row; `unlabelled` says how many there are.
- Without any white cell ``percent``, ``low`` and ``high`` are None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from cytoserve_client.results import Frozen, ScoredCell
from cytoserve_statistics.shares import clopper_pearson, ratio_interval
from pydantic import Field

NUCLEATED_RED_CELLS: Final = "erythroblast"
PLATELETS: Final = "platelet"
"""Classes that are no white cells: counted per 100 white cells, outside the differential's denominator."""

SMALL_COUNT: Final = 100
"""White cells below which a differential is marked as based on few cells (a manual count reads 100 to 400)."""

OUTSIDE_DENOMINATOR = frozenset({NUCLEATED_RED_CELLS, PLATELETS})
"""Classes counted per 100 white cells."""


class ClassCount(Frozen):
    """One row of the differential; see this module for denominators and intervals."""

    count: int = Field(description="cells of this class, accepted or not")
    accepted: int
    review: int
    percent: float | None = Field(description="of the white cells, or per 100 white cells; null without any")
    low: float | None = Field(description="lower end of the exact 95 % interval")
    high: float | None = Field(description="upper end; null where there is none")


def differential(cells: Iterable[ScoredCell], classes: Sequence[str]) -> dict[str, ClassCount]:
    """Count the cells of one sample (every field, every kind): one row per class in their order, zeros included."""
    named = [(cell.label or (PLATELETS if cell.kind == "platelet" else None), cell.decision) for cell in cells]
    counts, decided = Counter(name for name, _ in named), Counter(named)
    white = sum(counts[name] for name in classes if name not in OUTSIDE_DENOMINATOR)
    return {
        name: ClassCount(
            count=counts[name],
            accepted=decided[name, "accept"],
            review=decided[name, "review"],
            **_per_white_cell(name, counts[name], white),
        )
        for name in classes
    }


def _per_white_cell(name: str, count: int, white: int) -> dict[str, float | None]:
    if white == 0:
        return {"percent": None, "low": None, "high": None}
    low, high = (ratio_interval if name in OUTSIDE_DENOMINATOR else clopper_pearson)(count, white)
    return {"percent": 100 * count / white, "low": 100 * low, "high": None if high is None else 100 * high}


def white_cells(rows: dict[str, ClassCount]) -> int:
    """Return the denominator: labelled white cells of a differential."""
    return sum(row.count for name, row in rows.items() if name not in OUTSIDE_DENOMINATOR)


def unlabelled(cells: Iterable[ScoredCell]) -> int:
    """Return how many white-cell candidates have no label and are therefore in no row."""
    return sum(1 for cell in cells if cell.kind == "white_cell" and cell.label is None)


def is_small(rows: dict[str, ClassCount]) -> bool:
    """Return whether fewer white cells were counted than a manual differential reads at least (100)."""
    return white_cells(rows) < SMALL_COUNT
