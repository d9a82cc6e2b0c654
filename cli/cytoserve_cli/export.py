"""``cytoserve export``: checkpoints into model repositories."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from cytoserve_export.errors import UnknownModel
from cytoserve_files import check_output
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cytoserve_cli import exit_codes
from cytoserve_cli.errors import exit_on_error
from cytoserve_cli.terminal import bars

app = typer.Typer(no_args_is_help=True, help="Export checkpoints for serving. For research use; not a medical device.")


@app.callback()
def export() -> None:
    """Export checkpoints for serving."""
    signal.signal(signal.SIGTERM, _interrupt)  # what is half made is taken away, as after Ctrl-C


@app.command()
@exit_on_error("export")
def onnx(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, the one with model_index.json.")],
    to: Annotated[Path, typer.Option("--to", help="Model repository to write into.")],
    only: Annotated[str, typer.Option(help="Names of graphs joined by commas; default: all of the checkpoint.")] = "",
    cells: Annotated[
        Path | None,
        typer.Option(help="Folder of real cells, one sub-folder per class. Default: $CYTOSERVE_DATA/pbc/val."),
    ] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Cells of each class in the decision check.")] = 32,
    decision_probes: Annotated[
        int | None, typer.Option(min=1, help="Noise samples per decision; default: the checkpoint's budget.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the checks.")] = 1,
) -> None:
    """Export CHECKPOINT to ONNX, check parity and decisions in a separate process, install with a manifest."""
    console = Console(stderr=True)
    names, cells = tuple(name.strip() for name in only.split(",") if name.strip()), cells or _default_cells()
    if only and not names:
        raise UnknownModel("--only names no graph")
    with console.status("loading torch"):
        from cytoserve_export.decisions import CheckCells
        from cytoserve_export.repository import ExportRequest, export_onnx
    chosen = CheckCells(cells, per_class, probes=decision_probes) if cells else None
    if chosen is None:
        console.print(
            "[yellow]no cells given (--cells or CYTOSERVE_DATA): decisions are not checked, the manifest says null[/]"
        )
    with bars(console, _stage) as report:
        made = export_onnx(ExportRequest(checkpoint, to, names, chosen, threads), report)
    _show(made, console)


@app.command()
@exit_on_error("export")
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, the one with model_index.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON on standard output.")] = False,
) -> None:
    """Describe CHECKPOINT: its networks, the cost of an evaluation, reasons to refuse it. Weights are not loaded."""
    from cytoserve_export.inspection import inspect as look

    console = Console(stderr=True)
    found = look(checkpoint)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    elif "cost" in found:
        _show_inspection(found)
    for refusal in found["refused"]:
        console.print(f"[bold red]refused[/] {escape(str(refusal))}", highlight=False)
    if found["refused"]:
        raise typer.Exit(exit_codes.UNFORESEEN)


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
@exit_on_error("export")
def random_checkpoint(
    to: Annotated[Path, typer.Argument(help="New folder.")],
    size: Annotated[str, typer.Option(help="full (860 million parameters) or tenth (of every width).")] = "tenth",
    probes: Annotated[int, typer.Option(min=1, help="Noise samples in the bank.")] = 8,
) -> None:
    """Write a CytoDiffusion checkpoint with random weights, for tests and timings of an export."""
    from cytoserve_export.synthetic import SIZES, write_checkpoint

    if size not in SIZES or to.exists():
        raise typer.BadParameter(f"--size is one of {', '.join(SIZES)}, and {to} must not exist yet")
    console = Console(stderr=True)
    with console.status(f"writing {escape(str(to))}"):
        write_checkpoint(to, size, probes=probes)


@app.command()
@exit_on_error("export")
def repository(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, the one with model_index.json.")],
    to: Annotated[Path, typer.Option("--to", help="Folder of the new repository.")],
    runtime: Annotated[str, typer.Option(help="onnx, or tensorrt (builds the engine here, on the GPU).")] = "onnx",
    precision: Annotated[str, typer.Option(help="Precision of the denoiser: fp32, fp16, bf16, int8.")] = "fp32",
    profile: Annotated[str, typer.Option(help="Target: cpu, a10, l4, a100, h100, h200.")] = "cpu",
    execution_provider: Annotated[str, typer.Option(help="ONNX Runtime on a GPU: cuda or tensorrt.")] = "cuda",
    cells: Annotated[Path | None, typer.Option(help="Folder of real cells, one sub-folder per class.")] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Cells of each class in the checks.")] = 32,
    decision_probes: Annotated[
        int | None, typer.Option(min=1, help="Noise samples per decision in the checks.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="Repository with the Python models; default: the checkout's.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the repository that is there.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Accept a precision that changes more than 0.5 % of the decisions.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the checks.")] = 1,
) -> None:
    """Make a complete, checked model repository for one processor and precision."""
    console = Console(stderr=True)
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
    with bars(console, _stage) as report:
        made = make_repository(order, report, tensorrt)
    _show({to.name: made}, console)
    if made["precision"]:
        cost = made["precision"]
        console.print(
            f"{cost['precision']}: {cost['decisions_changed']} of {cost['cells']} decisions changed, largest error of "
            f"a score {cost['max_score_error']:.2g}, {1e3 * cost['cpu_s_per_evaluation']:.1f} ms of processor an "
            f"evaluation (fp32 {1e3 * cost['exact_cpu_s_per_evaluation']:.1f})"
        )
    for name, why in made["left_out"].items():
        console.print(f"left out {name}: {escape(str(why))}")


def _checkout() -> Path:
    return Path(__file__).resolve().parents[2] / "model_repository"


@app.command()
@exit_on_error("export")
def verify(
    folder: Annotated[Path, typer.Argument(help="Model repository with a manifest.json.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Measure parity again against this checkpoint.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Verify FOLDER against its manifest: hashes, signatures, opsets, and with --checkpoint the parity.

    The hashes need what `cytoserve serve` needs; the rest needs the extra "export".
    """
    console = Console(stderr=True)
    missing: str | None = None
    if checkpoint is None:
        from cytoserve_export.verification import verify_as_installed

        found, missing = verify_as_installed(folder)
    else:
        from cytoserve_export.whole_repository import verify_repository

        with bars(console, _stage) as report:
            found = verify_repository(folder, checkpoint, threads, report)
    _show({folder.name: found}, console)
    if missing:
        console.print(
            f"verified: hashes. Signatures and opsets were not read again ({missing} is not installed): "
            'pip install "cytoserve\\[export]"'
        )
        return
    console.print("verified" + ("" if checkpoint else "; parity as recorded, give --checkpoint to measure it again"))


