"""How a slide is cut into fields: a grid whose fields overlap, and the order in which they are read.

A field is its *core* and a margin on all sides. Cores meet without a gap, so every cell has its centre in one of them
and counts there; the margin is wider than half a cell with its surroundings, so that no cell that counts is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

CORE_UM: Final = (320.0, 240.0)
"""Width and height of a core. With its margin a field is a third of the largest that the service takes."""

MARGIN_UM: Final = 18.0
"""A large white cell measures 25 um, its crop 24 um."""

PLASTIC: Final = 1.324717957244746
"""The real root of x^3 = x + 1."""

USUAL_SCALE: Final = 0.25
"""Micrometres per pixel that fields are cut by where the slide does not tell its own: a 40x objective."""


@dataclass(frozen=True)
class Tile:
    """A field of a slide.

    Attributes
    ----------
    column, row : int
        Place in the grid.
    x, y, width, height : int
        Pixels of the slide at full resolution.
    core : tuple of int
        Left, upper, right, lower, in pixels of the field.
    """

    column: int
    row: int
    x: int
    y: int
    width: int
    height: int
    core: tuple[int, int, int, int]


def tiles_of(origin: tuple[int, int], size: tuple[int, int], um_per_pixel: float) -> list[Tile]:
    """Return the fields of a scanned area, row by row.

    The last column and row are as wide as what is left; where that is less than half a core, the one before it takes
    it over. Margins end at the edge of the area.
    """
    columns = _spans(size[0], CORE_UM[0] / um_per_pixel, MARGIN_UM / um_per_pixel)
    rows = _spans(size[1], CORE_UM[1] / um_per_pixel, MARGIN_UM / um_per_pixel)
    return [
        Tile(
            column,
            row,
            origin[0] + left,
            origin[1] + upper,
            right - left,
            lower - upper,
            (core_left - left, core_upper - upper, core_right - left, core_lower - upper),
        )
        for row, (upper, core_upper, core_lower, lower) in enumerate(rows)
        for column, (left, core_left, core_right, right) in enumerate(columns)
    ]


def _spans(length: int, core: float, margin: float) -> list[tuple[int, int, int, int]]:
    """Return begin, begin of the core, end of the core, end, for each part of a side."""
    parts = max(1, int(length / core + 0.5))
    edges = [round(i * core) for i in range(parts)] + [length]
    return [
        (max(0, round(begin - margin)), begin, end, min(length, round(end + margin))) for begin, end in pairwise(edges)
    ]


def spread(tiles: Sequence[Tile]) -> list[Tile]:
    """Return the fields in an order in which those before any place are spread over the film, across and down.

    A film is thicker at one end than at the other, and large cells are carried to its edges: fields that are read
    first must come from all of it, else the count of a film that is read in part is one of a corner.

    Notes
    -----
    Fields are sorted by their rank-1 lattice of the plastic number (the R2 sequence: Roberts 2018, "The unreasonable
    effectiveness of quasirandom sequences"), which has no direction in common with a grid, as a sequence over the rows
    would have.
    """
    return sorted(tiles, key=lambda tile: (tile.column / PLASTIC + tile.row / PLASTIC**2) % 1.0)
