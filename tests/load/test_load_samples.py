"""What became of requests: nothing slow is hidden, and recovery means what it says."""

from __future__ import annotations

import pytest
from load_report import write_report
from load_samples import ANSWERED, FAILED, LATE, REFUSED, Sample, by_stream, outcome_of, recovery, summary
from load_watch import served, waiting

METRICS = """
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="cell_analysis",version="1"} 12
nv_inference_request_duration_us{model="cell_analysis",version="1"} 3000000
nv_inference_pending_request_count{model="scorer",version="1"} 7
nv_inference_pending_request_count{model="encoder",version="1"} 0
"""


def sample(at: float, seconds: float = 0.1, outcome: str = ANSWERED, stream: str = "cells", cells: int = 4) -> Sample:
    return Sample(at, stream, cells, seconds, outcome, "" if outcome == ANSWERED else "UNAVAILABLE: busy")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("", ANSWERED),
        ("UNAVAILABLE", REFUSED),
        ("RESOURCE_EXHAUSTED", REFUSED),
        ("DEADLINE_EXCEEDED", LATE),
        ("CANCELLED", LATE),
        ("INTERNAL", FAILED),
        ("ValueError: SCORES is not finite", FAILED),
    ],
)
def test_a_status_is_an_outcome(status: str, outcome: str) -> None:
    assert outcome_of(status) == outcome


def test_quick_refusals_do_not_make_answers_look_quick() -> None:
    found = summary([sample(0, 2.0), sample(1, 4.0), *(sample(2, 0.001, REFUSED) for _ in range(98))])
    assert found["seconds"] == {"p50": 3.0, "p95": 3.9, "p99": 3.98, "max": 4.0}
    assert found["seconds_to_refusal"]["max"] == 0.001
    assert (found["sent"], found["answered"], found["refused"], found["cells_answered"]) == (100, 2, 98, 8)


def test_nothing_answered_has_no_percentiles() -> None:
    assert summary([sample(0, 1.0, FAILED)])["seconds"]["p99"] is None


def test_streams_are_told_apart() -> None:
    found = by_stream([sample(0), sample(1, 9.0, stream="stat")])
    assert list(found) == ["all", "cells", "stat"]
    assert found["cells"]["seconds"]["max"] == 0.1
    assert found["all"]["seconds"]["max"] == 9.0


def test_recovery_is_when_answers_are_as_quick_as_before() -> None:
    before = [sample(t / 10, 0.1) for t in range(100)]
    during = [sample(10 + t / 10, 5.0, REFUSED if t % 2 else ANSWERED) for t in range(100)]
    slow = [sample(20 + t / 10, 1.0) for t in range(30)]
    after = [sample(23 + t / 10, 0.1) for t in range(30)]
    assert recovery([*before, *during, *slow, *after], 10, 20) == pytest.approx(2.9, abs=0.11)
    assert recovery([*before, *during, *slow], 10, 20) is None
    assert recovery([*during, *slow, *after], 10, 20) is None


def test_a_refusal_is_not_recovered() -> None:
    before = [sample(t / 10, 0.1) for t in range(50)]
    after = [sample(5 + t / 10, 0.1, REFUSED if t % 5 == 0 else ANSWERED) for t in range(50)]
    assert recovery([*before, *after], 5, 5) is None


def test_triton_is_read_as_it_writes() -> None:
    assert waiting(METRICS) == {"scorer": 7, "encoder": 0}
    assert served(METRICS) == {"cell_analysis": (12.0, 3.0)}


def test_the_page_needs_no_network_and_escapes_what_a_server_says(tmp_path) -> None:
    samples = [sample(t / 4, 0.1 + t / 100) for t in range(40)]
    samples.append(Sample(9.0, "cells", 1, 0.2, FAILED, "INTERNAL: <script>alert(1)</script>"))
    readings = [{"at": float(t), "mib": 500.0 + t, "waiting": {"scorer": t}} for t in range(10)]
    settings = {"shape": "overload", "seconds": 10.0, "deadline": 5.0, "seed": 7, "callers": 64}
    page = write_report(tmp_path, settings, {"cells": 4.0}, samples, readings).read_text()
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
