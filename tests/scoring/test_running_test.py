"""The running test of a site's cells: rare false alarms by construction, quick true ones, and recovery."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cytoserve_scoring.classifier.running_test import MEAN_CELLS_BETWEEN_ALARMS, RunningTest, bets, bounded
from scipy.stats import beta

SIZES = (40, 54, 100, 200, 500, 2000)
"""Calibration cells of a kind; a class of the reference model has 54 to 322."""


def draw(generator: np.random.Generator, reference: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw calibration cells and (p-values, counts) of ordinary cells compared with them."""
    calibrated = np.sort(generator.random(reference))
    at_least = reference - np.searchsorted(calibrated, generator.random(cells), side="left")
    return (1 + at_least) / (reference + 1), np.full(cells, reference)


def test_the_mean_of_a_bet_on_uniform_p_values_is_one() -> None:
    """With ever more calibration cells the bounded probability is the p-value itself; substituted: p = x^4."""
    x = (np.arange(20_000) + 0.5) / 20_000
    mean = np.mean(bets(x**4, np.full(len(x), 1e9)) * 4 * x**3)
    assert mean == pytest.approx(1, abs=0.01)
    assert mean <= 1
    falling = bets(np.linspace(0.001, 1, 1000), np.full(1000, 2000))
    assert (np.diff(falling) <= 0).all()


@pytest.mark.parametrize("reference", SIZES)
def test_a_bet_wins_nothing_on_ordinary_cells_whatever_the_calibration(reference: int) -> None:
    """Given n calibration cells, the probabilities of the n + 1 p-values are Dirichlet(1, ..., 1)."""
    steps = np.arange(1, reference + 2) / (reference + 1)
    won = bets(steps, np.full(len(steps), reference))
    probabilities = np.random.default_rng(5).dirichlet(np.ones(reference + 1), 5000)
    assert np.mean(probabilities @ won > 1) <= 0.001
    # Without the bound, several calibrations in a hundred would give false alarms too often.
    naive = np.mean([power * steps ** (power - 1) for power in (0.25, 0.5, 0.75)], axis=0)
    assert np.mean(probabilities @ naive > 1) > 0.03


def test_the_bounded_probability_is_that_of_the_beta_distribution() -> None:
    p_values = np.array([1 / 101, 50 / 101, 1.0, 1e-9])
    expected = [beta.ppf(0.9, 1, 100), beta.ppf(0.9, 50, 51), 1.0, beta.ppf(0.9, 1, 100)]
    assert bounded(p_values, np.full(4, 100)) == pytest.approx(expected)
    assert bounded(p_values.astype(np.float32), np.full(4, 100, np.float32)) == pytest.approx(expected)


@pytest.mark.parametrize("reference", [54, 200, 2000])
def test_false_alarms_are_as_rare_as_was_asked(reference: int) -> None:
    """At a smaller bound: the mean over 400 calibrations, 2,000 cells each, is over ten times the alarms allowed."""
    bound, cells, calibrations = 300.0, 2_000, 400
    generator = np.random.default_rng(reference)
    alarms = sum(RunningTest(bound).update(*draw(generator, reference, cells)) for _ in range(calibrations))
    allowed = cells * calibrations / bound
    assert alarms <= allowed
    assert alarms > 0, "the simulation can see an alarm"


def test_ordinary_cells_raise_no_alarm() -> None:
    test = RunningTest()
    assert MEAN_CELLS_BETWEEN_ALARMS == 1e6
    assert test.update(*draw(np.random.default_rng(1), 200, 50_000)) == 0
    assert 0 <= test.evidence < 1


@pytest.mark.parametrize(("reference", "within"), [(54, 20), (200, 12), (2000, 8)])
def test_an_unfamiliar_stream_is_noticed_within_tens_of_cells(reference: int, within: int) -> None:
    """Every cell is beyond all calibration cells, as those of bccd_cells, bcisc and chula_wbc are."""
    test = RunningTest()
    test.update(*draw(np.random.default_rng(1), reference, 1000))
    least = np.full(within, 1 / (reference + 1))
    assert test.update(least, np.full(within, reference)) == 1
    assert test.is_alarmed
    assert test.evidence >= 1


def test_a_subtle_change_is_noticed_too() -> None:
    """Cells of the external site that looks like home: the median p-value of a cell is 0.075, not 0.5."""
    generator = np.random.default_rng(2)
    p_values = np.ceil(201 * generator.random(200) ** (math.log(0.075) / math.log(0.5))) / 201
    found = RunningTest()
    taken = next(n for n, p in enumerate(p_values) if found.update(np.array([p]), np.array([200])))
    assert taken < 60


def test_ordinary_cells_end_an_alarm_however_long_it_was() -> None:
    test = RunningTest()
    test.update(np.full(100_000, 1 / 201), np.full(100_000, 200))
    assert test.is_alarmed
    p_values, counted = draw(np.random.default_rng(3), 200, 100)
    assert test.update(p_values, counted) == 0
    assert not test.is_alarmed
    assert test.evidence < 0.6
    assert test.update(np.full(20, 1 / 201), np.full(20, 200)) == 1, "the next one is noticed again"


def test_the_answer_does_not_depend_on_how_cells_came_in_requests() -> None:
    p_values, counted = draw(np.random.default_rng(4), 200, 60)
    whole, single = RunningTest(), RunningTest()
    whole.update(p_values, counted)
    for p, n in zip(p_values, counted, strict=True):
        single.update(np.array([p]), np.array([n]))
    assert whole.evidence == single.evidence > 0


def test_cells_without_a_p_value_are_passed_over() -> None:
    test = RunningTest()
    assert test.update(np.array([np.nan, np.nan]), np.array([np.nan, 200.0])) == 0
    assert test.update(np.empty(0), np.empty(0)) == 0
    assert test.evidence == 0
