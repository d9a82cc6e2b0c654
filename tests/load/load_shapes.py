"""What arrives when: the load of a hospital as small declared pieces, and the arrivals that follow from a seed.

A `Stream` is one kind of request. A `Shape` says, for each of its streams, which share of the server's capacity for
that stream is asked for at each moment. `arrivals` turns a shape into a fixed list of moments (a Poisson process whose
rate follows the shape), before anything is sent: arrivals do not wait for answers, so a slow server cannot slow its own
load down and hide that it is slow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cytoserve_contract.models import CELL_ANALYSIS, SMEAR_ANALYSIS, STAT_CELL_ANALYSIS
from cytoserve_contract.parameters import PRIORITY_LEVELS

SEED: Final = 7
STAT: Final = 1
ROUTINE: Final = PRIORITY_LEVELS
CELLS_PER_REQUEST: Final = 8
"""As our client sends them."""


@dataclass(frozen=True)
class Stream:
    """One kind of request.

    Attributes
    ----------
    name : str
        In reports.
    model : str
        The ensemble that it asks.
    sizes : tuple of int
        Cells of a request, drawn evenly; empty for a field.
    priority : int
        Triton's priority: 1 is stat.
    burst : int
        Requests of one arrival, sent together.
    """

    name: str
    model: str
    sizes: tuple[int, ...] = ()
    priority: int = ROUTINE
    burst: int = 1


FIELD: Final = Stream("routine field", SMEAR_ANALYSIS.name)
CELLS: Final = Stream("routine cells", CELL_ANALYSIS.name, (1, 2, 4, 8))
SINGLE: Final = Stream("single cell", CELL_ANALYSIS.name, (1,))
STAT_CELL: Final = Stream("stat cell", STAT_CELL_ANALYSIS.name, (1,), STAT)
SLIDE: Final = Stream("slide of 200 cells", CELL_ANALYSIS.name, (CELLS_PER_REQUEST,), burst=200 // CELLS_PER_REQUEST)
STREAMS: Final = {stream.name: stream for stream in (FIELD, CELLS, SINGLE, STAT_CELL, SLIDE)}

Rate = Callable[[float], float]
"""Part of the duration that has gone, 0 to 1 -> share of the server's capacity for the stream."""


@dataclass(frozen=True)
class Shape:
    """A load.

    Attributes
    ----------
    meaning : str
        One sentence for reports and ``--help``.
    rates : mapping of Stream to Rate
    refusals : bool
        Whether refused requests are expected; elsewhere one makes the run fail.
    overload : (float, float) or None
        Parts of the duration between which more than the capacity arrives, for the time to recover.
    """

    meaning: str
    rates: Mapping[Stream, Rate]
    refusals: bool = False
    overload: tuple[float, float] | None = None

    def share(self, part: float) -> float:
        """Return the whole load at a moment as a share of capacity."""
        return sum(rate(part) for rate in self.rates.values())


def steady(share: float) -> Rate:
    """Return a load that does not change."""
    return lambda part: share


def peak(low: float, high: float, at: float = 0.4, width: float = 0.15) -> Rate:
    """Return a load that rises from ``low`` to ``high`` at part ``at`` and falls again."""
    return lambda part: low + (high - low) * math.exp(-0.5 * ((part - at) / width) ** 2)


def step(low: float, high: float, begin: float, end: float) -> Rate:
    """Return a load of ``high`` between two parts of the duration, and of ``low`` before and after."""
    return lambda part: high if begin <= part < end else low


OVERLOAD: Final = (0.2, 0.6)

SHAPES: Final[dict[str, Shape]] = {
    "steady": Shape("routine at half of capacity, fields and cells", {FIELD: steady(0.25), CELLS: steady(0.25)}),
    "morning": Shape(
        "the couriers come: from a fifth of capacity to 0.95 of it and back",
        {FIELD: peak(0.1, 0.45), CELLS: peak(0.1, 0.5)},
    ),
    "stat": Shape(
        "stat cells among routine at 0.7 of capacity",
        {FIELD: steady(0.3), CELLS: steady(0.35), STAT_CELL: steady(0.05)},
    ),
    "slide": Shape("slides of 200 cells, each sent at once, at 0.4 of capacity", {SLIDE: steady(0.4)}),
    "single": Shape("many single cells at 0.6 of capacity", {SINGLE: steady(0.6)}),
    "idle": Shape("stat cells alone, at a seventh of capacity", {STAT_CELL: steady(0.15)}),
    "mixed": Shape("64 callers, requests of 1 to 8 cells, at 0.8 of capacity", {CELLS: steady(0.8)}),
    "full": Shape(
        "stat cells while more routine cells arrive than can be served: the queue is full",
        {CELLS: steady(1.5), STAT_CELL: steady(0.05)},
        refusals=True,
    ),
    "overload": Shape(
        "half of capacity, then twice capacity, then half again",
        {CELLS: step(0.4, 1.6, *OVERLOAD), FIELD: step(0.1, 0.4, *OVERLOAD)},
        refusals=True,
        overload=OVERLOAD,
    ),
}


@dataclass(frozen=True)
class Arrival:
    """One request of the list."""

    at: float
    """Seconds after the beginning."""
    stream: Stream
    caller: int
    cells: int
    """0 for a field."""


def arrivals(
    shape: Shape, seconds: float, capacity: Mapping[str, float], callers: int = 64, seed: int = SEED
) -> list[Arrival]:
    """Return every request of a shape in order of arrival.

    Parameters
    ----------
    shape : Shape
    seconds : float
        Duration.
    capacity : mapping of str to float
        Requests a second that the server can do of a stream alone, by the stream's name.
    callers : int
        Who sends is drawn from so many.
    seed : int

    Notes
    -----
    Thinning: candidates at the highest rate, kept with the probability of the rate at their moment over the highest
    (Lewis and Shedler 1979).
    """
    found: list[Arrival] = []
    for stream, rate in shape.rates.items():
        draw = random.Random(f"{seed} {stream.name}")
        per_share = capacity[stream.name] / stream.burst
        highest = per_share * max(rate(index / 1000) for index in range(1001))
        if highest <= 0:
            continue
        at = 0.0
        while (at := at + draw.expovariate(highest)) < seconds:
            if draw.random() * highest >= per_share * rate(at / seconds):
                continue
            caller = draw.randrange(callers)
            sizes = [draw.choice(stream.sizes or (0,)) for _ in range(stream.burst)]
            found += [Arrival(at, stream, caller, size) for size in sizes]
    return sorted(found, key=lambda one: one.at)
