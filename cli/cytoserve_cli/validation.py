"""``cytoserve calibrate`` and ``cytoserve validate``.

Exit codes are those of `cytoserve_cli.exit_codes`: 0 every image was answered, 2 wrong usage (folder, table,
file in the way), 3 the file or report was written but some images failed, and the rest as for the other commands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from cytoserve_client import CellsAnalysis, Client, CytoserveClientError, Skipped
from cytoserve_client import _constants as defaults
from cytoserve_client import selection as chosen
from cytoserve_client.images import check_scale, sources_of
from cytoserve_files import shown
from cytoserve_reports import tables
from cytoserve_reports.tables import NOTICE, plain
from cytoserve_scoring.errors import CytoserveError
from cytoserve_validation import answers, calibrate, labelled
from cytoserve_validation.answers import Answered
from cytoserve_validation.errors import BadLabelledFolder, NoCells, ValidationError
from cytoserve_validation.labelled import Groups, LabelledCells
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cytoserve_cli import exit_codes
from cytoserve_cli.connect import TlsCa, TlsCert, TlsKey, TlsServerName, server_address, tls_of

calibrate_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
validate_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Folder = Annotated[Path, typer.Argument(help="Folder that holds one folder of images per class.")]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="CYTOSERVE_URL", help="gRPC address HOST:PORT; without it a local server is started."),
]
Scale = Annotated[float | None, typer.Option("--um-per-pixel", help="Physical scale of the images, um per pixel.")]
Budget = Annotated[int | None, typer.Option("--budget", help="Probes per class. Default: the server's.", min=1)]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds per chunk of cells.")]


@calibrate_app.command(name="calibrate")
def calibrate_command(
    folder: Folder,
    site: Annotated[str, typer.Option("--site", help="Name of the site, scanner and stain; it goes into the file.")],
    to: Annotated[Path, typer.Option("--to", help="File to write; it must not exist.")],
    url: Url = None,
    um_per_pixel: Scale = None,
    tolerated_error: Annotated[
        float, typer.Option("--tolerated-error", help="Largest share of wrong labels among accepted cells.")
    ] = 0.01,
    confidence: Annotated[float, typer.Option("--confidence", help="Probability with which that shall hold.")] = 0.95,
    anomaly_level: Annotated[
        float, typer.Option("--anomaly-level", help="Share of ordinary cells to refer as anomalous; more finds more.")
    ] = calibrate.ANOMALY_LEVEL,
    budget: Budget = None,
    timeout: Timeout = defaults.DEFAULT_TIMEOUT_S,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
) -> None:
    """Fit thresholds and references on labelled cells of one site, into one file bound to the model.

    For research use; not a medical device.
    """
    out, notes = Console(), Console(stderr=True)
    with _errors_told(notes):
        # Before a server is started for it.
        name, promise = calibrate.check_site(site), calibrate.check_promise(tolerated_error, confidence)
        level = calibrate.check_anomaly_level(anomaly_level)
        check_scale(um_per_pixel)
        tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
        calibrate.refuse_to_overwrite(to)
        cells = labelled.scan(folder)
        hashes = labelled.file_hashes(cells.files)
        labelled.refuse_repeats(cells.names, hashes)
        with server_address(url, notes) as address, Client(address, timeout=timeout, tls=tls) as client:
            info = client.info()
            labelled.check_classes(cells, info.classes)
            bound_to, (spent, probes) = calibrate.bound_to(info), calibrate.budget_of(info, budget)
            analysis = _asked(client, cells.files, um_per_pixel, spent, notes)
        found, failed = _labelled_answers(analysis, cells)
        made = calibrate.Made(
            site=name,
            created=calibrate.now(),
            bound_to=bound_to,
            data_sha256=labelled.data_sha256(cells.names, hashes),
            budget=spent,
            um_per_pixel=um_per_pixel,
            anomaly_level=level,
        )
        whole = calibrate.write(to, calibrate.build(found, info, promise, made, probes, failed))
    _tell_calibration(whole, cells, to, out)
    raise typer.Exit(exit_codes.SOME_FAILED if failed or _lost(cells.ignored) else exit_codes.OK)


def _tell_calibration(whole: dict[str, Any], cells: LabelledCells, to: Path, out: Console) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in whole["cells"]["per_class"].items())
    out.print(plain(f"{whole['cells']['scored']} cells scored at budget {whole['default_budget']}: {counts}"))
    _tell_failures(whole["cells"]["failed"], cells.ignored, out)
    for text in whole["warnings"]:
        out.print(plain(text, "yellow"))
    for text in calibrate.sentences(whole):
        out.print(plain(text, "bold"))
    out.print(
        plain(f"Calibration: {to} (content {whole['content_sha256'][:12]}). Sign it, then see docs/calibration.md")
    )
    out.print(plain(NOTICE, "dim"))


@validate_app.command(name="validate")
def validate_command(
    folder: Folder,
    report: Annotated[Path, typer.Option("--report", help="Folder for validation.json and validation.html.")],
    groups: Annotated[
        Path | None, typer.Option("--groups", help="CSV with a header: file,group[,slide]; a row per cell.")
    ] = None,
    anomalies: Annotated[
        Path | None, typer.Option("--anomalies", help="Folder of images unlike every class of the model.")
    ] = None,
    url: Url = None,
    um_per_pixel: Scale = None,
    confidence: Annotated[
        float, typer.Option("--confidence", help="Confidence of the bound on the error among accepted cells.")
    ] = 0.95,
    budget: Budget = None,
    timeout: Timeout = defaults.DEFAULT_TIMEOUT_S,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
) -> None:
    """Measure a server on labelled cells: one JSON document and one HTML page.

    For research use; not a medical device.
    """
    # Imported here: only this command needs matplotlib, and its absence must be told before any work.
    from cytoserve_validation import page
    from cytoserve_validation import report as documents

    out, notes = Console(), Console(stderr=True)
    with _errors_told(notes):
        calibrate.check_promise(0.5, confidence)
        check_scale(um_per_pixel)
        tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
        documents.refuse_to_overwrite(report)
        everything = labelled.scan(folder)
        table = labelled.read_groups(groups, everything) if groups else None
        cells, hashes = labelled.without_repeats(everything, labelled.file_hashes(everything.files))
        strange_files, strange_ignored = _images_below(anomalies) if anomalies else ([], ())
        with server_address(url, notes) as address, Client(address, timeout=timeout, tls=tls) as client:
            info = client.info()
            labelled.check_classes(cells, info.classes)
            analysis = _asked(client, cells.files, um_per_pixel, budget, notes)
            strange_analysis = _asked(client, strange_files, um_per_pixel, budget, notes) if strange_files else None
        found, failed = _labelled_answers(analysis, cells)
        strange, strange_failed = _strange_answers(strange_analysis, strange_files, anomalies)
        source = documents.Source(
            name=shown(folder.resolve().name),
            data_sha256=labelled.data_sha256(cells.names, hashes),
            created=calibrate.now(),
            um_per_pixel=um_per_pixel,
            budget=budget,
            failed=failed,
            remarks=_remarks((*cells.ignored, *strange_ignored)),
            strange_failed=strange_failed,
            calibration=(info.model_extra or {}).get("calibration"),
        )
        kept = _groups_of(found, table, everything)
        text = documents.to_json(documents.build(found, info.model, source, kept, strange, confidence))
        whole = json.loads(text)
        documents.write(report, whole, page.render(whole))
    ignored = (*cells.ignored, *strange_ignored)
    _tell_report(whole, ignored, report, out)
    incomplete = failed or strange_failed or _lost(ignored)
    raise typer.Exit(exit_codes.SOME_FAILED if incomplete else exit_codes.OK)


def _tell_report(whole: dict[str, Any], ignored: Sequence[Skipped], folder: Path, out: Console) -> None:
    _tell_failures([*whole["data"]["failed"], *whole["anomalies_failed"]], ignored, out)
    for name, row in whole["overall"]["headline"].items():
        shown = "-" if row["value"] is None else f"{row['value']:.4g}  ({row['low']:.4g} to {row['high']:.4g})"
        out.print(plain(f"{name.replace('_', ' ')}: {shown}"))
    for name, row in (whole["groups"] or {}).items():
        for text in row["warnings"]:
            out.print(plain(f"group {name}: {text}", "yellow"))
    for text in whole["notes"]:
        out.print(plain(text, "dim"))
    out.print(plain(f"Report: {folder / 'validation.html'}, {folder / 'validation.json'}"))
    out.print(plain(NOTICE, "dim"))


def _asked(
    client: Client, files: Sequence[Path], um_per_pixel: float | None, budget: int | None, notes: Console
) -> CellsAnalysis:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task = progress.add_task("cells", total=len(files))
        step: Callable[[int, int], None] = lambda done, _: progress.update(task, completed=done)  # noqa: E731
        return answers.ask(client, files, um_per_pixel, budget, step)


def _labelled_answers(analysis: CellsAnalysis, cells: LabelledCells) -> tuple[Answered, list[dict[str, str]]]:
    names = {shown(file): cells.name(file) for file in cells.files}
    truth = {shown(file): name for file, name in zip(cells.files, cells.truth, strict=True)}
    return answers.arrays(analysis, names, truth), answers.failures(analysis, names)


def _strange_answers(
    analysis: CellsAnalysis | None, files: Sequence[Path], folder: Path | None
) -> tuple[Answered | None, list[dict[str, str]]]:
    if analysis is None or folder is None:
        return None, []
    names = {shown(file): shown(f"{folder.name}/{file.relative_to(folder).as_posix()}") for file in files}
    return answers.arrays(analysis, names, None), answers.failures(analysis, names)


def _groups_of(found: Answered, table: Groups | None, cells: LabelledCells) -> Groups | None:
    """Return the groups of the cells that were answered, in their order."""
    if table is None:
        return None
    place = {name: number for number, name in enumerate(cells.names)}
    index = [place[name] for name in found.names]
    slides = None if table.slide is None else tuple(table.slide[i] for i in index)
    return Groups(tuple(table.group[i] for i in index), slides)


def _images_below(folder: Path) -> tuple[list[Path], tuple[Skipped, ...]]:
    """Return the images in a folder and its folders, each content once, and what was passed over.

    Raises
    ------
    BadLabelledFolder, NoCells
    """
    if not folder.is_dir():
        raise BadLabelledFolder(f"{folder} is no folder; give one that holds images of anomalies")
    found = chosen.list_tree(folder)
    kept, repeated = chosen.sift(sources_of(found.files)[0])
    if not kept:
        raise NoCells(f"no image lies in {folder}")
    return [found.files[i] for i in kept], labelled.relative((*found.skipped, *repeated), folder)


def _lost(ignored: Sequence[Skipped]) -> bool:
    """Return whether something was passed over that looks like an image."""
    return any(item.reason in chosen.UNREAD for item in ignored)


def _remarks(ignored: Sequence[Skipped]) -> list[str]:
    out = []
    copies = [f"{item.source} ({item.message})" for item in ignored if item.reason == chosen.DUPLICATE]
    if copies:
        out.append(f"The same image lies there more than once and counts once: {labelled.some(copies)}.")
    others = [f"{item.source} ({item.message})" for item in ignored if item.reason != chosen.DUPLICATE]
    if others:
        out.append(f"Files that were left out: {labelled.some(others)}.")
    return out


def _tell_failures(failed: Sequence[dict[str, str]], ignored: Sequence[Skipped], out: Console) -> None:
    if failed:
        out.print(plain(f"{len(failed)} image(s) without an answer or a label:", "red"))
        for item in failed[: labelled.NAMES_SHOWN]:
            out.print(plain(f"  {item['file']}: {item['message']} [{item['error']}]", "red"))
    tables.print_skipped(ignored, out)


@contextmanager
def _errors_told(notes: Console) -> Iterator[None]:
    """Turn an error that ends the command into one line and an exit code."""
    try:
        yield
    except CytoserveClientError as error:
        notes.print(plain(f"{error} [{error.code}]", "red"))
        raise typer.Exit(exit_codes.of_error(error)) from None
    except (ValidationError, CytoserveError) as error:
        notes.print(plain(f"{error} [{type(error).__name__}]", "red"))
        raise typer.Exit(exit_codes.USAGE) from None
    except OSError as error:
        notes.print(plain(f"cannot read or write: {error}", "red"))
        raise typer.Exit(exit_codes.UNFORESEEN) from None
