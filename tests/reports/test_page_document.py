"""What a review page says and what it never holds; how heavy it gets; what hostile names do to it."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cytoserve_client import Failure, SampleFamiliarity, Skipped, SmearAnalysis
from cytoserve_contract.reasons import Reason
from cytoserve_reports import SampleReport, summarise
from cytoserve_reports.page import LANGUAGES, StatedGuarantee, review_page
from cytoserve_reports.page.binding import read_analysis, sha256_of
from cytoserve_reports.page.document import PageSettings, build, most_urgent_first, shown_places
from cytoserve_reports.page.errors import NotAnAnalysis
from cytoserve_reports.page.language import table
from cytoserve_reports.page.pictures import crop_box
from cytoserve_reports.review import review_list
from cytoserve_reports.text import NOTICE, SYNTHETIC
from hypothesis import given
from hypothesis import strategies as st
from made_cells import cell
from page_samples import CLASSES, MODEL, field_of, picture, recorded, sample, scored, settings, written
from PIL import Image

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "../../etc/passwd",
    "a\u202egnp.\u2066exe",
    "x" * 10_000,
    "{{ 7*7 }}{% raw %}",
    "]]></svg></script><!--",
    "'\u2028\x00",
)


class Parsed(html.parser.HTMLParser):
    """The elements, attributes and texts of a page, by the standard library's parser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._open, []).append(data)


