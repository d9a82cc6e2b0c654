"""Files of the command line and of the client: which make a sample, what they are called, where results go."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from cytoserve_cli import outputs
from cytoserve_cli.main import app
from cytoserve_client import CellsAnalysis, EncodedImage, OwnOverlay, UnreadableFile
from cytoserve_contract.limits import IMAGE_FORMATS
from cytoserve_files import path_of
from cytoserve_files.pictures import SUFFIXES, begins_as
from cytoserve_files.selection import gather
from cytoserve_reports import SampleReport, summarise
from cytoserve_reports.overlay_names import overlay_names
from fake_server import Call, FakeServer, smear
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

LATIN_1 = os.fsdecode(b"caf\xe9-\xb5m.png")
"""A file name that is no UTF-8: é and µ as one byte each."""


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def shell(server: FakeServer, *words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as the shell does, in a process of its own, so that encodings and pipes are real."""
    code = "from cytoserve_cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, words), "--url", server.url]
    return subprocess.run(
        command, capture_output=True, check=False, timeout=60, env={**os.environ, "COLUMNS": "160", **environment}
    )


def picture(path: Path, level: int = 0, form: str = "PNG", size: tuple[int, int] = (640, 480)) -> Path:
    """Write a picture that differs from those of other levels."""
    Image.new("RGB", size, (230, 220, level)).save(path, form)
    return path


def skipped(path: Path) -> dict[str, str]:
    """Return name to reason of what a document says was passed over."""
    return {Path(item["source"]).name: item["reason"] for item in json.loads(path.read_text())["skipped"]}


# -- which files make a sample -----------------------------------------------------------------------------------------


