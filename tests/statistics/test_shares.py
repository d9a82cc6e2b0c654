"""Intervals of shares against SciPy's own tests, closed forms, and published and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cytoserve_statistics.shares import clopper_pearson, newcombe, normal_quantile, ratio_interval, upper_bound, wilson
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats


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


@pytest.mark.parametrize(("count", "total"), [(0, 7), (3, 10), (10, 10), (958, 958), (1625, 1704)])
def test_exact_and_score_intervals_are_scipys(count: int, total: int) -> None:
    test = stats.binomtest(count, total)
    for ours, method in ((clopper_pearson, "exact"), (wilson, "wilson")):
        theirs = test.proportion_ci(0.95, method=method)
        assert ours(count, total) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((56, 70, 48, 80), (0.0524, 0.3339)), ((9, 10, 3, 10), (0.1705, 0.8090))],
)
def test_difference_of_shares_has_newcombes_published_interval(
    counts: tuple[int, int, int, int], expected: tuple[float, float]
) -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10, contrasts (a) and (b).
    assert newcombe(*counts) == pytest.approx(expected, abs=5e-5)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_the_upper_bound_is_where_so_few_hits_become_as_rare_as_allowed(data: st.DataObject, confidence: float) -> None:
    total = data.draw(st.integers(1, 2000))
    count = data.draw(st.integers(0, total - 1))
    bound = upper_bound(count, total, confidence)
    assert stats.binom.cdf(count, total, bound) == pytest.approx(1 - confidence, rel=1e-6)
    assert upper_bound(total, total, confidence) == 1


def test_the_upper_bound_without_a_hit_has_a_closed_form() -> None:
    assert upper_bound(0, 299, 0.95) == pytest.approx(1 - 0.05 ** (1 / 299))


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    for interval in (clopper_pearson, wilson, upper_bound):
        with pytest.raises(ValueError, match="between 0 and 1"):
            interval(1, 5, confidence)
    with pytest.raises(ValueError, match="between 0 and 1"):
        normal_quantile(confidence)
