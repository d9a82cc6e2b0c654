"""The second witness: what perf_analyzer is given and how its table is read, with a stand-in for the program."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from load_inputs import pictures
from load_wire import texts_of
from load_witness import NOT_RUN, STREAM, input_data, perf_analyzer

TABLE = "Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency\n4,12.345,10,321000,400000\n"


def program(folder: Path, text: str) -> str:
    file = folder / "perf_analyzer"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def test_the_same_pictures_are_given() -> None:
    found = pictures()
    one = input_data(found, 8)["data"][0]
    assert texts_of(base64.b64decode(one["IMAGE"]["content"]["b64"])) == found.some(8, 0)
    assert one["IMAGE"]["shape"] == one["UM_PER_PIXEL"]["shape"] == [8]


def test_its_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "made.csv").write_text(TABLE)
    save = f'[ "$1" = -f ] && cp {tmp_path}/made.csv "$2"; echo "$1" >> {tmp_path}/words'
    stand_in = program(tmp_path, f"while [ $# -gt 0 ]; do {save}; shift; done")
    assert perf_analyzer(stand_in, "127.0.0.1:1", tmp_path, 50) == {"requests_per_s": 12.35, "p50": 0.321}
    words = (tmp_path / "words").read_text().split()
    assert words[words.index("-m") + 1] == STREAM.model
    assert words[words.index("--measurement-request-count") + 1] == "50"
    assert json.loads(Path(words[words.index("--input-data") + 1]).read_text())["data"]


def test_a_program_that_does_not_start_is_said_to_have_not_run(tmp_path: Path) -> None:
    broken = program(tmp_path, "echo \"libc.so.6: version 'GLIBC_2.38' not found\" >&2; exit 1")
    assert perf_analyzer(broken, "127.0.0.1:1", tmp_path, 50)["why"].startswith("not run: libc.so.6")
    assert perf_analyzer(None, "127.0.0.1:1", tmp_path, 50) == {"why": NOT_RUN}


@pytest.mark.parametrize("text", ["exit 0", "exit 3"])
def test_no_table_is_no_witness(tmp_path: Path, text: str) -> None:
    assert "not run" in perf_analyzer(program(tmp_path, text), "127.0.0.1:1", tmp_path, 50)["why"]
