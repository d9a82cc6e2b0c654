"""Arrivals follow their shape, from a seed, and wait for nobody."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from cytoserve_client import Client
from load_shapes import CELLS, CELLS_PER_REQUEST, SHAPES, SLIDE, STAT_CELL, STREAMS, Shape, arrivals, peak, steady, step

CAPACITY = dict.fromkeys(STREAMS, 100.0)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_asks_for_its_share_of_capacity(name: str) -> None:
    shape = SHAPES[name]
    seconds = 300.0
    found = arrivals(shape, seconds, CAPACITY)
    wanted = np.mean([shape.share(part) for part in np.linspace(0, 1, 1000, endpoint=False)]) * 100 * seconds
    bursts = max(stream.burst for stream in shape.rates)
    assert len(found) == pytest.approx(wanted, abs=4 * np.sqrt(bursts * wanted))  # four standard deviations
    assert all(0 <= one.at < seconds and one.cells in (one.stream.sizes or (0,)) for one in found)
    assert [one.at for one in found] == sorted(one.at for one in found)


def test_a_seed_is_a_load_that_can_be_repeated() -> None:
    first, again = (arrivals(SHAPES["morning"], 30, CAPACITY, seed=3) for _ in range(2))
    assert first == again
    assert first != arrivals(SHAPES["morning"], 30, CAPACITY, seed=4)


def test_a_stream_arrives_alike_whatever_arrives_beside_it() -> None:
    alone = arrivals(Shape("", {STAT_CELL: steady(0.1)}), 60, CAPACITY)
    beside = arrivals(Shape("", {CELLS: steady(0.8), STAT_CELL: steady(0.1)}), 60, CAPACITY)
    assert [one for one in beside if one.stream is STAT_CELL] == alone


def test_moments_are_those_of_a_poisson_process() -> None:
    found = [one.at for one in arrivals(Shape("", {CELLS: steady(1.0)}), 200, CAPACITY)]
    gaps = np.diff(found)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)


def test_the_peak_is_where_it_was_declared() -> None:
    found = arrivals(Shape("", {CELLS: peak(0.1, 1.0, at=0.4)}), 100, CAPACITY)
    by_tenth = Counter(int(one.at // 10) for one in found)
    assert by_tenth.most_common(1)[0][0] in (3, 4)
    assert by_tenth[9] < by_tenth[4] / 3


def test_a_step_begins_and_ends() -> None:
    rate = step(0.5, 2.0, 0.2, 0.6)
    assert [rate(part) for part in (0.0, 0.19, 0.2, 0.59, 0.6, 1.0)] == [0.5, 0.5, 2.0, 2.0, 0.5, 0.5]


def test_a_slide_arrives_at_once() -> None:
    found = arrivals(SHAPES["slide"], 60, CAPACITY)
    sizes = Counter(one.at for one in found)
    assert set(sizes.values()) == {SLIDE.burst}
    assert SLIDE.burst * SLIDE.sizes[0] >= 190


def test_callers_share_the_load() -> None:
    callers = Counter(one.caller for one in arrivals(SHAPES["mixed"], 100, CAPACITY, callers=64))
    assert len(callers) == 64
    assert max(callers.values()) < 4 * min(callers.values())


def test_a_stream_without_load_sends_nothing() -> None:
    assert arrivals(replace(SHAPES["mixed"], rates={CELLS: steady(0.0)}), 60, CAPACITY) == []


def test_requests_are_as_large_as_those_of_our_client() -> None:
    with Client("127.0.0.1:1") as client:
        assert client.config.cells_per_request == CELLS_PER_REQUEST == max(CELLS.sizes) == SLIDE.sizes[0]
