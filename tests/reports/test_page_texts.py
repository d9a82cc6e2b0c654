"""The page's texts: the same keys in each language, and in English the sentences of the other reports."""

from __future__ import annotations

import re
import string
import sys
from pathlib import Path

import cytoserve_reports.page as room
import pytest
from cytoserve_client.familiarity import judge_sample
from cytoserve_client.reasons import UNKNOWN
from cytoserve_client.results import MISTAKES, Familiarity, SampleFamiliarity
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES, cause_in_short
from cytoserve_contract.reasons import Reason
from cytoserve_reports.familiar import BLIND_SPOT, first_line
from cytoserve_reports.page import LANGUAGES
from cytoserve_reports.page.document import familiar_sentence
from cytoserve_reports.page.errors import UnknownLanguage
from cytoserve_reports.page.language import PageTexts, table, visible
from cytoserve_reports.text import NOTICE, SYNTHETIC
from page_samples import scored

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLACES = Path(room.__file__).parent


def places_of(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_key_with_the_same_places_and_no_empty_text(language: str) -> None:
    texts, english = table(language), table("en")
    assert texts.keys() == english.keys()
    assert {key: places_of(text) for key, text in texts.items()} == {k: places_of(t) for k, t in english.items()}
    assert [key for key, text in texts.items() if not text.strip()] == []


def test_a_text_was_translated_and_not_copied() -> None:
    """Some words are the same in two languages; whole sentences are not."""
    for language in LANGUAGES[1:]:
        same = [key for key, text in table(language).items() if text == table("en")[key] and " " in text]
        assert set(same) <= {"js.by", "js.group", "differential.per_100"}, (language, same)


def test_every_text_is_used() -> None:
    code = "".join(path.read_text() for path in PLACES.iterdir() if path.suffix in (".py", ".jinja", ".js"))
    families = ("cause.", "class.", "reason.", "mistake.", "familiar.", "decision.", "fields.box_")
    unused = [
        key
        for key in table("en")
        if not key.startswith(families) and not re.search(rf"[\"'`]{re.escape(key.removeprefix('js.'))}[\"'`]", code)
    ]
    # said by the names of verdicts
    assert set(unused) <= {"js.agree", "js.reclassify", "js.classify", "js.cannot_tell"}, unused


def test_an_unknown_language_is_refused_with_the_list() -> None:
    with pytest.raises(UnknownLanguage, match="en, de, fr"):
        PageTexts("tlh")


def test_english_repeats_the_sentences_of_the_other_reports() -> None:
    texts = PageTexts("en")
    assert (texts("notice"), texts("synthetic"), texts("familiar.blind_spot")) == (NOTICE, SYNTHETIC, BLIND_SPOT)
    for reason in Reason:
        assert texts.reason(reason.value) == reason.value.replace("_", " ")
        assert texts.reason_explained(reason.value) == reason.explanation
    assert texts.reason_explained("from_the_future") == UNKNOWN
    causes = [f"{name}{side}" for name in (*IMAGE_STATISTIC_NAMES, "from_the_future") for side in "+-"]
    assert [texts.cause(cause) for cause in causes] == [cause_in_short(cause) for cause in causes]
    assert texts.of_prefix("mistake.") == MISTAKES


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"unfamiliar": 1, "cause": "nucleus_red+"},
        {"rejected": True, "unfamiliar": 3, "cause": "lamp_blue-", "mistake": "inverted"},
        {"rejected": True, "cause": "edges-", "mistake": "of_the_future"},
        {"cells": 2, "unfamiliar": 2, "cause": "noise+"},
    ],
)
def test_the_first_sentence_is_that_of_the_other_reports(changes: dict[str, object]) -> None:
    values = {"site": "north", "cells": 9, "unfamiliar": 0, "p_value": 0.4, "rejected": False, "cause": None}
    familiarity = SampleFamiliarity.model_validate({**values, **changes})
    assert familiar_sentence(familiarity, "north", PageTexts("en")) == first_line(familiarity, [], "north").text
    for language in LANGUAGES[1:]:
        told = familiar_sentence(familiarity, "north", PageTexts(language))
        assert "'north'" in told
        assert "{" not in told


def test_a_sample_that_was_not_compared_says_so() -> None:
    assert judge_sample([], "home") is None
    assert familiar_sentence(None, "home", PageTexts("en")) == first_line(None, [], "home").text


def test_cells_that_are_no_sample_are_told_as_in_the_other_reports() -> None:
    seen = Familiarity(distance=1.0, p_value=0.4, p_value_of_kind=0.4, cells_of_kind=90, cause="edges-")
    cells = [scored("neutrophil", 0, 0, familiarity=seen), scored("monocyte", 1, 0, familiarity=seen)]
    cells.append(cells[0].model_copy(update={"reasons": (Reason.UNFAMILIAR_IMAGE.value,)}))
    told = familiar_sentence(None, "home", PageTexts("en"), cells)
    assert told == first_line(None, cells, "home").text
    assert "3 cell(s), 1 unfamiliar" in told


def test_numbers_have_the_languages_decimal_sign() -> None:
    assert [PageTexts(name).number(1.25, 2) for name in LANGUAGES] == ["1.25", "1,25", "1,25"]
    assert [PageTexts(name).percent(0.015) for name in LANGUAGES] == ["1.5 %", "1,5 %", "1,5 %"]


def test_names_from_outside_are_shown_short_and_without_hidden_marks() -> None:
    assert visible("a\u202egnp.exe") == "a\\u202egnp.exe"
    assert visible("\x1b[31m\n\x00") == "\\u001b[31m\\u000a\\u0000"
    assert visible("\U000e0041") == "\\U000e0041"
    assert visible("ö" * 10_000).endswith("… (10000)")
    assert len(visible("x" * 10_000)) < 140
    assert visible("אב") == "אב"  # letters are shown; the page isolates their direction


def test_what_the_page_needs_is_package_data() -> None:
    """Without it an installed page would have neither template nor texts, and tests from the checkout stay green."""
    configuration = tomllib.loads((PLACES.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    globs = configuration["tool"]["setuptools"]["package-data"]["cytoserve_reports"]
    package = PLACES.parent
    listed = {path for pattern in globs for path in package.glob(pattern)}
    needed = {path for path in PLACES.rglob("*") if path.suffix in (".jinja", ".css", ".js", ".json")}
    assert needed == listed
    assert len(needed) == 5 + len(LANGUAGES)
