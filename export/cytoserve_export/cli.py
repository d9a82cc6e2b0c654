"""``cytoserve export``: checkpoints into model repositories."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from .errors import ExportError, UnknownModel

if TYPE_CHECKING:
    from .progress import Report

app = typer.Typer(no_args_is_help=True, help="Export checkpoints for serving. For research use; not a medical device.")

EXIT_REFUSED = 1
EXIT_INTERRUPTED = 130


@app.callback()
def export() -> None:
    """Export checkpoints for serving."""


@app.command()
def onnx(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, the one with model_index.json.")],
    to: Annotated[Path, typer.Option("--to", help="Model repository to write into.")],
    only: Annotated[str, typer.Option(help="Comma-separated graphs; default: all the checkpoint has.")] = "",
    cells: Annotated[
        Path | None,
        typer.Option(help="Folder of real cells, one sub-folder a class; default: $CYTOSERVE_DATA/pbc/val."),
    ] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Cells of each class in the decision check.")] = 32,
    decision_probes: Annotated[
        int | None, typer.Option(min=1, help="Probes per decision; default: the checkpoint's budget.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the checks.")] = 1,
) -> None:
    """Export CHECKPOINT to ONNX, check parity and decisions in a process of their own, install with a manifest."""
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        made = _export(checkpoint, to, only, cells or _default_cells(), (per_class, decision_probes, threads), console)
    except ExportError as error:
        console.print(f"[bold red]{type(error).__name__}[/]: {error}", highlight=False)
        raise typer.Exit(EXIT_REFUSED) from None
    except KeyboardInterrupt:
        console.print("interrupted: nothing was written")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    _show(made, console)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _default_cells() -> Path | None:
    data = os.environ.get("CYTOSERVE_DATA")
    return Path(data) / "pbc" / "val" if data else None


def _export(
    checkpoint: Path, to: Path, only: str, cells: Path | None, numbers: tuple[int, int | None, int], console: Console
) -> dict[str, dict[str, Any]]:
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    if only and not names:
        raise UnknownModel("--only names no graph")
    with console.status("loading torch"):
        from .decisions import Cells
        from .repository import Request, export_onnx
    per_class, probes, threads = numbers
    chosen = Cells(cells, per_class, probes=probes) if cells else None
    if chosen is None:
        console.print(
            "[yellow]no cells given (--cells or CYTOSERVE_DATA): decisions are not checked, the manifest says null[/]"
        )
    with _bars(console) as report:
        return export_onnx(Request(checkpoint, to, names, chosen, threads), report)


@contextmanager
def _bars(console: Console) -> Iterator[Report]:
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            group = stage.split(" ")[0] if stage.startswith(("tracing", "parity")) else stage
            if group not in tasks:
                tasks[group] = progress.add_task(stage, total=total)
            progress.update(tasks[group], description=stage, completed=done, total=total)

        yield report


def _show(made: dict[str, dict[str, Any]], console: Console) -> None:
    table = Table("graph", "MB", "opset", "max abs", "atol", "max rel", "rtol")
    for manifest in made.values():
        for name, entry in manifest["models"].items():
            parity = entry["parity"]
            numbers = (f"{parity[key]:.2g}" for key in ("max_abs", "atol", "max_rel", "rtol"))
            size = manifest["files"][entry["file"]]["bytes"] / 1e6
            table.add_row(name, f"{size:.1f}", str(entry["opset"]["ai.onnx"]), *numbers)
    console.print(table)
    for folder, manifest in made.items():
        _show_decision(manifest["decision"], console)
        weights = manifest["provenance"]["weights_sha256"][:16]
        console.print(f"{folder}: weights {weights}, {len(manifest['files'])} files in the manifest")


def _show_decision(decision: dict[str, Any] | None, console: Console) -> None:
    if decision:
        console.print(
            f"decisions: {decision['changed']} of {decision['cells']} cells changed ({decision['probes']} probes; "
            f"largest difference of a score {decision['max_score_difference']:.2g}, smallest margin "
            f"{decision['smallest_margin']:.2g}; {decision['agreement']:.1%} agree with their folder)"
        )
