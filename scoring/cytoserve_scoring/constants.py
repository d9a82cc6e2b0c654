"""Physical scales and limits of the scoring, named once; those that others need too: `cytoserve_contract.limits`."""

from __future__ import annotations

from typing import Final

RED_CELL_DIAMETER_UM: Final = 7.5
"""Mean diameter of a normal red cell on a dried, stained film, micrometres: the ruler in a field without a scale."""

PBC_UM_PER_PIXEL: Final = 0.18
"""Scale of the 160 px PBC cells in ``shared/data/pbc``: a red cell is about 42 px wide there."""

BACKGROUND_PERCENTILE: Final = 90.0
WHITE_LEVEL: Final = 245.0
WHITE_GAIN_LIMITS: Final = (0.8, 1.6)
"""White balance of crops: the pixels above this percentile of green are brought to this level in every channel, by
gains within these limits."""
