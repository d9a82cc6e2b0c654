"""Cells of two scanners are told from cells of one: on synthetic statistics, and on the real sets where they are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_validation.mixture import LEAST_SHARE, SEPARATED, Parts, furthest_parts
from real_statistics import statistics_of

SIZE = len(IMAGE_STATISTIC_NAMES)
KINDS = ("lymphocyte", "monocyte", "neutrophil", "platelet")
NOISE = IMAGE_STATISTIC_NAMES.index("noise")

Cells = tuple[np.ndarray, np.ndarray]


def site(count: int, seed: int, shift: float = 0.0, slides: int = 1) -> Cells:
    """Cells whose statistics are correlated, with heavy tails, and move from slide to slide; ``shift`` moves noise."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(98).normal(0, 0.3, (SIZE, SIZE)) + np.eye(SIZE)
    centre = np.random.default_rng(99).normal(0, 2, (len(KINDS), SIZE))
    kind = rng.choice(len(KINDS), count, p=(0.4, 0.1, 0.3, 0.2))
    slide = rng.normal(0, 0.4, (slides, SIZE))[rng.integers(0, slides, count)]
    values = centre[kind] + 0.3 * rng.standard_t(6, (count, SIZE)) @ mixing + slide
    values[:, NOISE] += shift
    return values, np.array(KINDS)[kind]


def together(*parts: Cells) -> Cells:
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def found(cells: Cells, told: dict[str, list[str]] | None = None) -> Parts:
    parts = furthest_parts(cells[0], cells[1].tolist(), told)
    assert parts is not None
    return parts


@pytest.mark.parametrize("slides", [1, 6])
def test_cells_of_one_site_are_not_parted(slides: int) -> None:
    for seed in range(3):
        assert not found(site(300, seed, slides=slides)).apart


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_second_scanner_is_found_its_cells_are_named_and_so_is_what_differs(share: float) -> None:
    few = int(300 * share)
    parts = found(together(site(300 - few, 1), site(few, 2, shift=8.0)))
    assert parts.mixed
    true = np.arange(300) >= 300 - few
    agree = (parts.smaller == true).mean()
    assert max(agree, 1 - agree) > 0.97
    assert parts.differences[0] in ("the picture is noisier", "the picture is smoother")
    if share < 0.5:
        assert parts.differences[0] == "the picture is noisier"
        assert f"({few} and {300 - few} cells, told apart by the pictures alone" in parts.sentence()


def test_parts_that_are_classes_are_no_scanners() -> None:
    values, label = site(300, 3)
    values[label == "platelet", NOISE] += 50.0
    assert not found((values, label)).apart


def test_a_statistic_of_few_values_is_no_two_scanners() -> None:
    values, label = site(300, 4)
    values[:, NOISE] = np.log(np.random.default_rng(0).integers(1, 3, 300) / 4 + 0.05)
    assert not found((values, label)).apart


def test_a_few_odd_cells_are_told_and_not_refused() -> None:
    few = int(300 * LEAST_SHARE) - 6
    parts = found(together(site(300 - few, 1), site(few, 2, shift=12.0)))
    assert parts.distance >= SEPARATED
    assert not parts.mixed


def test_a_group_that_is_named_is_found_among_fewer_cells_and_by_its_name() -> None:
    cells = together(site(290, 1), site(10, 2, shift=12.0))
    parts = found(cells, {"group": ["old"] * 290 + ["new"] * 10})
    assert parts.mixed
    assert parts.group in ("group new", "group old")
    assert parts.smaller.tolist() == [False] * 290 + [True] * 10
    by_chance = np.random.default_rng(0).permutation(["old"] * 240 + ["new"] * 60).tolist()
    assert not found(site(300, 1), {"group": by_chance}).apart


def test_cells_too_few_to_tell_are_no_parts() -> None:
    assert furthest_parts(np.zeros((0, SIZE)), []) is None
    assert furthest_parts(np.random.default_rng(0).normal(0, 1, (8, SIZE)), [f"class {i}" for i in range(8)]) is None
    same = furthest_parts(np.zeros((60, SIZE)), ["a"] * 30 + ["b"] * 30)
    assert same is None or not same.apart


def test_the_order_of_the_cells_does_not_decide() -> None:
    cells = together(site(150, 1), site(150, 2, shift=9.0))
    order = np.random.default_rng(1).permutation(300)
    assert found(cells).mixed
    assert found((cells[0][order], cells[1][order])).mixed


# -- real cells --------------------------------------------------------------------------------------------------------

SITES = {
    "pbc": ("pbc/val", 0.18),
    "bcisc": ("bcisc/cells", 0.134),
    "chula_wbc": ("chula_wbc/cells", 0.10),
    "bccd_cells": ("bccd_cells", 0.0777),
}
MOST = 300


@pytest.fixture
def real(data_dir: Path) -> Callable[[str], Cells]:
    """Return a function that measures at most 300 cells of a set."""

    def of(name: str) -> Cells:
        folder, scale = SITES[name]
        values, files = statistics_of(data_dir / folder, scale, MOST)
        return values, np.array([file.parent.name for file in files])

    return of


@pytest.mark.parametrize("name", SITES)
def test_a_real_site_alone_is_not_refused(real: Callable[[str], Cells], name: str) -> None:
    assert not found(real(name)).mixed


PAIRS = [(a, b, 0.1) for a in SITES for b in SITES if a != b] + [(a, b, 0.5) for a, b in combinations(SITES, 2)]


@pytest.mark.parametrize(("one", "other", "minority"), PAIRS)
def test_two_real_sites_in_one_folder_are_refused(
    real: Callable[[str], Cells], one: str, other: str, minority: float
) -> None:
    few = int(MOST * minority)
    first, second = real(one), real(other)
    cells = together((first[0][: MOST - few], first[1][: MOST - few]), (second[0][:few], second[1][:few]))
    assert found(cells).mixed
