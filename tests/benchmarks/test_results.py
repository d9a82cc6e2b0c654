"""Every result carries a stamp, and a stamp names nothing of the machine but what figures depend on."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

import jsonschema
import pytest

from benchmarks import results
from benchmarks.measurements import BY_NAME
from benchmarks.results import RESULTS, ROOT, Benchmark, DataRead, Inputs, run

TEXT = {"type": "string", "minLength": 1}
HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
COMMIT = {"type": "string", "pattern": "^[0-9a-f]{40}$"}
DATE = {"type": "string", "pattern": r"^2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$"}


def exactly(**properties: object) -> dict[str, object]:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


STAMP = {
    "oneOf": [
        exactly(missing=TEXT, commit=COMMIT, date=DATE),
        exactly(
            weights={"oneOf": [exactly(name=TEXT, sha256=HASH), {"type": "null"}]},
            data={"type": "array", "items": exactly(name=TEXT, files={"type": "integer", "minimum": 1}, sha256=HASH)},
            seeds={"type": "object", "additionalProperties": {"type": "integer"}},
            commit=COMMIT,
            clean={"type": "boolean"},
            date=DATE,
            seconds={"type": "integer", "minimum": 0},
            command={"type": "string", "pattern": r"^python -m benchmarks\.\w+"},
            environment=exactly(
                python=TEXT,
                packages={"type": "object", "required": ["numpy"], "additionalProperties": TEXT},
                cpu=TEXT,
                cores={"type": "integer", "minimum": 1},
                os=TEXT,
                machine=TEXT,
            ),
        ),
    ]
}
RESULT = {"type": "object", "properties": {"stamp": STAMP}, "required": ["stamp"]}


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_every_result_has_a_stamp_a_measurement_and_no_path_of_a_machine(file):
    text = file.read_text()
    jsonschema.validate(json.loads(text), RESULT)
    assert file.stem in BY_NAME
    assert not re.search(r'["\s=](/|~/)(work|tmp|home|root|mnt|data|Users)\b', text)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Return a folder with two classes of three files."""
    for name in ("b", "a"):
        home = tmp_path / "data" / "site" / name
        home.mkdir(parents=True)
        for number in range(3):
            (home / f"{number}.png").write_bytes(f"{name}{number}".encode())
    return tmp_path / "data" / "site"


def test_a_source_is_known_by_names_and_contents_in_order(cells):
    source = DataRead.by_class(cells, 2)
    assert source.name == "site"
    assert [file.relative_to(cells).as_posix() for file in source.files] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    lines = (f"{c}/{i}.png\0{hashlib.sha256(f'{c}{i}'.encode()).hexdigest()}\n" for c in "ab" for i in range(2))
    known = {"name": "site", "files": 4, "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}
    assert source.json() == known
    (cells / "a" / "2.png").write_bytes(b"not among the first two")
    assert source.json() == known
    (cells / "a" / "1.png").write_bytes(b"another picture")
    assert source.json() != known


def example(cells: Path) -> Benchmark:
    """Return a benchmark that counts files."""
    return Benchmark(
        "Count.",
        lambda parser: parser.add_argument("folder", type=Path) and None,
        lambda args: Inputs({"name": "m", "sha256": "0" * 64}, (DataRead.by_class(args.folder),), {"order": 3}),
        lambda args: {"cells": len(DataRead.by_class(args.folder).files)},
    )


def test_a_benchmark_writes_its_figures_with_a_full_stamp(cells, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out" / "count.json"
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "count.py"), str(cells), "--out", str(out)])
    run(example(cells))
    written = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == {"cells": 6}
    assert written["cells"] == 6
    stamp = written["stamp"]
    jsonschema.validate(written, RESULT)
    assert stamp["data"] == [DataRead.by_class(cells).json()]
    assert stamp["seeds"] == {"order": 3}
    assert stamp["command"] == "python -m benchmarks.count site --out count.json"
    assert str(tmp_path) not in out.read_text()


def test_without_out_nothing_is_written(cells, monkeypatch, capsys):
    def refuse(*args: object) -> None:
        raise AssertionError("written")

    monkeypatch.setattr(sys, "argv", ["count.py", str(cells)])
    monkeypatch.setattr(results, "write_result", refuse)
    run(example(cells))
    assert json.loads(capsys.readouterr().out) == {"cells": 6}


def test_paths_of_this_machine_become_relative_or_bare_names():
    assert results.neutral("../shared/data") == "../shared/data"
    assert results.neutral("0.18") == "0.18"
    assert results.neutral(str(ROOT / "models" / "reference")) == "models/reference"
    assert results.neutral(str(ROOT.parent / "shared" / "data")) == "../shared/data"
    assert results.neutral("/nowhere/known/cells") == "cells"


def test_an_output_in_a_folder_that_is_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(argparse.ArgumentTypeError):
        results.output_path(str(tmp_path / "file" / "out.json"))
