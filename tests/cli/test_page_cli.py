"""``cytoserve analyze --report`` through its own parser, against the fake server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from cytoserve_cli import outputs
from cytoserve_cli.main import app
from cytoserve_reports.page.binding import read_analysis
from fake_server import FakeServer, distant, smear
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "140"}).invoke(app, [str(word) for word in words])


@pytest.fixture
def fields(tmp_path: Path) -> list[Path]:
    made = []
    for number in range(2):
        text = PngImagePlugin.PngInfo()
        text.add_text("Title", str(number))  # no two are the same file, which would count once
        made.append(tmp_path / f"field-{number}.png")
        Image.new("RGB", (640, 480), (230, 220, 225)).save(made[-1], pnginfo=text)
    return made


def test_a_page_is_written_beside_the_json_and_bound_to_it(
    server: FakeServer, fields: list[Path], tmp_path: Path
) -> None:
    server.fake.on_smear = lambda call: smear([6, 6, 4], {1: "near_tie,poor_image"})
    page, out = tmp_path / "new" / "film.html", tmp_path / "out.json"
    done = run("analyze", *fields, "--url", server.url, "--json", out, "--report", page, "--language", "de")
    assert done.exit_code == 0, done.output
    assert "review page: " in done.stderr
    text = page.read_text(encoding="utf-8")
    _, digest = read_analysis(out)
    assert digest in text
    assert 'lang="de"' in text
    # the guarantee as the fake server states it, of the site that decided
    assert "Höchstens 1 % der angenommenen Zellen" in text
    assert "500 Zellen bekannter Klasse des Standorts &#39;home&#39;" in text


def test_the_guarantee_is_that_of_the_site_named(server: FakeServer, fields: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "film.html"
    assert run("analyze", *fields, "--url", server.url, "--report", page, "--site", "north").exit_code == 0
    assert "labelled cells of site &#39;north&#39;" in page.read_text()


def test_a_blinded_page(server: FakeServer, fields: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "film.html"
    assert run("analyze", *fields, "--url", server.url, "--report", page, "--blinded").exit_code == 0
    assert "Blinded reading" in page.read_text()


def test_an_unfamiliar_sample_is_said_in_the_page_and_by_the_exit_code(
    server: FakeServer, fields: list[Path], tmp_path: Path
) -> None:
    server.fake.on_smear = lambda call: distant(smear([6] * 20))
    page = tmp_path / "film.html"
    assert run("analyze", *fields, "--url", server.url, "--report", page).exit_code == 8
    text = page.read_text()
    assert "UNFAMILIAR SAMPLE" in text
    assert "Risk guarantee in force" not in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--report", "{folder}"), "it is a folder"),
        (("--report", "{field}"), "it is one of the inputs"),
        (("--report", "{folder}/a", "--json", "{folder}/a"), "two outputs have this name"),
        (("--report", "{folder}/a.html", "--language", "tlh"), "en, de, fr"),
        (("--report", "{folder}/a.html", "--per-image"), "a review page is of one sample"),
        (("--blinded",), "give --report"),
    ],
)
def test_what_makes_no_page_is_refused_before_the_work(
    server: FakeServer, fields: list[Path], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    given = [word.format(folder=tmp_path, field=fields[0]) for word in words]
    done = run("analyze", *fields, "--url", server.url, *given)
    assert done.exit_code == 2, done.output
    assert told in " ".join(done.output.replace("│", " ").split())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["field-0.png", "field-1.png"]
    assert Image.open(fields[0]).size == (640, 480)


def test_without_the_library_the_extra_is_named_before_the_work(
    server: FakeServer, fields: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("analyze", *fields, "--url", server.url, "--report", tmp_path / "film.html")
    assert done.exit_code == 2
    assert 'pip install "cytoserve[report]"' in " ".join(done.output.split())
    assert server.fake.calls == []


def test_a_full_disk_leaves_the_old_page_and_says_so(
    server: FakeServer, fields: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, out = tmp_path / "film.html", tmp_path / "out.json"
    page.write_text("old")
    write = outputs.write_bytes

    def full(path: Path, data: bytes) -> None:
        if path == page:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(outputs, "write_bytes", full)
    done = run("analyze", *fields, "--url", server.url, "--json", out, "--report", page)
    assert done.exit_code == 1
    assert "cannot write the review page: " in done.stderr
    assert page.read_text() == "old"
    assert json.loads(out.read_text())["schema"] == "cytoserve.analysis/1"


def test_a_field_that_is_gone_before_the_page_is_made(
    server: FakeServer, fields: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "film.html"
    made = outputs.write_json

    def and_remove(*words: object) -> bool:
        fields[1].unlink()
        return made(*words)  # type: ignore[arg-type]

    monkeypatch.setattr("cytoserve_cli.analyze.write_json", and_remove)
    done = run("analyze", *fields, "--url", server.url, "--report", page)
    assert done.exit_code == 3
    assert "a field has no picture in the page" in done.stderr
    assert "is not in this page" in page.read_text()
