"""``cytoserve calibrate`` and ``cytoserve validate``: parse, call, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from cytoserve_client import DEFAULT_TIMEOUT_S, ServiceInfo
from cytoserve_client.images import check_scale
from cytoserve_contract.parameters import HOME_SITE
from cytoserve_files import shown
from cytoserve_files.selection import Skipped, any_lost
from cytoserve_reports import tables
from cytoserve_reports.text import NOTICE
from cytoserve_validation import answers, calibrate, familiarity, labelled, pictures, planning, promises, published_sets
from cytoserve_validation.anomalies import sentences as anomaly_sentences
from cytoserve_validation.errors import BadSetting
from cytoserve_validation.published_sets import PUBLISHED
from rich.console import Console
from rich.table import Table

from cytoserve_cli import exit_codes
from cytoserve_cli import options as o
from cytoserve_cli.connect import connected, tls_of
from cytoserve_cli.errors import exit_on_error
from cytoserve_cli.terminal import bars, consoles, plain

calibrate_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
validate_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Groups = Annotated[Path | None, typer.Option("--groups", help="CSV with a header: file,group[,slide]; a row per cell.")]
Folder = Annotated[Path, typer.Argument(help="Folder that holds one folder of images per class.")]
Budget = Annotated[int | None, typer.Option("--budget", help="Noise samples of a cell. Default: the server's.", min=1)]


@calibrate_app.command(name="calibrate")
@exit_on_error("calibrate")
def calibrate_command(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder that holds one folder of images per class. Not needed for --plan.")
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", help="Name of the site, scanner and stain; it goes into the file.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="File to write; it must not exist.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show what how many cells can promise; needs no server.")
    ] = False,
    groups: Groups = None,
    mixed_scanners: Annotated[
        bool,
        typer.Option("--mixed-scanners", help="Calibrate on cells of two scanners or stains too; the file says so."),
    ] = False,
    url: o.Url = None,
    um_per_pixel: o.Scale = None,
    tolerated_error: Annotated[
        float, typer.Option("--tolerated-error", help="Largest share of wrong labels among accepted cells.")
    ] = 0.01,
    confidence: Annotated[float, typer.Option("--confidence", help="Confidence of that risk guarantee.")] = 0.95,
    most_accepted: Annotated[
        float,
        typer.Option(
            "--most-accepted",
            help="Largest share of these cells to accept, however few are wrong; less refers more of unknown kinds.",
        ),
    ] = 1.0,
    anomaly_level: Annotated[
        float,
        typer.Option(
            "--anomaly-level", help="Share of ordinary cells to refer as anomalous; a larger share detects more."
        ),
    ] = calibrate.ANOMALY_LEVEL,
    budget: Budget = None,
    timeout: o.Timeout = DEFAULT_TIMEOUT_S,
    tls_ca: o.TlsCa = None,
    tls_cert: o.TlsCert = None,
    tls_key: o.TlsKey = None,
    tls_server_name: o.TlsServerName = None,
) -> None:
    """Fit thresholds and references on labelled cells of one site, into one file bound to the model.

    For research use; not a medical device.
    """
    out, notes = consoles()
    guarantee = calibrate.check_guarantee(tolerated_error, confidence, most_accepted)
    if plan:
        _print_plan(planning.plan(guarantee, None if folder is None else len(labelled.scan(folder).files)), out)
        out.print(plain(NOTICE, "dim"))
        return
    if folder is None or site is None or to is None:
        raise BadSetting("give a FOLDER of labelled cells, --site NAME and --to FILE; or --plan alone")
    name, level = calibrate.check_site(site), calibrate.check_share("anomaly level", anomaly_level)
    check_scale(um_per_pixel)
    tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
    calibrate.refuse_to_overwrite(to)
    cells = labelled.scan(folder)
    hashes = labelled.file_hashes(cells.files)
    labelled.refuse_repeats(cells.names, hashes)
    table = labelled.read_groups(groups, cells) if groups else None
    _print_plan(planning.plan(guarantee, len(cells.files)), notes)
    planning.check_enough(len(cells.files))
    with connected(url, tls, notes, timeout) as client, bars(notes) as report:
        info = client.info()
        labelled.check_classes(cells, info.classes)
        bound_to, (spent, probes) = calibrate.bound_to(info), calibrate.budget_of(info, budget)
        progress = partial(report, "cells")
        analysis = client.classify(cells.files, um_per_pixel, budget=spent, one_sample=False, on_progress=progress)
    answered, failed = answers.of_labelled(analysis, cells)
    found = answered.take(answered.scored)
    kind = dict(zip(cells.names, pictures.file_kinds(cells.files), strict=True))
    own = table.of(found.names, cells) if table else None
    known = pictures.site_pictures(found, own, [kind[one] for one in found.names], mixed_scanners)
    made = calibrate.Made(
        site=name,
        created=calibrate.now(),
        bound_to=bound_to,
        data_sha256=labelled.data_sha256(cells.names, hashes),
        budget=spent,
        um_per_pixel=um_per_pixel,
        anomaly_level=level,
    )
    slides = own.slide if own else None
    whole = calibrate.write(to, calibrate.build(found, info, guarantee, made, probes, failed, known, slides))
    _print_calibration(whole, cells.ignored, to, out)
    raise typer.Exit(exit_codes.SOME_FAILED if failed or any_lost(cells.ignored) else exit_codes.OK)


def _print_plan(found: planning.CellPlan, out: Console) -> None:
    header, rows = planning.table(found)
    shown = Table(*header, title="What n labelled cells can promise", title_justify="left")
    for row in rows:
        shown.add_row(*row)
    out.print(shown)
    for text in planning.explained(found):
        out.print(plain(text))


def _print_calibration(whole: dict[str, Any], ignored: Sequence[Skipped], to: Path, out: Console) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in whole["cells"]["per_class"].items())
    out.print(plain(f"{whole['cells']['scored']} cells scored at budget {whole['default_budget']}: {counts}"))
    _print_failures(whole["cells"]["failed"], ignored, out)
    for text in whole["warnings"]:
        out.print(plain(text, "yellow"))
    for text in promises.sentences(whole):
        out.print(plain(text, "bold"))
    out.print(
        plain(f"Calibration: {to} (content {whole['content_sha256'][:12]}). Sign it, then see docs/calibration.md")
    )
    out.print(plain(NOTICE, "dim"))


@validate_app.command(name="validate")
@exit_on_error("validate")
def validate_command(
    folder: Folder,
    report: Annotated[Path, typer.Option("--report", help="Folder for validation.json and validation.html.")],
    groups: Groups = None,
    strangers: Annotated[
        Path | None,
        typer.Option("--strangers", help="Folder of cells that the model has no class for, a folder a kind (or none)."),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option("--published", help=f"FOLDER is a published set with strangers in it: {', '.join(PUBLISHED)}."),
    ] = None,
    url: o.Url = None,
    um_per_pixel: o.Scale = None,
    confidence: Annotated[
        float, typer.Option("--confidence", help="Confidence of the bound on the error among accepted cells.")
    ] = 0.95,
    budget: Budget = None,
    site: o.Site = None,
    timeout: o.Timeout = DEFAULT_TIMEOUT_S,
    tls_ca: o.TlsCa = None,
    tls_cert: o.TlsCert = None,
    tls_key: o.TlsKey = None,
    tls_server_name: o.TlsServerName = None,
) -> None:
    """Measure a server on labelled cells: one JSON document and one HTML page.

    For research use; not a medical device.
    """
    # Imported here, before any work: only this command needs matplotlib and Jinja2, which may be missing.
    from cytoserve_validation import page
    from cytoserve_validation import report as documents

    out, notes = consoles()
    calibrate.check_share("confidence", confidence)
    check_scale(um_per_pixel)
    tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
    documents.refuse_to_overwrite(report)
    if published and strangers:
        raise typer.BadParameter("--published takes the strangers from the set itself: leave out --strangers")
    kinds = None
    if published:
        found_set = published_sets.divided(folder, published)
        everything, kinds = found_set.cells, found_set.strangers
    else:
        everything = labelled.scan(folder)
    table = labelled.read_groups(groups, everything) if groups else None
    cells, hashes = labelled.without_repeats(everything, labelled.file_hashes(everything.files))
    anomaly_files: tuple[Path, ...] = tuple(kinds or ())
    anomalies_ignored: tuple[Skipped, ...] = ()
    if strangers:
        anomaly_files, anomalies_ignored = labelled.scan_unlabelled(strangers)
    ignored = (*cells.ignored, *anomalies_ignored)
    with connected(url, tls, notes, timeout) as client, bars(notes) as bar:
        info = client.info()
        labelled.check_classes(cells, info.classes)
        classify = partial(client.classify, um_per_pixel=um_per_pixel, budget=budget, site=site, one_sample=False)
        analysis = classify(cells.files, on_progress=partial(bar, "cells"))
        other = classify(anomaly_files, on_progress=partial(bar, "strangers")) if anomaly_files else None
    found, failed = answers.of_labelled(analysis, cells)
    anomalous, anomalies_failed = (
        answers.of_anomalies(other, anomaly_files, strangers or folder, kinds) if other else (None, [])
    )
    source = documents.MeasuredSet(
        name=shown(folder.resolve().name),
        data_sha256=labelled.data_sha256(cells.names, hashes),
        created=calibrate.now(),
        um_per_pixel=um_per_pixel,
        budget=budget,
        failed=failed,
        remarks=labelled.remarks(ignored),
        anomalies_failed=anomalies_failed,
        calibration=_in_force(info, site),
    )
    kept = table.of(found.names, everything) if table else None
    text = documents.to_json(documents.build(found, info.model, source, kept, anomalous, confidence))
    whole = json.loads(text)
    documents.write(report, whole, page.render(whole))
    _print_report(whole, ignored, report, out)
    incomplete = failed or anomalies_failed or any_lost(ignored)
    raise typer.Exit(exit_codes.SOME_FAILED if incomplete else exit_codes.OK)


def _in_force(info: ServiceInfo, site: str | None) -> Any:
    """Return the calibration that decided, as the server declares it; None for the model's own."""
    if site is None or site == HOME_SITE:
        return None
    found = info.site(site)
    return None if found is None else found.model_dump(mode="json")


