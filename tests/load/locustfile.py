"""The load as locust runs it, over plain gRPC. ``make load`` (run.py) starts a server and runs this.

Open model: the moments of arrival are drawn before anything is sent (`load_shapes`), and latency counts from them. What
cannot be sent because too much is under way counts as a failure instead of being delayed.

``run.py`` sets everything by one variable, ``CYTOSERVE_LOAD_PLAN`` (JSON, see `Plan`), so that plain
``locust -f tests/load/locustfile.py --host 127.0.0.1:8001`` works too, with the plan's defaults.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gevent
import grpc.experimental.gevent as grpc_gevent
from gevent.pool import Pool
from load_caller import Caller
from load_inputs import pictures
from load_samples import REFUSED, Sample
from load_shapes import SHAPES, Arrival, Shape, arrivals
from load_target import Target
from locust import User, events, task

grpc_gevent.init_gevent()  # before any channel: otherwise one call blocks every greenlet

# Under gevent each call that waits for its answer holds one thread of this pool, ten by default: an answer that has
# come would wait until one of ten others comes too, and a server that refuses at once would seem to take seconds.
gevent.get_hub().threadpool.maxsize = 2048

ENV_PLAN: Final = "CYTOSERVE_LOAD_PLAN"
MAX_UNDER_WAY: Final = 1024
WARM_S: Final = 1.5


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes
    ----------
    shape, seconds, seed, callers
        See `load_shapes.arrivals`.
    deadline_s : float
        Of every request.
    capacity : dict
        Requests a second by stream; what is missing is measured in ``measure_s`` seconds each.
    max_rate : float
        Most requests a second of all streams together; 0: no bound.
    out : str
        File of the samples; empty: none.
    repeat : bool
        Begin again when the shape has ended (locust's page).
    target : dict
        Of `Target`, without the address.
    """

    shape: str = "steady"
    seconds: float = 60.0
    seed: int = 7
    callers: int = 64
    deadline_s: float = 30.0
    capacity: dict[str, float] = field(default_factory=dict)
    measure_s: float = 4.0
    max_rate: float = 0.0
    out: str = ""
    repeat: bool = False
    target: dict[str, str] = field(default_factory=dict)


PLAN: Final = Plan(**json.loads(os.environ.get(ENV_PLAN, "{}")))


class State:
    """What the one user and the end of the run share."""

    caller: Caller
    capacity: dict[str, float]
    arrivals: list[Arrival]
    began: float = 0.0
    samples: list[Sample] = []  # noqa: RUF012 - one run a process


def prepare(address: str) -> None:
    """Connect, measure what the server can do, and draw the arrivals."""
    shape = SHAPES[PLAN.shape]
    State.caller = Caller(Target(address, **PLAN.target), pictures(), PLAN.deadline_s)
    State.caller.prepare(list(shape.rates))
    State.capacity = {stream.name: _capacity(stream) for stream in shape.rates}
    State.arrivals = arrivals(shape, PLAN.seconds, _bounded(shape), PLAN.callers, PLAN.seed)
    for name, rate in State.capacity.items():
        print(f"{name}: the server does {rate:.3g} requests/s of them alone", flush=True)


def _capacity(stream: Any) -> float:
    given = PLAN.capacity.get(stream.name)
    if given is not None:
        return given
    State.caller.capacity(stream, WARM_S)  # arenas fill, the processor leaves its rest
    return State.caller.capacity(stream, PLAN.measure_s)


def _bounded(shape: Shape) -> dict[str, float]:
    """Return the capacities, made smaller where the shape's highest rate would be above ``max_rate``."""
    parts = [index / 200 for index in range(201)]
    highest = max(
        sum(rate(part) * State.capacity[stream.name] for stream, rate in shape.rates.items()) for part in parts
    )
    factor = min(1.0, PLAN.max_rate / highest) if PLAN.max_rate and highest else 1.0
    return {name: rate * factor for name, rate in State.capacity.items()}


@events.init.add_listener
def _connect(environment: Any, **_: Any) -> None:
    """Refuse targets that must not be loaded; connect and measure before locust's clock starts."""
    if environment.host:
        try:
            prepare(environment.host)
        except Exception as error:
            raise SystemExit(f"no load was put on {environment.host}: {error}") from None


@events.quitting.add_listener
def _write(environment: Any, **_: Any) -> None:
    """Write the samples, and fail where nothing was answered, or more failed than the shape allows."""
    if not State.samples:
        print("not one request was answered")
        environment.process_exit_code = 1
        return
    if PLAN.out:
        found = {
            "shape": PLAN.shape,
            "began": State.began,
            "capacity": State.capacity,
            "samples": [one.json() for one in State.samples],
        }
        Path(PLAN.out).write_text(json.dumps(found), encoding="utf-8")
    if SHAPES[PLAN.shape].refusals and not any(one.why for one in State.samples if one.outcome != REFUSED):
        environment.process_exit_code = 0


class Arrivals(User):  # type: ignore[misc]
    """Everybody who sends: one greenlet walks through the list, one more for each request under way."""

    fixed_count = 1

    def on_start(self) -> None:
        """Begin the clock."""
        self._under_way = Pool(MAX_UNDER_WAY)
        self._turn = 0
        State.began = time.monotonic()
        self._began = time.perf_counter()

    def on_stop(self) -> None:
        """Wait for what is under way; its deadline bounds the wait."""
        self._under_way.join(timeout=PLAN.deadline_s + 1)

    @task
    def arrive(self) -> None:
        """Wait for the next arrival and send it, whatever became of the ones before."""
        if self._turn >= len(State.arrivals):
            if not (PLAN.repeat and State.arrivals):
                gevent.sleep(1.0)
                return
            self._turn, self._began = 0, time.perf_counter()
        next_one = State.arrivals[self._turn]
        self._turn += 1
        arrived = self._began + next_one.at
        gevent.sleep(max(0.0, arrived - time.perf_counter()))
        if self._under_way.free_count() == 0:
            self._tell(
                Sample(next_one.at, next_one.stream.name, next_one.cells, 0.0, "failed", "too many under way"), 0
            )
            return
        self._under_way.spawn(self._send, next_one, arrived)

    def _send(self, one: Arrival, arrived: float) -> None:
        self._tell(*State.caller.send(one.stream, one.cells, one.caller, arrived, one.at))

    def _tell(self, sample: Sample, length: int) -> None:
        if not PLAN.repeat:  # the page runs without an end
            State.samples.append(sample)
        self.environment.events.request.fire(
            request_type="grpc",
            name=sample.stream,
            response_time=1000 * sample.seconds,
            response_length=length,
            exception=RuntimeError(sample.why) if sample.why else None,
            context={},
        )
