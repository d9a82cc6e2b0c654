"""What ``make evidence`` runs, what it skips, and what it does about a measurement that fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import measurements, rerun, results
from benchmarks.measurements import MEASUREMENTS, PLAIN, Measurement
from benchmarks.results import Benchmark, DataRead, Inputs

WEIGHTS = {"name": "m", "sha256": "0" * 64}


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measurement:
    """Return a measurement of the files of a folder, whose benchmark is in this test, with an up-to-date result."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "0.png").write_bytes(b"0")
    benchmark = Benchmark(
        "Count.",
        lambda parser: parser.add_argument("folder", type=Path) and None,
        lambda args: Inputs(WEIGHTS, (DataRead.by_class(args.folder),)),
        lambda args: {},
    )
    monkeypatch.setitem(sys.modules, "benchmarks.counting", SimpleNamespace(BENCHMARK=benchmark))
    monkeypatch.setattr(measurements, "RESULTS", tmp_path)
    monkeypatch.setattr(measurements, "same_code_as", lambda commit: commit == "c" * 40)
    found = Measurement("counted", "counting", "DATA", 1)
    stamp = {**Inputs(WEIGHTS, (DataRead.by_class(tmp_path / "data"),)).json(), "commit": "c" * 40, "clean": True}
    (tmp_path / "counted.json").write_text(json.dumps({"stamp": stamp}))
    return found


def restamp(tmp_path: Path, **changed: object) -> None:
    path = tmp_path / "counted.json"
    path.write_text(json.dumps({"stamp": {**json.loads(path.read_text())["stamp"], **changed}}))


def test_a_result_of_the_same_code_weights_and_data_is_up_to_date(one, tmp_path):
    assert one.is_current(str(tmp_path / "data"))


@pytest.mark.parametrize(
    "changed",
    [
        {"commit": "d" * 40},
        {"clean": False},
        {"weights": {"name": "m", "sha256": "1" * 64}},
        {"seeds": {"order": 1}},
        {"missing": "measured before results were stamped"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_result_of_anything_else_is_not(one, tmp_path, changed):
    restamp(tmp_path, **changed)
    assert not one.is_current(str(tmp_path / "data"))


def test_a_result_of_other_pictures_is_not(one, tmp_path):
    (tmp_path / "data" / "a" / "0.png").write_bytes(b"1")
    assert not one.is_current(str(tmp_path / "data"))


def test_no_result_is_not(one, tmp_path):
    (tmp_path / "counted.json").unlink()
    assert not one.is_current(str(tmp_path / "data"))


def test_what_is_up_to_date_or_cannot_run_here_is_skipped_and_a_failure_stops_nothing(one, tmp_path, monkeypatch):
    ran: list[str] = []

    def measure(which: Measurement, data: str) -> bool:
        ran.append(which.name)
        return which.name != "failing"

    monkeypatch.setattr(rerun, "measure", measure)
    stale = [Measurement(name, "counting", "DATA", 1) for name in ("failing", "next")]
    training = Measurement("trained", "counting", "DATA", None, "a training", archived=True)
    data = str(tmp_path / "data")
    assert rerun.rerun([one, training, *stale], data) == ["failing"]
    assert ran == ["failing", "next"]
    assert rerun.rerun([one, training], data, force=True) == []
    assert ran == ["failing", "next", "counted"]


@pytest.mark.parametrize("which", [one for one in MEASUREMENTS if not one.archived], ids=lambda one: one.name)
def test_every_command_shown_is_one_that_its_benchmark_takes(which, tmp_path):
    benchmark: Benchmark = __import__(f"benchmarks.{which.module}", fromlist=["BENCHMARK"]).BENCHMARK
    args = benchmark.parse(which.words(str(tmp_path)))
    assert args.out == Path("docs/results") / f"{which.name}.json"


def test_a_measurement_that_cannot_run_here_says_what_it_needs():
    assert {one.name for one in MEASUREMENTS if not one.plain} >= {"export_gpu", "external_site"}
    assert all(one.needs != PLAIN for one in MEASUREMENTS if not one.plain)
    assert all(one.minutes for one in MEASUREMENTS if one.plain)


def test_a_changed_tree_is_not_called_clean(tmp_path, monkeypatch):
    for words in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        results.git("-C", str(tmp_path), *words)
    (tmp_path / "docs").mkdir()
    for name in ("code.py", "docs/page.md"):
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    results.git("add", ".")
    results.git("commit", "-q", "-m", "first")
    state = results.state_of_checkout()
    assert state["clean"]
    (tmp_path / "docs" / "page.md").write_text("rendered again")
    assert results.state_of_checkout() == state
    assert results.same_code_as(state["commit"])
    (tmp_path / "code.py").write_text("2")
    assert results.state_of_checkout() == {**state, "clean": False}
    assert not results.same_code_as(state["commit"])