def _print_report(whole: dict[str, Any], ignored: Sequence[Skipped], folder: Path, out: Console) -> None:
    _print_failures([*whole["data"]["failed"], *whole["anomalies_failed"]], ignored, out)
    for name, row in whole["overall"]["headline"].items():
        shown = "-" if row["value"] is None else f"{row['value']:.4g}  ({row['low']:.4g} to {row['high']:.4g})"
        out.print(plain(f"{name.replace('_', ' ')}: {shown}"))
    out.print(plain(familiarity.sentence(whole["familiarity"])))
    for name, row in (whole["groups"] or {}).items():
        for text in row["warnings"]:
            out.print(plain(f"group {name}: {text}", "yellow"))
    for text in anomaly_sentences(whole["anomalies"]):
        out.print(plain(text))
    for text in whole["notes"]:
        out.print(plain(text, "dim"))
    out.print(plain(f"Report: {folder / 'validation.html'}, {folder / 'validation.json'}"))
    out.print(plain(NOTICE, "dim"))


def _print_failures(failed: Sequence[dict[str, str]], ignored: Sequence[Skipped], out: Console) -> None:
    if failed:
        out.print(plain(f"{len(failed)} image(s) without an answer or a label:", "red"))
        for item in failed[: labelled.NAMES_SHOWN]:
            out.print(plain(f"  {item['file']}: {item['message']} [{item['error']}]", "red"))
    tables.print_skipped(ignored, out)
