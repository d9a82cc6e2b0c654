"""``cytoserve verdicts``: what readers said on a review page, checked, compared, and made into labelled cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cytoserve_files import shown, write_text
from cytoserve_reports.page import LANGUAGES, PageSettings, review_page
from cytoserve_reports.page.binding import read_analysis
from cytoserve_reports.page.readings import AuditedShare, ComparedReadings, audited, compare, write_folder
from cytoserve_reports.page.verdicts import check_binding, read_verdicts
from cytoserve_reports.text import NOTICE, SYNTHETIC
from cytoserve_statistics.shares import clopper_pearson
from rich.console import Console
from rich.table import Table

from cytoserve_cli import exit_codes
from cytoserve_cli.errors import exit_on_error
from cytoserve_cli.film import stored_picture
from cytoserve_cli.mounts import need
from cytoserve_cli.outputs import check_outputs
from cytoserve_cli.terminal import consoles, plain

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Verdicts of a review page (`cytoserve analyze --report`). For research use; not a medical device.",
)

Verdicts = Annotated[Path, typer.Argument(help="The file that the review page exported.")]
Analysis = Annotated[Path, typer.Option("--analysis", help="The JSON that `analyze --json` wrote beside the page.")]
MOST_ROWS = 40
"""Disagreements that are listed before only their number is given."""


@app.command(name="check")
@exit_on_error("verdicts")
def check(file: Verdicts, analysis: Analysis) -> None:
    """See that a file of verdicts is whole, unchanged, and of this analysis; say how often reader and label differ."""
    out, _ = consoles()
    report, digest = read_analysis(analysis)
    document = read_verdicts(file)
    check_binding(document, report, digest)
    words = {
        "agree": "agreed",
        "reclassify": "reclassified",
        "classify": "classified blindly",
        "cannot_tell": "cannot tell",
    }
    counts = [(text, sum(one.verdict == kind for one in document.verdicts)) for kind, text in words.items()]
    told = ", ".join(f"{count} {text}" for text, count in counts if count)
    out.print(plain(f"{len(document.verdicts)} of {document.cells_shown} cells have a verdict: {told or 'none'}."))
    out.print(plain(f"Reviewer: {', '.join(document.reviewers) or '-'}. The file fits the analysis {digest[:12]}."))
    for share in audited(document, report):
        out.print(plain(_in_words(share)))
    if document.synthetic:
        out.print(plain(SYNTHETIC, "bold reverse"))
    out.print(plain(NOTICE, "dim"))


def _in_words(share: AuditedShare) -> str:
    decided = {"accept": "Accepted", "review": "Referred"}[share.decision]
    if not share.judged:
        return f"{decided} cells with a class by the reader: none."
    low, high = (100 * end for end in clopper_pearson(share.differing, share.judged))
    return (
        f"{decided} cells with a class by the reader: {share.judged}; {share.differing} of them have another label "
        f"({100 * share.differing / share.judged:.1f} %, {low:.1f} to {high:.1f}); {share.cannot_tell} more could not "
        f"be told."
    )


@app.command(name="compare")
@exit_on_error("verdicts")
def compare_command(
    first: Annotated[Path, typer.Argument(help="Verdicts of one reader.")],
    second: Annotated[Path, typer.Argument(help="Verdicts of another reader on the same analysis, best blinded.")],
) -> None:
    """Say how far two readers agree: Cohen's kappa with its 95 % interval, and the cells where they differ."""
    out, _ = consoles()
    one, two = read_verdicts(first), read_verdicts(second)
    found = compare(one, two)
    for text in _kappa_in_words(found):
        out.print(plain(text))
    for text in found.remarks:
        out.print(plain(text, "yellow"))
    if found.disagreements:
        _print_disagreements(found, ", ".join(one.reviewers), ", ".join(two.reviewers), out)
    out.print(plain(NOTICE, "dim"))


