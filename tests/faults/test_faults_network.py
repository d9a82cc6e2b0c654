"""The network between client and server: cut, silent, half open, slow; and healed, for the same client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from cytoserve_client import CellsAnalysis, Client
from cytoserve_deploy.launch.local_server import LocalServer
from flaky_network import FlakyNetwork
from known_cells import UM_PER_PIXEL, KnownCells, asked

from benchmarks.server_state import state_of, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("gives_back")]

AgainCheck = Callable[[Client], None]
LATE_S = 1.0
"""How much later than its deadline a call may end, on a busy machine."""


@pytest.fixture
def network(server: LocalServer) -> Iterator[FlakyNetwork]:
    with FlakyNetwork(server.grpc_url) as made:
        yield made


def in_background(
    client: Client, known: KnownCells, rounds: int, results: list[CellsAnalysis]
) -> tuple[threading.Thread, threading.Event]:
    """Classify all cells several times over in one call of many requests; the event: some have been answered."""
    begun = threading.Event()
    numbers = list(range(len(known.files))) * rounds

    def work() -> None:
        progress = lambda done, _: begun.set() if done >= 8 else None  # noqa: E731
        found = client.classify(known.images(numbers), UM_PER_PIXEL, timeout=60, one_sample=False, on_progress=progress)
        results.append(found)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, begun


def test_a_cut_during_a_call_loses_nothing_once_it_is_healed(
    network: FlakyNetwork, known: KnownCells, ask_again: AgainCheck
) -> None:
    """Connections are reset and refused for a second in the middle of 24 requests; the client sends them again."""
    results: list[CellsAnalysis] = []
    with Client(network.url, timeout=60, cells_per_request=4) as client:
        worker, begun = in_background(client, known, 6, results)
        assert begun.wait(60)
        network.cut()
        time.sleep(1.0)
        network.heal()
        worker.join(120)
        sent = known.images(list(range(len(known.files))) * 6)
        assert known.check(results[0], sent, allowed=()) == len(sent)
        ask_again(client)


def test_a_network_that_stays_cut_is_told_within_the_deadline(
    network: FlakyNetwork, known: KnownCells, ask_again: AgainCheck
) -> None:
    with Client(network.url, timeout=60) as client:
        ask_again(client)
        network.cut()
        began = time.monotonic()
        assert asked(client, known, [0, 1], timeout=2.0) == "unavailable"
        assert time.monotonic() - began < 2.0 + LATE_S
        network.heal()
        ask_again(client)


def test_silence_is_told_at_the_deadline_and_what_comes_late_is_no_answer(
    network: FlakyNetwork, known: KnownCells, ask_again: AgainCheck
) -> None:
    """Nothing is closed, nothing arrives. After it the same connection goes on, with the late answers in it."""
    with Client(network.url, timeout=60) as client:
        ask_again(client)
        network.go_silent()
        for cell in range(3):
            began = time.monotonic()
            assert asked(client, known, [cell], timeout=0.7) == "deadline"
            assert 0.6 < time.monotonic() - began < 0.7 + LATE_S
        network.heal()
        ask_again(client)
        assert network.accepted == 1, "it was the same connection"


def test_a_slow_reader_gets_its_answers_and_holds_up_nobody_else(
    server: LocalServer, known: KnownCells, ask_again: AgainCheck
) -> None:
    """20 kB a second: the answer of one request takes longer than all of another caller's."""
    with FlakyNetwork(server.grpc_url, per_second=20_000) as slow, Client(slow.url, timeout=60) as client:
        results: list[CellsAnalysis] = []
        worker, _ = in_background(client, known, 2, results)
        with Client(server.grpc_url, timeout=60) as other:
            for _ in range(3):
                ask_again(other)
        worker.join(120)
        sent = known.images(list(range(len(known.files))) * 2)
        assert known.check(results[0], sent, allowed=()) == len(sent)


def test_a_reader_that_stops_reading_meets_its_deadline(server: LocalServer, known: KnownCells) -> None:
    with FlakyNetwork(server.grpc_url, per_second=200) as slow, Client(slow.url, timeout=60) as client:
        began = time.monotonic()
        assert asked(client, known, range(8), timeout=1.5) == "deadline"
        assert time.monotonic() - began < 1.5 + LATE_S


def test_callers_that_vanish_leave_no_connection_behind(server: LocalServer, known: KnownCells) -> None:
    """Reset in the middle of their requests, six of them: the server closes its side of each."""
    before = state_of(server).files
    for cell in range(6):
        with FlakyNetwork(server.grpc_url) as network, Client(network.url, timeout=60) as client:
            assert asked(client, known, [cell % 16], timeout=20) == "ok"
            thread = threading.Thread(target=asked, args=(client, known, [cell % 16], 0.4))
            thread.start()
            network.cut()
            thread.join(20)
    assert wait_for(lambda: state_of(server).files <= before, 10)


def test_a_half_open_connection_is_given_up_and_a_new_one_made(
    network: FlakyNetwork, known: KnownCells, ask_again: AgainCheck
) -> None:
    """The cable was pulled and the other machine came back without memory of the connection."""
    with Client(network.url, timeout=60) as client:
        ask_again(client)
        network.go_silent()
        assert asked(client, known, [0], timeout=0.5) == "deadline"
        network.heal(forget=True)
        assert asked(client, known, [1], timeout=10) == "ok", "sent again on a new connection"
        assert network.accepted == 2
        ask_again(client)
