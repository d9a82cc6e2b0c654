"""``cytoserve train``: the reference models, from images to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cytoserve_files import check_output, check_output_folder
from rich.console import Console
from rich.markup import escape

from cytoserve_cli.errors import exit_on_error
from cytoserve_cli.terminal import bars

app = typer.Typer(no_args_is_help=True, help="Train the reference models (extra: train).")

Data = Annotated[Path, typer.Option(help="Folder with train, val and test, one folder a class in each.")]
Out = Annotated[Path, typer.Option(help="Folder of the run; a run that is there already is resumed.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int, typer.Option(help="CPU threads.")]
Trunk = Annotated[str, typer.Option(help="Checkpoint whose denoiser, told a class, lends its weights to begin with.")]


@app.command()
@exit_on_error("train")
def autoencoder(data: Data = Path("../shared/data/pbc"), out: Out = Path("runs/autoencoder")) -> None:
    """Fit the patch autoencoder and print the share of variance it keeps (seconds; `denoiser` does it as well)."""
    check_output_folder(out)
    import torch
    from cytoserve_networks.autoencoder import PatchPCAAutoencoder
    from cytoserve_training.augment import Augmentation
    from cytoserve_training.cells import cut, load_cells

    cells = load_cells(data / "train", per_class=375)
    crops = cut(cells.images, cells.gains, Augmentation(), torch.Generator().manual_seed(0))
    model = PatchPCAAutoencoder()
    kept = float(model.fit(crops)[: model.latent_channels].sum())
    model.save(out / "vae")
    typer.echo(f"{model.latent_channels} components keep {kept:.2%} of the variance; written to {out / 'vae'}")


@app.command()
@exit_on_error("train")
def denoiser(
    data: Annotated[Path, typer.Option(help="Folder of all data: pbc, bcisc, chula_wbc and others.")] = Path(
        "../shared/data"
    ),
    out: Out = Path("runs/denoiser"),
    sites: Annotated[str, typer.Option(help="Sites to train on, joined by commas; default: all.")] = "",
    steps: Annotated[int, typer.Option(help="Optimiser steps in all.")] = 8000,
    start_from: Annotated[str, typer.Option(help="Folder of an earlier run whose weights to start from.")] = "",
    trunk: Trunk = "",
    leave_out: Annotated[
        str, typer.Option(help="Classes to leave out, joined by commas, to measure how they stand out.")
    ] = "",
    leave_site: Annotated[
        str, typer.Option(help="Site of which nothing is to be seen, to measure what the others teach about it.")
    ] = "",
    mild: Annotated[bool, typer.Option(help="Mild augmentation from the beginning, for a short run at home.")] = False,
    margin_weight: Annotated[float, typer.Option(help="Weight of the margin between classes.")] = 0.03,
    time_mean: Annotated[float, typer.Option(help="Mean of the logit of the timesteps; lower is less noise.")] = -0.3,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 5e-4,
    seed: Annotated[int, typer.Option(help="Seed of the order of cells, the timesteps and the noise.")] = 20261126,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Train the denoiser, which answers all classes in one pass; resumable (about 100 minutes on two idle cores)."""
    check_output_folder(out)
    from cytoserve_training.cells import left_out
    from cytoserve_training.denoiser_train import train
    from cytoserve_training.sites import SITES
    from cytoserve_training.train_config import MILD, DenoiserTrainConfig

    chosen = tuple(name.strip() for name in sites.split(",") if name.strip()) or tuple(SITES)
    for option, named in (("--sites", chosen), ("--leave-site", (leave_site,) if leave_site else ())):
        if unknown := [name for name in named if name not in SITES]:
            raise typer.BadParameter(f"{option} names {', '.join(unknown)}; known are {', '.join(SITES)}")
    if set(chosen) == {leave_site}:
        raise typer.BadParameter(f"--leave-site {leave_site} leaves no site to train on")
    try:
        left_out(leave_out)
    except ValueError as error:
        raise typer.BadParameter(f"--leave-out: {error}") from error
    config = DenoiserTrainConfig(
        data=str(data),
        out=str(out),
        sites=chosen,
        margin_weight=margin_weight,
        time_mean=time_mean,
        settling=MILD if mild else DenoiserTrainConfig.settling,
        steps=steps,
        start_from=start_from,
        trunk=trunk,
        leave_out=leave_out,
        leave_site=leave_site,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        threads=threads,
    )
    typer.echo(f"run written to {train(config)}")


