"""The audit file: what a line holds, what the chain shows, and what it cannot show."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path

import pytest
from cytoserve_client import ServiceInfo
from cytoserve_files import NotWritable
from cytoserve_reports import audit
from format_samples import usual

SERVICE = ServiceInfo.model_validate(
    {
        "name": "reference",
        "version": "1",
        "classes": ["lymphocyte"],
        "weights_sha256": "ab" * 32,
        "sites": [{"site": "home", "content_sha256": "cd" * 32}],
    }
)


def a_call(asked_by: str = "a.b") -> audit.AuditedCall:
    return audit.call_of([usual().report], SERVICE, ("ef" * 32, None), asked_by, 0)


def write(path: Path, lines: int) -> list[audit.AuditLine]:
    return [audit.append(path, a_call()) for _ in range(lines)]


def test_a_line_says_who_asked_what_of_which_model_and_what_came_of_it(tmp_path: Path) -> None:
    line = audit.append(tmp_path / "new" / "audit.jsonl", a_call())
    told = json.loads((tmp_path / "new" / "audit.jsonl").read_text())
    one = usual().report
    decisions = [cell.decision for field in one.fields for cell in field.cells]
    assert told["schema"] == "cytoserve.audit/1"
    assert told["asked_by"] == "a.b"
    assert told["calibration_sha256"] == "cd" * 32
    assert told["inputs"] == ["ef" * 32, None]
    assert sum(told["cells"].values()) == len(decisions)
    assert told["cells"].get("accept", 0) == decisions.count("accept")
    assert told["previous"] is None
    assert line.sha256 == told["sha256"]
    for field in one.fields:
        assert field.source not in json.dumps(told), "file names may carry a patient's name"


def test_the_hash_of_a_line_can_be_made_by_anybody(tmp_path: Path) -> None:
    """As the documentation tells it, without our code."""
    write(tmp_path / "a", 1)
    document = json.loads((tmp_path / "a").read_bytes())
    told = document.pop("sha256")
    plain = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(plain.encode()).hexdigest() == told


def test_a_chain_that_holds(tmp_path: Path) -> None:
    lines = write(tmp_path / "a", 3)
    found = audit.verify(tmp_path / "a")
    assert (found.lines, found.head) == (3, lines[-1].sha256)
    assert audit.verify(tmp_path / "a", lines[1].sha256).lines == 3
    assert [line.number for line in lines] == [1, 2, 3]


def changed(text: list[str]) -> list[str]:
    return [text[0], text[1].replace('"a.b"', '"b.a"'), *text[2:]]


def renumbered(text: list[str]) -> list[str]:
    """Take a line out and write the numbers and own hashes after it anew, as somebody who knows the format would."""
    out = [text[0]]
    for number, raw in enumerate(text[2:], 2):
        document = json.loads(raw)
        document.pop("sha256")
        document["number"] = number
        plain = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        out.append(json.dumps({**document, "sha256": hashlib.sha256(plain.encode()).hexdigest()}) + "\n")
    return out


@pytest.mark.parametrize(
    ("spoil", "line", "told"),
    [
        (changed, 2, "was changed after it was written"),
        (lambda text: [text[0], *text[2:]], 2, "does not follow"),
        (renumbered, 2, "does not follow"),
        (lambda text: [text[0], text[0], *text[1:]], 2, "does not follow"),
        (lambda text: [text[1], text[0], *text[2:]], 1, "does not follow"),
        (lambda text: text[1:], 1, "does not follow"),
        (lambda text: [*text[:2], text[2][:40]], 3, "not written whole"),
        (lambda text: [text[0], "\n", *text[1:]], 2, "no cytoserve.audit/1 line"),
    ],
)
def test_what_was_done_to_a_file_is_found_at_its_line(tmp_path: Path, spoil, line: int, told: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a"
    write(path, 4)
    path.write_text("".join(spoil(path.read_text().splitlines(keepends=True))))
    with pytest.raises(audit.BrokenChain, match=f"line {line}.*{told}"):
        audit.verify(path)


def test_lines_cut_off_are_found_by_a_head_kept_elsewhere_and_by_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    kept = write(path, 3)[-1].sha256
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert audit.verify(path).lines == 2
    with pytest.raises(audit.BrokenChain, match="cut off, or the file was written anew"):
        audit.verify(path, kept)


@pytest.mark.parametrize(
    "content", [b"notes of mine\n", b'{"schema": "cytoserve.analysis/1"}\n', b"\xff\xfe\n", b"[]\n"]
)
def test_a_file_of_something_else_is_not_appended_to(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    for refused in (audit.check_appendable, lambda path: audit.append(path, a_call()), audit.verify):
        with pytest.raises(audit.NotAnAuditFile, match="give a file that --audit made"):
            refused(path)
    assert path.read_bytes() == content


def test_nothing_is_appended_after_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, 2)
    path.write_bytes(path.read_bytes()[:-30])
    before = path.read_bytes()
    with pytest.raises(NotWritable, match="its last line is not whole"):
        audit.append(path, a_call())
    assert path.read_bytes() == before


def test_a_line_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    call = a_call().model_copy(update={"inputs": ("0" * 64,) * 2000})
    for _ in range(3):
        audit.append(path, call)
    assert audit.verify(path).lines == 3


def _many(path: Path) -> None:
    write(path, 20)


def test_several_processes_append_to_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "a"
    workers = [multiprocessing.get_context("fork").Process(target=_many, args=(path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert audit.verify(path).lines == 80


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "a\u202eb"])
def test_a_name_that_no_line_can_hold(name: str) -> None:
    with pytest.raises(audit.InvalidAsker, match="1 to 100 printable"):
        audit.check_asker(name)


def test_nothing_is_said_to_be_kept_by_what_keeps_nothing() -> None:
    with pytest.raises(NotWritable, match="it is no file"):
        audit.append(Path("/dev/null"), a_call())


def test_a_file_that_cannot_be_read_has_no_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert audit.input_hashes([tmp_path / "a", tmp_path / "gone"]) == (hashlib.sha256(b"abc").hexdigest(), None)
