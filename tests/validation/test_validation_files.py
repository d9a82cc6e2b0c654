"""Files of ``calibrate`` and ``validate``: which cells count, odd names, what is no file, where results go."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cytoserve_cli.main import app
from cytoserve_files import path_of
from cytoserve_files.pictures import OVERLAY_KEY
from fake_server import FakeServer
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

Make = Callable[..., Path]
LATIN_1 = os.fsdecode(b"caf\xe9.png")


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def validate(folder: Path, server: FakeServer, report: Path, *words: object) -> tuple[Result, dict[str, Any]]:
    result = run("validate", folder, "--report", report, "--url", server.url, *words)
    path = report / "validation.json"
    return result, json.loads(path.read_bytes().decode("utf-8")) if path.exists() else {}


def calibrate(folder: Path, server: FakeServer, to: Path) -> Result:
    return run("calibrate", folder, "--site", "s", "--to", to, "--url", server.url)


# -- which cells count -------------------------------------------------------------------------------------------------


def test_a_repeated_image_counts_once_and_is_named(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder({"monocyte": 4, "neutrophil": 4})
    shutil.copy(folder / "monocyte" / "monocyte_000.png", folder / "monocyte" / "zz.PNG")
    result, document = validate(folder, server, tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert document["data"]["images"] == 8
    assert document["data"]["per_class"]["monocyte"] == 4
    assert any("monocyte/zz.PNG" in note and "counts once" in note for note in document["notes"])
    assert "monocyte/zz.PNG" in (tmp_path / "r" / "validation.html").read_text()
    assert "zz.PNG" in result.output


def test_a_repeated_image_keeps_its_row_in_the_table_of_groups(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    folder, table = make_folder({"monocyte": 3}), tmp_path / "groups.csv"
    shutil.copy(folder / "monocyte" / "monocyte_000.png", folder / "monocyte" / "copy.png")
    rows = [f"{path.name},g" for path in (folder / "monocyte").iterdir()]
    table.write_text("file,group\n" + "\n".join(rows) + "\n")
    result, document = validate(folder, server, tmp_path / "r", "--groups", table)
    assert result.exit_code == 0, result.output
    assert document["data"]["images"] == 3


def test_one_image_in_two_classes_is_refused(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder({"monocyte": 2, "neutrophil": 2})
    shutil.copy(folder / "monocyte" / "monocyte_000.png", folder / "neutrophil" / "n.png")
    result, document = validate(folder, server, tmp_path / "r")
    assert result.exit_code == 2
    assert "[RepeatedImage]" in result.output
    assert not document
    assert not server.fake.calls


def test_what_looks_like_an_image_and_is_not_read_shows_in_the_exit_code(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    folder = make_folder({"monocyte": 45})
    (folder / "monocyte" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "monocyte" / "Thumbs.db").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    result, document = validate(folder, server, tmp_path / "r")
    assert result.exit_code == 3, result.output
    (note,) = [note for note in document["notes"] if "left out" in note]
    assert "monocyte/a.heic" in note
    assert "notes.txt" in note
    assert "Thumbs.db" not in note
    assert calibrate(folder, server, tmp_path / "s.json").exit_code == 3
    (folder / "monocyte" / "a.heic").unlink()
    assert validate(folder, server, tmp_path / "r2")[0].exit_code == 0


def test_endings_and_overlays_are_judged_as_by_the_other_commands(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    folder = make_folder({"monocyte": 3})
    field = folder / "monocyte" / "monocyte_000.png"
    field.rename(field.with_suffix(".jfif"))
    mark = PngImagePlugin.PngInfo()
    mark.add_text(OVERLAY_KEY, "1")
    Image.new("RGB", (64, 64)).save(folder / "monocyte" / "drawn.png", pnginfo=mark)
    result, document = validate(folder, server, tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert document["data"]["images"] == 3
    assert "own_overlay" in result.output


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_of_any_bytes_go_through_report_page_table_and_calibration(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    folder, table = make_folder({"monocyte": 45}), tmp_path / "groups.csv"
    odd = {0: LATIN_1, 1: "new\nline.png", 2: "<b>[red].png"}
    for i, name in odd.items():
        (folder / "monocyte" / f"monocyte_{i:03d}.png").rename(folder / "monocyte" / name)
    (folder / "monocyte" / os.fsdecode(b"empty-\xff.png")).write_bytes(b"")
    names = [r"caf\xe9.png", "new\nline.png", "<b>[red].png", r"empty-\xff.png"]
    names += [f"monocyte_{i:03d}.png" for i in range(3, 45)]
    with table.open("w", newline="") as out:
        csv.writer(out).writerows([("file", "group"), *((name, "g") for name in names)])
    result, document = validate(folder, server, tmp_path / "r", "--groups", table)
    assert result.exit_code == 3, (result.output, result.exception)
    assert document["overall"]["headline"]["accuracy"]["value"] == 1
    (failed,) = document["data"]["failed"]
    assert os.fsencode(path_of(failed["file"])) == b"monocyte/empty-\xff.png"
    page = (tmp_path / "r" / "validation.html").read_bytes().decode("utf-8")
    assert r"empty-\xff.png" in page
    assert "<b>[red]" not in page
    made = calibrate(folder, server, tmp_path / "site.json")
    assert made.exit_code == 3, (made.output, made.exception)
    assert json.loads((tmp_path / "site.json").read_bytes().decode("utf-8"))["cells"]["failed"][0]["file"] == (
        r"monocyte/empty-\xff.png"
    )


def test_a_folder_of_any_bytes_can_be_validated(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder({"monocyte": 2})
    odd = folder.rename(folder.with_name(os.fsdecode(b"\xfcber")))
    result, document = validate(odd, server, tmp_path / "r")
    assert result.exit_code == 0, (result.output, result.exception)
    assert document["data"]["name"] == r"\xfcber"


# -- what is no file ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_a_pipe_among_the_cells_costs_the_others_nothing(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder({"monocyte": 3})
    os.mkfifo(folder / "monocyte" / "pipe.png")
    result, document = validate(folder, server, tmp_path / "r")
    assert result.exit_code == 3, result.output
    assert document["data"]["images"] == 3
    assert "pipe.png" in result.output


@pytest.mark.timeout(60)
def test_a_pipe_as_the_table_is_refused_at_once(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "groups.csv")
    result, _ = validate(make_folder({"monocyte": 1}), server, tmp_path / "r", "--groups", tmp_path / "groups.csv")
    assert result.exit_code == 2
    assert "named pipe" in result.output
    assert "[BadGroups]" in result.output


# -- where results go --------------------------------------------------------------------------------------------------


def test_a_target_that_cannot_be_written_is_told_before_the_work(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    folder = make_folder({"monocyte": 1})
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "below a file": (calibrate(folder, server, tmp_path / "file" / "site.json"), "BadTarget"),
        "report below a file": (validate(folder, server, tmp_path / "file" / "r")[0], "BadTarget"),
        "dangling link": (calibrate(folder, server, tmp_path / "link"), "AlreadyThere"),
        "pipe": (calibrate(folder, server, tmp_path / "pipe"), "AlreadyThere"),
        "folder": (calibrate(folder, server, tmp_path), "AlreadyThere"),
    }
    for name, (result, word) in cases.items():
        assert result.exit_code == 2, (name, result.output)
        assert f"[{word}]" in result.output, name
    assert not server.fake.calls
    assert (tmp_path / "file").read_text() == "in the way"
    assert (tmp_path / "pipe").is_fifo()
