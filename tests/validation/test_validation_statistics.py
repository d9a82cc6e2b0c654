"""Statistics against other implementations, closed forms and published values."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest
from cytoserve_scoring.classifier.fitting import RiskGuarantee
from cytoserve_statistics.shares import upper_bound
from cytoserve_validation import calibrate, psychometric, selective
from cytoserve_validation.zeta import zeta
from scipy import stats


def test_zeta_is_the_formula_written_out() -> None:
    row = np.array([3.0, 1.0, 1.5, 2.0, 4.0])
    e = (np.sort(row) - 1.0) / row.mean()
    k = 4
    expected = sum((e[j] - e[0]) / k - sum(abs(e[m] - e[j]) for m in range(1, k)) / (k * (k - 1)) for j in range(1, k))
    assert zeta(row[None])[0] == pytest.approx(expected)
    permuted = np.array([row[list(order)] for order in itertools.permutations(range(5))])
    assert np.allclose(zeta(permuted), expected)
    with pytest.raises(ValueError, match="three classes"):
        zeta(np.ones((1, 2)))


def test_psychometric_fit_recovers_the_curve_that_drew_the_cells() -> None:
    rng = np.random.default_rng(2)
    truth = psychometric.Psychometric(guess=1 / 8, lapse=0.02, threshold=1.0, width=2.0)
    confidence = 1 / (1 + np.exp(-rng.uniform(-4, 9, 20000)))
    right = rng.random(20000) < truth.accuracy(confidence)
    found = psychometric.fit(confidence, right, 8)
    assert found is not None
    assert found.threshold == pytest.approx(1.0, abs=0.15)
    assert found.width == pytest.approx(2.0, abs=0.2)
    assert found.lapse == pytest.approx(0.02, abs=0.01)
    assert psychometric.fit(confidence, np.ones(20000, bool), 8) is None


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


def test_doctests() -> None:
    assert doctest.testmod(calibrate).attempted > 0
    assert doctest.testmod(calibrate).failed == 0