def page_data(text: str) -> Any:
    found = re.search(r'id="page-data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def shape(text: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(tag, tuple(sorted(attributes))) for tag, attributes in Parsed(text).elements]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_recorded_demo_in_every_language(language: str) -> None:
    report, digest = recorded()
    page = review_page(report, settings(language, guarantee=StatedGuarantee(0.05, 0.95, 212)), digest)
    texts = table(language)
    assert page.pictures_missing == ()
    assert f'content: "{texts["notice"]} {texts["synthetic"]}"' in page.html  # on every sheet of paper
    for key in ("notice", "synthetic", "differential.small", "familiar.blind_spot"):
        assert texts[key] in page.html.replace("&#39;", "'"), key
    parsed = Parsed(page.html)
    assert sum(tag == "li" and "data-key" in found for tag, found in parsed.elements) == 8
    assert dict(parsed.elements)["html"]["lang"] == language
    assert "5 %" in page.html
    assert "212" in page.html


def test_everything_is_in_the_page_and_the_policy_allows_nothing_else() -> None:
    report, digest = recorded()
    text = review_page(report, settings(), digest).html
    parsed = Parsed(text)
    policy = next(found["content"] for tag, found in parsed.elements if tag == "meta" and "http-equiv" in found) or ""
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    inside = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", text, re.DOTALL)
    made = {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in inside}
    assert made == allowed
    assert len(allowed) == 3
    for _, found in parsed.elements:
        assert not any(name.startswith("on") or name == "style" for name in found), found
        for name in ("src", "href", "action", "data"):
            assert (found.get(name) or "#").startswith(("data:image/webp;base64,", "#")), found


def test_a_picture_is_the_cell_in_the_middle_of_its_surroundings(tmp_path: Path) -> None:
    report = sample(tmp_path / "fields")
    page = build(report, sha256_of(report), PageSettings())
    card = next(one for one in page["cells"] if one["key"] == "0-0")
    data = base64.b64decode(card["picture"].removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(data)) as shown, Image.open(tmp_path / "fields" / "field 0.png") as field:
        assert shown.size == (41, 41)
        expected = field.convert("RGB").crop(crop_box(report.fields[0].cells[0].box, field.size))
        difference = [abs(a - b) for a, b in zip(shown.convert("RGB").tobytes(), expected.tobytes(), strict=True)]
    assert sum(difference) / len(difference) < 12  # the noise that WebP smooths
    assert card["mark"]["percent_x"] == round(100 * 22 / 320)


@given(
    x=st.floats(-5, 320), y=st.floats(-5, 240), width=st.floats(0, 400), height=st.floats(0, 400),
    size=st.tuples(st.integers(1, 320), st.integers(1, 240)),
)  # fmt: skip
def test_a_crop_is_inside_the_picture_and_never_empty(
    x: float, y: float, width: float, height: float, size: tuple[int, int]
) -> None:
    left, upper, right, lower = crop_box((x, y, x + width, y + height), size)
    assert 0 <= left < right <= size[0]
    assert 0 <= upper < lower <= size[1]
    if min(size) >= right - left == lower - upper and x >= 0 and x + width <= size[0]:
        assert left <= x + width / 2 <= right


def test_the_review_list_comes_first_then_accepted_cells_by_uncertainty(tmp_path: Path) -> None:
    report = sample(tmp_path / "fields")
    order = most_urgent_first(report, shown_places(report))
    urgent = [tuple(item) for item in review_list(report.fields)]
    assert order[: len(urgent)] == urgent == [(1, 3), (1, 2), (0, 1)]
    assert len(order) == 7


def test_a_blinded_page_holds_nothing_of_what_the_model_said(tmp_path: Path) -> None:
    report = sample(tmp_path / "fields")
    text = review_page(report, PageSettings("en", blinded=True)).html
    body = text[: text.index("<script>")]  # the scripts are the same in every page
    style = re.search(r"<style>.*?</style>", body, re.DOTALL)
    assert style is not None
    body = body.replace(style.group(), "")
    data = page_data(text)
    assert all(set(one) == {"field", "field_sha256", "cell", "box"} for one in data["cells"].values())
    for words in ("near tie", "near_tie", "anomalous", "data-class", "data-decision", "data-uncertainty", "0.900"):
        assert words not in body, words
    for words in ("accept", "review list", "to review", "Probabilities", "95 % set", "Differential", "field 0.png"):
        assert words not in body, words
    assert table("en")["blinded.notice"] in body
    # the order says nothing, and is the same for every reader
    keys = re.findall(r'data-key="([^"]+)"', body)
    assert keys == re.findall(r'data-key="([^"]+)"', review_page(report, PageSettings("de", blinded=True)).html)
    assert keys != [f"{f}-{i}" for f, i in most_urgent_first(report, shown_places(report))]
    # each class is named once: on its button
    assert {name: body.count(f">{name}<") + body.count(f"> {name}<") for name in CLASSES} == dict.fromkeys(CLASSES, 1)


def test_an_unfamiliar_sample_is_said_first_and_nothing_looks_like_a_result(tmp_path: Path) -> None:
    report = sample(tmp_path / "fields")
    rejected = SampleFamiliarity(
        site="home", cells=7, unfamiliar=2, p_value=1e-9, rejected=True, cause="nucleus_red+", mistake="inverted"
    )
    made = report.model_copy(update={"familiarity": rejected})
    text = review_page(made, PageSettings(guarantee=StatedGuarantee(0.01, 0.95, 800))).html
    first = text.index("UNFAMILIAR SAMPLE")
    assert 'class="first alarm"' in text
    assert first < text.index("<h2")
    assert "not a result" in text
    assert "Percent" not in text
    assert "Risk guarantee in force" not in text
    assert table("en")["guarantee.none"] in text


def test_failures_and_skipped_files_are_named_at_the_top_and_at_the_end(tmp_path: Path) -> None:
    report = sample(
        tmp_path / "fields",
        failures=(Failure(source="broken.png", error="truncated", message="the pixels end early"),),
        skipped=(Skipped("notes.txt", "not_an_image", "no image"), Skipped(".DS_Store", "system_file", "of a system")),
    )
    text = review_page(report).html
    assert 'href="#missing">1 image(s) without an answer' in text
    for words in ("broken.png", "truncated", "the pixels end early", "notes.txt"):
        assert words in text
    assert "DS_Store" not in text


@pytest.mark.parametrize("spoil", ["gone", "smaller", "damaged"])
def test_a_field_that_cannot_be_shown_is_said_and_binds_nothing(tmp_path: Path, spoil: str) -> None:
    report = sample(tmp_path / "fields")
    path = tmp_path / "fields" / "field 1.png"
    if spoil == "gone":
        path.unlink()
    elif spoil == "smaller":
        Image.new("RGB", (10, 10)).save(path)
    else:
        path.write_bytes(path.read_bytes()[:2000])
    page = review_page(report)
    assert len(page.pictures_missing) == 1
    assert "The picture of this field is not in this page" in page.html
    assert page.html.count("no picture") >= 4
    cells = page_data(page.html)["cells"].values()
    assert {one["field_sha256"] is None for one in cells if one["field"] == 0} == {False}
    if spoil != "damaged":
        assert {one["field_sha256"] for one in cells if one["field"] == 1} == {None}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_escaped_and_change_nothing(tmp_path: Path, name: str) -> None:
    usual = sample(
        tmp_path / "fields",
        failures=(Failure(source="a", error="b", message="c"),),
        skipped=(Skipped("d", "e", "f"),),
        site="home",
    )
    changed = {
        "sample": name,
        "site": name,
        "failures": (Failure(source=name, error=name, message=name),),
        "skipped": (Skipped(name, name, name),),
        "model": MODEL.model_copy(update={"name": name, "version": name}),
    }
    hostile = usual.model_copy(update=changed)
    sources = {field.source for field in usual.fields}

    def page(report: SampleReport) -> str:
        read = {field.source: Path(field.source).read_bytes() for field in usual.fields}
        return review_page(report, PageSettings(read=lambda field: read[field.source])).html

    before, after = page(usual), page(hostile)
    assert shape(after) == shape(before)
    assert sources == {field.source for field in hostile.fields}
    assert len(after) < len(before) + 40_000
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\x00]", after)
    data = page_data(after)
    assert set(data) == set(page_data(before))
    if len(name) < 100 and name.isprintable():
        assert data["sample"] == name


