"""Servers that die, come back or are many; many threads; closing under load."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cytoserve_client import AsyncClient, Client, RetryPolicy, errors
from fake_server import Call, FakeServer, sleeping, smear

FAKE = Path(__file__).with_name("fake_server.py")


def wait_for(path: Path, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.02)


class Mortal:
    """The fake server in a process of its own, on a port that stays the same over its lives."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"127.0.0.1:{self.port}"
        self._folder, self._lives = folder, 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._lives += 1
        self.sign = self._folder / f"port{self._lives}"
        self.process = subprocess.Popen([sys.executable, str(FAKE), str(self.sign), str(self.port)])
        wait_for(self.sign)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    server = Mortal(tmp_path)
    server.start()
    yield server
    server.kill()


def test_killed_during_a_call_then_back(mortal: Mortal, open_client: Callable[..., Any]) -> None:
    client = open_client(mortal.url, timeout=10.0, retry=RetryPolicy(outage=1.0))
    assert client.analyze(b"x").fields
    called = Path(f"{mortal.sign}.called")

    def kill_when_called() -> None:
        wait_for(called)
        mortal.kill()

    killer = threading.Thread(target=kill_when_called)
    killer.start()
    started = time.monotonic()
    with pytest.raises(errors.ServerUnavailable) as caught:
        client.analyze(b"die")
    killer.join()
    assert time.monotonic() - started < 10
    assert (caught.value.source, caught.value.retryable) == ("bytes", True)
    assert caught.value.request_id
    with pytest.raises(errors.ServerUnavailable):
        client.analyze(b"x")
    mortal.start()
    client.wait_until_ready(20)
    assert client.analyze(b"x").fields  # the same client, not rebuilt


def is_stopped(pid: int) -> bool:
    """Return whether every thread of the process is stopped (state T of ``man 5 proc``)."""
    return {path.read_text().rsplit(")", 1)[1].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")} == {"T"}


def test_a_stopped_process_meets_the_deadline(mortal: Mortal, open_client: Callable[..., Any]) -> None:
    client = open_client(mortal.url)
    client.analyze(b"x")
    assert mortal.process is not None
    os.kill(mortal.process.pid, signal.SIGSTOP)
    try:
        # the signal takes effect when the process is next scheduled: on a busy machine it could still answer
        while not is_stopped(mortal.process.pid):
            time.sleep(0.01)
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            client.analyze(b"x", timeout=0.7)
        assert 0.6 < time.monotonic() - started < 1.3
    finally:
        os.kill(mortal.process.pid, signal.SIGCONT)
    client.wait_until_ready(10)
    assert client.analyze(b"x").fields


def test_a_peer_that_accepts_and_never_speaks_meets_the_deadline(open_client: Callable[..., Any]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        started = time.monotonic()
        with pytest.raises((errors.DeadlineExceeded, errors.ServerUnavailable)):
            open_client(f"127.0.0.1:{listener.getsockname()[1]}", timeout=1.0).analyze(b"x")
        assert time.monotonic() - started < 2


def test_another_model_after_an_outage_is_noticed(server: FakeServer, open_client: Callable[..., Any]) -> None:
    from cytoserve_client import Expectation

    client = open_client(server.url, expect=Expectation(version="1.2.3"), retry=RetryPolicy(outage=0))
    client.analyze(b"x")
    port = server.port
    server.stop()
    with pytest.raises(errors.ServerUnavailable):
        client.analyze(b"x")
    with FakeServer(port=port) as successor:
        successor.fake.info["version"] = "2.0.0"
        client.wait_until_ready(10)
        with pytest.raises(errors.ContractMismatch, match=r"2\.0\.0"):
            client.analyze(b"x")
        assert not successor.fake.calls


def test_32_threads_get_their_own_answers(server: FakeServer) -> None:
    server.fake.on_smear = lambda call: smear([6], red=int(call.files[0]), platelets=0)
    with Client(server.url, timeout=30) as client:

        def work(number: int) -> bool:
            return all(len(client.analyze(str(number).encode()).fields[0].cells) == number + 1 for _ in range(4))

        with ThreadPoolExecutor(32) as pool:
            assert all(pool.map(work, range(32)))
    assert server.fake.attempts["smear_analysis"] == 128


def test_many_tasks_of_one_async_client(server: FakeServer) -> None:
    server.fake.on_smear = lambda call: smear([6], red=int(call.files[0]), platelets=0)

    async def main() -> list[int]:
        async with AsyncClient(server.url, timeout=30) as client:
            results = await asyncio.gather(*(client.analyze(str(i).encode()) for i in range(32)))
            return [len(result.fields[0].cells) for result in results]

    assert asyncio.run(main()) == list(range(1, 33))


def test_closing_ends_the_calls_under_way(server: FakeServer) -> None:
    server.fake.on_smear = sleeping(3)
    client = Client(server.url, timeout=30)
    client.info()
    caught: list[BaseException] = []

    def work() -> None:
        try:
            client.analyze([b"a", b"b"])
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while server.fake.running < 2:
        time.sleep(0.01)
    started = time.monotonic()
    client.close()
    thread.join(5)
    assert time.monotonic() - started < 2
    assert [type(error) for error in caught] == [errors.ClientClosed]


def test_closing_ends_the_async_calls_under_way(server: FakeServer) -> None:
    server.fake.on_smear = sleeping(3)

    async def main() -> float:
        client = AsyncClient(server.url, timeout=30)
        await client.info()
        task = asyncio.ensure_future(client.analyze(b"a"))
        while server.fake.running < 1:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        await client.close()
        with pytest.raises(errors.ClientClosed):
            await task
        return time.monotonic() - started

    assert asyncio.run(main()) < 2


def test_cancelling_a_task_cancels_its_requests_and_nothing_else(server: FakeServer) -> None:
    def slow(call: Call) -> dict[str, Any]:
        time.sleep(1.0 if call.files[0].startswith(b"slow") else 0)
        return smear([6])

    server.fake.on_smear = slow

    async def main() -> None:
        async with AsyncClient(server.url, timeout=30, max_in_flight=2) as client:
            task = asyncio.ensure_future(client.analyze([b"slow %d" % i for i in range(8)]))
            while server.fake.running < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.analyze(b"x")).fields

    asyncio.run(main())
    assert server.fake.attempts["smear_analysis"] == 3


def test_an_error_that_ends_the_call_leaves_the_rest_unsent(server: FakeServer) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = smear([6])
        del answer["LABEL"]
        return answer

    server.fake.on_smear = judge
    with Client(server.url, timeout=30, max_in_flight=2) as client, pytest.raises(errors.ContractMismatch):
        client.analyze([b"%d" % i for i in range(200)])
    assert server.fake.attempts["smear_analysis"] < 20


def test_a_storm_of_short_deadlines_leaves_server_and_client_whole(server: FakeServer) -> None:
    server.fake.on_smear = sleeping(0.02)
    with Client(server.url, timeout=30, max_in_flight=16) as client:
        client.analyze(b"x")
        for _ in range(3):
            result = client.analyze([b"%d" % i for i in range(60)], timeout=0.01)
            assert {failure.error for failure in result.failures} <= {"deadline"}
            assert result.failures
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("cytoserve")]
        assert client.analyze(b"x").fields


def test_round_robin_reaches_the_server(server: FakeServer, open_client: Callable[..., Any]) -> None:
    assert open_client(f"localhost:{server.port}", round_robin=True).analyze(b"x").fields


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    server: FakeServer, open_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert open_client(server.url).analyze(b"x").fields
