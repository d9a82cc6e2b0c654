"""The wall clock of server and client jumps, forwards and back, while requests are under way.

Debian's ``libfaketime`` moves the real-time clock of chosen processes; the machine's own is left alone. The monotonic
clock goes on as it does in life.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from known_cells import ROOT, UM_PER_PIXEL, KnownCells

pytestmark = pytest.mark.integration

JUMPS = ("+3600", "-86400", "+0")
"""An hour forwards, a day back, and back to the truth; seconds."""

CALLER = """
import json, sys, time
from cytoserve_client import Client
with Client(sys.argv[1], timeout=20) as client:
    for line in sys.stdin:
        wall, began = time.time(), time.monotonic()
        cells = client.classify(json.loads(line), 0.18, one_sample=False)
        took = time.monotonic() - began
        print(json.dumps([[cell.label for cell in cells.cells], len(cells.failures), took, wall]), flush=True)
"""


@pytest.fixture
def moved(tmp_path: Path) -> dict[str, str]:
    """Environment of processes whose wall clock is what the file says."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("no libfaketime to move a clock with; as root: apt-get install libfaketime")
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def test_the_servers_clock_jumps(moved: dict[str, str], known: KnownCells, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines are counted on the monotonic clock, so no request is late or early for it."""
    for name, value in moved.items():
        monkeypatch.setenv(name, value)
    with LocalServer(model_repository=ROOT / "model_repository") as server, Client(server.grpc_url) as client:
        for jump in JUMPS:
            Path(moved["FAKETIME_TIMESTAMP_FILE"]).write_text(f"{jump}\n")
            images = known.images(range(len(known.files)))
            result = client.classify(images, UM_PER_PIXEL, timeout=20, one_sample=False)
            assert known.check(result, images, allowed=()) == len(images)
        monkeypatch.delenv("LD_PRELOAD")


def test_the_clients_clock_jumps(
    moved: dict[str, str], server: LocalServer, known: KnownCells, cell_files: list[Path]
) -> None:
    paths = json.dumps([str(path) for path in cell_files])
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, server.grpc_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **moved},
    )
    assert caller.stdin is not None
    assert caller.stdout is not None
    walls = []
    for jump in JUMPS:
        Path(moved["FAKETIME_TIMESTAMP_FILE"]).write_text(f"{jump}\n")
        caller.stdin.write(paths + "\n")
        caller.stdin.flush()
        labels, failures, took, wall = json.loads(caller.stdout.readline())
        assert labels == [answer.label for answer in known.answers]
        assert failures == 0
        assert took < 20
        walls.append(wall)
    assert walls[0] - walls[1] > 80_000, "positive control: the caller's clock did jump"
    caller.stdin.close()
    caller.wait(20)
    caller.stdout.close()
