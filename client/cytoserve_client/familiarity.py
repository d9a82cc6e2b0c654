"""Are the pictures of a whole sample like those of the site's calibration? What one cell cannot tell, forty can.

The server compares each cell with the calibration of its site and knows nothing of samples, because a request is one
field or one chunk of cells. So the sample is judged here, before a result is returned: the conformal p-values of its
cells together make one p-value, and where that is too small none of the cells is accepted. Judging twice changes
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from cytoserve_statistics.combined import combined_p_value

from cytoserve_client.mistakes import likely_mistake
from cytoserve_client.reasons import Reason
from cytoserve_client.results import (
    CellsAnalysis,
    FieldAnalysis,
    SampleFamiliarity,
    ScoredCell,
    SmearAnalysis,
)

SAMPLE_LEVEL: Final = 0.001
"""A sample is rejected below this p-value: a laboratory that reads 50 samples a day refers one of its own in vain about
every 20 days. Samples from elsewhere lie many powers of ten below it, so a larger level would find no more of them."""

DISTANT_SHARE: Final = 0.25
"""Part of a rejected sample, the most distant cells, whose cause is told where no cell is unfamiliar by itself."""

_Cell = TypeVar("_Cell", bound=ScoredCell)
_Whole = TypeVar("_Whole", FieldAnalysis, CellsAnalysis)


def judge_sample(
    cells: Iterable[ScoredCell], site: str, before: SampleFamiliarity | None = None
) -> SampleFamiliarity | None:
    """Return how familiar the pictures of one sample are, taken together.

    Parameters
    ----------
    cells : iterable of ScoredCell
        All cells of the sample, of every kind; those that were not compared with a calibration do not count.
    site : str
        Site whose calibration they were compared with.
    before : SampleFamiliarity, optional
        An earlier judgement of them: cells read back from JSON have no image statistics to name a mistake by.

    Returns
    -------
    SampleFamiliarity, or None where no cell was compared.
    """
    compared = [cell for cell in cells if cell.familiarity is not None]
    if not compared:
        return None
    known = [cell.familiarity for cell in compared if cell.familiarity is not None]
    p_value = combined_p_value([one.p_value_of_kind for one in known], [one.cells_of_kind for one in known])
    unfamiliar = [cell for cell in compared if Reason.UNFAMILIAR_IMAGE.value in cell.reasons]
    rejected = p_value < SAMPLE_LEVEL
    mistake = likely_mistake(compared) or (before.mistake if before else None)
    return SampleFamiliarity(
        site=site,
        cells=len(compared),
        unfamiliar=len(unfamiliar),
        p_value=p_value,
        rejected=rejected,
        cause=_usual_cause(unfamiliar or (_most_distant(compared) if rejected else [])),
        mistake=mistake if rejected else None,
    )


def fields_as_one_sample(analysis: SmearAnalysis) -> SmearAnalysis:
    """Return the analysis with all fields judged as one sample; where it is rejected every scored cell is referred."""
    found = judge_sample(
        (cell for field in analysis.fields for cell in field.cells), analysis.site, analysis.familiarity
    )
    rejected = found is not None and found.rejected
    fields = tuple(_referred_field(field) for field in analysis.fields) if rejected else analysis.fields
    return analysis.model_copy(update={"familiarity": found, "fields": fields})


def each_field_a_sample(analysis: SmearAnalysis) -> SmearAnalysis:
    """Return the analysis with each field judged as a sample of its own.

    Fields of a sample that was rejected as a whole stay rejected: the analysis is returned as it is.
    """
    if analysis.familiarity is not None and analysis.familiarity.rejected:
        return analysis
    fields = tuple(_judged(field, analysis.site) for field in analysis.fields)
    return analysis.model_copy(update={"familiarity": None, "fields": fields})


def cells_as_one_sample(analysis: CellsAnalysis) -> CellsAnalysis:
    """Return the analysis with its cells judged as one sample; where it is rejected every cell is referred."""
    return _judged(analysis, analysis.site)


def _judged(whole: _Whole, site: str) -> _Whole:
    """Return what holds all cells of a sample, judged."""
    found = judge_sample(whole.cells, site, whole.familiarity)
    rejected = found is not None and found.rejected
    cells = tuple(_referred(cell) for cell in whole.cells) if rejected else whole.cells
    return whole.model_copy(update={"familiarity": found, "cells": cells})


def _referred_field(field: FieldAnalysis) -> FieldAnalysis:
    return field.model_copy(update={"cells": tuple(_referred(cell) for cell in field.cells)})


def _referred(cell: _Cell) -> _Cell:
    """Return the cell as one of a rejected sample; one that is not decided about (a red cell) stays as it is."""
    if cell.decision is None:
        return cell
    reason = Reason.UNFAMILIAR_SAMPLE.value
    reasons = cell.reasons if reason in cell.reasons else (*cell.reasons, reason)
    return cell.model_copy(update={"decision": "review", "reasons": reasons})


def _most_distant(cells: Sequence[ScoredCell]) -> list[ScoredCell]:
    """Return the `DISTANT_SHARE` of the cells with the smallest p-values, at least one."""
    ranked = sorted(cells, key=lambda cell: cell.familiarity.p_value_of_kind if cell.familiarity else 1.0)
    return ranked[: max(1, round(DISTANT_SHARE * len(ranked)))]


def _usual_cause(cells: Sequence[ScoredCell]) -> str | None:
    """Return the most frequent cause; of equally frequent ones the first by name, whatever the order of the cells."""
    counts = Counter(cell.familiarity.cause for cell in cells if cell.familiarity is not None)
    return min(counts, key=lambda cause: (-counts[cause], cause), default=None)
