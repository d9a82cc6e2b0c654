"""``cytoserve``: analyse smears and cells from the command line.

Without ``--url`` (or the environment's ``CYTOSERVE_URL``) a local server is started and stopped. Exit codes:
`cytoserve_cli.exit_codes`. Results go to standard output, notes and progress to standard error.
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from cytoserve_client import _constants as c
from cytoserve_client._answers import split_by_field
from cytoserve_client._options import Options
from cytoserve_client.client import Client
from cytoserve_client.errors import CytoserveClientError
from cytoserve_client.images import check_scale
from cytoserve_client.results import CellsAnalysis, Skipped, SmearAnalysis
from cytoserve_client.selection import Selection, gather
from cytoserve_contract.names import ANALYSES
from cytoserve_files import NotWritable, check_output, check_output_folder, path_of, shown, write_bytes
from cytoserve_reports import tables
from cytoserve_reports.overlay import draw_overlay, read_displayed
from cytoserve_reports.overlay_names import overlay_names
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cytoserve_cli import exit_codes, mounts
from cytoserve_cli.connect import TlsCa, TlsCert, TlsKey, TlsServerName, server_address, tls_of

_Result = TypeVar("_Result")

app = typer.Typer(
    name="cytoserve",
    help="Blood-cell triage by a diffusion classifier, served by NVIDIA Triton. "
    "For research use; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 all answered, 2 usage, 3 some images failed or were not read, 4 all failed, "
    "5 server unavailable, 6 out of time, 7 server of another release or access refused.",
)

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="CYTOSERVE_URL", help="gRPC address HOST:PORT of a running server."),
]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON; '-' for standard output.")]
Scale = Annotated[float | None, typer.Option("--um-per-pixel", help="Physical scale of the images, um per pixel.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds per image (or per chunk of cells).")]
Budget = Annotated[int | None, typer.Option("--budget", help="Most probes per class; see `cytoserve info`.")]
Alpha = Annotated[
    float | None,
    typer.Option("--alpha", help="Share of cells, 0 to below 1, whose answer may differ from the whole budget's."),
]
Classes = Annotated[str | None, typer.Option("--classes", help="Only these may win: names joined by commas.")]
Urgency = Annotated[str, typer.Option("--priority", help="'stat' goes before waiting 'routine' requests.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cytoserve {metadata.version('cytoserve')}")
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Hold the options that come before a subcommand."""
    _print_anything()


@app.command()
def analyze(
    images: Annotated[list[Path], typer.Argument(help="Fields of one sample: files, or folders of them.")],
    sample: Annotated[str | None, typer.Option("--sample", help="Name of the sample, for table and JSON.")] = None,
    url: Url = None,
    json_out: JsonOut = None,
    overlay: Annotated[Path | None, typer.Option("--overlay", help="Folder for annotated pictures.")] = None,
    um_per_pixel: Scale = None,
    per_image: Annotated[bool, typer.Option("--per-image", help="Each image is a sample of its own.")] = False,
    timeout: Timeout = c.DEFAULT_TIMEOUT_S,
    budget: Budget = None,
    alpha: Alpha = None,
    classes: Classes = None,
    priority: Urgency = "routine",
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
) -> None:
    """Find and classify the cells of smear fields, count them, list what a person should look at."""
    out, notes = _consoles(json_out)
    with _errors_told(notes):
        # Before a server is started for it.
        check_scale(um_per_pixel)
        asked = Options.of(timeout, timeout, budget, alpha, _names(classes), priority)
        tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
    selected = _selected(images, out)
    sources = selected.files
    _check_outputs(json_out, overlay, sources, notes)
    with (
        _errors_told(notes),
        server_address(url, notes) as address,
        Client(address, timeout=timeout, tls=tls) as client,
    ):
        whole = _with_bar(
            lambda progress: client.analyze(
                sources, um_per_pixel, sample=sample, on_progress=progress, **asked.arguments
            ),
            sources,
            notes,
        )
    whole = whole.model_copy(update={"skipped": (*selected.skipped, *whole.skipped)})
    analyses = split_by_field(whole) if per_image else [whole]
    for analysis in analyses:
        tables.print_analysis(analysis, out)
    if per_image:
        tables.print_skipped(whole.skipped, out)
    document = (lambda: _per_image_json(analyses, whole.skipped)) if per_image else (lambda: _json(whole))
    written = json_out is None or _write_json(json_out, document, notes)
    drawn = overlay is None or _write_overlays(overlay, whole, notes)
    code = exit_codes.of_result(len(whole.fields), whole.failures, selected.lost)
    raise typer.Exit(exit_codes.with_outputs(code, written, drawn))


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Single-cell images: files, or folders of them.")],
    json_out: JsonOut = None,
    url: Url = None,
    um_per_pixel: Scale = None,
    timeout: Timeout = c.DEFAULT_TIMEOUT_S,
    budget: Budget = None,
    alpha: Alpha = None,
    classes: Classes = None,
    priority: Urgency = "routine",
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
) -> None:
    """Classify single-cell images, as an analyser delivers them."""
    out, notes = _consoles(json_out)
    with _errors_told(notes):
        # Before a server is started for it.
        check_scale(um_per_pixel)
        asked = Options.of(timeout, timeout, budget, alpha, _names(classes), priority)
        tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
    selected = _selected(images, out)
    sources = selected.files
    _check_outputs(json_out, None, sources, notes)
    with (
        _errors_told(notes),
        server_address(url, notes) as address,
        Client(address, timeout=timeout, tls=tls) as client,
    ):
        result = _with_bar(
            lambda progress: client.classify(sources, um_per_pixel, on_progress=progress, **asked.arguments),
            sources,
            notes,
        )
    result = result.model_copy(update={"skipped": selected.skipped})
    tables.print_cells(result, out)
    written = json_out is None or _write_json(json_out, lambda: _json(result), notes)
    code = exit_codes.of_result(len(result.cells), result.failures, selected.lost)
    raise typer.Exit(exit_codes.with_outputs(code, written))


