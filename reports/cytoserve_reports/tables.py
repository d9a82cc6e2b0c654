"""Results as tables for a terminal. Whatever comes from outside is printed as plain text, never as markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from cytoserve_client.reasons import in_words
from cytoserve_client.results import SET_ERROR, CellsAnalysis, SampleFamiliarity, ScoredCell
from cytoserve_files.selection import PARTS, SYSTEM_FILE, UNREAD, Skipped
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cytoserve_reports.differential import OUTSIDE_DENOMINATOR, ClassCount, is_small, unlabelled, white_cells
from cytoserve_reports.familiar import BLIND_SPOT, CAUSE_LEGEND, cause_of, first_line, reasons_of
from cytoserve_reports.novelty import SampleNovelty, judge_novelty
from cytoserve_reports.review import review_order
from cytoserve_reports.sample import SampleReport
from cytoserve_reports.text import NOTICE, SYNTHETIC, plain

MOST_ROWS = 20
INTERVAL_LEGEND = (
    "(low to high): where the probability would lie had the model been asked with other noise. What the model does not "
    "know is not in it."
)
SET_LEGEND = (
    f"{100 * (1 - SET_ERROR):.0f} % set: the classes that cannot be excluded. It holds the true class for "
    f"{100 * (1 - SET_ERROR):.0f} % of cells like those of the calibration; 'no class': unlike all; '-': not known."
)


def print_sample(report: SampleReport, console: Console) -> None:
    """Print whether the sample is familiar, its fields, differential, review list and failures."""
    cells = [cell for field in report.fields for cell in field.cells]
    _print_first_line(report.familiarity, cells, report.site, console)
    _print_novelty(report.novelty, console)
    if report.sample is not None:
        console.print(Text.assemble("Sample ", plain(report.sample, "bold")))
    if report.synthetic:
        console.print(Text(SYNTHETIC, style="bold reverse"))
    if report.fields:
        console.print(_fields(report))
        console.print(_differential(report.differential))
        _print_notes(report, console)
        if report.review:
            console.print(_smear_review(report))
            _print_legend([report.cell(item) for item in report.review], report.reasons_explained, console)
    _print_blind_spot(cells, console)
    _print_end(report, console)


def _print_first_line(
    familiarity: SampleFamiliarity | None, cells: Sequence[ScoredCell], site: str, console: Console
) -> None:
    text, alarming = first_line(familiarity, cells, site)
    console.print(plain(text, "bold white on red" if alarming else "bold"))


def _print_novelty(novelty: SampleNovelty | None, console: Console) -> None:
    if novelty is not None and novelty.alarm:
        console.print(plain(novelty.headline, "bold reverse"))


def _print_blind_spot(cells: Iterable[ScoredCell], console: Console) -> None:
    if any(cell.familiarity is not None for cell in cells):
        console.print(Text(BLIND_SPOT, style="dim"))


def _fields(report: SampleReport) -> Table:
    table = Table(title=f"{len(report.fields)} field(s)", title_justify="left")
    for name in ("#", "file", "pixels", "um/pixel", "white", "red", "platelets"):
        table.add_column(name, justify="left" if name == "file" else "right", overflow="fold")
    shown = _short_names([field.source for field in report.fields])
    for number, field in enumerate(report.fields[:MOST_ROWS]):
        kinds = Counter(cell.kind for cell in field.cells)
        scale = "unknown" if field.um_per_pixel is None else f"{field.um_per_pixel:.4g} ({field.scale_source})"
        source = plain(shown[number])
        if field.synthetic:
            source.append("  SYNTHETIC", "bold")
        counts = [str(kinds[kind]) for kind in ("white_cell", "red_cell", "platelet")]
        table.add_row(str(number), source, f"{field.width} x {field.height}", plain(scale), *counts)
    if len(report.fields) > MOST_ROWS:
        table.add_row("", Text(f"and {len(report.fields) - MOST_ROWS} more (see --json)", style="dim"))
    return table


def _short_names(sources: Sequence[str]) -> list[str]:
    """Return file names without their folders, where that leaves them different."""
    names = [PurePath(source).name or source for source in sources]
    return names if len(set(names)) == len(set(sources)) else list(sources)


def _differential(rows: dict[str, ClassCount]) -> Table:
    table = Table(title=f"Differential of {white_cells(rows)} white cells", title_justify="left")
    for name in ("class", "cells", "accepted", "review", "percent", "95 % interval"):
        table.add_column(name, justify="left" if name == "class" else "right")
    inside = [item for item in rows.items() if item[0] not in OUTSIDE_DENOMINATOR]
    outside = [item for item in rows.items() if item[0] in OUTSIDE_DENOMINATOR]
    for name, row in inside:
        table.add_row(plain(name.replace("_", " ")), *_numbers(row, " %"))
    table.add_section()
    for name, row in outside:
        table.add_row(plain(f"{name} per 100 white"), *_numbers(row, ""))
    return table


def _numbers(row: ClassCount, unit: str) -> list[str]:
    percent = "-" if row.percent is None else f"{row.percent:.1f}{unit}"
    low = "" if row.low is None else f"{row.low:.1f}"
    interval = "-" if row.low is None else f"{low} to {'no limit' if row.high is None else f'{row.high:.1f}'}"
    return [str(row.count), str(row.accepted), str(row.review), percent, interval]


def _print_notes(report: SampleReport, console: Console) -> None:
    if is_small(report.differential):
        console.print(
            Text("Fewer than 100 white cells were counted: read the intervals, not the percentages.", style="yellow")
        )
    missing = unlabelled(cell for field in report.fields for cell in field.cells)
    if missing:
        console.print(Text(f"{missing} white-cell candidate(s) were not scored and are in no row.", style="yellow"))


def _cell_table(title: str, rows: Sequence[tuple[str, ScoredCell]], total: int) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("#", "cell", "label", "probability", "95 % set", "reasons"):
        table.add_column(name, justify="right" if name in ("#", "probability") else "left")
    for number, (where, cell) in enumerate(rows, 1):
        best = cell.probability[cell.label] if cell.probability and cell.label else None
        table.add_row(
            str(number),
            plain(where),
            plain((cell.label or "not scored").replace("_", " ")),
            "-" if best is None else f"{best:.3f}{_within(cell)}",
            plain(_set(cell)),
            plain(reasons_of(cell) or "-"),
        )
    if total > len(rows):
        table.add_row("", Text(f"and {total - len(rows)} more (see --json)", style="dim"))
    return table


def _within(cell: ScoredCell) -> str:
    """Return the interval of the probability as it follows the number; nothing where it would only repeat it."""
    if cell.probability_interval is None:
        return ""
    low, high = (f"{end:.2f}" for end in cell.probability_interval)
    return "" if low == high else f" ({low} to {high})"


def _set(cell: ScoredCell) -> str:
    """Return the prediction set as a few words; '-' where there is none to show."""
    names = cell.prediction_set_95
    if names is None:
        return "-"
    if cell.conformal is not None and len(names) == len(cell.conformal) > 1:
        return "any class"
    return ", ".join(name.replace("_", " ") for name in names) or "no class"


def _print_legend(cells: Sequence[ScoredCell], explanations: Mapping[str, str], console: Console) -> None:
    """Say what the columns of a review list mean, as far as they were used."""
    if any(_within(cell) for cell in cells):
        console.print(Text(INTERVAL_LEGEND, style="dim"))
    if any(cell.prediction_set_95 is not None for cell in cells):
        console.print(Text(SET_LEGEND, style="dim"))
    for reason, sentence in explanations.items():
        console.print(Text.assemble(plain(in_words(reason), "bold"), ": ", sentence, ".", style="dim"))
    if any(cause_of(cell) for cell in cells):
        console.print(Text(CAUSE_LEGEND, style="dim"))


def _smear_review(report: SampleReport) -> Table:
    rows = []
    for item in report.review[:MOST_ROWS]:
        cell = report.cell(item)
        at = (
            ""
            if cell.box is None
            else f" at ({(cell.box[0] + cell.box[2]) / 2:.0f}, {(cell.box[1] + cell.box[3]) / 2:.0f})"
        )
        rows.append((f"field {item.field}, cell {item.cell}{at}", cell))
    return _cell_table(f"{len(report.review)} cell(s) to review, most urgent first", rows, len(report.review))


def print_cells(analysis: CellsAnalysis, console: Console) -> None:
    """Print whether the cells are familiar, the classes found, the review list and the failures."""
    _print_first_line(analysis.familiarity, analysis.cells, analysis.site, console)
    _print_novelty(judge_novelty(analysis.cells, analysis.familiarity), console)
    if any(cell.synthetic for cell in analysis.cells):
        console.print(Text(SYNTHETIC, style="bold reverse"))
    if analysis.cells:
        table = Table(title=f"{len(analysis.cells)} cell(s)", title_justify="left")
        for name in ("class", "cells", "accepted", "review"):
            table.add_column(name, justify="left" if name == "class" else "right")
        for label in (*analysis.model.classes, None):
            cells = [cell for cell in analysis.cells if cell.label == label]
            if cells or label is not None:
                accepted = sum(cell.decision == "accept" for cell in cells)
                title = plain((label or "not scored").replace("_", " "))
                table.add_row(title, str(len(cells)), str(accepted), str(len(cells) - accepted))
        console.print(table)
        _print_each(analysis, console)
    _print_blind_spot(analysis.cells, console)
    _print_end(analysis, console)


def _print_each(analysis: CellsAnalysis, console: Console) -> None:
    """Print the cells to review and, where there are few in all, the accepted ones before them."""
    order = review_order(analysis.cells)
    to_review = [analysis.cells[i] for i in order]
    few = len(analysis.cells) <= MOST_ROWS
    accepted = [cell for i, cell in enumerate(analysis.cells) if i not in set(order)] if few else []
    for title, cells in (("accepted", accepted), ("to review, most urgent first", to_review)):
        if cells:
            rows = [(cell.source, cell) for cell in cells[:MOST_ROWS]]
            console.print(_cell_table(f"{len(cells)} cell(s) {title}", rows, len(cells)))
    _print_legend([*accepted, *to_review], analysis.reasons_explained, console)


def _print_end(result: SampleReport | CellsAnalysis, console: Console) -> None:
    if result.failures:
        rows = [(failure.source, failure.error, failure.message) for failure in result.failures]
        title = f"{len(rows)} image(s) without an answer"
        console.print(_files_table(title, "bold red", ("file", "error", "what to do"), rows))
    print_skipped(result.skipped, console)
    console.print(Text(NOTICE, style="dim"))


def _files_table(title: str, style: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style=style)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*map(plain, row))
    if len(rows) > MOST_ROWS:
        table.add_row(Text(f"and {len(rows) - MOST_ROWS} more (see --json)", style="dim"))
    return table


def print_skipped(skipped: Sequence[Skipped], console: Console) -> None:
    """Name the files that were passed over, those that look like images first; the system's are only counted."""
    for part in (item for item in skipped if item.reason in PARTS):
        console.print(plain(f"{part.source}: {part.message}."))
    skipped = [item for item in skipped if item.reason not in PARTS]
    named = sorted((item for item in skipped if item.reason != SYSTEM_FILE), key=lambda item: item.reason not in UNREAD)
    if named:
        lost = sum(item.reason in UNREAD for item in named)
        title = f"{len(named)} file(s) not counted" + (f", {lost} of them may be images of the sample" if lost else "")
        shown = _short_names([item.source for item in named])
        rows = [(name, item.reason, item.message) for name, item in zip(shown, named, strict=True)]
        style = "bold red" if lost else "bold yellow"
        console.print(_files_table(title, style, ("file", "reason", "meaning"), rows))
    if len(named) < len(skipped):
        console.print(Text(f"{len(skipped) - len(named)} system file(s) passed over.", style="dim"))
