"""``cytoserve export``: checkpoints into model repositories."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cytoserve_export.errors import ExportError, UnknownModel
from cytoserve_files import FileProblem, check_output
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from cytoserve_export.progress import Report

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
    numbers = (per_class, decision_probes, threads)
    made = _guarded(console, lambda: _export(checkpoint, to, only, cells or _default_cells(), numbers, console))
    _show(made, console)


def _guarded(console: Console, work: Callable[[], Any]) -> Any:
    """Run ``work``; a refusal or an interruption becomes one sentence and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except (ExportError, FileProblem) as error:
        console.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False)
        raise typer.Exit(EXIT_REFUSED) from None
    except KeyboardInterrupt:
        console.print("interrupted: nothing was written")
        raise typer.Exit(EXIT_INTERRUPTED) from None


@app.command()
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, the one with model_index.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON on standard output.")] = False,
) -> None:
    """Say what CHECKPOINT is, what an evaluation costs, and what the export refuses (weights are not loaded)."""
    from cytoserve_export.inspection import inspect as look

    console = Console(stderr=True)
    found = _guarded(console, lambda: look(checkpoint))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    elif "cost" in found:
        _show_inspection(found)
    for refusal in found["refused"]:
        console.print(f"[bold red]refused[/] {escape(str(refusal))}", highlight=False)
    if found["refused"]:
        raise typer.Exit(EXIT_REFUSED)


