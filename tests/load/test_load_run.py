"""The whole load for a few seconds against the fake server (in processes: locust patches sockets)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "client"))

from fake_server import Call, FakeServer, Refuse, cells  # noqa: E402

if importlib.util.find_spec("locust") is None:
    pytest.skip("needs the extra 'load'", allow_module_level=True)

from load_shapes import CELLS  # noqa: E402


def load(out: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    command = [sys.executable, str(HERE / "run.py"), "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    report = out / "report.json"
    return done, json.loads(report.read_text()) if report.exists() else {}


def given(**rates: float) -> list[str]:
    return [word for name, rate in rates.items() for word in ("--capacity", f"{name.replace('_', ' ')}={rate}")]


def test_both_ensembles_are_loaded_and_reported(tmp_path: Path) -> None:
    rates = given(routine_field=24, routine_cells=16)
    with FakeServer() as server:
        done, report = load(tmp_path, "--seconds", "3", "--url", server.url, *rates)
        assert done.returncode == 0, done.stdout + done.stderr
        sent = server.fake.attempts
        assert sent["smear_analysis"] == report["streams"]["routine field"]["sent"] >= 5
        assert sent["cell_analysis"] == report["streams"]["routine cells"]["sent"] >= 3
        assert {call.parameters["deadline_ms"] for call in server.fake.calls} == {29_950}
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_failures_are_not_hidden(tmp_path: Path) -> None:
    def refuse(call: Call) -> dict[str, object]:
        raise Refuse(grpc.StatusCode.INTERNAL, "boom")

    with FakeServer() as server:
        server.fake.on_cells = refuse
        done, report = load(
            tmp_path, "--seconds", "2", "--shape", "single", "--url", server.url, *given(single_cell=10)
        )
    assert done.returncode == 1
    assert report["streams"]["all"]["failed"] == report["streams"]["all"]["sent"] > 0
    assert "boom" in done.stdout + done.stderr


def test_a_shape_that_expects_refusals_takes_them_and_nothing_else(tmp_path: Path) -> None:
    status = grpc.StatusCode.UNAVAILABLE

    def now_and_then(call: Call) -> dict[str, object]:
        if len(call.files) == max(CELLS.sizes):
            raise Refuse(status, "[cytoserve:unavailable] more work waits")
        return cells([6] * len(call.files))

    words = ("--seconds", "2", "--shape", "full", *given(routine_cells=20, stat_cell=20))
    with FakeServer() as server:
        server.fake.on_cells = now_and_then
        done, report = load(tmp_path / "refused", "--url", server.url, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert report["streams"]["all"]["refused"] > 0
        stat = [call for call in server.fake.calls if call.parameters.get("stat") == 1]
        assert stat
        assert {call.parameters["priority"] for call in stat} == {1}
        status = grpc.StatusCode.INTERNAL
        done, _ = load(tmp_path / "failed", "--url", server.url, *words)
        assert done.returncode == 1


def test_an_answer_is_seen_when_it_comes_although_many_calls_wait(tmp_path: Path) -> None:
    """With gevent's ten threads, every answer would wait for one of the slow ones."""

    def slow(call: Call) -> dict[str, object]:
        time.sleep(2.5 if len(call.files) > 1 else 0)
        return cells([6] * len(call.files))

    with FakeServer() as server:
        server.fake.on_cells = slow
        words = ("--seconds", "3", "--shape", "full", "--url", server.url)
        _, report = load(tmp_path, *words, *given(routine_cells=10, stat_cell=100))
    stat = report["streams"]["stat cell"]
    assert report["streams"]["routine cells"]["sent"] > 30  # most of them wait at the same time
    assert stat["sent"] > 5
    assert stat["seconds"]["p95"] < 1.0


def test_nobody_there_ends_with_a_sentence(tmp_path: Path) -> None:
    done, report = load(tmp_path, "--seconds", "1", "--deadline", "2", "--url", "127.0.0.1:9")
    assert done.returncode != 0
    assert report == {}
    assert "no load was put on" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_machine_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    done, report = load(tmp_path, "--seconds", "1", "--url", "10.1.2.3:8001")
    assert done.returncode == 1
    assert report == {}
    assert "--yes-load-this-host 10.1.2.3" in done.stderr
