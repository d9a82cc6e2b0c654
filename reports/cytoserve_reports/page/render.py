"""The page as one HTML file that needs nothing from outside: template, style and scripts, allowed by their hashes."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

from cytoserve_reports.page.binding import sha256_of
from cytoserve_reports.page.document import PageSettings, build
from cytoserve_reports.page.language import PageTexts
from cytoserve_reports.sample import SampleReport

if TYPE_CHECKING:
    from jinja2 import Template

SCRIPTS: Final = ("sha256.js", "page.js")
STYLE: Final = "page.css"


class ReviewPage(NamedTuple):
    """A page and what a caller should say about it."""

    html: str
    pictures_missing: tuple[str, ...]
    """Why fields are shown without their picture, one sentence each."""


def review_page(
    report: SampleReport, settings: PageSettings | None = None, analysis_sha256: str | None = None
) -> ReviewPage:
    """Return the review page of a sample.

    Parameters
    ----------
    report : SampleReport
        What `cytoserve_reports.summarise` returned, or was read back from JSON.
    settings : PageSettings, optional
        Language, whether blinded, the guarantee to state, how to get at the pictures.
    analysis_sha256 : str, optional
        Hash of the analysis as it is in a file; by default that of the JSON that would be written.

    Raises
    ------
    UnknownLanguage
    """
    chosen = settings or PageSettings()
    texts = PageTexts(chosen.language)
    page = build(report, analysis_sha256 or sha256_of(report), chosen)
    style, scripts = asset(STYLE) + _on_every_sheet(texts, page["synthetic"]), tuple(map(asset, SCRIPTS))
    html = _template().render(page=page, t=texts, style=style, scripts=scripts, policy=policy(style, scripts))
    return ReviewPage(html, tuple(page["pictures_missing"]))


def _on_every_sheet(texts: PageTexts, synthetic: bool) -> str:
    """Return the rule that prints the notices at the foot of every sheet of paper."""
    words = texts("notice") + (f" {texts('synthetic')}" if synthetic else "")
    return f"@page {{ @bottom-center {{ content: {json.dumps(words, ensure_ascii=False)}; font-size: 8pt; }} }}\n"


def policy(style: str, scripts: tuple[str, ...]) -> str:
    """Return the content security policy: these texts and pictures in the page, no address at all."""
    allowed = " ".join(_source(script) for script in scripts)
    return (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@cache
def asset(name: str) -> str:
    """Return a style sheet or script of the package, with the line ends that a browser hashes."""
    text = (resources.files("cytoserve_reports.page") / name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not before a page is made

    loader = PackageLoader("cytoserve_reports.page", "")
    made = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return made.get_template("page.html.jinja")
