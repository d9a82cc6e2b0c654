"""The load script itself, for a few seconds against the fake server (in processes: locust patches sockets)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "client"))

from fake_server import Call, FakeServer, Refuse  # noqa: E402

if importlib.util.find_spec("locust") is None:
    pytest.skip("needs the extra 'load'", allow_module_level=True)


def load(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "run.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_both_ensembles_are_loaded_and_reported() -> None:
    with FakeServer() as server:
        done = load("--seconds", "3", "--fields-per-s", "8", "--cells-per-s", "4", "--url", server.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.fake.attempts["smear_analysis"] >= 5
        assert server.fake.attempts["cell_analysis"] >= 3
        assert {call.parameters["deadline_ms"] for call in server.fake.calls} == {30_000}
    assert "smear_analysis" in done.stderr + done.stdout


def test_failures_are_not_hidden() -> None:
    def refuse(call: Call) -> dict[str, object]:
        raise Refuse(grpc.StatusCode.INTERNAL, "boom")

    with FakeServer() as server:
        server.fake.on_cells = refuse
        done = load("--seconds", "6", "--fields-per-s", "5", "--cells-per-s", "5", "--url", server.url)
    assert done.returncode == 1
    assert "boom" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", [["--url", "10.1.2.3:8001"], ["--seconds", "601"], ["--seconds", "0"], ["--fields-per-s", "0"]]
)
def test_other_machines_and_unbounded_load_are_refused(words: list[str]) -> None:
    done = load(*(["--seconds", "2"] if words[0] != "--seconds" else []), *words)
    assert done.returncode not in (0, None)
    assert "not one request" not in done.stdout
