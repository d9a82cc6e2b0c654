"""The area under the ROC curve against other implementations, the paper's double sum and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_statistics import ranking
from scipy import integrate, stats


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