def test_the_same_picture_under_three_names_counts_once(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    first = picture(tmp_path / "s" / "a.png")
    for name in ("b.png", "c.PNG"):
        (tmp_path / "s" / name).write_bytes(first.read_bytes())
    picture(tmp_path / "s" / "d.png", 1)
    result = run("analyze", tmp_path / "s", "--url", server.url, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert [Path(field["source"]).name for field in json.loads((tmp_path / "out.json").read_text())["fields"]] == [
        "a.png",
        "d.png",
    ]
    assert skipped(tmp_path / "out.json") == {"b.png": "duplicate", "c.PNG": "duplicate"}
    assert "2 file(s) not counted" in result.output
    assert "b.png" in result.output
    assert len(server.fake.calls) == 2


def test_a_file_given_twice_counts_once_in_both_commands(server: FakeServer, tmp_path: Path) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out.json"
    for command in ("analyze", "classify"):
        result = run(command, path, path, tmp_path / "." / "a.png", "--url", server.url, "--json", out)
        assert result.exit_code == 0, result.output
        assert [item["reason"] for item in json.loads(out.read_text())["skipped"]] == ["duplicate"] * 2
    assert [len(call.files) for call in server.fake.calls] == [1, 1]


def test_the_library_counts_equal_contents_once_too(server: FakeServer, open_client: Any, tmp_path: Path) -> None:
    path, array = picture(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8)
    images = [path, path.read_bytes(), array, array.copy(), array + 1, EncodedImage("again", path.read_bytes())]
    result = open_client(server.url).analyze(images)
    assert [field.source for field in result.fields] == [str(path), "array[2]", "array[4]"]
    assert [(item.source, item.reason) for item in result.skipped] == [
        ("bytes[1]", "duplicate"),
        ("array[3]", "duplicate"),
        ("again", "duplicate"),
    ]
    assert str(path) in result.skipped[0].message
    assert (
        sum(row.count for row in summarise(result).differential.values()) == 3 * 4
    )  # three labels and a platelet a field
    # Nothing is added up here: every image of the list gets its answer.
    assert len(open_client(server.url).classify([path, path]).cells) == 2


def test_overlays_in_the_input_folder_are_not_counted_under_any_name(server: FakeServer, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    first = run("analyze", tmp_path, "--url", server.url, "--overlay", tmp_path)
    assert first.exit_code == 0, first.output
    (tmp_path / "a.overlay.png").rename(tmp_path / "holiday.tif")
    second = run("analyze", tmp_path, "--url", server.url, "--overlay", tmp_path, "--json", tmp_path / "out.json")
    assert second.exit_code == 0, second.output
    assert len(json.loads((tmp_path / "out.json").read_text())["fields"]) == 1
    assert skipped(tmp_path / "out.json") == {"holiday.tif": "own_overlay"}
    third = run("classify", tmp_path / "holiday.tif", tmp_path / "a.png", "--url", server.url)
    assert third.exit_code == 0
    assert "own_overlay" in third.output
    assert run("analyze", tmp_path / "holiday.tif", "--url", server.url).exit_code == 2


def test_an_overlay_of_an_earlier_release_is_known_by_its_signature(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "cytoserve")
    text.add_text("Disclaimer", "For research use; not a medical device.")
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png", pnginfo=text)
    other = PngImagePlugin.PngInfo()
    other.add_text("Software", "cytoserve")
    Image.new("RGB", (64, 64)).save(tmp_path / "y.png", pnginfo=other)
    found = gather([tmp_path])
    assert [path.name for path in found.files] == ["y.png"]
    assert [item.reason for item in found.skipped] == ["own_overlay"]


def test_a_single_overlay_is_refused_by_the_library(server: FakeServer, open_client: Any, tmp_path: Path) -> None:
    run("analyze", picture(tmp_path / "a.png"), "--url", server.url, "--overlay", tmp_path)
    with pytest.raises(OwnOverlay, match="give the original"):
        open_client(server.url).analyze(tmp_path / "a.overlay.png")


def test_whatever_is_not_read_is_named_and_the_exit_code_tells_of_images(server: FakeServer, tmp_path: Path) -> None:
    folder, out = tmp_path / "s", tmp_path / "out.json"
    (folder / "more").mkdir(parents=True)
    (folder / "empty").mkdir()
    picture(folder / "a.png")
    picture(folder / "more" / "b.png", 1)
    (folder / "c.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "d.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n")
    (folder / "notes.txt").write_text("BM is no picture here")
    (folder / "unnamed").write_bytes(b"GIF89a")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (folder / name).write_bytes(b"x")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    result = run("analyze", folder, "--url", server.url, "--json", out)
    assert result.exit_code == 3, result.output
    assert skipped(out) == {
        "more": "folder_with_images",
        "empty": "folder",
        "c.HEIC": "unsupported_format",
        "d.jp2": "unsupported_format",
        "unnamed": "unsupported_format",
        "notes.txt": "not_an_image",
        "Thumbs.db": "system_file",
        ".DS_Store": "system_file",
        "desktop.ini": "system_file",
        "pipe.png": "unreadable",
        "pipe": "not_a_file",
    }
    for words in ("8 file(s) not counted, 5 of them may be images", "c.HEIC", "notes.txt", "3 system file(s)"):
        assert words in result.output
    assert "Thumbs.db" not in result.output


def test_files_that_are_clearly_no_images_do_not_change_the_exit_code(server: FakeServer, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("notes")
    result = run("classify", tmp_path, "--url", server.url)
    assert result.exit_code == 0
    assert "notes.txt" in result.output


def test_a_folder_without_a_readable_image_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "c.heic").write_bytes(b"\0\0\0\x18ftypheic")
    result = run("analyze", tmp_path, "--url", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "c.heic" in result.output


def test_an_image_is_read_whatever_its_ending(server: FakeServer, tmp_path: Path) -> None:
    for level, (name, form) in enumerate(
        [("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("c.JPG", "JPEG"), ("d", "PNG"), ("e.img", "TIFF"), ("f.dat", "BMP")]
    ):
        picture(tmp_path / name, 40 * level, form)
    result = run("analyze", tmp_path, "--url", server.url)
    assert result.exit_code == 0, result.output
    assert len(server.fake.calls) == 6


@pytest.mark.parametrize("form", IMAGE_FORMATS)
def test_every_accepted_format_is_known_by_its_beginning(form: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, form)
    assert begins_as(buffer.getvalue()[:64]) == form
    assert any(ending.lstrip(".").upper()[:3] == form[:3] for ending in SUFFIXES)


def test_per_image_documents_tell_it_too(server: FakeServer, tmp_path: Path) -> None:
    path, out = picture(tmp_path / "a.png"), tmp_path / "out.json"
    assert run("analyze", path, path, "--per-image", "--url", server.url, "--json", out).exit_code == 0
    assert skipped(out) == {"a.png": "duplicate"}


def test_documents_of_earlier_releases_are_read(server: FakeServer, tmp_path: Path) -> None:
    for command, kind in (("analyze", SampleReport), ("classify", CellsAnalysis)):
        result = run(command, picture(tmp_path / "a.png"), "--url", server.url, "--json", "-")
        document = json.loads(result.stdout)
        del document["skipped"]
        assert kind.model_validate(document).skipped == ()


# -- names -------------------------------------------------------------------------------------------------------------


def named_wildly(folder: Path) -> list[Path]:
    names = (LATIN_1, "new\nline.png", "[red]x[bold].png", "bell\x07\x1b[31m.png", "Ünïcödé 血.png", r"back\xe9.png")
    return [picture(folder / name, level) for level, name in enumerate(names)]


@pytest.mark.parametrize(
    "environment",
    [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
)
@pytest.mark.parametrize("command", ["analyze", "classify"])
def test_no_name_loses_a_result(server: FakeServer, tmp_path: Path, command: str, environment: dict[str, str]) -> None:
    paths = named_wildly(tmp_path)
    gone = os.fsdecode(b"gone-\xff.png")
    done = shell(server, command, tmp_path, tmp_path / gone, "--json", tmp_path / "out.json", **environment)
    assert done.returncode == 3, done.stderr
    assert b"Traceback" not in done.stderr
    document = json.loads((tmp_path / "out.json").read_bytes().decode("utf-8"))
    answered = {
        os.fsencode(path_of(item["source"])) for item in document["fields" if command == "analyze" else "cells"]
    }
    failed = {os.fsencode(path_of(item["source"])) for item in document["failures"]}
    if environment.get("PYTHONUTF8") != "0":
        assert answered == {os.fsencode(path) for path in paths}
        assert failed == {os.fsencode(tmp_path / gone)}
    assert len(answered) == 6
    assert b"\x1b[31m" not in done.stdout


def test_a_name_is_found_again_under_another_locale(server: FakeServer, tmp_path: Path) -> None:
    path = picture(tmp_path / "Ü.png")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = shell(server, "analyze", path, "--json", tmp_path / "out.json", "--sample", "Nr. \udcfc", **plain)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_bytes().decode("utf-8"))
    assert os.fsencode(path_of(document["fields"][0]["source"])) == os.fsencode(path)
    assert document["sample"] == r"Nr. \xfc"


def test_json_on_standard_output_is_utf_8_in_any_locale(server: FakeServer, tmp_path: Path) -> None:
    paths = named_wildly(tmp_path)
    done = shell(server, "analyze", *paths, "--json", "-", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert len(SampleReport.model_validate_json(done.stdout.decode("utf-8")).fields) == len(paths)


def test_every_name_gets_its_overlay(server: FakeServer, tmp_path: Path) -> None:
    paths = named_wildly(tmp_path)
    result = run("analyze", *paths, "--url", server.url, "--overlay", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(tmp_path / "o")) == sorted(f"{path.stem}.overlay.png" for path in paths)


@given(st.lists(st.sampled_from(["a/f.png", "b/f.png", "c/f-2.png", "d/F.tif", "f-2-2.png", "g.png"]), max_size=8))
def test_no_two_overlays_share_a_name(sources: list[str]) -> None:
    names = [name.casefold() for name in overlay_names(sources, Path("nowhere"))]
    assert len(set(names)) == len(sources)


def test_three_inputs_give_three_overlays(server: FakeServer, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    paths = [picture(tmp_path / name, level) for level, name in enumerate(("a/f.png", "b/f.png", "c/f-2.png"))]
    for _ in range(2):  # the second run draws them again, under the same names
        assert run("analyze", *paths, "--url", server.url, "--overlay", tmp_path / "o").exit_code == 0
        assert len(os.listdir(tmp_path / "o")) == 3


def test_an_overlay_does_not_take_the_place_of_another_file(server: FakeServer, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    kept = picture(tmp_path / "a.overlay.png", 7).read_bytes()
    assert run("analyze", path, "--url", server.url, "--overlay", tmp_path).exit_code == 0
    assert (tmp_path / "a.overlay.png").read_bytes() == kept
    assert (tmp_path / "a-2.overlay.png").exists()


def test_one_overlay_that_fails_does_not_stop_the_others(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [picture(tmp_path / f"{name}.png", level) for level, name in enumerate("abc")]
    real = outputs.write_bytes

    def full(path: Path, data: bytes) -> None:
        if path.name.startswith("a"):
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(outputs, "write_bytes", full)
    result = run("analyze", *paths, "--url", server.url, "--overlay", tmp_path / "o")
    assert result.exit_code == 3, result.output
    assert sorted(os.listdir(tmp_path / "o")) == ["b.overlay.png", "c.overlay.png"]
    assert "No space left" in result.output


# -- where results go --------------------------------------------------------------------------------------------------


def test_json_into_a_device_a_pipe_and_a_link(server: FakeServer, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    sink, link, target = tmp_path / "sink", tmp_path / "link", tmp_path / "else" / "target.json"
    target.parent.mkdir()
    link.symlink_to(target)
    assert run("analyze", path, "--url", server.url, "--json", link).exit_code == 0
    assert link.is_symlink()
    assert len(json.loads(target.read_text())["fields"]) == 1
    try:
        os.mknod(sink, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        sink.open("wb").close()
    except PermissionError:
        pytest.skip("no device nodes may be made here; the link was tested")
    assert run("analyze", path, "--url", server.url, "--json", sink).exit_code == 0
    assert stat.S_ISCHR(sink.stat().st_mode)


def test_json_into_process_substitution(server: FakeServer, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    code = "from cytoserve_cli.main import main; main()"
    line = '"$0" -c "$1" analyze "$2" --url "$3" --json >(cat > "$4.part"; mv "$4.part" "$4")'
    words = [sys.executable, code, path, server.url, tmp_path / "got.json"]
    done = subprocess.run(["bash", "-c", line, *map(str, words)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for _ in range(100):
        if (tmp_path / "got.json").exists():
            break
        time.sleep(0.05)
    assert len(json.loads((tmp_path / "got.json").read_text())["fields"]) == 1


def folder_at(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("command", "option"), [("analyze", "--json"), ("analyze", "--overlay"), ("classify", "--json")]
)
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    server: FakeServer, tmp_path: Path, command: str, option: str
) -> None:
    path = picture(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    made: dict[str, Callable[[], Path]] = {
        "below a file": lambda: tmp_path / "file" / "x" / "out",
        "the wrong kind": lambda: tmp_path if option == "--json" else tmp_path / "file",
    }
    if option == "--json":
        made["an input"] = lambda: path
    before = path.read_bytes()
    for name, make in made.items():
        result = run(command, path, "--url", server.url, option, make())
        assert result.exit_code == 2, (name, result.output)
        assert "cannot write" in result.output, name
    assert not server.fake.calls
    assert path.read_bytes() == before


def test_what_was_found_is_shown_even_if_the_document_cannot_be_written(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "write_bytes", full)
    result = run("analyze", picture(tmp_path / "a.png"), "--url", server.url, "--json", tmp_path / "out.json")
    assert result.exit_code == 1
    assert "Differential" in result.output
    assert "cannot write the result" in result.output


# -- what is no file ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", ["analyze", "classify"])
def test_a_named_pipe_as_an_image_is_refused_at_once(server: FakeServer, tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    good = picture(tmp_path / "a.png")
    result = run(command, tmp_path / "pipe.png", good, "--url", server.url, "--json", tmp_path / "out.json")
    assert result.exit_code == 3, result.output
    (failure,) = json.loads((tmp_path / "out.json").read_text())["failures"]
    assert failure["error"] == "unreadable"
    assert "named pipe" in failure["message"]


@pytest.mark.timeout(60)
def test_process_substitution_as_an_image_is_refused_at_once(server: FakeServer, tmp_path: Path) -> None:
    code = "from cytoserve_cli.main import main; main()"
    words = [sys.executable, code, picture(tmp_path / "a.png"), server.url]
    line = '"$0" -c "$1" analyze <(exec 2>&-; sleep 30; cat "$2") --url "$3"'
    started = time.monotonic()
    done = subprocess.run(["bash", "-c", line, *map(str, words)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 4, done.stderr
    assert b"named pipe" in done.stdout
    assert time.monotonic() - started < 25


@pytest.mark.timeout(60)
def test_the_library_refuses_a_pipe_too(server: FakeServer, open_client: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableFile, match="is a named pipe; save the image"):
        open_client(server.url).analyze(tmp_path / "pipe")


def test_a_picture_that_became_a_pipe_costs_its_overlay_only(server: FakeServer, tmp_path: Path) -> None:
    path, other = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 1)

    def judge(call: Call) -> dict[str, Any]:
        if path.is_file():
            path.unlink()
            os.mkfifo(path)
        return smear([6])

    server.fake.on_smear = judge
    result = run("analyze", path, other, "--url", server.url, "--overlay", tmp_path / "o")
    assert result.exit_code == 3, result.output
    assert "b.overlay.png" in os.listdir(tmp_path / "o")
