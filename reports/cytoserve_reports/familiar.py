"""Whether a sample's pictures were familiar: the first line of every report, and why a cell was referred.

What `cytoserve_client.familiarity` judged is put into words here; nothing is judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from cytoserve_client.reasons import Reason, in_words
from cytoserve_client.results import SampleFamiliarity, ScoredCell
from cytoserve_contract.image_statistics import cause_in_short

BLIND_SPOT: Final = (
    "The check of familiarity compares pictures (light, stain, focus, compression, scale). It does not see diseases, "
    "or kinds of cells that the model never learned."
)
"""What the check cannot see, wherever acceptance is explained."""

CAUSE_LEGEND: Final = "In brackets: what differs most from this site's calibration."
"""What the words behind ``unfamiliar image`` are."""


class FirstLine(NamedTuple):
    """The first line of a report."""

    text: str
    alarming: bool
    """Whether nothing of the sample may be taken for accepted by a calibration that fits it."""


def first_line(familiarity: SampleFamiliarity | None, cells: Iterable[ScoredCell], site: str) -> FirstLine:
    """Return what a reader must see first: whether the sample is familiar.

    Parameters
    ----------
    familiarity : SampleFamiliarity, optional
        What the client judged; None where no cell was compared, or the cells are not one sample.
    cells : iterable of ScoredCell
        The cells of the report.
    site : str
        Site whose calibration decided.
    """
    if familiarity is not None:
        return FirstLine(familiarity.headline, familiarity.rejected or familiarity.unfamiliar == familiarity.cells)
    compared, unfamiliar = compared_alone(cells)
    if not compared:
        return FirstLine(f"Not compared: there is no cell to compare with the calibration of site '{site}'.", False)
    return FirstLine(
        f"Not one sample: each cell was compared by itself with the calibration of site '{site}' ({compared} "
        f"cell(s), {unfamiliar} unfamiliar).",
        unfamiliar == compared,
    )


def compared_alone(cells: Iterable[ScoredCell]) -> tuple[int, int]:
    """Return how many cells were compared, and how many of them are unfamiliar, each by itself."""
    compared = [cell for cell in cells if cell.familiarity is not None]
    return len(compared), sum(is_unfamiliar(cell) for cell in compared)


def is_unfamiliar(cell: ScoredCell) -> bool:
    """Return whether the cell's own picture is unlike those of the calibration."""
    return Reason.UNFAMILIAR_IMAGE.value in cell.reasons


def cause_of(cell: ScoredCell) -> str | None:
    """Return in short words why a cell is unfamiliar; None where it is not, or nothing was compared."""
    return cause_in_short(cell.familiarity.cause) if is_unfamiliar(cell) and cell.familiarity is not None else None


def reasons_of(cell: ScoredCell) -> str:
    """Return the reasons of a cell in short words, with the cause behind ``unfamiliar image``; empty without any."""
    cause = cause_of(cell)
    return ", ".join(
        f"{in_words(reason)} ({cause})" if cause and reason == Reason.UNFAMILIAR_IMAGE.value else in_words(reason)
        for reason in cell.reasons
    )
