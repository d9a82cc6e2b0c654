"""Intervals against SciPy and against published and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cytoserve_client.intervals import clopper_pearson, ratio_interval, regularised_beta
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats


@settings(deadline=None, max_examples=200)
@given(a=st.floats(0.5, 5000), b=st.floats(0.5, 5000), x=st.floats(0, 1))
def test_incomplete_beta_agrees_with_scipy(a: float, b: float, x: float) -> None:
    assert regularised_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), abs=1e-10)


@pytest.mark.parametrize(("a", "b", "x"), [(0, 1, 0.5), (1, -1, 0.5), (1, 1, 1.5), (1, 1, math.nan)])
def test_incomplete_beta_refuses_nonsense(a: float, b: float, x: float) -> None:
    with pytest.raises(ValueError, match="regularised_beta"):
        regularised_beta(a, b, x)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), confidence=st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_clopper_pearson_agrees_with_scipy(data: st.DataObject, confidence: float) -> None:
    total = data.draw(st.integers(1, 3000))
    count = data.draw(st.integers(0, total))
    expected = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
    assert clopper_pearson(count, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(5, 100, 1.6, 11.3), (10, 200, 2.4, 9.0), (20, 400, 3.1, 7.6), (0, 100, 0.0, 3.6), (50, 100, 39.8, 60.2)],
)
def test_clopper_pearson_gives_the_tables_of_the_manual_differential(
    count: int, total: int, low: float, high: float
) -> None:
    found = clopper_pearson(count, total)
    assert [round(100 * side, 1) for side in found] == [low, high]


@pytest.mark.parametrize(("count", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_clopper_pearson_refuses_impossible_counts(count: int, total: int) -> None:
    with pytest.raises(ValueError, match="count"):
        clopper_pearson(count, total)


def test_ratio_interval_covers_the_truth_of_two_poisson_counts() -> None:
    generator = np.random.default_rng(11)
    truth, white = 0.08, 100.0
    covered = 0
    draws = 600
    for _ in range(draws):
        count, reference = generator.poisson(truth * white), generator.poisson(white)
        low, high = ratio_interval(int(count), int(reference))
        covered += low <= truth <= (math.inf if high is None else high)
    # Exact intervals cover at least 95 %; 0.93 leaves room for the draw (600 draws: standard error 0.009).
    assert covered / draws >= 0.93


def test_ratio_interval_is_wider_than_taking_the_white_cells_for_known() -> None:
    low, high = ratio_interval(10, 100)
    fixed_low, fixed_high = stats.chi2.ppf(0.025, 20) / 200, stats.chi2.ppf(0.975, 22) / 200
    assert low < fixed_low
    assert high is not None
    assert high > fixed_high


def test_ratio_without_reference_has_no_upper_end() -> None:
    assert ratio_interval(3, 0)[1] is None
