"""Deadlines far too short, a thousand times; cancelling before, in the queue, during the work, and after it.

Triton 2.51 has known races here (server issues 7840, 8078 and 8220: a request that ends while it is cancelled). A
server that dies of a signal of its own in one of these tests died of such a race, and the test says so.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cytoserve_client import AsyncClient, CellsAnalysis, Client, errors
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_scoring.serving.admission import Admission
from known_cells import ROOT, UM_PER_PIXEL, KnownCells, asked
from known_races import told_by_name
from tritonclient import grpc

from benchmarks.server_state import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("gives_back")]

AgainCheck = Callable[[Client], None]
CALLS = 1000
SEED = 16
LATE_S = 0.75
CELLS_OF_A_LONG_CALL = 32


def test_a_thousand_calls_with_deadlines_of_1_to_50_ms(
    server: LocalServer, known: KnownCells, ask_again: AgainCheck
) -> None:
    """Each is answered rightly, ends as `deadline` or is refused because it would, in time; who is not in a hurry is
    served all along."""
    draw = random.Random(SEED)
    calls = [(draw.randrange(len(known.files)), draw.uniform(0.001, 0.05)) for _ in range(CALLS)]
    with Client(server.grpc_url, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        ask_again(client)

        def one(call: tuple[int, float]) -> tuple[str, float]:
            cell, limit = call
            began = time.monotonic()
            code = asked(client, known, [cell], timeout=limit)
            return code, time.monotonic() - began - limit

        outcomes = list(pool.map(one, calls))
        codes = Counter(code for code, _ in outcomes)
        assert set(codes) <= {"ok", "deadline", "unavailable"}, codes
        assert codes["deadline"] > CALLS / 4, codes
        assert max(late for _, late in outcomes) < LATE_S
        ask_again(client)


@pytest.mark.parametrize(("signal_sent", "told"), [(signal.SIGSEGV, "xfailed"), (signal.SIGKILL, "failed")])
def test_a_server_that_died_of_itself_is_told_from_one_that_was_ended(
    start: Callable[[], LocalServer], signal_sent: signal.Signals, told: str
) -> None:
    server = start()
    os.kill(server.pid, signal_sent)
    until = time.monotonic() + 20
    while server.is_alive():
        assert time.monotonic() < until
        time.sleep(0.05)
    kinds = {"xfailed": pytest.xfail.Exception, "failed": pytest.fail.Exception}
    with pytest.raises(kinds[told]):
        told_by_name(server)


def scored(server: LocalServer) -> int:
    """Return how many requests the scorer has ended, rightly or not."""
    with grpc.InferenceServerClient(server.grpc_url) as triton:
        found = triton.get_inference_statistics("scorer").model_stats[0].inference_stats
    return int(found.success.count + found.fail.count)


async def cancelled_after(client: AsyncClient, known: KnownCells, cell: int, seconds: float) -> str:
    """Begin a request and cancel it; return what came of it."""
    sent = known.images([cell] * 4)
    task = asyncio.ensure_future(client.classify(sent, UM_PER_PIXEL, timeout=30, one_sample=False))
    await asyncio.sleep(seconds)
    task.cancel()
    try:
        known.check(await task, sent, allowed=())
    except asyncio.CancelledError:
        return "cancelled"
    return "ok"


async def right(client: AsyncClient, known: KnownCells) -> None:
    images = known.images(range(len(known.files)))
    result: CellsAnalysis = await client.classify(images, UM_PER_PIXEL, timeout=60, one_sample=False)
    assert known.check(result, images, allowed=()) == len(images)


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.03, 0.1], ids=["before", "sending", "working", "late"])
def test_cancelling_ends_the_call_and_nothing_else(server: LocalServer, known: KnownCells, seconds: float) -> None:
    """Ten at a time, thirty in all, beside a caller who is served rightly."""

    async def main() -> list[str]:
        async with AsyncClient(server.grpc_url, timeout=60) as client:
            await right(client, known)
            found: list[str] = []
            for _ in range(3):
                tasks = [cancelled_after(client, known, cell, seconds) for cell in range(10)]
                *outcomes, _ = await asyncio.gather(*tasks, right(client, known))
                found += outcomes  # type: ignore[arg-type]
            await right(client, known)
            return found

    assert "cancelled" in asyncio.run(main())


def test_cancelling_in_the_queue(server: LocalServer, known: KnownCells) -> None:
    """The scorer is busy with two long requests; six that wait for it are cancelled, and the two are answered."""

    async def main() -> None:
        async with AsyncClient(server.grpc_url, timeout=60) as client:
            await right(client, known)
            long = known.images([0] * CELLS_OF_A_LONG_CALL)
            busy = [
                asyncio.ensure_future(client.classify(long, UM_PER_PIXEL, alpha=0, budget=8, one_sample=False))
                for _ in range(2)
            ]
            await asyncio.sleep(0.3)
            waiting = [
                asyncio.ensure_future(client.classify(known.images([cell]), UM_PER_PIXEL, one_sample=False))
                for cell in range(6)
            ]
            await asyncio.sleep(0.1)
            for task in waiting:
                task.cancel()
            ends = await asyncio.gather(*waiting, return_exceptions=True)
            assert any(isinstance(end, asyncio.CancelledError) for end in ends)
            assert [len((await task).cells) for task in busy] == [CELLS_OF_A_LONG_CALL] * 2
            await right(client, known)

    asyncio.run(main())


def test_cancelling_after_the_answer_changes_nothing(server: LocalServer, known: KnownCells) -> None:
    async def main() -> None:
        async with AsyncClient(server.grpc_url, timeout=60) as client:
            task = asyncio.ensure_future(client.classify(known.images([2]), UM_PER_PIXEL, one_sample=False))
            await asyncio.wait([task])
            assert not task.cancel()
            known.check_cell((await task).cells[0])
            await right(client, known)

    asyncio.run(main())


def test_a_deadline_in_the_middle_of_the_work_frees_the_server(server: LocalServer, known: KnownCells) -> None:
    """The server stops at the deadline too: seconds of scoring that nobody waits for any more are not done."""
    under_way = Admission(server.layout.admission_file, 0.0).units
    assert wait_for(lambda: not under_way(), 30)  # else it is refused at once, because it could not be done in time
    with Client(server.grpc_url, timeout=60, cells_per_request=64) as client:
        before = scored(server)
        long = known.images([0] * 64)
        settings = {"alpha": 0, "budget": client.info().probes}
        result = client.classify(long, UM_PER_PIXEL, timeout=0.6, one_sample=False, **settings)  # type: ignore[arg-type]
        assert {failure.error for failure in result.failures} == {"deadline"}
        began = time.monotonic()
        assert asked(client, known, [1], timeout=30) == "ok"
        assert time.monotonic() - began < 3, "the scorer still worked on what was given up"
        assert scored(server) > before


def test_closing_the_client_in_the_middle_of_the_work(server: LocalServer, known: KnownCells) -> None:
    with ThreadPoolExecutor(1) as pool:
        client = Client(server.grpc_url, timeout=60)
        client.info()
        images = known.images([0] * 64)
        call = pool.submit(client.classify, images, UM_PER_PIXEL, alpha=0, budget=8, one_sample=False)
        time.sleep(0.3)
        client.close()
        with pytest.raises(errors.ClientClosed):
            call.result(5)


def test_the_module_is_about_the_repository_that_is_shipped(server: LocalServer) -> None:
    """A server of another repository would make every test above about something else."""
    with Client(server.grpc_url) as client:
        assert client.info().model.weights_sha256 in (ROOT / "model_repository/service_info/1/service.json").read_text()
