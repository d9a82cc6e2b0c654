"""``cytoserve analyze`` on whole slides, and on films that are read until enough cells are found."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from cytoserve_cli.film import stored_picture
from cytoserve_cli.main import app
from cytoserve_client import FieldStream, Streamed
from cytoserve_reports.page.binding import read_analysis
from fake_server import Call, FakeServer, smear
from page_samples import exported, resigned
from PIL import Image
from slide_files import cells_on_glass, write_dicom, write_svs
from typer.testing import CliRunner

SCALE = 0.25


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve regions, all of them a monolayer."""
    pixels = cells_on_glass(round(3 * 240 / SCALE), round(4 * 320 / SCALE), SCALE, 0.3)
    return write_svs(tmp_path_factory.mktemp("slides") / "film.svs", pixels, SCALE)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"p{i}.png" for i in range(9)]
    for i, path in enumerate(paths):
        path.write_bytes(b"picture %d" % i)
    return paths


def regions_in(report: dict[str, Any]) -> int:
    """Return how many regions the skipped parts of a report speak of."""
    return sum(int(item["message"].split()[0]) for item in report["skipped"])


def in_the_core(server: FakeServer) -> None:
    """Let every field have two neutrophils and a platelet in the middle of it."""

    def judge(call: Call) -> dict[str, Any]:
        answer = smear([6, 6, 7], red=1, platelets=0)
        answer["FIELD_SIZE"][:] = Image.open(io.BytesIO(call.files[0])).size
        answer["BOX"] = answer["BOX"] + np.float32(400)
        return answer

    server.fake.on_smear = judge


def test_a_slide_is_read_until_enough_white_cells_are_found(server: FakeServer, slide: Path, tmp_path: Path) -> None:
    in_the_core(server)
    out = tmp_path / "out.json"
    result = run("analyze", slide, "--cells", 6, "--url", server.url, "--json", out, "--sample", "S1")
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    white = report["differential"]["neutrophil"]["count"]
    assert white >= 6
    assert len(report["fields"]) == white / 2 < 12
    assert {field["region"]["slide"] for field in report["fields"]} == {str(slide)}
    assert {item["reason"] for item in report["skipped"]} == {"enough_cells"}
    assert len(report["fields"]) + regions_in(report) == 12, (
        "each region is answered or counted, also what was under way"
    )
    assert "regions were not looked at: enough cells had been found" in " ".join(result.output.split())
    assert {call.um_per_pixel[0] for call in server.fake.calls} == {SCALE}


def test_a_slide_with_too_few_cells_is_read_to_its_end(server: FakeServer, slide: Path, tmp_path: Path) -> None:
    in_the_core(server)
    out = tmp_path / "out.json"
    assert run("analyze", slide, "--url", server.url, "--json", out).exit_code == 0
    report = json.loads(out.read_text())
    assert (len(report["fields"]), report["skipped"]) == (12, [])


def test_page_overlay_and_geojson_of_a_slide(server: FakeServer, slide: Path, tmp_path: Path) -> None:
    in_the_core(server)
    words = ("--report", tmp_path / "page.html", "--overlay", tmp_path / "drawn", "--geojson", tmp_path / "qupath")
    result = run("analyze", slide, "--cells", 8, "--url", server.url, *words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page.html").read_text().count("data:image/webp") >= 2
    assert len(list((tmp_path / "drawn").iterdir())) >= 2
    (file,) = (tmp_path / "qupath").iterdir()
    assert file.name == "film.geojson"
    found = json.loads(file.read_text())
    assert found["cytoserve"]["source"] == str(slide)
    corners = {tuple(feature["geometry"]["coordinates"][0][0]) for feature in found["features"]}
    assert max(x for x, _ in corners) > 1424, "places in the slide, not in a field"


def test_verdicts_on_a_slide_become_labelled_cells(server: FakeServer, slide: Path, tmp_path: Path) -> None:
    in_the_core(server)
    out = tmp_path / "out.json"
    assert run("analyze", slide, "--cells", 4, "--url", server.url, "--json", out).exit_code == 0
    report, digest = read_analysis(out)
    document = exported(report, digest, {(0, 1): ("agree", "neutrophil")}, read=stored_picture)
    (tmp_path / "verdicts.json").write_text(json.dumps(document))
    words = ("verdicts", "folder", tmp_path / "verdicts.json", "--analysis", out, "--to")
    result = run(*words, tmp_path / "cells")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "cells" / "neutrophil").iterdir())) == 1
    again = tmp_path / "again.html"
    assert run("verdicts", "page", out, "--report", again).exit_code == 0
    document["verdicts"][0]["field_sha256"] = "0" * 64
    (tmp_path / "verdicts.json").write_text(json.dumps(resigned(document)))
    refused = run(*words, tmp_path / "more")
    assert refused.exit_code == 2
    assert "is not as it was" in " ".join(refused.output.split())


