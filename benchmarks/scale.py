"""A regional laboratory's day on the chart's autoscaling rule, simulated from measured times: waiting, replicas, cost.

    python -m benchmarks.scale --out docs/results/scale.json

Slides arrive by the hour (Poisson); a client sends a
slide's fields, a few in flight; a replica answers one field at a time, stat before routine. The times of a field are
log-normal with the median and 95th percentile of docs/results/fields.json. The rule is KEDA's, which Kubernetes' HPA
carries out: a test holds `Rule` and what the chart renders together.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.results import RESULTS, ROOT, Benchmark, DataRead, Inputs, run

FIELDS: Final = RESULTS / "fields.json"
SEED: Final = 0
HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S
NORMAL_95: Final = 1.6449
"""95th percentile of the standard normal distribution."""
TOLERANCE: Final = 0.1
"""Of the HPA: a load this close to the target changes nothing (its default)."""
ADDED_AT_ONCE: Final = 4
"""Pods, or as many as there are: the HPA's default for scaling up in one period."""


@dataclass(frozen=True)
class Rule:
    """The autoscaling of `values-a10.yaml`.

    Attributes
    ----------
    min_replicas, max_replicas : int
    threshold : float
        Waiting requests that one replica should carry.
    polling_s, patience_s, step_down_s : float
        Seconds between two looks; that the load must be lower before a pod goes; between two that go.
    """

    min_replicas: int = 2
    max_replicas: int = 6
    threshold: float = 4
    polling_s: float = 15
    patience_s: float = 600
    step_down_s: float = 60

    def desired(self, waiting: float, replicas: int) -> int:
        """Return the HPA's answer to a load, before patience and limits on steps."""
        if abs(waiting / (self.threshold * replicas) - 1) <= TOLERANCE:
            return replicas
        wanted = min(math.ceil(waiting / self.threshold), replicas + max(ADDED_AT_ONCE, replicas))
        return min(max(wanted, self.min_replicas), self.max_replicas)


