"""The films of a folder: what is listed, with which state, and what a damaged or hostile file does to it."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
from cytoserve_reports.page import PageSettings
from cytoserve_reports.page.language import LANGUAGES, PageTexts
from cytoserve_reports.page.shelf import Reading, Shelf
from page_samples import exported, sample, written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two films, one with the verdicts of two readers, and a file that is neither."""
    shelf = tmp_path / "films"
    shelf.mkdir()
    first = sample(tmp_path / "one")
    digest = written(first, shelf / "a.json")
    written(sample(tmp_path / "two", sample=None), shelf / "b.json")
    for reviewer, cells in (("AB", {(0, 0): ("agree", "neutrophil")}), ("CD", {(0, 0): ("cannot_tell", None)})):
        document = exported(first, digest, cells, reviewer)
        (shelf / f"verdicts-{reviewer}.json").write_text(json.dumps(document))
    (shelf / "other.json").write_text('{"schema": "something/1"}')
    return shelf


def test_the_films_with_their_state(folder: Path) -> None:
    first, second = Shelf(folder, PageSettings()).films()
    assert (first.name, first.white, first.review, first.failures) == ("S-1", 6, 3, 0)
    assert first.readers == (Reading("AB", 1, 7, False), Reading("CD", 1, 7, False))
    assert (second.name, second.readers) == ("b", ())
    assert first.key != second.key


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_list_speaks_the_language_of_the_pages(folder: Path, language: str) -> None:
    page, texts = html.unescape(Shelf(folder, PageSettings(language)).index()), PageTexts(language)
    assert f'<html lang="{language}">' in page
    for key in (
        "notice",
        "films.film",
        "films.state",
        "films.white",
        "films.review",
        "films.failures",
        "films.readers",
    ):
        assert texts(key) in page, key
    assert texts("films.reader", who="AB", judged=1, cells=7) in page
    assert texts("familiar.not_compared", site="home") in page


def test_each_has_its_page_and_no_other_key_has_one(folder: Path) -> None:
    shelf = Shelf(folder, PageSettings())
    first, second = shelf.films()
    for one, pictures in ((first, 7), (second, 7)):
        page = shelf.page(one.key)
        assert page is not None
        assert page.count("data:image/webp") >= pictures
    assert shelf.page("0" * 16) is None
    assert shelf.page("") is None


def test_a_damaged_analysis_is_named_and_the_others_are_there(folder: Path) -> None:
    (folder / "a.json").write_text((folder / "a.json").read_text()[:-200])
    damaged, whole = Shelf(folder, PageSettings()).films()
    assert (damaged.name, damaged.key, damaged.alarming) == ("a.json", "", True)
    assert "export or write it again" in damaged.familiar
    assert whole.key


def test_verdicts_that_were_edited_or_are_of_another_film_count_for_nobody(folder: Path) -> None:
    document: dict[str, Any] = json.loads((folder / "verdicts-AB.json").read_text())
    document["verdicts"][0]["class"] = "monocyte"
    (folder / "verdicts-AB.json").write_text(json.dumps(document))
    assert Shelf(folder, PageSettings()).films()[0].readers == (Reading("CD", 1, 7, False),)


def test_what_changes_in_the_folder_is_seen(folder: Path, tmp_path: Path) -> None:
    shelf = Shelf(folder, PageSettings())
    assert len(shelf.films()) == 2
    written(sample(tmp_path / "three", sample="S-3"), folder / "c.json")
    (folder / "b.json").unlink()
    assert [one.name for one in shelf.films()] == ["S-1", "S-3"]


def test_a_hostile_name_is_text(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    name = "<script>alert(1)</script>\u202egnp"
    written(sample(tmp_path / "one", sample=name), films / "a.json")
    page = Shelf(films, PageSettings()).index()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page


def test_an_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    assert "analyze" in Shelf(tmp_path, PageSettings()).index()


def test_the_list_in_a_browser(browser: Any, folder: Path, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    (folder / "d.json").write_text('{"schema": "cytoserve.analysis/1"')
    file = tmp_path / "index.html"
    file.write_text(Shelf(folder, PageSettings()).index())
    context = browser.new_context()
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.goto(file.as_uri())
    assert tab.locator("tbody tr").count() == 3
    assert tab.locator("tbody a").count() == 2
    assert Axe().run(tab).response["violations"] == []
    assert complaints == []
    context.close()
