"""``--audit`` and ``cytoserve audit verify`` through their own parsers, against the fake server."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import Result
from cytoserve_cli.main import app
from fake_server import FakeServer, distant, smear
from PIL import Image
from typer.testing import CliRunner


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "140"}).invoke(app, [str(word) for word in words])


@pytest.fixture
def field(tmp_path: Path) -> Path:
    path = tmp_path / "Doe, Jane.png"
    Image.new("RGB", (640, 480), (230, 220, 225)).save(path)
    return path


def test_each_call_is_a_line_and_the_chain_is_checked(server: FakeServer, field: Path, tmp_path: Path) -> None:
    server.fake.on_smear = lambda call: smear([6, 6, 4], {1: "near_tie"})
    log = tmp_path / "log" / "audit.jsonl"
    done = run("analyze", field, "--url", server.url, "--audit", log, "--asked-by", "lis-7", "--site", "north")
    assert done.exit_code == 0, done.output
    assert run("classify", field, "--url", server.url, "--audit", log).exit_code == 0
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert (first["command"], first["asked_by"], first["site"]) == ("analyze", "lis-7", "north")
    assert first["inputs"] == [hashlib.sha256(field.read_bytes()).hexdigest()]
    assert first["cells"]["review"] == 1
    assert second["previous"] == first["sha256"]
    assert "Doe" not in log.read_text()
    told = run("audit", "verify", log)
    assert told.exit_code == 0
    assert f"head: {second['sha256']}" in told.stdout
    log.write_text(log.read_text().replace("lis-7", "lis-8"))
    broken = run("audit", "verify", log)
    assert broken.exit_code == 1
    assert "line 1 was changed after it was written" in broken.stderr


def test_an_unfamiliar_sample_is_logged_as_one(server: FakeServer, field: Path, tmp_path: Path) -> None:
    server.fake.on_smear = lambda call: distant(smear([6] * 20))
    log = tmp_path / "audit.jsonl"
    assert run("analyze", field, "--url", server.url, "--audit", log).exit_code == 8
    line = json.loads(log.read_text())
    assert (line["samples"], line["unfamiliar_samples"], line["cells"].get("accept", 0)) == (1, 1, 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--audit", "{folder}"), "it is a folder"),
        (("--audit", "/dev/null"), "it is no file"),
        (("--audit", "-"), "it is no file"),
        (("--audit", "{field}"), "it is one of the inputs"),
        (("--audit", "{folder}/a", "--json", "{folder}/a"), "two outputs have this name"),
        (("--audit", "{folder}/other.txt"), "give a file that --audit made"),
        (("--audit", "{folder}/a", "--asked-by", ""), "1 to 100 printable"),
        (("--asked-by", "me"), "give --audit FILE too"),
    ],
)
def test_what_could_not_be_logged_is_refused_before_the_work(
    server: FakeServer, field: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    (tmp_path / "other.txt").write_text("notes of mine\n")
    filled = [word.format(folder=tmp_path, field=field) for word in words]
    done = run("analyze", field, "--url", server.url, *filled)
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())
    assert server.fake.calls == []


def test_a_line_that_cannot_be_written_is_said_and_the_result_is_still_there(
    server: FakeServer, field: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, line: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cytoserve_reports.audit.append_line", full)
    out = tmp_path / "out.json"
    done = run("analyze", field, "--url", server.url, "--audit", tmp_path / "a", "--json", out)
    assert done.exit_code == 1
    assert "cannot write the audit line" in done.stderr
    assert json.loads(out.read_text())["schema"] == "cytoserve.analysis/1"


def test_no_audit_file_to_verify(tmp_path: Path) -> None:
    assert run("audit", "verify", tmp_path / "gone").exit_code == 2
