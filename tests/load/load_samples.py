"""What became of each request, and what follows from it: counts, percentiles, the time to recover.

A sample's latency counts from the moment of arrival that was planned, not from the moment of sending. Percentiles are
of answered requests; a refusal is quick and would make them look better.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

ANSWERED: Final = "answered"
REFUSED: Final = "refused"
LATE: Final = "late"
FAILED: Final = "failed"
OUTCOMES: Final = (ANSWERED, REFUSED, LATE, FAILED)

REFUSALS: Final = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
LATENESS: Final = ("DEADLINE_EXCEEDED", "CANCELLED")
"""Statuses of gRPC; a server that gives up at the deadline answers CANCELLED."""


@dataclass(frozen=True)
class Sample:
    """One request.

    Attributes
    ----------
    at : float
        Arrival, seconds after the beginning.
    stream : str
    cells : int
        0 for a field.
    seconds : float
        From the arrival to the answer or the error.
    outcome : str
        One of `OUTCOMES`.
    why : str
        Status and text of the error, cut; empty where it was answered.
    """

    at: float
    stream: str
    cells: int
    seconds: float
    outcome: str
    why: str = ""

    def json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**asdict(self), "at": round(self.at, 4), "seconds": round(self.seconds, 4)}


def outcome_of(status: str) -> str:
    """Return what a gRPC status means for a caller; no status is an answer."""
    if not status:
        return ANSWERED
    return REFUSED if status in REFUSALS else LATE if status in LATENESS else FAILED


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p95, p99 and the longest time, seconds; None where there is none."""
    names = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    if not seconds:
        return dict.fromkeys(names)
    return {name: round(float(np.percentile(seconds, rank)), 4) for name, rank in names.items()}


def summary(samples: Iterable[Sample]) -> dict[str, Any]:
    """Return counts by outcome, percentiles of what was answered and of the refusals, and the most frequent errors.

    Numbers in errors are replaced by N, so that one cause is one line.
    """
    found = list(samples)
    counts = Counter(one.outcome for one in found)
    answered = [one.seconds for one in found if one.outcome == ANSWERED]
    refused = [one.seconds for one in found if one.outcome == REFUSED]
    reasons = Counter(re.sub(r"\d+(\.\d+)?", "N", one.why) for one in found if one.why)
    return {
        "sent": len(found),
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "cells_answered": sum(one.cells for one in found if one.outcome == ANSWERED),
        "seconds": percentiles(answered),
        "seconds_to_refusal": percentiles(refused),
        "errors": dict(reasons.most_common(5)),
    }


def by_stream(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Return `summary` of all, and of each stream."""
    streams = list(dict.fromkeys(one.stream for one in samples))
    parts = {name: summary(one for one in samples if one.stream == name) for name in streams}
    return {"all": summary(samples), **parts}


def recovery(samples: Sequence[Sample], began: float, since: float, run: int = 10) -> float | None:
    """Return how many seconds after an overload requests are answered as usual again.

    Usual is what nine in ten requests took before the overload, or twice their median.

    Parameters
    ----------
    samples : sequence of Sample
    began, since : float
        When the overload began and ended.
    run : int
        So many requests in a row must be answered, nine in ten of them within the usual time.

    Returns
    -------
    float or None : None where it does not happen before the samples end, or nothing was answered before the overload.
    """
    before = [one.seconds for one in samples if one.at < began and one.outcome == ANSWERED]
    if not before:
        return None
    usual = max(float(np.percentile(before, 90)), 2 * float(np.median(before)))
    after = sorted((one for one in samples if one.at >= since), key=lambda one: one.at)
    for first in range(len(after) - run + 1):
        part = after[first : first + run]
        quick = sum(one.outcome == ANSWERED and one.seconds <= usual for one in part)
        if quick >= 0.9 * run and all(one.outcome == ANSWERED for one in part):
            return round(part[0].at - since, 2)
    return None
