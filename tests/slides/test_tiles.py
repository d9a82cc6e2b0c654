"""The grid of a slide: every place counts once, and what is read first is spread over the film."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_contract.limits import MAX_AREA_UM2
from cytoserve_slides.tiles import CORE_UM, MARGIN_UM, Tile, spread, tiles_of
from hypothesis import given
from hypothesis import strategies as st

SIDES = st.integers(1, 40_000)


@given(SIDES, SIDES, st.floats(0.1, 1.0), st.integers(0, 500), st.integers(0, 500))
def test_every_pixel_is_in_one_core(width: int, height: int, scale: float, x: int, y: int) -> None:
    tiles = tiles_of((x, y), (width, height), scale)
    cores = np.array([(t.x + t.core[0], t.y + t.core[1], t.x + t.core[2], t.y + t.core[3]) for t in tiles])
    assert ((cores[:, 2:] - cores[:, :2]) > 0).all()
    assert int(np.prod(cores[:, 2:] - cores[:, :2], axis=1).sum()) == width * height
    assert (cores[:, :2].min(axis=0) == (x, y)).all()
    assert (cores[:, 2:].max(axis=0) == (x + width, y + height)).all()
    assert len({tuple(core) for core in cores.tolist()}) == len(tiles)
    for tile in tiles:
        assert x <= tile.x
        assert tile.x + tile.width <= x + width


def test_margins_hold_half_a_large_cell_but_for_the_edge_of_the_slide() -> None:
    margin = round(MARGIN_UM / 0.25)
    for tile in tiles_of((0, 0), (10_000, 8_000), 0.25):
        left, upper, right, lower = tile.core
        assert left == margin or tile.x == 0
        assert upper == margin or tile.y == 0
        assert tile.width - right == margin or tile.x + tile.width == 10_000
        assert tile.height - lower == margin or tile.y + tile.height == 8_000


@given(SIDES, SIDES, st.floats(0.1, 1.0))
def test_no_field_is_larger_than_the_service_takes(width: int, height: int, scale: float) -> None:
    assert max(t.width * t.height * scale**2 for t in tiles_of((0, 0), (width, height), scale)) < MAX_AREA_UM2


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (4, 3), (64, 32), (7, 90)])
def test_each_comes_once(columns: int, rows: int) -> None:
    tiles = grid(columns, rows)
    assert sorted(spread(tiles), key=tiles.index) == tiles
    assert spread([]) == []


def grid(columns: int, rows: int) -> list[Tile]:
    found = tiles_of((0, 0), (round(columns * CORE_UM[0]), round(rows * CORE_UM[1])), 1.0)
    assert len(found) == columns * rows
    return found


@pytest.mark.parametrize(("columns", "rows"), [(40, 30), (64, 32), (100, 16)])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_those_read_first_come_from_all_of_the_film(columns: int, rows: int, share: float) -> None:
    """Of the sixteen parts of a film each has its share among them, within three fields or a third."""
    first = spread(grid(columns, rows))[: round(share * columns * rows)]
    parts = np.zeros((4, 4))
    for tile in first:
        parts[4 * tile.column // columns, 4 * tile.row // rows] += 1
    fair = len(first) / 16
    assert np.abs(parts - fair).max() <= max(3, fair / 3)


def test_a_core_is_a_third_of_the_largest_field_at_most() -> None:
    whole = (CORE_UM[0] + 2 * MARGIN_UM) * (CORE_UM[1] + 2 * MARGIN_UM)
    assert whole < MAX_AREA_UM2 / 2.5
