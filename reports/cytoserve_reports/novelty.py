"""Does a sample hold more strange cells than ordinary samples do? One alarm for the sample, beside each cell's reason.

Each cell is compared with the calibration cells (`anomalous`), and some ordinary cell is always among the strangest.
What no single cell tells, their number does: of those that are stranger than nearly all calibration cells of the class
they were given, so that a sample with many cells of an unclear class is not called out for it. Single cells are not
picked out with control of false discoveries (Benjamini & Hochberg 1995): among n calibration cells no p-value is below
1 / (n + 1), so ten strange cells among two hundred could never be, with a hundred calibration cells of a class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cytoserve_client.results import Frozen, SampleFamiliarity, ScoredCell
from cytoserve_statistics.excess import excess_of_small
from pydantic import Field, computed_field

STRANGE_LEVEL: Final = 0.05
"""A cell is strange up to this p-value, whatever level a site has set for the reason ``anomalous``."""

ALARM_LEVEL: Final = 0.01
"""A sample is called out up to this p-value: one in a hundred ordinary samples is in vain."""


class SampleNovelty(Frozen):
    """How many cells of a sample are stranger than nearly all calibration cells of their class."""

    cells: int = Field(description="cells that were compared")
    strange: int = Field(description=f"those with a p-value of at most {STRANGE_LEVEL}")
    expected: float = Field(description="how many there would be, on average, in a sample without any strange kind")
    p_value: float = Field(description="probability of so many or more in such a sample")

    @computed_field(description="whether the sample holds more strange cells than chance explains")  # type: ignore[prop-decorator]
    @property
    def alarm(self) -> bool:
        """Whether there are more than chance explains."""
        return self.p_value <= ALARM_LEVEL

    @property
    def headline(self) -> str:
        """What an alarm says."""
        return (
            f"STRANGE CELLS: {self.strange} of {self.cells} cells are stranger than {1 - STRANGE_LEVEL:.0%} of the "
            f"calibration cells of their class; about {self.expected:.0f} were to be expected "
            f"(p = {self.p_value:.2g}). A kind of cell that the model never learned may be among them: look at those "
            "marked anomalous first."
        )


def judge_novelty(cells: Iterable[ScoredCell], familiarity: SampleFamiliarity | None) -> SampleNovelty | None:
    """Return how many cells of a sample are strange, and how many were to be expected.

    Returns
    -------
    SampleNovelty, or None where no cell was compared, the cells are not one sample, or its pictures are unfamiliar:
    then every cell is strange because of its picture.
    """
    if familiarity is None or familiarity.rejected:
        return None
    compared = [
        (cell.anomaly.p_value_of_kind, (cell.label, cell.anomaly.cells_of_kind), cell.anomaly.cells_of_kind)
        for cell in cells
        if cell.anomaly is not None and cell.anomaly.p_value_of_kind is not None and cell.anomaly.cells_of_kind
    ]
    if not compared:
        return None
    p_values, kinds, counted = zip(*compared, strict=True)
    found = excess_of_small(p_values, kinds, counted, STRANGE_LEVEL)
    return SampleNovelty(cells=found.cells, strange=found.small, expected=found.expected, p_value=found.p_value)
