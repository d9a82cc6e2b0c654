"""Physical scales and limits, named once.

Every room that needs one of these numbers takes it from here or from a file the export wrote from here.
"""

from __future__ import annotations

from typing import Final

CROP_SIZE: Final = 96
"""Side of a cell crop, pixels."""

CROP_UM_PER_PIXEL: Final = 0.25
"""Physical scale of a cell crop, micrometres per pixel (so a crop spans 24 um)."""

SEGMENTER_UM_PER_PIXEL: Final = 0.15
"""Physical scale of the segmenter's input, micrometres per pixel (a red cell of 7.5 um is 50 px)."""

RED_CELL_DIAMETER_UM: Final = 7.5
"""Mean diameter of a normal red cell on a dried, stained film, micrometres: the ruler in a field without a scale."""

MIN_UM_PER_PIXEL: Final = 0.02
MAX_UM_PER_PIXEL: Final = 0.6
"""Range of plausible scales: a red cell of 375 px down to one of 12 px."""

MAX_SEGMENTER_PIXELS: Final = 6_000_000
"""Largest segmenter input (24 million took 7.5 GiB). Larger fields come in coarser, see `scale.segmenter_geometry`."""

COARSEST: Final = 0.68
"""How much coarser: the segmenter was trained on 0.7 to 1.45 times its scale."""

MAX_AREA_UM2: Final = int(MAX_SEGMENTER_PIXELS / COARSEST**2 * SEGMENTER_UM_PER_PIXEL**2)
"""Largest area of the film in one field, square micrometres: 0.292 mm2, such as 540 x 540 um. It binds before
`MAX_PIXELS` where a pixel is wider than 0.076 um."""

PBC_UM_PER_PIXEL: Final = 0.18
"""Scale of the 160 px PBC cells in ``shared/data/pbc``: a red cell is about 42 px wide there."""

KINDS: Final = ("white_cell", "red_cell", "platelet")
"""Kinds the segmenter tells apart, in the order of the wire's ``KIND`` numbers."""

FLAG_POOR_IMAGE: Final = 1
FLAG_OUT_OF_SCALE: Final = 2
FLAG_TOUCHES_BORDER: Final = 4
FLAG_SEGMENTED_WHITE_CELL: Final = 8
FLAG_INVALID: Final = 16
"""Bits of ``CELL_FLAGS``; a cell with ``FLAG_INVALID`` has no picture (its crop is black) and is not scored."""

MAX_FILE_BYTES: Final = 40 * 1024 * 1024
"""Largest encoded image accepted, bytes."""

MAX_PIXELS: Final = 50_000_000
"""Largest image accepted, pixels, read from the header before anything is decoded."""

MIN_SIDE: Final = 32
"""Shortest side accepted, pixels."""

BACKGROUND_PERCENTILE: Final = 90.0
WHITE_LEVEL: Final = 245.0
WHITE_GAIN_LIMITS: Final = (0.8, 1.6)
"""White balance of crops: the pixels above this percentile of green are brought to this level in every channel, by
gains within these limits."""

NOT_COMPUTED: Final = -1.0
"""What stands on the wire for a number that was not computed or is not known. NaN and infinity are no JSON, and every
such number (probabilities, distances, errors, scales, moments) is at least 0. In memory it is NaN."""

MAX_CELLS: Final = 512
"""Most single-cell images in one request."""