@dataclass(frozen=True)
class Laboratory:
    """What a day brings.

    Attributes
    ----------
    slides : int
        A day.
    cells : int
        White cells of a slide, as in a differential count.
    in_flight : int
        Fields that a client sends before the first is answered.
    stat_share : float
        Slides that go first.
    hours : tuple of float
        Weight of each hour from midnight: the couriers come in the morning.
    """

    slides: int = 10_000
    cells: int = 100
    in_flight: int = 4
    stat_share: float = 0.02
    hours: tuple[float, ...] = (1, 1, 1, 1, 1, 2, 5, 10, 14, 14, 11, 8, 6, 5, 5, 4, 3, 2, 2, 1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Scenario:
    """A way of running it.

    Attributes
    ----------
    name : str
    rule : Rule
    speed : float
        How often faster than the measured machine a replica is.
    start_s : float
        From the decision to the first answer of a new pod.
    by_request : bool
        Each field goes to the next replica (headless Service, gateway); else a client stays on one.
    """

    name: str
    rule: Rule = field(default_factory=Rule)
    speed: float = 1.0
    start_s: float = 120.0
    by_request: bool = True


class Pod:
    """A replica: its queue, stat and routine, and what it works on."""

    def __init__(self, ready_s: float) -> None:
        self.ready_s = ready_s
        self.busy = False
        self.queues: tuple[deque[Any], deque[Any]] = (deque(), deque())

    @property
    def waiting(self) -> int:
        """Requests in its queues; the one it works on does not count, as in Triton's pending requests."""
        return len(self.queues[0]) + len(self.queues[1])


@dataclass
class SlideOfDay:
    """A slide under way."""

    began_s: float
    stat: bool
    unsent: int
    unanswered: int
    pod: Pod | None = None


class Day:
    """One simulated day; `run` once."""

    def __init__(self, laboratory: Laboratory, scenario: Scenario, fields: dict[str, Any], seed: int = SEED) -> None:
        self.laboratory, self.scenario = laboratory, scenario
        self.random, self.numbers = random.Random(seed), np.random.default_rng(seed)
        spread = math.log(fields["seconds_per_field_p95"] / fields["seconds_per_field_median"]) / NORMAL_95
        self.service = (math.log(fields["seconds_per_field_median"] / scenario.speed), spread)
        self.fields = round(laboratory.cells * fields["fields"] / fields["cells_found"]["white_cell"])
        self.now, self.order = 0.0, 0
        self.events: list[Any] = []
        self.pods = [Pod(0.0) for _ in range(scenario.rule.min_replicas)]
        self.leaving_s, self.recommended, self.seen = -math.inf, deque[tuple[float, int]](), 0.0
        self.next_pod, self.open_slides = 0, 0
        self.waits: list[float] = []
        self.slides: dict[bool, list[float]] = {False: [], True: []}
        self.replica_s = np.zeros(48)

    def run(self) -> dict[str, Any]:
        """Return the figures of the day; work left at midnight is finished (one more day at most)."""
        for at in self._arrivals():
            self._later(at, self._arrive)
            self.open_slides += 1
        self._later(0.0, self._look)
        while self.events and self.open_slides and self.now < 2 * DAY_S:
            self.now, _, call, argument = heapq.heappop(self.events)
            call(*argument)
        return self._figures()

    def _arrivals(self) -> Iterator[float]:
        share = np.array(self.laboratory.hours) / sum(self.laboratory.hours)
        for hour, count in enumerate(self.numbers.multinomial(self.laboratory.slides, share)):
            yield from HOUR_S * (hour + self.numbers.random(count))

    def _later(self, at: float, call: Any, *argument: Any) -> None:
        self.order += 1
        heapq.heappush(self.events, (at, self.order, call, argument))

    def _arrive(self) -> None:
        stat = self.random.random() < self.laboratory.stat_share
        slide = SlideOfDay(self.now, stat, self.fields, self.fields)
        if not self.scenario.by_request:
            slide.pod = self.random.choice(self._ready())
        for _ in range(self.laboratory.in_flight):
            self._send(slide)

    def _ready(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.ready_s <= self.now]

    def _send(self, slide: SlideOfDay) -> None:
        if not slide.unsent:
            return
        slide.unsent -= 1
        pod = slide.pod
        if pod is None or pod not in self.pods:
            ready = self._ready()
            pod = ready[self.next_pod % len(ready)]
            self.next_pod += 1
            if not self.scenario.by_request:
                slide.pod = pod  # its pod has gone: the client connects again
        pod.queues[0 if slide.stat else 1].append((self.now, slide))
        self._work(pod)

    def _work(self, pod: Pod) -> None:
        if pod.busy or not pod.waiting:
            return
        sent_s, slide = (pod.queues[0] or pod.queues[1]).popleft()
        self.waits.append(self.now - sent_s)
        pod.busy = True
        self._later(self.now + self.random.lognormvariate(*self.service), self._answer, pod, slide)

    def _answer(self, pod: Pod, slide: SlideOfDay) -> None:
        pod.busy = False
        slide.unanswered -= 1
        if not slide.unanswered:
            self.slides[slide.stat].append(self.now - slide.began_s)
            self.open_slides -= 1
        self._send(slide)
        self._work(pod)

    def _look(self) -> None:
        """Scale by the load of the last look: Prometheus' and KEDA's figures are one round old."""
        rule, replicas = self.scenario.rule, len(self.pods)
        self.replica_s[min(int(self.now // HOUR_S), 47)] += replicas * rule.polling_s
        wanted = rule.desired(self.seen, replicas)
        self.recommended.append((self.now, wanted))
        while self.recommended[0][0] < self.now - rule.patience_s:
            self.recommended.popleft()
        if wanted > replicas:
            self.pods += [Pod(self.now + self.scenario.start_s) for _ in range(wanted - replicas)]
        elif max(count for _, count in self.recommended) < replicas and self.now >= self.leaving_s + rule.step_down_s:
            self.leaving_s = self.now
            self._leave(max(self.pods, key=lambda pod: pod.ready_s))
        self.seen = sum(pod.waiting for pod in self.pods)
        self._later(self.now + rule.polling_s, self._look)

    def _leave(self, pod: Pod) -> None:
        """Take a pod away; what waits there is sent again by its client."""
        self.pods.remove(pod)
        for queue in pod.queues:
            for _, slide in queue:
                slide.unsent += 1
                self._send(slide)
            queue.clear()

    def _figures(self) -> dict[str, Any]:
        hours = self.replica_s / HOUR_S
        both = self.slides[False] + self.slides[True]
        return {
            "slides_answered": len(both),
            "wait_per_field_p95_s": _percentile(self.waits),
            "slide_p50_s": _percentile(both, 50),
            "slide_p95_s": _percentile(both),
            "stat_slide_p95_s": _percentile(self.slides[True]),
            "replicas_by_hour": [round(float(value), 1) for value in hours[:24]],
            "replica_hours_per_1000_slides": round(1000 * float(hours.sum()) / max(len(both), 1), 2),
            "finished_after_midnight_h": round(max(self.now - DAY_S, 0) / HOUR_S, 1),
        }


def _percentile(values: list[float], share: float = 95) -> float:
    return round(float(np.percentile(values, share)), 1) if values else math.inf


def scenarios() -> list[Scenario]:
    """Return what is compared: the example as it is, more replicas, faster ones, other routing, a slow start."""
    many = Rule(max_replicas=24)
    return [
        Scenario("as measured, `values-a10.yaml` as it is"),
        Scenario("as measured, at most 24", many),
        Scenario("the same, a client stays on one replica", many, by_request=False),
        Scenario("the same, ten minutes to start (engines built)", many, start_s=600),
        Scenario("ten times as fast (assumed), `values-a10.yaml`", speed=10),
        Scenario("the same, a client stays on one replica", speed=10, by_request=False),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: what is simulated is in this module."""


def inputs(args: argparse.Namespace) -> Inputs:
    """Return the measured times of a field; no weights are used."""
    return Inputs(None, (DataRead.of(RESULTS, (FIELDS,)),), {"day": SEED})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Simulate all scenarios."""
    laboratory, fields = Laboratory(), json.loads(FIELDS.read_text(encoding="utf-8"))
    found = [{**asdict(scenario), **Day(laboratory, scenario, fields).run()} for scenario in scenarios()]
    return {"laboratory": asdict(laboratory), "service": str(FIELDS.relative_to(ROOT)), "scenarios": found}


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
