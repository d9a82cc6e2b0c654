"""A folder of films: the analyses in it, each with its state, and the review page of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cytoserve_files import FileProblem, shown

from cytoserve_reports.differential import white_cells
from cytoserve_reports.familiar import first_line
from cytoserve_reports.page.binding import read_analysis
from cytoserve_reports.page.document import PageSettings, familiar_sentence
from cytoserve_reports.page.errors import PageError, VerdictsError
from cytoserve_reports.page.language import PageTexts, visible
from cytoserve_reports.page.render import STYLE, asset, policy, review_page
from cytoserve_reports.page.verdicts import check_binding, read_verdicts
from cytoserve_reports.sample import SampleReport

if TYPE_CHECKING:
    from jinja2 import Template

KEY: Final = 16
"""Digits of an analysis' hash that name its page."""


@dataclass(frozen=True)
class Reading:
    """Who judged how many cells of how many, and whether without the model's answer."""

    who: str
    judged: int
    cells: int
    blinded: bool


@dataclass(frozen=True)
class Shelved:
    """One analysis of a folder.

    Attributes
    ----------
    file : str
    key : str
        Names its page; empty where it could not be read.
    name : str
        The sample's, else the file's.
    familiar : str
        The first line of its report, or why it could not be read.
    alarming : bool
    white, review, failures : int
        White cells counted, cells to review, images without an answer.
    readers : tuple of Reading
        One for each file of verdicts on it.
    synthetic : bool
    """

    file: str
    key: str
    name: str
    familiar: str
    alarming: bool
    white: int = 0
    review: int = 0
    failures: int = 0
    readers: tuple[Reading, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True)
class _Read:
    report: SampleReport
    digest: str


class Shelf:
    """The analyses in a folder, as they are when they are asked for.

    Parameters
    ----------
    folder : Path
        Files that ``analyze --json`` wrote, and those that review pages exported, directly in it. Other JSON files are
        passed over.
    settings : PageSettings
        Of the pages.
    """

    def __init__(self, folder: Path, settings: PageSettings) -> None:
        self.folder, self.settings = folder, settings
        self._texts = PageTexts(settings.language)
        self._known: dict[Path, tuple[tuple[int, int], _Read | None]] = {}

    def films(self) -> list[Shelved]:
        """Return the analyses by name of their files; one that is damaged is named with what is wrong."""
        found: list[tuple[Shelved, _Read | None]] = []
        others: list[Path] = []
        for path in self._files():
            try:
                read = self._read(path)
            except (PageError, FileProblem, OSError) as error:
                found.append((Shelved(shown(path), "", path.name, visible(str(error), 400), True), None))
                continue
            if read is None:
                others.append(path)
            else:
                found.append((_shelved(path, read, self._texts), read))
        return [one if read is None else _with_readers(one, read, others) for one, read in found]

    def page(self, key: str) -> str | None:
        """Return the review page of an analysis as HTML; None where no analysis has that key."""
        for path in self._files():
            try:
                read = self._read(path)
            except (PageError, FileProblem, OSError):
                continue
            if read is not None and read.digest[:KEY] == key:
                return review_page(read.report, self.settings, read.digest).html
        return None

    def index(self) -> str:
        """Return the list of the films as HTML, without script and without any address but those of the pages."""
        style = asset(STYLE)
        return _template().render(
            films=self.films(),
            folder=visible(shown(self.folder)),
            texts=self._texts,
            style=style,
            policy=policy(style, ()),
        )

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.json") if path.is_file())

    def _read(self, path: Path) -> _Read | None:
        """Return an analysis, None for another JSON document; a file that did not change is read once."""
        found = path.stat()
        state = (found.st_mtime_ns, found.st_size)
        if path not in self._known or self._known[path][0] != state:
            self._known[path] = (state, _analysis_in(path))
        return self._known[path][1]


def _analysis_in(path: Path) -> _Read | None:
    """Return the analysis in a file, None where its document is another kind.

    Raises
    ------
    NotAnAnalysis
        It says that it is an analysis, and is damaged.
    """
    with path.open("rb") as file:
        if b"cytoserve.analysis/" not in file.read(4096):
            return None
    return _Read(*read_analysis(path))


def _shelved(path: Path, read: _Read, texts: PageTexts) -> Shelved:
    report = read.report
    cells = [cell for field in report.fields for cell in field.cells]
    familiar = familiar_sentence(report.familiarity, report.site, texts, cells)
    alarming = first_line(report.familiarity, cells, report.site).alarming
    return Shelved(
        shown(path),
        read.digest[:KEY],
        visible(report.sample or path.stem),
        familiar,
        alarming,
        white_cells(report.differential),
        len(report.review),
        len(report.failures),
        synthetic=report.synthetic,
    )


def _with_readers(one: Shelved, read: _Read, others: Sequence[Path]) -> Shelved:
    readings = tuple(found for path in others if (found := _verdicts_on(path, read)) is not None)
    return replace(one, readers=readings)


def _verdicts_on(path: Path, read: _Read) -> Reading | None:
    """Return who judged how much of an analysis in a file of verdicts; None for a file on something else."""
    try:
        document = read_verdicts(path)
        check_binding(document, read.report, read.digest)
    except (VerdictsError, FileProblem, OSError):
        return None
    who = visible(", ".join(document.reviewers)) or "-"
    return Reading(who, len(document.verdicts), document.cells_shown, document.blinded)


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not before a page is made

    loader = PackageLoader("cytoserve_reports.page", "")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.get_template("films.html.jinja")
