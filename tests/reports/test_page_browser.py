"""The review page in a real browser: clicks, keys, filters, export, accessibility, and nothing asked of a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cytoserve_reports.page import LANGUAGES, PageSettings, StatedGuarantee, review_page
from cytoserve_reports.page.binding import read_analysis
from cytoserve_reports.page.verdicts import check_binding, read_verdicts
from page_samples import recorded, sample, settings, written

SIZES = {"phone": (390, 800), "tablet": (820, 1100), "desk": (1280, 900)}


class Opened:
    """A page in a browser of its own, and what it did that it must not."""

    def __init__(self, browser: Any, path: Path, **chosen: Any) -> None:
        width, height = chosen.pop("size", SIZES["desk"])
        self.context = browser.new_context(viewport={"width": width, "height": height}, **chosen)
        self.tab = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url[:100]))
        self.address = path.as_uri()
        self.tab.goto(self.address)

    def keys(self) -> list[str]:
        """Return the cells shown, in their order."""
        shown = "[...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.dataset.key)"
        return list(self.tab.evaluate(shown))

    def current(self) -> str | None:
        """Return the cell that a verdict would go to."""
        return str(self.tab.evaluate("document.querySelector('.current')?.dataset.key"))

    def check_quiet(self) -> None:
        """See that nothing was asked of a network, and no error occurred."""
        asked = [url for url in self.requests if not url.startswith(("data:", "blob:"))]
        assert asked == [self.address]
        assert self.complaints == []

    def export(self, to: Path) -> Path:
        """Click the button and keep what it offers to download."""
        with self.tab.expect_download() as download:
            self.tab.click("#export")
        assert "/" not in download.value.suggested_filename
        download.value.save_as(to)
        return to


@pytest.fixture
def report(tmp_path: Path) -> Any:
    return sample(tmp_path / "fields")


@pytest.fixture
def page(report: Any, browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """The open page of a made-up sample, with its JSON beside it."""
    written(report, tmp_path / "out.json")
    path = tmp_path / "film.html"
    path.write_text(review_page(report, PageSettings(guarantee=StatedGuarantee(0.01, 0.95, 500))).html)
    opened = Opened(browser, path)
    yield opened
    opened.check_quiet()
    opened.context.close()


def test_the_most_urgent_cell_is_current_and_keys_move(page: Opened) -> None:
    order = page.keys()
    assert order[:3] == ["1-3", "1-2", "0-1"]
    assert page.current() == "1-3"
    page.tab.keyboard.press("n")
    page.tab.keyboard.press("ArrowRight")
    assert page.current() == "0-1"
    page.tab.keyboard.press("p")
    assert page.current() == "1-2"
    page.tab.click("#previous")
    page.tab.click("#previous")
    assert page.current() == "1-3"
    assert page.tab.inner_text("#message") == "This is the first cell shown."


def test_verdicts_by_keys_undo_export_and_the_check_of_the_file(page: Opened, report: Any, tmp_path: Path) -> None:
    press = page.tab.keyboard.press
    press("1")  # no reviewer's code yet: nothing is recorded, the field gets the focus
    assert "reviewer" in page.tab.inner_text("#message")
    page.tab.keyboard.type("ÄB-1")
    press("Tab")
    page.tab.click(".card[data-key='1-3']")
    press("a")  # it has no label to agree with
    assert "no label to agree with" in page.tab.inner_text("#message")
    press("6")  # neutrophil
    press("a")  # 1-2: agrees with monocyte
    press("4")  # 0-1: its own label, lymphocyte, counts as agreeing
    press("0")
    press("2")
    press("u")
    assert page.tab.inner_text("#progress") == "4 of 7 cells have a verdict"
    read = read_verdicts(page.export(tmp_path / "v.json"))
    check_binding(read, *read_analysis(tmp_path / "out.json"))
    assert {one.place: (one.verdict, one.class_) for one in read.verdicts} == {
        (1, 3): ("reclassify", "neutrophil"),
        (1, 2): ("agree", "monocyte"),
        (0, 1): ("agree", "lymphocyte"),
        tuple(map(int, page.keys()[3].split("-"))): ("cannot_tell", None),
    }
    assert read.reviewers == ("ÄB-1",)
    digest = hashlib.sha256((tmp_path / "fields" / "field 1.png").read_bytes()).hexdigest()
    assert {one.field_sha256 for one in read.verdicts if one.field == 1} == {digest}


def test_verdicts_survive_closing_the_page(page: Opened) -> None:
    page.tab.fill("#reviewer", "AB")
    page.tab.press("#reviewer", "Tab")
    page.tab.click("#agree")  # 1-3 has no label
    page.tab.click("#cannot-tell")
    page.requests.clear()
    page.tab.reload()
    assert page.tab.inner_text("#progress") == "1 of 7 cells have a verdict"
    assert page.tab.input_value("#reviewer") == "AB"
    assert "cannot tell (AB," in page.tab.inner_text(".card[data-key='1-3'] .verdict")


def test_starting_anew_asks_and_removes_everything(page: Opened) -> None:
    page.tab.fill("#reviewer", "AB")
    page.tab.click("#cannot-tell")
    page.tab.once("dialog", lambda dialog: dialog.dismiss())
    page.tab.click("#anew")
    assert page.tab.inner_text("#progress") == "1 of 7 cells have a verdict"
    page.tab.once("dialog", lambda dialog: dialog.accept())
    page.tab.click("#anew")
    page.requests.clear()
    page.tab.reload()
    assert page.tab.inner_text("#progress") == "0 of 7 cells have a verdict"
    assert page.tab.input_value("#reviewer") == ""


def test_spoilt_storage_is_passed_over(page: Opened) -> None:
    key = page.tab.evaluate("Object.keys(localStorage).find(k => k.startsWith('cytoserve.verdicts/1:'))")
    for spoilt in ("{", '{"1-3": {"verdict": "agree"}}', '{"9-9": null}', "[]", "null"):
        page.tab.evaluate("([k, v]) => localStorage.setItem(k, v)", [key, spoilt])
        page.requests.clear()
        page.tab.reload()
        assert page.tab.inner_text("#progress") == "0 of 7 cells have a verdict"


def test_without_storage_the_page_works_and_says_that_it_keeps_nothing(
    page: Opened, browser: Any, tmp_path: Path
) -> None:
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }})")
    tab = context.new_page()
    tab.goto(page.address)
    assert "export before you close" in tab.inner_text("#message")
    tab.fill("#reviewer", "AB")
    tab.click("#cannot-tell")
    assert tab.inner_text("#progress") == "1 of 7 cells have a verdict"
    context.close()


def test_filters_sorting_and_the_grid(page: Opened) -> None:
    choose = page.tab.select_option
    choose("#decision", "accept")
    assert set(page.keys()) == {"0-0", "0-2", "1-0", "1-1"}
    choose("#class", "neutrophil")
    assert set(page.keys()) == {"0-0", "1-0"}
    assert page.tab.inner_text("#shown") == "2 of 7 cells shown"
    assert page.current() in {"0-0", "1-0"}
    page.tab.click("#show-all")
    choose("#reason", "ambiguous")
    assert page.keys() == ["0-1"]
    page.tab.click("#show-all")
    choose("#uncertainty", "0.2")
    assert set(page.keys()) == {"1-3", "1-2", "0-1"}
    page.tab.click("#show-all")
    choose("#class", "")  # not scored
    assert page.keys() == ["1-3"]
    choose("#decision", "accept")
    assert page.tab.inner_text("#shown") == "No cell passes the filters."
    page.tab.click("#show-all")
    choose("#sort", "field")
    assert page.keys() == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2", "1-3"]
    choose("#view", "grid")
    assert page.tab.evaluate("document.querySelector('#view').getBoundingClientRect().top") >= 0
    titles = page.tab.locator(".group:not([hidden]) > h3").all_inner_texts()
    assert titles == ["lymphocyte: 2", "monocyte: 2", "neutrophil: 2", "not scored: 1"]
    assert page.keys()[:2] == ["0-1", "1-1"]
    page.tab.click(".card[data-key='1-1']")
    assert page.tab.locator(".card[data-key='1-1'] .odds").is_visible()
    assert not page.tab.locator(".card[data-key='0-1'] .odds").is_visible()
    page.tab.fill("#reviewer", "AB")
    page.tab.click("#cannot-tell")
    choose("#state", "done")
    assert page.keys() == ["1-1"]


def test_fields_zoom_and_their_boxes_switch(page: Opened) -> None:
    width = "document.querySelector('#field-0 .scroll svg').getBoundingClientRect().width"
    before = page.tab.evaluate(width)
    page.tab.click("#field-0 [data-zoom='1.5']")
    assert page.tab.evaluate(width) > 1.4 * before
    page.tab.click("#field-0 [data-zoom='0']")
    assert page.tab.evaluate(width) == before
    assert not page.tab.locator("#field-0 .boxes.red").is_visible()
    page.tab.check("[data-boxes='red']")
    assert page.tab.locator("#field-0 .boxes.red").is_visible()
    page.tab.uncheck("[data-boxes='accept']")
    assert not page.tab.locator("#field-0 .boxes.accept").is_visible()
    page.tab.click("#field-1 rect[data-of='1-2']")
    assert page.current() == "1-2"
    assert page.tab.locator("rect.marked").get_attribute("data-of") == "1-2"


def test_keys_do_nothing_while_a_field_is_filled_in_or_they_are_switched_off(page: Opened) -> None:
    page.tab.focus("#reviewer")
    page.tab.keyboard.type("nn1")
    assert page.tab.input_value("#reviewer") == "nn1"
    assert page.current() == "1-3"
    page.tab.uncheck("#keys")
    page.tab.keyboard.press("n")
    page.tab.keyboard.press("1")
    assert page.current() == "1-3"
    assert page.tab.inner_text("#progress") == "0 of 7 cells have a verdict"


def test_a_blinded_reader_gives_classes_and_the_file_says_so(report: Any, browser: Any, tmp_path: Path) -> None:
    written(report, tmp_path / "out.json")
    path = tmp_path / "blind.html"
    path.write_text(review_page(report, PageSettings(blinded=True)).html)
    opened = Opened(browser, path)
    opened.tab.fill("#reviewer", "CD")
    opened.tab.click(".card >> nth=0")
    for key in ("a", "6", "4", "0"):
        opened.tab.keyboard.press(key)
    read = read_verdicts(opened.export(tmp_path / "second.json"))
    check_binding(read, *read_analysis(tmp_path / "out.json"))
    assert read.blinded
    assert sorted(one.verdict for one in read.verdicts) == ["cannot_tell", "classify", "classify"]
    opened.check_quiet()
    opened.context.close()


def test_a_hostile_sample_runs_no_script_and_can_be_judged(browser: Any, tmp_path: Path) -> None:
    name = (
        '<script>document.title="owned"</script><img src=x onerror=\'document.title="owned"\'>\u202e../../' + "x" * 9000
    )
    report = sample(tmp_path / "fields", sample=name, site=name)
    written(report, tmp_path / "out.json")
    path = tmp_path / "film.html"
    path.write_text(review_page(report).html)
    opened = Opened(browser, path)
    assert opened.tab.title().startswith("Review page: <script>")
    opened.tab.fill("#reviewer", "AB")
    opened.tab.click("#cannot-tell")
    read = read_verdicts(opened.export(tmp_path / "v.json"))
    check_binding(read, *read_analysis(tmp_path / "out.json"))
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= SIZES["desk"][0]
    opened.check_quiet()
    opened.context.close()


def test_the_policy_stops_what_is_not_of_the_page(page: Opened) -> None:
    tried = """() => new Promise(done => {
        document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective), {once: true});
        const script = document.createElement('script');
        script.textContent = 'window.owned = 1';
        document.body.append(script);
    })"""
    assert page.tab.evaluate(tried) == "script-src-elem"
    assert page.tab.evaluate("window.owned") is None
    assert all("Content Security Policy" in one for one in page.complaints)
    page.complaints.clear()


@pytest.mark.parametrize("text", ["", "abc", "ü\u20ac\U0001f9eb" * 40, "x" * 55, "x" * 56, "x" * 64, "y" * 100_000])
def test_the_pages_own_sha256_is_that_of_the_standard(page: Opened, text: str) -> None:
    script = review_page(recorded()[0], settings()).html.split("<script>")[1].split("</script>")[0]
    made = page.tab.evaluate(f"text => {{ {script}; return sha256(text); }}", text)
    assert made == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["open", "grid", "blinded", "unfamiliar", "phone"])
def test_axe_finds_nothing(browser: Any, tmp_path: Path, scheme: str, kind: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    report, digest = recorded()
    if kind == "unfamiliar":
        assert report.familiarity is not None
        report = report.model_copy(update={"familiarity": report.familiarity.model_copy(update={"rejected": True})})
    path = tmp_path / "film.html"
    path.write_text(review_page(report, settings(blinded=kind == "blinded"), digest).html)
    opened = Opened(browser, path, color_scheme=scheme, size=SIZES["phone" if kind == "phone" else "desk"])
    if kind == "grid":
        opened.tab.select_option("#view", "grid")
    opened.tab.fill("#reviewer", "AB")
    opened.tab.click("#cannot-tell")
    found = Axe().run(opened.tab).response["violations"]
    assert [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found] == []
    opened.check_quiet()
    opened.context.close()


def test_the_switch_overrides_the_systems_scheme_and_is_kept(browser: Any, page: Opened) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.tab.evaluate(ground) == "rgb(255, 255, 255)"
    page.tab.select_option("#theme", "dark")
    assert page.tab.evaluate(ground) == "rgb(13, 15, 18)"
    page.requests.clear()
    page.tab.reload()
    assert page.tab.evaluate(ground) == "rgb(13, 15, 18)"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_size_and_no_language_scrolls_sideways(browser: Any, tmp_path: Path, size: str, language: str) -> None:
    report, digest = recorded()
    path = tmp_path / "film.html"
    path.write_text(review_page(report, settings(language, guarantee=StatedGuarantee(0.05, 0.95, 212)), digest).html)
    opened = Opened(browser, path, size=SIZES[size])
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    opened.check_quiet()
    opened.context.close()


def test_on_paper_every_cell_and_the_notices_are_there(page: Opened, tmp_path: Path) -> None:
    page.tab.emulate_media(media="print")
    assert not page.tab.locator("#verdicts").is_visible()
    assert not page.tab.locator("#tools").is_visible()
    assert page.tab.locator(".card").count() == 7
    assert all(card.is_visible() for card in page.tab.locator(".card").all())
    assert page.tab.locator("header .notice").is_visible()
    page.tab.emulate_media(media=None)
    paper = page.tab.pdf(format="A4")
    assert paper.startswith(b"%PDF-")


def test_without_scripts_the_page_can_be_read(browser: Any, tmp_path: Path) -> None:
    report, digest = recorded()
    path = tmp_path / "film.html"
    path.write_text(review_page(report, settings(), digest).html)
    opened = Opened(browser, path, java_script_enabled=False)
    assert opened.tab.locator(".card img").count() == 8
    assert "Scripts are switched off" in opened.tab.inner_text("noscript")
    assert not opened.tab.locator("#verdicts").is_visible()
    opened.context.close()


def test_the_page_data_is_what_the_browser_reads(page: Opened) -> None:
    data = json.loads(
        page.tab.inner_text("#page-data") or page.tab.evaluate("document.getElementById('page-data').textContent")
    )
    assert data["schema"] == "cytoserve.verdicts/1"
    assert len(data["cells"]) == 7