def test_hostile_classes_and_reasons_stay_text(tmp_path: Path) -> None:
    name = HOSTILE[1]
    path = tmp_path / "f.png"
    path.write_bytes(picture())
    cells = [scored(name, 0, 0, "review", probability={name: 1.0}, reasons=(name,))]
    made = SmearAnalysis(model=MODEL.model_copy(update={"classes": (name, "b")}), fields=(field_of(path, cells),))
    parsed = Parsed(review_page(summarise(made)).html)
    assert all(found.get("src", "data:").startswith("data:") for tag, found in parsed.elements if tag == "img")
    assert not any("onerror" in found for _, found in parsed.elements)


def test_500_cells_are_under_15_megabytes(tmp_path: Path) -> None:
    """A film as it is read: 100 fields of five white cells, all to review, among 150 red cells."""
    size = (640, 480)
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture(size, number))
    red = tuple(
        cell(
            None, "red_cell", None, box=(40.3 * (i % 15), 45.7 * (i // 15), 40.3 * (i % 15) + 33, 45.7 * (i // 15) + 31)
        )
        for i in range(150)
    )
    reasons = tuple(reason.value for reason in Reason)[:4]
    whites = [scored(CLASSES[i], i, i, "review", reasons=reasons, uncertainty=0.5) for i in range(5)]
    fields = [field_of(tmp_path / f"{number % 4}.png", (*whites, *red), size) for number in range(100)]
    report = summarise(SmearAnalysis(model=MODEL, fields=tuple(fields)))
    assert len(shown_places(report)) == 500
    page = review_page(report)
    assert page.pictures_missing == ()
    assert 4_000_000 < len(page.html.encode()) < 15_000_000


def test_no_cell_at_all_makes_a_page(tmp_path: Path) -> None:
    report = summarise(SmearAnalysis(model=MODEL, fields=(), failures=(Failure(source="a", error="b", message="c"),)))
    text = review_page(report).html
    assert "There is no white cell to show" in text
    assert NOTICE in text
    assert SYNTHETIC not in text


def test_the_hash_of_the_content_is_that_of_the_file_however_it_is_laid_out(tmp_path: Path) -> None:
    report = sample(tmp_path / "fields")
    path = tmp_path / "a.json"
    assert written(report, path) == sha256_of(report)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(document.items())), indent=None))
    assert read_analysis(path) == (report, sha256_of(report))
    document["fields"][0]["cells"][0]["label"] = "basophil"
    path.write_text(json.dumps(document))
    assert read_analysis(path)[1] != sha256_of(report)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[1]", "is no cytoserve.analysis/1"),
        (b'{"schema": "cytoserve.cells/1"}', "is no cytoserve.analysis/1"),
        (b'{"schema": "cytoserve.analyses/1"}', "several samples"),
        (b'{"schema": "cytoserve.analysis/1"}', "is damaged: model"),
        (b'{"schema": "cytoserve.analysis/1", "x": NaN}', "no JSON number"),
    ],
)
def test_what_is_no_analysis_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(NotAnAnalysis, match=words):
        read_analysis(path)


@pytest.mark.parametrize("promise", [None, {}, {"tolerated_error": "x", "confidence": 1, "n": 2}, [1]])
def test_a_guarantee_that_is_not_understood_is_not_stated(promise: Any) -> None:
    assert StatedGuarantee.of(promise) is None
    assert StatedGuarantee.of({"tolerated_error": 0.01, "confidence": 0.95, "n": 800}) == StatedGuarantee(
        0.01, 0.95, 800
    )
