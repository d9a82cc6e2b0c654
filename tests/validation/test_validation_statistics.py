"""Statistics against other implementations, closed forms and published values."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest
from cytoserve_scoring.classifier.fitting import RiskGuarantee, upper_bound
from cytoserve_validation import calibrate, ranking, reliability, resampling, selective
from cytoserve_validation.intervals import clopper_pearson, newcombe, wilson
from scipy import integrate, stats


@pytest.mark.parametrize(("count", "total"), [(0, 7), (3, 10), (10, 10), (958, 958), (1625, 1704)])
def test_exact_and_score_intervals_are_scipys(count: int, total: int) -> None:
    test = stats.binomtest(count, total)
    for ours, method in ((clopper_pearson, "exact"), (wilson, "wilson")):
        theirs = test.proportion_ci(0.95, method=method)
        assert ours(count, total) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_a_share_of_nothing_has_no_interval() -> None:
    with pytest.raises(ValueError, match="total >= 1"):
        clopper_pearson(0, 0)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((56, 70, 48, 80), (0.0524, 0.3339)), ((9, 10, 3, 10), (0.1705, 0.8090))],
)
def test_difference_of_shares_has_newcombes_published_interval(
    counts: tuple[int, int, int, int], expected: tuple[float, float]
) -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10, contrasts (a) and (b).
    assert newcombe(*counts) == pytest.approx(expected, abs=5e-5)


def scores(anomalies: int, ordinary: int, apart: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(apart, 1, anomalies).round(1), rng.normal(0, 1, ordinary).round(1)


def test_auc_is_mann_whitneys_statistic_with_ties() -> None:
    strange, ordinary = scores(40, 70, 1.0, 3)
    theirs = stats.mannwhitneyu(strange, ordinary).statistic / (40 * 70)
    assert ranking.auc(strange, ordinary).value == pytest.approx(theirs)
    false, true = ranking.roc(strange, ordinary)
    assert integrate.trapezoid(true, false) == pytest.approx(theirs)


def test_delong_variance_is_the_papers_double_sum() -> None:
    strange, ordinary = scores(12, 15, 0.7, 5)
    kernel = np.array([[(x > y) + 0.5 * (x == y) for y in ordinary] for x in strange])
    area = kernel.mean()
    s10 = ((kernel.mean(axis=1) - area) ** 2).sum() / 11
    s01 = ((kernel.mean(axis=0) - area) ** 2).sum() / 14
    assert ranking.auc_variance(ranking.placements(strange, ordinary)) == pytest.approx(s10 / 12 + s01 / 15)


def test_auc_interval_holds_the_closed_form_of_two_normals_as_often_as_promised() -> None:
    truth = stats.norm.cdf(1.0 / np.sqrt(2))
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        found = ranking.auc(rng.normal(1, 1, 60), rng.normal(0, 1, 80))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    assert 300 * 0.90 < held < 300 * 0.99


def test_a_score_against_itself_differs_by_nothing() -> None:
    strange, ordinary = scores(20, 30, 1.0, 7)
    one = ranking.placements(strange, ordinary)
    assert ranking.auc_difference(one, one) == (0.0, 0.0, 0.0)
    value, low, high = ranking.auc_difference(one, ranking.placements(-strange, -ordinary))
    assert value == pytest.approx(2 * one.auc - 1)
    assert low < value < high


def test_perfect_separation_still_has_an_interval() -> None:
    found = ranking.auc(np.arange(10.0) + 100, np.arange(50.0))
    assert found.value == 1
    assert found.low == pytest.approx(stats.binomtest(10, 10).proportion_ci(0.95).low)


def test_zeta_is_the_formula_written_out() -> None:
    row = np.array([3.0, 1.0, 1.5, 2.0, 4.0])
    e = (np.sort(row) - 1.0) / row.mean()
    k = 4
    expected = sum((e[j] - e[0]) / k - sum(abs(e[m] - e[j]) for m in range(1, k)) / (k * (k - 1)) for j in range(1, k))
    assert ranking.zeta(row[None])[0] == pytest.approx(expected)
    permuted = np.array([row[list(order)] for order in itertools.permutations(range(5))])
    assert np.allclose(ranking.zeta(permuted), expected)
    with pytest.raises(ValueError, match="three classes"):
        ranking.zeta(np.ones((1, 2)))


def test_calibration_error_of_worked_cells() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    expected = 4 / 6 * abs(0.75 - 0.95) + 2 / 6 * abs(0.5 - 0.55)
    found = reliability.expected_calibration_error(confidence, right, np.ones((1, 6)), bins=10)
    assert found[0] == pytest.approx(expected)
    doubled = np.array([[2.0, 2, 2, 2, 0, 0]])
    assert reliability.expected_calibration_error(confidence, right, doubled, bins=10)[0] == pytest.approx(0.2)


def test_bins_hold_every_cell_once_and_edges_belong_below() -> None:
    rng = np.random.default_rng(0)
    confidence = np.append(rng.random(500), [0.0, 1.0])
    rows = reliability.reliability(confidence, rng.random(502) < confidence)
    assert sum(row["cells"] for row in rows) == 502
    assert list(reliability.bin_of(np.array([0.0, 0.1, 0.1001, 1.0]), 10)) == [0, 0, 1, 9]


def test_honest_confidences_are_within_what_chance_allows_and_others_are_not() -> None:
    rng = np.random.default_rng(11)
    confidence = rng.uniform(0.4, 1, 3000)
    allowed = reliability.chance_level(confidence)
    everyone = np.ones((1, 3000))
    honest = reliability.expected_calibration_error(confidence, rng.random(3000) < confidence, everyone)[0]
    boasting = reliability.expected_calibration_error(confidence, rng.random(3000) < confidence - 0.1, everyone)[0]
    assert honest < allowed["percentile_95"] * 1.2
    assert boasting > 3 * allowed["percentile_95"]
    assert boasting == pytest.approx(0.1, abs=0.03)


def test_psychometric_fit_recovers_the_curve_that_drew_the_cells() -> None:
    rng = np.random.default_rng(2)
    truth = reliability.Psychometric(guess=1 / 8, lapse=0.02, threshold=1.0, width=2.0)
    confidence = 1 / (1 + np.exp(-rng.uniform(-4, 9, 20000)))
    right = rng.random(20000) < truth.accuracy(confidence)
    found = reliability.fit_psychometric(confidence, right, 8)
    assert found is not None
    assert found.threshold == pytest.approx(1.0, abs=0.15)
    assert found.width == pytest.approx(2.0, abs=0.2)
    assert found.lapse == pytest.approx(0.02, abs=0.01)
    assert reliability.fit_psychometric(confidence, np.ones(20000, bool), 8) is None


def test_risk_coverage_of_worked_cells() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.5])
    right = np.array([True, True, False, False])
    thresholds, coverage, risk = selective.ranked(confidence, right)
    assert thresholds.tolist() == [0.9, 0.8, 0.5]
    assert coverage.tolist() == [0.25, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 1 / 3, 1 / 2])
    assert selective.area_under_risk(confidence, right) == pytest.approx(0.5 / 3 + 0.25 / 2)
    points = selective.curve(confidence, right, 0.95)
    assert points[1]["upper"] == pytest.approx(stats.binomtest(1, 3).proportion_ci(0.90).high)


def test_needed_cells_is_where_the_exact_bound_meets_the_promise() -> None:
    for tolerated, confidence in ((0.01, 0.95), (0.05, 0.9), (0.1, 0.99)):
        needed = calibrate.needed_cells(RiskGuarantee(tolerated, confidence))
        assert upper_bound(0, needed, confidence) <= tolerated < upper_bound(0, needed - 1, confidence)


def test_bootstrap_of_a_mean_has_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(4).normal(10, 2, 200)
    drawn = resampling.draw([""] * 200, None, None)
    found = drawn.figure(lambda w: w @ values / w.sum(axis=1), 200)
    half = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert found.high is not None
    assert found.low is not None
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_slides_that_hold_one_answer_each_widen_the_interval_as_slides_not_cells() -> None:
    """Every cell of a slide is right, or every one is wrong: 40 slides say as much as 40 cells, not as 400."""
    slide = [f"s{i // 10}" for i in range(400)]
    right = np.repeat(np.random.default_rng(8).random(40) < 0.7, 10)
    everyone = np.ones(400, bool)
    by_cell = resampling.draw([""] * 400, None, None).share(right, everyone)
    by_slide = resampling.draw([""] * 400, slide, None).share(right, everyone)
    assert by_cell.low is not None
    assert by_cell.high is not None
    assert by_slide.low is not None
    assert by_slide.high is not None
    share = right.mean()
    assert by_slide.high - by_slide.low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 40), rel=0.12)
    assert by_slide.high - by_slide.low > 2.5 * (by_cell.high - by_cell.low)


def test_slides_are_drawn_whole_and_within_their_group() -> None:
    slide, group = ["a", "a", "b", "c", "c"], ["x", "x", "x", "y", "y"]
    weights = resampling.draw([""] * 5, slide, group).weights
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()
    assert (weights[:, 3] == 1).all()


def test_doctests() -> None:
    assert doctest.testmod(calibrate).attempted > 0
    assert doctest.testmod(calibrate).failed == 0
