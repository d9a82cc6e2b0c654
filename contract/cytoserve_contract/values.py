"""What the numbers and words of the tensors stand for."""

from __future__ import annotations

from typing import Final, Literal, get_args

NOT_COMPUTED: Final = -1.0
"""What stands on the wire for a number that was not computed or is not known. NaN and infinity are no JSON, and every
such number (probabilities, distances, errors, scales, moments) is at least 0. In memory it is NaN."""

NO_LABEL: Final = -1
"""``LABEL`` of a cell that was not scored."""

Kind = Literal["white_cell", "red_cell", "platelet"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Kinds that the segmenter tells apart, in the order of the wire's ``KIND`` numbers."""

Decision = Literal["accept", "review"]
DECISIONS: Final[tuple[Decision, ...]] = get_args(Decision)
"""Outcome for a scored cell, in the order of the wire's ``DECISION`` numbers."""

SCALE_SOURCES: Final[dict[str, str]] = {
    "caller": "the request gave it",
    "file": "the file carries it",
    "red_cells": "measured from the red cells",
    "cell_itself": "estimated from the single cell",
    "none": "not known",
}
"""Words of ``SCALE_SOURCE``; the list is open, a newer server may add to it."""

FLAG_POOR_IMAGE: Final = 1
FLAG_OUT_OF_SCALE: Final = 2
FLAG_TOUCHES_BORDER: Final = 4
FLAG_SEGMENTED_WHITE_CELL: Final = 8
FLAG_INVALID: Final = 16

CELL_FLAGS: Final[dict[int, tuple[str, str]]] = {
    FLAG_POOR_IMAGE: ("poor_image", "too dark, too bright, too pale or too blurred"),
    FLAG_OUT_OF_SCALE: ("out_of_scale", "the scale is unknown or contradicted"),
    FLAG_TOUCHES_BORDER: ("touches_border", "cut by the picture's edge, the eyepiece's rim or a drawn mark"),
    FLAG_SEGMENTED_WHITE_CELL: (
        "segmented_white_cell",
        "the segmenter says white cell (every cell of a field): the label `platelet` is then a `kind_conflict`",
    ),
    FLAG_INVALID: ("invalid", "there is no picture, the crop is black: the cell is not scored"),
}
"""Bits of ``CELL_FLAGS`` with name and meaning."""