@app.command()
@exit_on_error("train")
def reference(
    data: Annotated[Path, typer.Option(help="Folder of all data: pbc, bcisc, chula_wbc and others.")] = Path(
        "../shared/data"
    ),
    run: Annotated[Path, typer.Option(help="Folder of the training; one that is there already is resumed.")] = Path(
        "runs/reference"
    ),
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint to write; its detector is kept.")] = Path(
        "models/reference"
    ),
    repository: Annotated[Path, typer.Option(help="Model repository to fill.")] = Path("model_repository"),
    trunk: Trunk = "",
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Make the reference model from its data: train, pack, export, fit on the served graphs (some four hours)."""
    check_output_folder(run)
    check_output_folder(checkpoint)
    from cytoserve_export.checkpoint import Checkpoint
    from cytoserve_export.decisions import CheckCells
    from cytoserve_export.refresh import refresh
    from cytoserve_export.repository import ExportRequest, export_onnx, write_side_files
    from cytoserve_training.checkpoint import PackConfig
    from cytoserve_training.checkpoint import pack as pack_run
    from cytoserve_training.denoiser_train import train
    from cytoserve_training.reference import reference_runs
    from cytoserve_training.refit import RefitConfig
    from cytoserve_training.refit import refit as fit_again

    for config in reference_runs(data, run, trunk, device, threads):
        trained = train(config)
    packing = PackConfig(data=str(data / "pbc"), run=str(trained), out=str(checkpoint), threads=threads)
    pack_run(packing)
    cells = CheckCells(data / "pbc" / "val")
    with bars(Console(stderr=True), escape) as report:
        export_onnx(ExportRequest(checkpoint, repository, cells=cells, threads=threads), report)
    fit_again(RefitConfig(str(checkpoint), str(repository), str(run), packing))
    # What was fitted again changes no graph: traced and checked they are already.
    write_side_files(repository, Checkpoint(checkpoint))
    refresh(repository)
    typer.echo(
        f"{checkpoint} and {repository} are of one training; what depends on the weights besides: "
        "make demo-site, make evidence"
    )


@app.command()
@exit_on_error("train")
def pack(
    run: Annotated[Path, typer.Option(help="Folder of a denoiser run.")] = Path("runs/denoiser"),
    data: Data = Path("../shared/data/pbc"),
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")] = Path("models/reference"),
    racing: Annotated[
        int, typer.Option(help="Validation cells per class that give racing rule and anomaly profiles.")
    ] = 50,
    calibrating: Annotated[int, typer.Option(help="Most other validation cells, for calibration.")] = 800,
    threads: Threads = 2,
) -> None:
    """Draw the noise samples, fit racing, temperature and thresholds on val, write the checkpoint."""
    check_output_folder(out)
    check_output_folder(run)
    from cytoserve_training.checkpoint import PackConfig
    from cytoserve_training.checkpoint import pack as pack_run

    config = PackConfig(
        data=str(data),
        run=str(run),
        out=str(out),
        racing_per_class=racing,
        calibrating=calibrating,
        threads=threads,
    )
    typer.echo(f"checkpoint written to {pack_run(config)}")


@app.command()
@exit_on_error("train")
def refit(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint whose scoring is refitted.")] = Path("models/reference"),
    repository: Annotated[Path, typer.Option(help="Model repository exported from it.")] = Path("model_repository"),
    data: Data = Path("../shared/data/pbc"),
    run: Annotated[Path, typer.Option(help="Folder that keeps the computed errors.")] = Path("runs/refit"),
    threads: Threads = 2,
) -> None:
    """Refit racing, temperature, thresholds and references on the served graphs (about 10 minutes)."""
    from cytoserve_training.checkpoint import PackConfig
    from cytoserve_training.refit import RefitConfig
    from cytoserve_training.refit import refit as fit_again

    pack = PackConfig(data=str(data), threads=threads)
    written = fit_again(RefitConfig(str(checkpoint), str(repository), str(run), pack))
    typer.echo(f"scoring written to {written}; export it: cytoserve export onnx {checkpoint} --to {repository}")


@app.command("synthetic-field")
@exit_on_error("train")
def synthetic_field(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint to sample from.")] = Path("models/reference"),
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("examples/synthetic_field.png"),
    seed: Annotated[int, typer.Option(help="Seed of the field.")] = 11,
) -> None:
    """Sample cells from the denoiser and render the synthetic field of the demo."""
    check_output(out)
    from cytoserve_training.synthesis import FieldConfig, load_sampler, render_field, write_field

    unet, autoencoder, digest = load_sampler(checkpoint)
    config = FieldConfig(seed=seed)
    write_field(render_field(unet, autoencoder, config).pixels, out, config, digest)
    typer.echo(f"{out}: synthetic, {len(config.cells)} nucleated cells")


@app.command("synthetic-cells")
@exit_on_error("train")
def synthetic_cells(
    out: Annotated[Path, typer.Option(help="New folder to write, with one folder per class.")],
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint to sample from.")] = Path("models/reference"),
    fields: Annotated[int, typer.Option(help="Fields to render, each of about one cell per class.", min=1)] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the first field; the demo's field has 11.")] = 1000,
) -> None:
    """Cut labelled cells out of synthetic fields: what the demo's site is calibrated with."""
    check_output_folder(out)
    from cytoserve_training.synthesis import load_sampler, write_cells

    counts = write_cells(*load_sampler(checkpoint), out, fields, seed)
    typer.echo(f"{out}: synthetic, {', '.join(f'{name} {count}' for name, count in sorted(counts.items()))}")


@app.command()
@exit_on_error("train")
def segmenter(
    data: Annotated[Path, typer.Option(help="Folder that holds smears/ and pbc/.")] = Path("../shared/data"),
    run: Annotated[Path, typer.Option(help="Folder of the run; finished stages are not repeated.")] = Path(
        "runs/segmenter"
    ),
    out: Annotated[Path, typer.Option(help="Where the finished model goes.")] = Path("models/reference/segmenter"),
    steps: Annotated[int, typer.Option(help="Steps of the first stage.")] = 4000,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Train the detector of cells (the model `segmenter`) in its two stages; resumable."""
    check_output_folder(run)
    check_output_folder(out)
    from cytoserve_training.detector_train import DetectorTrainConfig, second_stage, train

    first = DetectorTrainConfig(data=data, run=run / "first", steps=steps, device=device, threads=threads)
    train(first)
    typer.echo(f"segmenter written to {train(second_stage(first, run / 'second', out))}")
