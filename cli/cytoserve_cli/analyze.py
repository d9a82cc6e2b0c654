"""``cytoserve analyze``, ``classify`` and ``info``: parse, call, write."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from cytoserve_client import DEFAULT_TIMEOUT_S, ServiceInfo
from cytoserve_client.images import check_scale
from cytoserve_client.options import Options
from cytoserve_files.selection import Selection, gather
from cytoserve_reports import summarise, summarise_each, tables
from cytoserve_reports.page import LANGUAGES, PageSettings, StatedGuarantee, review_page
from cytoserve_reports.page.language import PageTexts
from cytoserve_reports.sample import reports_json
from rich.console import Console

from cytoserve_cli import exit_codes
from cytoserve_cli import options as o
from cytoserve_cli.audit import AuditOutput
from cytoserve_cli.connect import connected, tls_of
from cytoserve_cli.errors import exit_on_error
from cytoserve_cli.film import SLIDE_CELLS, FilmCall, analyze_film, doubt_scale, film_of, slides_among
from cytoserve_cli.formats import FormatOutputs
from cytoserve_cli.mounts import need
from cytoserve_cli.outputs import check_outputs, write_json, write_overlays, write_page
from cytoserve_cli.resume import Terms, UnfinishedFilm
from cytoserve_cli.terminal import bars, consoles

analyze_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
classify_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
info_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@analyze_app.command(name="analyze")
@exit_on_error("analyze")
def analyze(
    images: Annotated[list[Path], typer.Argument(help="Fields of one sample: files or folders; or its whole slides.")],
    sample: Annotated[str | None, typer.Option("--sample", help="Name of the sample, for table and JSON.")] = None,
    url: o.Url = None,
    json_out: o.JsonOut = None,
    overlay: Annotated[Path | None, typer.Option("--overlay", help="Folder for annotated pictures.")] = None,
    um_per_pixel: o.Scale = None,
    cells: Annotated[
        int | None,
        typer.Option("--cells", min=1, help=f"Stop after so many white cells. Default: all; of slides {SLIDE_CELLS}."),
    ] = None,
    resume: o.Resume = None,
    per_image: Annotated[bool, typer.Option("--per-image", help="Each image is a sample of its own.")] = False,
    timeout: o.Timeout = DEFAULT_TIMEOUT_S,
    budget: o.Budget = None,
    alpha: o.Alpha = None,
    classes: o.Classes = None,
    priority: o.Urgency = "routine",
    site: o.Site = None,
    fhir: o.Fhir = None,
    hl7: o.Hl7 = None,
    lis2: o.Lis2 = None,
    csv: o.Csv = None,
    geojson: o.Geojson = None,
    dicom_sr: o.DicomSr = None,
    patient_id: o.PatientId = None,
    tls_ca: o.TlsCa = None,
    tls_cert: o.TlsCert = None,
    tls_key: o.TlsKey = None,
    tls_server_name: o.TlsServerName = None,
    page: o.PageOut = None,
    language: o.Language = LANGUAGES[0],
    blinded: o.Blinded = False,
    audit: o.Audit = None,
    asked_by: o.AskedBy = None,
) -> None:
    """Find and classify the cells of smear fields, count them, and list those that a person should review."""
    formats = FormatOutputs(fhir, hl7, lis2, csv, geojson, dicom_sr, patient_id)
    audited = AuditOutput(audit, asked_by)
    out, notes = consoles(formats.standard_output or json_out)
    check_scale(um_per_pixel)
    chosen = Options.of(timeout, timeout, budget, alpha, _names(classes), priority, site)
    tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
    _check_page_options(page, language, blinded, per_image)
    slides = slides_among(images)
    if per_image and (slides or cells is not None or resume is not None):
        raise typer.BadParameter("--per-image makes each image a sample; slides, --cells and --resume are about one")
    selected = gather(slides) if slides else _selected(images, out)
    formats.check(sample, per_image)
    check_outputs([json_out, page, audit, resume, *formats.files], [overlay, geojson], selected.files)
    audited.check()
    inputs = audited.hashes(selected)
    quiet = len(selected.files) < 2 and not slides
    with film_of(selected.files, bool(slides), um_per_pixel) as source:
        with connected(url, tls, notes, timeout) as client, bars(notes, quiet=quiet) as report:
            asked = formats.wanted or any(path is not None for path in (page, audit, resume))
            service = client.info() if asked else None
            unfinished = None
            if resume is not None and service is not None:
                terms = Terms.of(service, source.um_per_pixel, chosen)
                unfinished = UnfinishedFilm(resume, selected.files, terms)
            if slides or cells is not None or resume is not None:
                wanted = SLIDE_CELLS if slides and cells is None else cells
                call = FilmCall(wanted, sample, chosen.arguments, unfinished)
                analysis = analyze_film(client, source, call, report)
            else:
                analysis = client.analyze(
                    selected.files,
                    um_per_pixel,
                    sample=sample,
                    one_sample=not per_image,
                    on_progress=partial(report, "images"),
                    **chosen.arguments,
                )
        doubt_scale(analysis, source, notes)
        analysis = analysis.model_copy(update={"skipped": (*selected.skipped, *analysis.skipped)})
        samples = summarise_each(analysis) if per_image else [summarise(analysis)]
        logged = audited.write(samples, service, inputs, len(analysis.skipped), notes)
        for one in samples:
            tables.print_sample(one, out)
        if per_image:
            tables.print_skipped(analysis.skipped, out)
            written = write_json(json_out, lambda: reports_json(samples, analysis.skipped), notes)
        else:
            written = write_json(json_out, lambda: samples[0].model_dump_json(indent=2), notes)
            written = formats.write(samples[0], service, notes) and written
        drawn = write_overlays(overlay, analysis, notes, source.picture)
        guarantee = None if service is None else _guarantee(service, analysis.site)
        settings = PageSettings(language, blinded, guarantee, source.picture)
        paged, pictured = write_page(page, lambda: review_page(samples[0], settings), notes)
    familiarity = [one.familiarity for one in samples]
    code = exit_codes.of_result(len(analysis.fields), analysis.failures, selected.lost, familiarity)
    code = exit_codes.with_outputs(code, written and paged and logged, drawn and pictured)
    if source.interrupted:
        code = exit_codes.INTERRUPTED
    if unfinished is not None:
        unfinished.end(code not in (exit_codes.INTERRUPTED, exit_codes.UNFORESEEN), analysis.failures, notes)
    raise typer.Exit(code)


def _check_page_options(page: Path | None, language: str, blinded: bool, per_image: bool) -> None:
    """Refuse what makes no page, before the work."""
    PageTexts(language)
    if page is not None:
        need("jinja2", "report", "analyze --report")
    if blinded and page is None:
        raise typer.BadParameter("--blinded is about the review page: give --report FILE.html too")
    if page is not None and per_image:
        raise typer.BadParameter("a review page is of one sample: give the images of one, or leave out --per-image")


def _guarantee(service: ServiceInfo, site: str) -> StatedGuarantee | None:
    """Return the risk guarantee of the site that decided, as the server states it now."""
    found = service.site(site)
    return StatedGuarantee.of(None if found is None else found.promise)


@classify_app.command(name="classify")
@exit_on_error("classify")
def classify(
    images: Annotated[list[Path], typer.Argument(help="Single-cell images: files, or folders of them.")],
    json_out: o.JsonOut = None,
    url: o.Url = None,
    um_per_pixel: o.Scale = None,
    one_sample: Annotated[
        bool,
        typer.Option(
            "--one-sample/--several-samples",
            help="Whether the cells are of one sample, which is judged as a whole too. Several: each cell by itself.",
        ),
    ] = True,
    timeout: o.Timeout = DEFAULT_TIMEOUT_S,
    budget: o.Budget = None,
    alpha: o.Alpha = None,
    classes: o.Classes = None,
    priority: o.Urgency = "routine",
    site: o.Site = None,
    tls_ca: o.TlsCa = None,
    tls_cert: o.TlsCert = None,
    tls_key: o.TlsKey = None,
    tls_server_name: o.TlsServerName = None,
    audit: o.Audit = None,
    asked_by: o.AskedBy = None,
) -> None:
    """Classify single-cell images, as an analyser delivers them."""
    out, notes = consoles(json_out)
    check_scale(um_per_pixel)
    chosen = Options.of(timeout, timeout, budget, alpha, _names(classes), priority, site)
    tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
    selected = _selected(images, out)
    audited = AuditOutput(audit, asked_by)
    check_outputs([json_out, audit], [], selected.files)
    audited.check()
    inputs = audited.hashes(selected)
    quiet = len(selected.files) < 2
    with connected(url, tls, notes, timeout) as client, bars(notes, quiet=quiet) as report:
        service = None if audit is None else client.info()
        analysis = client.classify(
            selected.files,
            um_per_pixel,
            one_sample=one_sample,
            on_progress=partial(report, "images"),
            **chosen.arguments,
        )
    analysis = analysis.model_copy(update={"skipped": selected.skipped})
    logged = audited.write(analysis, service, inputs, len(analysis.skipped), notes)
    tables.print_cells(analysis, out)
    written = write_json(json_out, lambda: analysis.model_dump_json(indent=2), notes)
    code = exit_codes.of_result(len(analysis.cells), analysis.failures, selected.lost, [analysis.familiarity])
    raise typer.Exit(exit_codes.with_outputs(code, written and logged))


@info_app.command(name="info")
@exit_on_error("info")
def info(
    url: o.Url = None,
    tls_ca: o.TlsCa = None,
    tls_cert: o.TlsCert = None,
    tls_key: o.TlsKey = None,
    tls_server_name: o.TlsServerName = None,
) -> None:
    """Print what the server serves, as JSON: model, classes, hashes, limits, versions."""
    _, notes = consoles()
    tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
    with connected(url, tls, notes) as client:
        typer.echo(client.info().model_dump_json(indent=2))


def _names(text: str | None) -> list[str] | None:
    """Return the names of a comma-joined list; none of them is empty."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _selected(paths: Sequence[Path], out: Console) -> Selection:
    """Return the images meant; where there are none, print what was skipped and end the command."""
    selected = gather(paths)
    if not selected.files:
        tables.print_skipped(selected.skipped, out)
        typer.echo("no image files in the folder(s) given", err=True)
        raise typer.Exit(exit_codes.USAGE)
    return selected
