"""Physical scales and limits of the scoring, named once; those that others need too are the contract's."""

from __future__ import annotations

from typing import Final

from cytoserve_contract.limits import COARSEST as COARSEST
from cytoserve_contract.limits import CROP_SIZE as CROP_SIZE
from cytoserve_contract.limits import CROP_UM_PER_PIXEL as CROP_UM_PER_PIXEL
from cytoserve_contract.limits import MAX_AREA_UM2 as MAX_AREA_UM2
from cytoserve_contract.limits import MAX_CELLS as MAX_CELLS
from cytoserve_contract.limits import MAX_FILE_BYTES as MAX_FILE_BYTES
from cytoserve_contract.limits import MAX_PIXELS as MAX_PIXELS
from cytoserve_contract.limits import MAX_SEGMENTER_PIXELS as MAX_SEGMENTER_PIXELS
from cytoserve_contract.limits import MAX_UM_PER_PIXEL as MAX_UM_PER_PIXEL
from cytoserve_contract.limits import MIN_SIDE as MIN_SIDE
from cytoserve_contract.limits import MIN_UM_PER_PIXEL as MIN_UM_PER_PIXEL
from cytoserve_contract.limits import SEGMENTER_UM_PER_PIXEL as SEGMENTER_UM_PER_PIXEL
from cytoserve_contract.values import FLAG_INVALID as FLAG_INVALID
from cytoserve_contract.values import FLAG_OUT_OF_SCALE as FLAG_OUT_OF_SCALE
from cytoserve_contract.values import FLAG_POOR_IMAGE as FLAG_POOR_IMAGE
from cytoserve_contract.values import FLAG_SEGMENTED_WHITE_CELL as FLAG_SEGMENTED_WHITE_CELL
from cytoserve_contract.values import FLAG_TOUCHES_BORDER as FLAG_TOUCHES_BORDER
from cytoserve_contract.values import KINDS as KINDS
from cytoserve_contract.values import NOT_COMPUTED as NOT_COMPUTED

RED_CELL_DIAMETER_UM: Final = 7.5
"""Mean diameter of a normal red cell on a dried, stained film, micrometres: the ruler in a field without a scale."""

PBC_UM_PER_PIXEL: Final = 0.18
"""Scale of the 160 px PBC cells in ``shared/data/pbc``: a red cell is about 42 px wide there."""

BACKGROUND_PERCENTILE: Final = 90.0
WHITE_LEVEL: Final = 245.0
WHITE_GAIN_LIMITS: Final = (0.8, 1.6)
"""White balance of crops: the pixels above this percentile of green are brought to this level in every channel, by
gains within these limits."""