def test_a_film_of_files_stops_too(server: FakeServer, pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = run("analyze", *pictures, "--cells", 4, "--url", server.url, "--json", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    reasons = [item["reason"] for item in report["skipped"]]
    assert 2 <= len(report["fields"]) < 9
    assert set(reasons) == {"enough_cells"}
    named = [*(item["source"] for item in report["skipped"]), *(field["source"] for field in report["fields"])]
    assert sorted(named) == sorted(map(str, pictures)), "each is answered or named, once, also what was under way"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cells", 0], "--cells"),
        (["--per-image"], "--per-image"),
        (["--per-image", "--cells", 3], "--per-image"),
    ],
)
def test_what_cannot_be_is_said_before_a_server_is_started(slide: Path, words: list[object], says: str) -> None:
    result = run("analyze", slide, *words)
    assert result.exit_code == 2
    assert says in result.output


def test_the_files_of_one_dicom_slide_are_one_slide(tmp_path: Path) -> None:
    file = write_dicom(tmp_path, cells_on_glass(600, 800, SCALE), SCALE)
    result = run("analyze", file, tmp_path / "level1.dcm", "--url", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "are the same slide" in " ".join(result.output.replace("│", " ").split())


def test_slides_and_fields_are_not_one_sample(slide: Path, pictures: list[Path]) -> None:
    result = run("analyze", slide, pictures[0])
    assert result.exit_code == 2
    assert "either slides or fields" in " ".join(result.output.replace("│", " ").split())


def test_a_wrong_scale_in_the_file_is_doubted(server: FakeServer, slide: Path) -> None:
    def judge(_: Call) -> dict[str, Any]:
        answer = smear([6])
        answer["SCALE"][:] = (SCALE, 14.2)
        return answer

    server.fake.on_smear = judge
    result = run("analyze", slide, "--cells", 1, "--url", server.url)
    assert "The scale is doubtful" in result.output
    assert "14.2 um" in result.output


def test_an_interrupted_film_is_reported_as_far_as_it_was_read(
    server: FakeServer, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_core(server)
    answers = FieldStream.__next__
    given = 0

    def interrupted(stream: FieldStream) -> Streamed:
        nonlocal given
        given += 1
        if given > 3:
            raise KeyboardInterrupt
        return answers(stream)

    monkeypatch.setattr(FieldStream, "__next__", interrupted)
    out = tmp_path / "out.json"
    result = run("analyze", slide, "--url", server.url, "--json", out)
    report = json.loads(out.read_text())
    assert result.exit_code == 130
    assert len(report["fields"]) == 3
    assert report["differential"]["neutrophil"]["count"] == 6
    assert {item["reason"] for item in report["skipped"]} == {"interrupted"}
    assert 3 + regions_in(report) == 12


def test_a_damaged_slide_is_named(tmp_path: Path) -> None:
    cut = tmp_path / "cut.svs"
    cut.write_bytes(b"II*\0" + bytes(100))
    result = run("analyze", cut, "--url", "127.0.0.1:1")
    assert result.exit_code in (2, 5)
    assert "cut.svs" in result.output or result.exit_code == 5
