"""The exact test on the number of strange cells: against SciPy's law, and by drawing samples."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_statistics.excess import excess_of_small
from scipy import stats


@pytest.mark.parametrize(("cells", "counted", "small"), [(50, 99, 6), (200, 60, 12), (1, 19, 1), (500, 800, 40)])
def test_one_group_is_scipys_beta_binomial(cells: int, counted: int, small: int) -> None:
    p_values = [0.01 if i < small else 0.9 for i in range(cells)]
    found = excess_of_small(p_values, ["a"] * cells, [counted] * cells, 0.05)
    beyond = (counted + 1) // 20
    law = stats.betabinom(cells, beyond, counted + 1 - beyond)
    assert found.small == small
    assert found.expected == pytest.approx(law.mean())
    assert found.p_value == pytest.approx(law.sf(small - 1), rel=1e-9)


def test_a_group_too_small_for_the_level_adds_nothing() -> None:
    """Among 18 calibration cells the smallest p-value is 1 in 19, above the level of 5 %."""
    found = excess_of_small([1 / 19] * 10, ["a"] * 10, [18] * 10, 0.05)
    assert (found.small, found.expected, found.p_value) == (0, 0.0, 1.0)


def test_no_cell() -> None:
    assert excess_of_small([], [], [], 0.05).p_value == 1.0


def test_ordinary_samples_are_alarmed_no_more_often_than_promised() -> None:
    """Calibration and sample drawn anew each time, three classes of unequal size, 200 cells a sample."""
    draw = np.random.default_rng(5)
    sizes, cells = {"a": 40, "b": 150, "c": 500}, {"a": 20, "b": 60, "c": 120}
    below = []
    for _ in range(2000):
        p_values, groups, counted = [], [], []
        for name, n in sizes.items():
            reference = np.sort(draw.standard_normal(n))
            values = draw.standard_normal(cells[name])
            p_values += ((1 + n - np.searchsorted(reference, values)) / (n + 1)).tolist()
            groups += [name] * cells[name]
            counted += [n] * cells[name]
        below.append(excess_of_small(p_values, groups, counted, 0.05).p_value)
    for level in (0.01, 0.05, 0.2):
        share = float(np.mean(np.array(below) <= level))
        assert share <= stats.binom(2000, level).ppf(0.9999) / 2000
    assert np.mean(np.array(below) <= 0.2) > 0.13, "so conservative that it would never alarm"


@pytest.mark.parametrize(
    ("p_values", "groups", "counted", "told"),
    [
        ([0.5], ["a"], [], "as many"),
        ([0.0], ["a"], [9], "must lie in"),
        ([0.5], ["a"], [0], "must lie in"),
        ([0.5, 0.5], ["a", "a"], [9, 10], "the same calibration cells"),
    ],
)
def test_what_makes_no_sense_is_refused(p_values, groups, counted, told) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=told):
        excess_of_small(p_values, groups, counted, 0.05)
