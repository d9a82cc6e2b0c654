"""The replay of many cells: what it sends, and what it calls flat."""

from __future__ import annotations

import random

import numpy as np

from benchmarks.replay import SIZES, WINDOWS, flat, latencies, planned


def test_the_plan_has_so_many_cells_at_the_rate_asked_for() -> None:
    plan = planned(10.0, 20_000, 50, random.Random(3))
    sizes = [len(chosen) for _, chosen in plan]
    assert 20_000 <= sum(sizes) < 20_000 + max(SIZES)
    assert set(sizes) == set(SIZES)
    assert all(len(set(chosen)) == len(chosen) for _, chosen in plan), "no cell twice in a request"
    gaps = np.diff([at for at, _ in plan])
    assert gaps.min() >= 0
    assert abs(gaps.mean() - 0.1) < 0.01
    assert abs(gaps.std() - 0.1) < 0.01, "a Poisson process"


def test_what_grows_is_not_flat_and_what_only_varies_is() -> None:
    x = np.linspace(0, 26_000, 61)
    noise = np.random.default_rng(5).normal(0, 1, 61)
    assert flat(x, list(100 + noise))["flat"]
    grown = flat(x, list(100 + noise + x / 1000))
    assert not grown["flat"]
    assert 0.15 < grown["grown_share"] < 0.35
    assert not flat(x, list(5e8 + 5000 * x + 1e5 * noise), 2000.0)["flat"], "5,000 bytes a request"
    assert flat(x, list(5e8 + 500 * x + 1e5 * noise), 2000.0)["flat"], "500 are tolerated"
    assert not flat(x, [100.0 + i for i in range(61)])["flat"]


def test_memory_that_filled_in_the_first_third_is_no_growth() -> None:
    x = list(range(60))
    assert flat(x, [min(i, 15) * 1e6 + 5e8 for i in x])["flat"]


def test_latencies_are_by_planned_arrival() -> None:
    seconds = [(at / 10, 0.1 if at < 300 else 0.5) for at in range(600)]
    windows = latencies(seconds[::-1], 60.0)
    assert len(windows) == WINDOWS
    assert {one["p50"] for one in windows[:30]} == {0.1}
    assert {one["p99"] for one in windows[30:]} == {0.5}