def _show_inspection(found: dict[str, Any]) -> None:
    cost, crop = found["cost"], found["crop"]
    shape = " x ".join(map(str, found["latent_shape"]))
    how = "exact shortcut: one constant per class and layer" if found["shortcut"] else "no shortcut"
    lines = {
        "name": found["name"],
        "networks": f"{found['denoiser']}, {found['autoencoder']}" + (", segmenter" if found["segmenter"] else ""),
        "classes": f"{len(found['classes'])}: {', '.join(found['classes'])}",
        "crop": f"{crop['size']} px at {crop['um_per_pixel']} um, latents {shape}",
        "class told by": f"{found['conditioning']} ({how})",
        "an evaluation": f"{cost['folded']['flops'] / 1e9:.3g} GFLOP "
        f"({cost['unmodified']['flops'] / 1e9:.3g} as trained), "
        f"{cost['folded']['bytes_written'] / 1e6:.4g} MB written in fp32",
        "a cell": f"{found['evaluations_per_cell']} evaluations, {found['flops_per_cell'] / 1e12:.3g} TFLOP",
        "weights": ", ".join(f"{name} {size / 1e6:.4g} MB" for name, size in found["weight_bytes"].items()),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in lines.items():
        table.add_row(name, str(value))
    Console().print(table)


@app.command("random-checkpoint")
def random_checkpoint(
    to: Annotated[Path, typer.Argument(help="New folder.")],
    size: Annotated[str, typer.Option(help="full (860 million parameters) or tenth (of every width).")] = "tenth",
    probes: Annotated[int, typer.Option(min=1, help="Probes in the bank.")] = 8,
) -> None:
    """Write a CytoDiffusion checkpoint with random weights, to test and time an export with."""
    from cytoserve_export.synthetic import SIZES, write_checkpoint

    if size not in SIZES or to.exists():
        raise typer.BadParameter(f"--size is one of {', '.join(SIZES)}, and {to} must not exist yet")
    console = Console(stderr=True)
    with console.status(f"writing {escape(str(to))}"):
        _guarded(console, lambda: write_checkpoint(to, size, probes=probes))


@app.command()
def repository(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, the one with model_index.json.")],
    to: Annotated[Path, typer.Option("--to", help="Folder of the new repository.")],
    runtime: Annotated[str, typer.Option(help="onnx, or tensorrt (builds the engine here, on the GPU).")] = "onnx",
    precision: Annotated[str, typer.Option(help="Of the denoiser: fp32, fp16, bf16, int8.")] = "fp32",
    profile: Annotated[str, typer.Option(help="cpu, a10, l4, a100, h100, h200.")] = "cpu",
    execution_provider: Annotated[str, typer.Option(help="ONNX Runtime on a GPU: cuda or tensorrt.")] = "cuda",
    cells: Annotated[Path | None, typer.Option(help="Folder of real cells, one sub-folder a class.")] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Cells of each class in the checks.")] = 32,
    decision_probes: Annotated[int | None, typer.Option(min=1, help="Probes per decision in the checks.")] = None,
    template: Annotated[
        Path | None, typer.Option(help="Repository with the Python models; default: the checkout's.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the repository that is there.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Keep a precision that changes over 0.5 % of the decisions.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the checks.")] = 1,
) -> None:
    """Make a whole model repository for one processor and precision, checked, with configurations and manifest."""
    console = Console(stderr=True)

    def work() -> dict[str, Any]:
        with console.status("loading torch"):
            from cytoserve_export.decisions import CheckCells
            from cytoserve_export.tensorrt_builder import Bindings
            from cytoserve_export.whole_repository import Order, make_repository
        found = cells or _default_cells()
        chosen = CheckCells(found, per_class, probes=decision_probes) if found else None
        order = Order(
            checkpoint, to, template or _checkout(), runtime, precision, profile, chosen, replace, threads,
            execution_provider, accept_changes,
        )  # fmt: skip
        tensorrt = Bindings.find() if runtime == "tensorrt" else None
        with _bars(console) as report:
            return make_repository(order, report, tensorrt)

    made = _guarded(console, work)
    _show({to.name: made}, console)
    if made["precision"]:
        told = made["precision"]
        console.print(
            f"{told['precision']}: {told['decisions_changed']} of {told['cells']} decisions changed, largest error of "
            f"a score {told['max_score_error']:.2g}, {1e3 * told['cpu_s_per_evaluation']:.1f} ms of processor an "
            f"evaluation (fp32 {1e3 * told['exact_cpu_s_per_evaluation']:.1f})"
        )
    for name, why in made["left_out"].items():
        console.print(f"left out {name}: {escape(str(why))}")


def _checkout() -> Path:
    return Path(__file__).resolve().parents[2] / "model_repository"


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Model repository with a manifest.json.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Measure parity again against this checkpoint.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Recompute what the manifest of FOLDER says: hashes, signatures, opsets, and with --checkpoint the parity.

    The hashes need no more than `cytoserve serve` does; the rest needs the extra "export".
    """
    console = Console(stderr=True)
    missing: str | None = None

    def work() -> dict[str, Any]:
        nonlocal missing
        if checkpoint is None:
            from cytoserve_export.verification import verify_as_installed

            found, missing = verify_as_installed(folder)
            return found
        from cytoserve_export.whole_repository import verify_repository

        with _bars(console) as report:
            return verify_repository(folder, checkpoint, threads, report)

    found = _guarded(console, work)
    _show({folder.name: found}, console)
    if missing:
        console.print(
            f"verified: hashes. Signatures and opsets were not read again ({missing} is not installed): "
            'pip install "cytoserve\\[export]"'
        )
        return
    console.print("verified" + ("" if checkpoint else "; parity as recorded, give --checkpoint to measure it again"))


@app.command()
def manifest(
    folder: Annotated[Path, typer.Argument(help="Model repository with a manifest.json.")],
) -> None:
    """List the files of FOLDER again after an edit by hand (a configuration, a model.py, an engine); not a graph."""
    from cytoserve_export.refresh import refresh

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    done = _guarded(console, lambda: refresh(folder))
    for word in ("added", "changed", "removed"):
        for name in getattr(done, word):
            console.print(f"{word} {name}", markup=False)
    console.print(f"{folder / 'manifest.json'} names {done.files} files", markup=False)


@app.command()
def tensorrt(
    model: Annotated[Path, typer.Argument(help="The denoiser's model.onnx.")],
    profile: Annotated[str, typer.Option(help="The GPU of this machine: a10, l4, a100, h100, h200.")],
    timing_cache: Annotated[Path | None, typer.Option(help="Kernel timings kept between builds.")] = None,
    version_compatible: Annotated[bool, typer.Option(help="Let later TensorRT of this major version load it.")] = False,
    cells: Annotated[Path | None, typer.Option(help="Latents for the decision check, an .npy of (N, C, H, W).")] = None,
) -> None:
    """Build a TensorRT engine beside MODEL and compare its decisions with ONNX Runtime's. Needs the GPU it is for."""
    console = Console(stderr=True)

    def work() -> dict[str, Any]:
        from cytoserve_export.devices import find_profile
        from cytoserve_export.tensorrt_builder import Bindings, BuildOptions
        from cytoserve_export.tensorrt_check import build_and_check

        chosen, options = find_profile(profile), BuildOptions(version_compatible, timing_cache)
        if timing_cache is not None:
            check_output(timing_cache)
        with _bars(console) as report:
            return build_and_check(model, chosen, Bindings.find(), options, cells, report)

    typer.echo(json.dumps(_guarded(console, work), indent=1))


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
        from cytoserve_export.decisions import CheckCells
        from cytoserve_export.repository import ExportRequest, export_onnx
    per_class, probes, threads = numbers
    chosen = CheckCells(cells, per_class, probes=probes) if cells else None
    if chosen is None:
        console.print(
            "[yellow]no cells given (--cells or CYTOSERVE_DATA): decisions are not checked, the manifest says null[/]"
        )
    with _bars(console) as report:
        return export_onnx(ExportRequest(checkpoint, to, names, chosen, threads), report)


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
        console.print(f"{escape(folder)}: weights {weights}, {len(manifest['files'])} files in the manifest")


def _show_decision(decision: dict[str, Any] | None, console: Console) -> None:
    if decision:
        console.print(
            f"decisions: {decision['changed']} of {decision['cells']} cells changed ({decision['probes']} probes; "
            f"largest difference of a score {decision['max_score_difference']:.2g}, smallest margin "
            f"{decision['smallest_margin']:.2g}; {decision['agreement']:.1%} agree with their folder)"
        )
