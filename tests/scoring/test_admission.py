"""What is let in, what is refused, and that nothing which ended badly is counted for ever."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest
from cytoserve_contract.admission_table import RESERVED, ROUTINE, STAT
from cytoserve_scoring.errors import Unavailable
from cytoserve_scoring.serving.admission import (
    KNOWN_SECONDS,
    KNOWN_UNITS,
    LOST_FACTOR,
    LOST_S,
    OVERLOADED,
    ROWS,
    STAT_FACTOR,
    Admission,
)

PACE = KNOWN_SECONDS / KNOWN_UNITS
NEVER = float("inf")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(tmp_path: Path, clock: Clock) -> Admission:
    return Admission(tmp_path / "under_way", 5.0, clock)


def fill(server: Admission, seconds: float, units: float = 10.0, lane: int = ROUTINE) -> list[float]:
    """Let so many seconds of work in."""
    return [server.enter(units, NEVER, lane) for _ in range(round(seconds / (units * PACE)))]


def test_work_is_let_in_until_its_wait_is_too_long(server: Admission) -> None:
    tickets = fill(server, 5.5)
    with pytest.raises(Unavailable, match=OVERLOADED):
        server.enter(1.0, NEVER)
    for ticket in tickets[:3]:
        server.leave(ticket)
    server.enter(1.0, NEVER)


def test_a_large_request_is_let_in_where_nothing_waits(server: Admission, clock: Clock) -> None:
    server.enter(512.0, clock.now + 1.0)


def test_what_would_miss_its_deadline_is_refused_at_once(server: Admission, clock: Clock) -> None:
    fill(server, 3.0)
    with pytest.raises(Unavailable, match="more time"):
        server.enter(1.0, clock.now + 2.0)
    server.enter(1.0, clock.now + 4.0)


@pytest.mark.parametrize("lane", [STAT, RESERVED])
def test_the_stat_lane_is_open_when_routine_is_full(server: Admission, clock: Clock, lane: int) -> None:
    fill(server, 5.5)
    server.enter(1.0, clock.now + 1.0, lane)
    fill(server, 5.0 * STAT_FACTOR, lane=lane)
    for either in (STAT, RESERVED):  # they wait for each other where they share instances, and are counted together
        with pytest.raises(Unavailable):
            server.enter(1.0, NEVER, either)


def test_routine_work_pauses_for_the_reserved_lane_only(server: Admission, clock: Clock, tmp_path: Path) -> None:
    other = Admission(tmp_path / "under_way", 5.0, clock)
    fill(server, 1.0)
    server.enter(1.0, NEVER, STAT)
    assert not other.is_stat_waiting(), "a stat field may wait for the very instance that would pause"
    ticket = server.enter(1.0, NEVER, RESERVED)
    assert other.is_stat_waiting()
    server.leave(ticket)
    assert not other.is_stat_waiting()
    server.enter(1.0, NEVER, RESERVED)  # is cancelled, and never heard of again
    assert other.is_stat_waiting()
    clock.now += LOST_FACTOR * 2 * PACE
    assert not other.is_stat_waiting(), "long before it is given up for lost"
    assert not Admission(None, 5.0, clock).is_stat_waiting()


def test_a_ticket_says_when_its_request_is_due_and_is_nobody_elses(server: Admission, clock: Clock) -> None:
    due = clock.now + 30.0
    tickets = [server.enter(1.0, due) for _ in range(20)]
    assert len(set(tickets)) == 20
    assert all(0 <= ticket - due < 1e-6 for ticket in tickets)
    endless = [server.enter(1.0, NEVER) for _ in range(20)]
    assert len(set(endless)) == 20
    assert all(ticket < -1 for ticket in endless)


def test_what_ends_twice_or_was_never_let_in_changes_nothing(server: Admission) -> None:
    ticket = server.enter(7.0, NEVER)
    other = server.enter(5.0, NEVER)
    for wrong in (ticket, ticket, 12.5, -1.0):
        server.leave(wrong)
    assert server.units() == 5.0
    server.leave(other)
    assert server.units() == 0.0


def test_a_request_that_never_ends_is_given_up(server: Admission, clock: Clock) -> None:
    fill(server, 5.5)
    clock.now += 3 * 6.0 + LOST_S + 0.1
    assert server.units() == 0.0
    server.enter(1.0, clock.now + 1.0)


def test_the_deadline_ends_a_ticket_too(server: Admission, clock: Clock) -> None:
    server.enter(1.0, clock.now + 0.5)
    clock.now += 0.6
    assert server.units() == 0.0


def competing(server: Admission, clock: Clock, seconds_per_unit: float, requests: int, units: float = 8.0) -> None:
    """Let requests in so that two compete, each done in its time."""
    waiting = server.enter(units, NEVER)
    for _ in range(requests):
        after = server.enter(units, NEVER)
        clock.now += units * seconds_per_unit
        server.leave(waiting)
        waiting = after
    server.leave(waiting)


def test_speed_is_learned_from_requests_that_compete(server: Admission, clock: Clock) -> None:
    competing(server, clock, 0.002, 200)
    assert server.pace() == pytest.approx(0.002, rel=0.4)
    competing(server, clock, 0.2, 200)
    assert server.pace() == pytest.approx(0.2, rel=0.2)


def test_a_lone_caller_teaches_nothing_of_the_capacity(server: Admission, clock: Clock) -> None:
    for _ in range(100):
        ticket = server.enter(1.0, NEVER)
        clock.now += 3.0
        server.leave(ticket)
    assert server.pace() == PACE


def test_rest_between_two_crowds_is_not_work(server: Admission, clock: Clock) -> None:
    competing(server, clock, PACE, 100)
    before = server.pace()
    server.enter(8.0, clock.now + 0.1)  # is never heard of again
    other = server.enter(8.0, NEVER)
    server.leave(other)
    clock.now += 3600.0
    competing(server, clock, PACE, 2)
    assert server.pace() == pytest.approx(before, rel=0.05)


def test_the_table_is_never_overrun(tmp_path: Path, clock: Clock) -> None:
    server = Admission(tmp_path / "under_way", 1e9, clock)
    for _ in range(ROWS):
        server.enter(1.0, NEVER)
    with pytest.raises(Unavailable):
        server.enter(1.0, NEVER)


def test_without_a_file_everything_is_let_in() -> None:
    server = Admission(None, 0.0)
    assert server.enter(1e9, 12.5) == 12.5
    assert server.enter(1e9, NEVER) == -1.0
    server.leave(12.5)
    assert server.units() == 0.0


def _come_and_go(file: Path, times: int) -> None:
    server = Admission(file, 1e9)
    for _ in range(times):
        server.leave(server.enter(1.0, NEVER))


def test_processes_and_threads_share_one_table(tmp_path: Path) -> None:
    file = tmp_path / "under_way"
    mine = Admission(file, 1e9)
    stays = mine.enter(3.0, NEVER)
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=_come_and_go, args=(file, 200)) for _ in range(2)]
    threads = [threading.Thread(target=_come_and_go, args=(file, 200)) for _ in range(2)]
    for worker in (*others, *threads):
        worker.start()
    for worker in (*others, *threads):
        worker.join(60)
    assert [worker.exitcode for worker in others] == [0, 0]
    assert mine.units() == 3.0
    mine.leave(stays)
    assert mine.units() == 0.0


def _die_inside(file: Path) -> None:
    server = Admission(file, 1e9)
    with server._locked():
        import os

        os._exit(1)


def test_a_process_that_dies_holding_the_lock_stops_nobody(tmp_path: Path) -> None:
    file = tmp_path / "under_way"
    mine = Admission(file, 1e9)
    dying = multiprocessing.get_context("spawn").Process(target=_die_inside, args=(file,))
    dying.start()
    dying.join(60)
    assert dying.exitcode == 1
    mine.leave(mine.enter(1.0, NEVER))
