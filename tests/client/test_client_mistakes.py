"""Mistakes that a rejected sample's pictures may look like: the limits. On real cells: `test_mistakes_measured.py`."""

from __future__ import annotations

from cytoserve_client import Cell
from cytoserve_client.mistakes import LEAST_CELLS, likely_mistake
from cytoserve_client.results import MISTAKES
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from made_cells import cell

INVERTED = {"surroundings_red": 4.2, "surroundings_green": 1.9, "surroundings_blue": 0.8}


def row(**values: float) -> Cell:
    """Return a cell with the statistics of an ordinary nucleus, but for those given."""
    usual = {"nucleus_red": 1.4, "nucleus_green": 2.4, "nucleus_blue": 0.5}
    return cell(image_statistics=tuple({**usual, **values}.get(name, 0.0) for name in IMAGE_STATISTIC_NAMES))


def test_few_or_unmeasured_cells_are_not_judged() -> None:
    swapped = row(nucleus_red=0.5, nucleus_blue=1.4)
    assert likely_mistake([row()] * LEAST_CELLS) is None
    assert likely_mistake([swapped] * LEAST_CELLS) == "red_and_blue_swapped"
    assert likely_mistake([swapped] * (LEAST_CELLS - 1)) is None
    assert likely_mistake([swapped] * (LEAST_CELLS - 1) + [cell()] * 5) is None
    assert likely_mistake([]) is None


def test_every_mistake_that_is_named_has_words() -> None:
    pictures = ({"nucleus_blue": 2.0}, {"nucleus_green": 0.0, "nucleus_blue": 0.0}, INVERTED)
    assert {likely_mistake([row(**values)] * LEAST_CELLS) for values in pictures} == set(MISTAKES)


def test_a_black_mask_around_the_cell_is_no_negative() -> None:
    dark = {f"surroundings_{colour}": 5.4 for colour in ("red", "green", "blue")}
    assert likely_mistake([row(**dark)] * LEAST_CELLS) is None
    assert likely_mistake([row(**INVERTED)] * LEAST_CELLS) == "inverted"