@app.command()
@exit_on_error("export")
def manifest(
    folder: Annotated[Path, typer.Argument(help="Model repository with a manifest.json.")],
) -> None:
    """Update the manifest of FOLDER after an edit by hand (a configuration, a model.py, an engine; not a graph)."""
    from cytoserve_export.refresh import refresh

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    done = refresh(folder)
    for word in ("added", "changed", "removed"):
        for name in getattr(done, word):
            console.print(f"{word} {name}", markup=False)
    console.print(f"{folder / 'manifest.json'} names {done.files} files", markup=False)


@app.command()
@exit_on_error("export")
def tensorrt(
    model: Annotated[Path, typer.Argument(help="The denoiser's model.onnx.")],
    profile: Annotated[str, typer.Option(help="The GPU of this machine: a10, l4, a100, h100, h200.")],
    timing_cache: Annotated[Path | None, typer.Option(help="File that keeps kernel timings between builds.")] = None,
    version_compatible: Annotated[
        bool, typer.Option(help="Let later TensorRT releases of this major version load it.")
    ] = False,
    cells: Annotated[Path | None, typer.Option(help="Latents for the decision check, an .npy of (N, C, H, W).")] = None,
) -> None:
    """Build a TensorRT engine beside MODEL and compare its decisions with ONNX Runtime's. Needs the GPU it is for."""
    console = Console(stderr=True)

    from cytoserve_export.devices import find_profile
    from cytoserve_export.tensorrt_builder import Bindings, BuildOptions
    from cytoserve_export.tensorrt_check import build_and_check

    chosen, options = find_profile(profile), BuildOptions(version_compatible, timing_cache)
    if timing_cache is not None:
        check_output(timing_cache)
    with bars(console, _stage) as report:
        made = build_and_check(model, chosen, Bindings.find(), options, cells, report)
    typer.echo(json.dumps(made, indent=1))


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _default_cells() -> Path | None:
    data = os.environ.get("CYTOSERVE_DATA")
    return Path(data) / "pbc" / "val" if data else None


def _stage(name: str) -> str:
    """Return what a stage belongs to: the graphs of one step share a bar."""
    return name.split(" ")[0] if name.startswith(("tracing", "parity")) else name


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