@app.command()
def info(
    url: Url = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
) -> None:
    """Print what the server serves, as JSON: model, classes, hashes, limits, versions."""
    notes = Console(stderr=True)
    with _errors_told(notes):
        tls = tls_of(url, tls_ca, tls_cert, tls_key, tls_server_name)
    with _errors_told(notes), server_address(url, notes) as address, Client(address, tls=tls) as client:
        typer.echo(client.info().model_dump_json(indent=2))


mounts.add_all(app)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    # Pillow remarks on damaged EXIF while the metadata is read; whether the image is usable, the server says.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    _print_anything()
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(exit_codes.INTERRUPTED)


def _print_anything() -> None:
    """Let a character that the terminal's encoding lacks be printed as an escape rather than end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _consoles(json_out: Path | None) -> tuple[Console, Console]:
    """Return (results, notes); with JSON on standard output the tables go to standard error."""
    notes = Console(stderr=True)
    return (notes if json_out is not None and str(json_out) == "-" else Console()), notes


def _names(text: str | None) -> list[str] | None:
    """Return the names of a comma-joined list; none of them is empty."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _selected(paths: Sequence[Path], out: Console) -> Selection:
    """Return the images meant; without any, what was passed over is named and the command ends."""
    selected = gather(paths)
    if not selected.files:
        tables.print_skipped(selected.skipped, out)
        typer.echo("no image files in the folder(s) given", err=True)
        raise typer.Exit(exit_codes.USAGE)
    return selected


def _check_outputs(json_out: Path | None, overlay: Path | None, sources: Sequence[Path], notes: Console) -> None:
    """Refuse, before the work, outputs that could not be written after it or would overwrite an input."""
    try:
        if json_out is not None and str(json_out) != "-":
            check_output(json_out)
            if any(_same_file(json_out, source) for source in sources):
                raise NotWritable(f"cannot write {shown(json_out)}: it is one of the images; give another name")
        if overlay is not None:
            check_output_folder(overlay)
    except NotWritable as error:
        notes.print(tables.plain(error, "red"))
        raise typer.Exit(exit_codes.USAGE) from None


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


@contextmanager
def _errors_told(notes: Console) -> Iterator[None]:
    """Turn an error that ends the command into one line and an exit code."""
    try:
        yield
    except CytoserveClientError as error:
        notes.print(tables.plain(f"{error} [{error.code}]", "red"))
        raise typer.Exit(exit_codes.of_error(error)) from None
    except mounts.MissingPart as part:
        notes.print(tables.plain(f"{part}, or give --url HOST:PORT of a running server.", "red"))
        raise typer.Exit(exit_codes.USAGE) from None
    except KeyboardInterrupt:
        notes.print("interrupted")
        raise typer.Exit(exit_codes.INTERRUPTED) from None
    except OSError as error:
        notes.print(tables.plain(f"the system refused: {error}", "red"))
        raise typer.Exit(exit_codes.UNFORESEEN) from None


def _with_bar(
    work: Callable[[Callable[[int, int], None]], _Result], sources: Sequence[Path], notes: Console
) -> _Result:
    """Run the work under a progress bar with the time left, where there is more than one image and a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = len(sources) < 2 or not notes.is_terminal
    with Progress(*columns, console=notes, transient=True, disable=quiet) as progress:
        task = progress.add_task("images", total=len(sources))
        return work(lambda done, total: progress.update(task, completed=done, total=total))


def _json(analysis: SmearAnalysis | CellsAnalysis) -> str:
    return analysis.model_dump_json(indent=2)


def _per_image_json(analyses: Sequence[SmearAnalysis], skipped: Sequence[Skipped]) -> str:
    whole = {
        "schema": ANALYSES,
        "analyses": [analysis.model_dump(mode="json") for analysis in analyses],
        "skipped": [item.model_dump(mode="json") for item in skipped],
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)


def _write_json(path: Path, document: Callable[[], str], notes: Console) -> bool:
    """Write a document, UTF-8 whatever the terminal's encoding; return whether it is written."""
    try:
        data = (document() + "\n").encode("utf-8")
        if str(path) == "-":
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
            return True
        write_bytes(path, data)
    except OSError as error:
        notes.print(tables.plain(f"cannot write the result: {error}", "red"))
        return False
    notes.print(tables.plain(f"JSON: {shown(path)}"))
    return True


def _write_overlays(folder: Path, analysis: SmearAnalysis, notes: Console) -> bool:
    """Write one annotated picture per field; one that fails is told and the others are written.

    Returns whether all were.
    """
    names = overlay_names((field.source for field in analysis.fields), folder)
    whole = True
    for field, name in zip(analysis.fields, names, strict=True):
        try:
            write_bytes(folder / name, draw_overlay(read_displayed(path_of(field.source)), field))
        except Exception as error:  # whatever it is, it concerns this picture and not the next
            notes.print(tables.plain(f"no overlay of {field.source}: {error}", "yellow"))
            whole = False
            continue
        notes.print(tables.plain(f"overlay: {shown(folder / name)}"))
    return whole


if __name__ == "__main__":
    main()
