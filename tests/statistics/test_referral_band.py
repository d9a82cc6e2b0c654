"""The band of an alert on referrals: against the binomial arithmetic of the runbook, and against simulated windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cytoserve_statistics.referral_band import (
    DESIGN_EFFECT,
    FALSE_ALARM,
    WINDOW_CELLS,
    everything_referred,
    expected_referral,
)
from scipy.stats import binom

WINDOW = round(WINDOW_CELLS / DESIGN_EFFECT)


@pytest.mark.parametrize("share", [0.05, 0.144, 0.5, 0.9])
def test_with_many_cells_it_is_the_binomial_band_of_the_runbook(share: float) -> None:
    found = expected_referral(round(share * 10**8), 10**8)
    low, high = (float(binom.ppf(at, WINDOW, share)) / WINDOW for at in (FALSE_ALARM / 2, 1 - FALSE_ALARM / 2))
    assert found["low"] == pytest.approx(math.floor(100 * low) / 100)
    assert found["high"] == pytest.approx(math.ceil(100 * high) / 100)


def test_false_alarms_of_an_unchanged_site_are_as_rare_as_said_though_its_calibration_was_small() -> None:
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(300):
        share = rng.beta(2, 8)
        cells = 400
        referred = round(DESIGN_EFFECT * rng.binomial(cells / DESIGN_EFFECT, share))
        band = expected_referral(referred, cells)
        windows = rng.binomial(WINDOW, share, 2000) / WINDOW
        alarms.append(((windows < band["low"]) | (windows > band["high"])).mean())
    assert 0 < np.mean(alarms) < 1.5 * FALSE_ALARM


def test_fewer_cells_make_a_wider_band_around_the_share() -> None:
    few, many = expected_referral(20, 100), expected_referral(2000, 10_000)
    assert few["value"] == many["value"] == 0.2
    assert few["low"] < many["low"] < 0.2 < many["high"] < few["high"]
    assert expected_referral(0, 40)["low"] == 0
    assert expected_referral(40, 40)["high"] == 1
    for band in (few, many, everything_referred(50), expected_referral(1, 1)):
        assert 0 <= band["low"] <= band["value"] <= band["high"] <= 1


@pytest.mark.parametrize(("referred", "cells", "effect"), [(5, 4, 4), (-1, 4, 4), (0, 0, 4), (1, 2, 0.5)])
def test_counts_that_cannot_be_are_refused(referred: int, cells: int, effect: float) -> None:
    with pytest.raises(ValueError, match="referred"):
        expected_referral(referred, cells, effect)
