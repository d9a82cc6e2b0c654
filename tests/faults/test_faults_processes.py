"""Processes of the server killed, stopped and continued, in the middle of requests.

The server stopped, SIGTERMed and SIGKILLed during 32 fields, with its restart, is in tests/integration/test_restart.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cytoserve_client import CellsAnalysis, Client
from cytoserve_deploy.errors import ServerDied
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.model_processes import dead, dead_in_container, model_processes
from known_cells import ROOT, UM_PER_PIXEL, KnownCells, asked

from benchmarks.server_state import released, state_of, wait_for

pytestmark = pytest.mark.integration

AgainCheck = Callable[[Client], None]
ROUNDS = 4
LATE_S = 1.0


def processes_of(server: LocalServer, model: str) -> list[int]:
    """Return the processes of one model; its instance's name is an argument of each."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in model_processes(server.pid)}
    return [pid for pid, words in lines.items() if any(word.startswith(f"{model}_0".encode()) for word in words)]


class Mortal:
    """A server whose processes may be killed, started again on its port."""

    def __init__(self, log: Path) -> None:
        self.log, self.port = log, 0
        self.start()

    def start(self) -> None:
        options = {"model_repository": ROOT / "model_repository", "grpc_port": self.port, "log_file": self.log}
        self.server = LocalServer(**options).start()  # type: ignore[arg-type]
        self.port = self.server.layout.grpc_port


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    made = Mortal(tmp_path / "log")
    yield made
    made.server.stop()


def work_under_way(client: Client, known: KnownCells) -> tuple[threading.Thread, threading.Event, list[CellsAnalysis]]:
    """Begin a call of many requests; the event: some have been answered."""
    begun, results = threading.Event(), list[CellsAnalysis]()
    images = known.images(list(range(len(known.files))) * ROUNDS)

    def work() -> None:
        progress = lambda done, _: begun.set() if done >= 8 else None  # noqa: E731
        results.append(client.classify(images, UM_PER_PIXEL, one_sample=False, on_progress=progress))

    thread = threading.Thread(target=work)
    thread.start()
    return thread, begun, results


@pytest.mark.parametrize("model", ["scorer", "denoiser"])
def test_one_models_process_killed_ends_the_server_instead_of_half_of_the_answers(
    mortal: Mortal, known: KnownCells, model: str
) -> None:
    """Triton would fail every second request for good and say that it is ready.

    The server is started again, as an operator or Kubernetes does. Nothing is lost unnamed, nothing is `internal`.
    """
    with Client(f"127.0.0.1:{mortal.port}", timeout=60, cells_per_request=4) as client:
        worker, begun, results = work_under_way(client, known)
        assert begun.wait(60)
        victim, pid = processes_of(mortal.server, model)[0], mortal.server.pid
        assert dead_in_container(pid) == []
        os.kill(victim, signal.SIGKILL)
        # what the container's probe looks at: there the server is process 1
        assert wait_for(lambda: dead_in_container(pid) == [victim], 5)
        assert dead_in_container() == [], "process 1 of this machine is no Triton"
        assert wait_for(lambda: not mortal.server.is_alive(), 30), "half a server goes on"
        with pytest.raises(ServerDied, match="the process of a model has ended"):
            mortal.server.check()
        mortal.server.stop()
        mortal.start()
        worker.join(120)
        images = known.images(list(range(len(known.files))) * ROUNDS)
        answered = known.check(results[0], images, allowed={"unavailable"})
        assert answered >= len(images) - 16, "more than the four requests under way were lost"
        images = known.images(range(len(known.files)))
        client.wait_until_ready(15)
        assert known.check(client.classify(images, UM_PER_PIXEL, one_sample=False), images) == len(images)


def test_the_server_killed_in_the_middle_of_cells_is_waited_for(mortal: Mortal, known: KnownCells) -> None:
    with Client(f"127.0.0.1:{mortal.port}", timeout=60, cells_per_request=4) as client:
        worker, begun, results = work_under_way(client, known)
        assert begun.wait(60)
        os.kill(mortal.server.pid, signal.SIGKILL)
        assert wait_for(lambda: not mortal.server.is_alive(), 10)
        mortal.server.stop()
        mortal.start()
        worker.join(120)
        images = known.images(list(range(len(known.files))) * ROUNDS)
        assert known.check(results[0], images, allowed=()) == len(images)


@pytest.mark.usefixtures("gives_back")
class TestStopped:
    """SIGSTOP: the process is there, holds its connections, and does nothing."""

    def test_the_whole_server_for_seconds(self, server: LocalServer, known: KnownCells, ask_again: AgainCheck) -> None:
        with Client(server.grpc_url, timeout=60) as client:
            ask_again(client)
            os.killpg(server.pid, signal.SIGSTOP)
            try:
                for _ in range(2):
                    began = time.monotonic()
                    assert asked(client, known, [3], timeout=1.0) == "deadline"
                    assert time.monotonic() - began < 1.0 + LATE_S
                waiting: list[str] = []
                patient = threading.Thread(target=lambda: waiting.append(asked(client, known, [5], timeout=30)))
                patient.start()
                time.sleep(1.0)
            finally:
                os.killpg(server.pid, signal.SIGCONT)
            patient.join(30)
            assert waiting == ["ok"], "a call with time to wait is answered when the server goes on"
            ask_again(client)

    @pytest.mark.parametrize("model", ["scorer", "denoiser"])
    def test_one_models_processes(
        self, server: LocalServer, known: KnownCells, ask_again: AgainCheck, model: str
    ) -> None:
        stopped = processes_of(server, model)
        with Client(server.grpc_url, timeout=60) as client:
            ask_again(client)
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                assert asked(client, known, [3], timeout=1.0) == "deadline"
                assert time.monotonic() - began < 1.0 + LATE_S
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            ask_again(client)
            assert dead(model_processes(server.pid)) == []


def test_what_the_state_is_read_from_sees_what_is_held(server: LocalServer, known: KnownCells) -> None:
    """Positive control: a connection that is open is counted, and given back when it is closed."""
    before = state_of(server)
    with Client(server.grpc_url) as client:
        assert asked(client, known, [0], timeout=30) == "ok"
        assert state_of(server).more_than(before)["files"][1] > before.files
        with pytest.raises(AssertionError, match="files"):
            released(server, before, seconds=0.5)
    released(server, before)