def _kappa_in_words(found: ComparedReadings) -> list[str]:
    kappa = found.kappa
    agreed = kappa.items - len(found.disagreements)
    low, high = (100 * end for end in clopper_pearson(agreed, kappa.items))
    told = [
        f"{kappa.items} cells were judged by both ({found.only_first} by the first reader alone, "
        f"{found.only_second} by the second alone).",
        f"Agreement: {agreed} of {kappa.items} ({100 * kappa.observed:.1f} %, {low:.1f} to {high:.1f}).",
    ]
    if kappa.value is None:
        return [*told, "Cohen's kappa: not defined, both readers used one and the same class only."]
    if kappa.low is None:
        return [*told, f"Cohen's kappa: {kappa.value:.3f} (no interval: the readers never differed)."]
    return [*told, f"Cohen's kappa: {kappa.value:.3f} (95 % interval {kappa.low:.3f} to {kappa.high:.3f})."]


def _print_disagreements(found: ComparedReadings, first: str, second: str, out: Console) -> None:
    table = Table(title=f"{len(found.disagreements)} cell(s) judged differently", title_justify="left")
    for name in ("cell", first, second):
        table.add_column(plain(name))
    for item in found.disagreements[:MOST_ROWS]:
        names = (plain(name.replace("_", " ")) for name in (item.first, item.second))
        table.add_row(f"field {item.place[0]}, cell {item.place[1]}", *names)
    if len(found.disagreements) > MOST_ROWS:
        table.add_row(f"and {len(found.disagreements) - MOST_ROWS} more", "", "")
    out.print(table)


@app.command(name="folder")
@exit_on_error("verdicts")
def folder_command(
    file: Verdicts,
    analysis: Analysis,
    to: Annotated[Path, typer.Option("--to", help="Folder to make; it must not exist.")],
    fields: Annotated[
        Path | None, typer.Option("--fields", help="Folder that holds the fields, unchanged. Slides need none.")
    ] = None,
) -> None:
    """Write the cells that a reader gave a class as a labelled folder for `cytoserve calibrate` and `validate`."""
    out, _ = consoles()
    report, digest = read_analysis(analysis)
    document = read_verdicts(file)
    check_binding(document, report, digest)
    made = write_folder(document, report, fields, to, stored_picture)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(made.written.items()))
    out.print(plain(f"{sum(made.written.values())} cells written to {shown(to)}: {counts or 'none'}."))
    if made.cannot_tell:
        out.print(plain(f"{made.cannot_tell} cell(s) that the reader could not judge were left out.", "yellow"))
    missing = document.cells_shown - len(document.verdicts)
    if missing:
        out.print(plain(f"{missing} cell(s) of the page have no verdict and were left out.", "yellow"))
    if document.synthetic:
        out.print(plain(SYNTHETIC, "bold reverse"))
    out.print(plain(NOTICE, "dim"))


@app.command(name="page")
@exit_on_error("verdicts")
def page_command(
    analysis: Annotated[Path, typer.Argument(help="The JSON that `analyze --json` wrote.")],
    report: Annotated[Path, typer.Option("--report", help="HTML file to write.")],
    language: Annotated[str, typer.Option("--language", help=f"Of the page: {', '.join(LANGUAGES)}.")] = LANGUAGES[0],
    blinded: Annotated[bool, typer.Option("--blinded", help="Without label and probability: a second reader.")] = False,
) -> None:
    """Make a review page of a stored analysis: in another language, or blinded for a second reader.

    The fields must lie where the analysis names them. The page says nothing of the risk guarantee: it was the server's.
    """
    _, notes = consoles()
    need("jinja2", "report", "verdicts page")
    check_outputs([report], [], [analysis])
    read, digest = read_analysis(analysis)
    page = review_page(read, PageSettings(language, blinded, read=stored_picture), digest)
    write_text(report, page.html)
    notes.print(plain(f"review page: {shown(report)}"))
    for problem in page.pictures_missing:
        notes.print(plain(f"a field has no picture in the page: {problem}", "yellow"))
    raise typer.Exit(exit_codes.SOME_FAILED if page.pictures_missing else exit_codes.OK)
