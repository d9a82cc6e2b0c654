"""Reliability bins and the expected calibration error, on worked cells and on cells that are honest by construction."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_statistics import calibration


def test_calibration_error_of_worked_cells() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    expected = 4 / 6 * abs(0.75 - 0.95) + 2 / 6 * abs(0.5 - 0.55)
    figure = calibration.calibration_error_figure(confidence, right, bins=10)
    doubled = [2.0, 2, 2, 2, 0, 0]
    assert figure(np.array([[1.0] * 6, doubled])) == pytest.approx([expected, 0.2])


def test_bins_hold_every_cell_once_and_edges_belong_below() -> None:
    rng = np.random.default_rng(0)
    confidence = np.append(rng.random(500), [0.0, 1.0])
    rows = calibration.reliability(confidence, rng.random(502) < confidence)
    assert sum(row["cells"] for row in rows) == 502
    assert list(calibration.bin_of(np.array([0.0, 0.1, 0.1001, 1.0]), 10)) == [0, 0, 1, 9]


def test_honest_confidences_are_within_what_chance_allows_and_others_are_not() -> None:
    rng = np.random.default_rng(11)
    confidence = rng.uniform(0.4, 1, 3000)
    allowed = calibration.chance_level(confidence)
    once = np.ones((1, 3000))
    honest = calibration.calibration_error_figure(confidence, rng.random(3000) < confidence)(once)
    boasting = calibration.calibration_error_figure(confidence, rng.random(3000) < confidence - 0.1)(once)
    assert honest < allowed["percentile_95"] * 1.2
    assert boasting > 3 * allowed["percentile_95"]
    assert boasting == pytest.approx(0.1, abs=0.03)
