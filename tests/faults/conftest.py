"""One server that must survive, cells with known answers, and what the server must give back after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from known_cells import ROOT, KnownCells, asked, first_cells
from known_races import told_by_name

from benchmarks.server_state import ServerState, released, state_of

WARM_CALLS = 24
THREADS = 8
"""More threads than before are allowed by this number: gRPC and ONNX Runtime make them on demand and keep some."""
FILES = 2
"""The same of open files: gRPC keeps the event descriptor of a thread that once waited for work. `make soak` sees a
leak by its trend."""


@pytest.fixture(scope="session")
def cell_files() -> list[Path]:
    """Two cells of every class: real ones where they are, else the generated ones of the examples."""
    real = ROOT.parent / "shared" / "data" / "pbc" / "val"
    return first_cells(real if real.is_dir() else ROOT / "examples" / "cells", 2)


@pytest.fixture(scope="session")
def running() -> Iterator[list[LocalServer]]:
    """The servers that were started for `server`; the last one may run."""
    started: list[LocalServer] = []
    yield started
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def start(running: list[LocalServer], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], LocalServer]:
    """Return a function that starts one more server, whose log outlives it."""

    def started() -> LocalServer:
        log = tmp_path_factory.mktemp("server") / "tritonserver.log"
        running.append(LocalServer(model_repository=ROOT / "model_repository", log_file=log).start())
        return running[-1]

    return started


@pytest.fixture(scope="session")
def known(start: Callable[[], LocalServer], cell_files: list[Path]) -> KnownCells:
    """The cells with the answers of a server that nothing has happened to."""
    server = start()
    with Client(server.grpc_url, timeout=120) as client:
        cells = KnownCells.of(client, cell_files)
    warm(server, cells)
    return cells


@pytest.fixture
def server(running: list[LocalServer], start: Callable[[], LocalServer], known: KnownCells) -> LocalServer:
    """One server for all tests that it survives, used by several callers before: what is made once is there."""
    if not running[-1].is_alive():
        warm(start(), known)
    return running[-1]


def warm(server: LocalServer, known: KnownCells) -> None:
    """Let several callers use a server at once."""
    with Client(server.grpc_url, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda n: asked(client, known, [n % len(known.files)], 60), range(WARM_CALLS))
        assert set(answers) == {"ok"}


@pytest.fixture
def gives_back(server: LocalServer) -> Iterator[ServerState]:
    """After the test the server is the same one, and holds no more than before it."""
    pid, before = server.pid, state_of(server)
    yield before
    told_by_name(server)
    assert server.pid == pid
    released(server, before, threads=THREADS, files=FILES)


@pytest.fixture
def ask_again(server: LocalServer, known: KnownCells) -> Callable[[Client], None]:
    """Return a function that sees that the same client gets every answer again."""

    def check(client: Client) -> None:
        images = known.images(range(len(known.files)))
        told_by_name(server)
        client.wait_until_ready(15)  # gRPC waits up to 2 s between two attempts to connect
        assert known.check(client.classify(images, 0.18, timeout=60, one_sample=False), images) == len(images)

    return check
