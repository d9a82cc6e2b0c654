"""The table of load: each criterion is judged by what was measured, and can fail."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks import load
from benchmarks.load_figures import load_text
from benchmarks.results import ROOT

SECONDS = {"p50": 0.1, "p95": 0.2, "p99": 0.3, "max": 0.4}


def report(**outcomes: int) -> dict[str, Any]:
    """Return a sender's report in which all is well."""
    counts = {"sent": 100, "answered": 100, "refused": 0, "late": 0, "failed": 0, **outcomes}
    one = {
        **counts,
        "seconds": dict(SECONDS),
        "seconds_to_refusal": {"p50": 0.01, "p95": 0.02, "p99": 0.02, "max": 0.1},
    }
    return {
        "streams": {name: copy.deepcopy(one) for name in ("all", "stat cell", "routine cells")},
        "readings": [{"mib": mib} for mib in (500.0, 505.0, 510.0, 511.0, 512.0, 512.0)],
        "recovery_s": 3.0,
        "callers": 64,
    }


def result() -> dict[str, Any]:
    closed = {"requests": 10, "requests_per_s": 4.0, "mean": 0.9}
    return {
        "seconds": {"idle": 36.0},
        "capacity_requests_per_s": {"routine cells": 4.0},
        "stat": load.stat_lane(report(), report(), 0.5),
        "overload": load.overload(report(answered=60, refused=40)),
        "mixed": load.mixed(report()),
        "witness": {
            "callers": 4,
            "cells_per_request": 8,
            "ours": {**closed, "p50": 0.8},
            "triton": closed,
            "perf_analyzer": {"why": "not run: no such program"},
        },
    }


def test_all_is_well() -> None:
    text = load_text(result())
    assert text.count("| yes |") == 6
    assert "**no**" not in text
    assert "not run: no such program" in text


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("stat", {"full": {**SECONDS, "p95": 0.91}}),
        ("stat", {"not_answered": 1}),
        ("overload", {"refused": 0}),
        ("overload", {"seconds_to_refusal": {"p50": 1.0, "p95": 4.0}}),
        ("overload", {"late": 1}),
        ("overload", {"failed": 1}),
        ("overload", {"memory_mib_last_third": 700.0}),
        ("overload", {"recovery_s": None}),
        ("overload", {"recovery_s": 30.0}),
        ("mixed", {"p99_over_p50": 4.1}),
        ("mixed", {"answered": 99}),
    ],
)
def test_each_criterion_can_fail(part: str, change: dict[str, Any]) -> None:
    found = result()
    found[part].update(change)
    assert load_text(found).count("**no**") == 1


def test_the_limit_of_a_stat_cell_is_twice_idle_and_one_batch() -> None:
    assert result()["stat"]["limit_s"] == pytest.approx(2 * 0.2 + 0.5)


def test_the_rows_of_a_batch_are_those_of_the_configuration() -> None:
    assert load.rows_per_call(ROOT / "model_repository") == 64


def test_the_parts_of_the_time_are_the_whole() -> None:
    assert sum(load.SHARES.values()) == pytest.approx(1.0)
    assert load.SHARES.keys() == load.DEADLINES.keys()
