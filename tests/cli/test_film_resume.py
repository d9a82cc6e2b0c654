"""``cytoserve analyze --resume``: a film goes on where a crash stopped it, and never mixes what does not belong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from cytoserve_cli.main import app
from fake_server import Call, FakeServer, Refuse, smear
from slide_files import cells_on_glass, write_svs
from typer.testing import CliRunner

FIELDS = 12


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"p{i:02}.png" for i in range(FIELDS)]
    for i, path in enumerate(paths):
        path.write_bytes(b"picture %d" % i)
    return paths


def answered_differently(call: Call) -> dict[str, Any]:
    """Answer each picture of its own: as many neutrophils as its number says, one at least."""
    return smear([6] * (1 + int(call.files[0].split()[1]) % 3))


def sent(server: FakeServer) -> list[bytes]:
    return sorted(call.files[0] for call in server.fake.calls if call.files)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_after_a_kill_the_same_command_goes_on(server: FakeServer, pictures: list[Path], tmp_path: Path) -> None:
    server.fake.on_smear = answered_differently
    whole, again = tmp_path / "whole.json", tmp_path / "again.json"
    assert run("analyze", *pictures, "--url", server.url, "--json", whole).exit_code == 0

    server.fake.calls.clear()
    release, slow = threading.Event(), threading.Lock()

    def stuck_after_five(call: Call) -> dict[str, Any]:
        with slow:
            if len(server.fake.calls) > 5:
                release.wait(60)
        return answered_differently(call)

    server.fake.on_smear = stuck_after_five
    kept = tmp_path / "film.unfinished"
    words = ["analyze", *pictures, "--url", server.url, "--json", again, "--resume", kept]
    command = [sys.executable, "-m", "cytoserve_cli.main", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (kept.exists() and kept.read_bytes().count(b"\n") >= 4) and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.wait()
    release.set()
    assert not again.exists()
    before = {line["answer"]["source"] for line in lines(kept)[1:]}
    assert before

    server.fake.calls.clear()
    server.fake.on_smear = answered_differently
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert sent(server) == sorted(path.read_bytes() for path in pictures if str(path) not in before)
    assert json.loads(again.read_text()) == json.loads(whole.read_text())
    assert not kept.exists()


def half_done(server: FakeServer, pictures: list[Path], kept: Path) -> set[bytes]:
    """Run a film of which every other field is refused for now; return the contents that have no answer yet."""
    refused = {path.read_bytes() for path in pictures[::2]}

    def judge(call: Call) -> dict[str, Any]:
        if call.files[0] in refused:
            raise Refuse(grpc.StatusCode.DEADLINE_EXCEEDED, "not now")
        return answered_differently(call)

    server.fake.on_smear = judge
    result = run("analyze", *pictures, "--url", server.url, "--resume", kept)
    assert result.exit_code == 3, result.output
    assert "the same command goes on from there" in " ".join(result.output.split())
    server.fake.on_smear = answered_differently
    server.fake.calls.clear()
    return refused


def test_fields_that_failed_for_now_are_tried_again_alone(
    server: FakeServer, pictures: list[Path], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    refused = half_done(server, pictures, kept)
    assert run("analyze", *pictures, "--url", server.url, "--resume", kept).exit_code == 0
    assert set(sent(server)) == refused
    assert not kept.exists()


def test_a_picture_that_changed_is_sent_again(server: FakeServer, pictures: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    refused = half_done(server, pictures, kept)
    pictures[1].write_bytes(b"picture 100 taken again")
    assert run("analyze", *pictures, "--url", server.url, "--resume", kept).exit_code == 0
    assert set(sent(server)) == refused | {b"picture 100 taken again"}


def test_a_file_without_an_image_leaves_the_film_complete(
    server: FakeServer, pictures: list[Path], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    pictures[3].write_bytes(b"")
    server.fake.on_smear = answered_differently
    assert run("analyze", *pictures, "--url", server.url, "--resume", kept).exit_code == 3
    assert not kept.exists()


@pytest.mark.parametrize(
    ("words", "named"), [(["--budget", "2"], "budget"), (["--um-per-pixel", "0.2"], "um_per_pixel")]
)
def test_answers_on_other_terms_are_not_mixed(
    server: FakeServer, pictures: list[Path], tmp_path: Path, words: list[str], named: str
) -> None:
    kept = tmp_path / "kept"
    half_done(server, pictures, kept)
    before = kept.read_bytes()
    result = run("analyze", *pictures, "--url", server.url, "--resume", kept, *words)
    assert result.exit_code == 2
    assert f"begun with another {named}" in " ".join(result.output.replace("│", " ").split())
    assert not sent(server)
    assert kept.read_bytes() == before


def test_other_weights_are_not_mixed(server: FakeServer, pictures: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    half_done(server, pictures, kept)
    head, _, rest = kept.read_bytes().partition(b"\n")
    begun = json.loads(head)
    begun["model"]["weights_sha256"] = "0" * 64
    kept.write_bytes(json.dumps(begun).encode() + b"\n" + rest)
    result = run("analyze", *pictures, "--url", server.url, "--resume", kept)
    assert (result.exit_code, sent(server)) == (2, [])
    assert "another model" in " ".join(result.output.split())


def test_half_a_last_line_costs_that_field_alone(server: FakeServer, pictures: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    refused = half_done(server, pictures, kept)
    torn = lines(kept)[-1]["answer"]["source"]
    kept.write_bytes(kept.read_bytes()[:-20])
    assert run("analyze", *pictures, "--url", server.url, "--resume", kept).exit_code == 0
    assert set(sent(server)) == refused | {Path(torn).read_bytes()}


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_a_crash_at_the_first_line_begins_anew(
    server: FakeServer, pictures: list[Path], tmp_path: Path, cut: int
) -> None:
    kept = tmp_path / "kept"
    half_done(server, pictures, kept)
    kept.write_bytes(kept.read_bytes()[:cut])
    assert run("analyze", *pictures, "--url", server.url, "--resume", kept).exit_code == 0
    assert len(sent(server)) == FIELDS


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"my notes on the film", "not the file of an unfinished film"),
        (b'{"schema_name": "another"}\n', "not the file of an unfinished film"),
    ],
)
def test_another_file_is_not_taken_for_it_and_stays(
    server: FakeServer, pictures: list[Path], tmp_path: Path, content: bytes, says: str
) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(content)
    result = run("analyze", *pictures, "--url", server.url, "--resume", kept)
    assert result.exit_code == 2
    assert says in " ".join(result.output.replace("│", " ").split())
    assert kept.read_bytes() == content
    assert not sent(server)


def test_a_damaged_answer_is_named_by_its_line(server: FakeServer, pictures: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    half_done(server, pictures, kept)
    parts = kept.read_bytes().splitlines(keepends=True)
    parts[2] = b'{"file_sha256": 5}\n'
    kept.write_bytes(b"".join(parts))
    result = run("analyze", *pictures, "--url", server.url, "--resume", kept)
    assert result.exit_code == 2
    assert "damaged in line 3" in " ".join(result.output.split())


def test_one_of_the_pictures_is_no_place_to_keep_answers(
    server: FakeServer, pictures: list[Path], tmp_path: Path
) -> None:
    result = run("analyze", *pictures, "--url", server.url, "--resume", pictures[0])
    assert result.exit_code == 2
    assert pictures[0].read_bytes() == b"picture 0"


def test_a_slide_goes_on_too(server: FakeServer, tmp_path: Path) -> None:
    scale = 0.25
    slide = write_svs(
        tmp_path / "film.svs", cells_on_glass(round(2 * 240 / scale), round(3 * 320 / scale), scale, 0.3), scale
    )
    given = 0

    def every_other(_: Call) -> dict[str, Any]:
        nonlocal given
        given += 1
        if given % 2:
            raise Refuse(grpc.StatusCode.DEADLINE_EXCEEDED, "not now")
        return smear([6])

    server.fake.on_smear = every_other
    kept, out = tmp_path / "kept", tmp_path / "out.json"
    words = ["analyze", slide, "--url", server.url, "--resume", kept, "--json", out]
    first = run(*words)
    already = len(lines(kept)) - 1
    server.fake.calls.clear()
    server.fake.on_smear = lambda _: smear([6])
    result = run(*words)
    assert result.exit_code == 0, first.output + result.output
    assert len(json.loads(out.read_text())["fields"]) == 6
    assert len(sent(server)) == 6 - already
    assert not kept.exists()
