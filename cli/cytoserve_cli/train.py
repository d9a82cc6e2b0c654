"""``cytoserve train``: the reference models, from images to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cytoserve_files import NotWritable, check_output, check_output_folder

app = typer.Typer(no_args_is_help=True, help="Train the reference models (extra: train).")

Data = Annotated[Path, typer.Option(help="Folder with train, val and test, one folder a class in each.")]
Out = Annotated[Path, typer.Option(help="Folder of the run; a run found there is resumed.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int, typer.Option(help="CPU threads.")]


def _check(path: Path, folder: bool = True) -> None:
    """Refuse, before hours of work, what could not be written after them."""
    try:
        (check_output_folder if folder else check_output)(path)
    except NotWritable as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def autoencoder(data: Data = Path("../shared/data/pbc"), out: Out = Path("runs/autoencoder")) -> None:
    """Fit the patch autoencoder and say how much variance it keeps (seconds; the denoiser's run does it too)."""
    _check(out)
    import torch
    from cytoserve_training.augment import Augmentation
    from cytoserve_training.autoencoder import PatchPCAAutoencoder
    from cytoserve_training.cells import cut, load_cells

    cells = load_cells(data / "train", per_class=375)
    crops = cut(cells.images, cells.gains, Augmentation(), torch.Generator().manual_seed(0))
    model = PatchPCAAutoencoder()
    kept = float(model.fit(crops)[: model.latent_channels].sum())
    model.save(out / "vae")
    typer.echo(f"{model.latent_channels} components keep {kept:.2%} of the variance; written to {out / 'vae'}")


@app.command()
def denoiser(
    data: Data = Path("../shared/data/pbc"),
    out: Out = Path("runs/denoiser"),
    steps: Annotated[int, typer.Option(help="Optimiser steps in all.")] = 6000,
    margin_from: Annotated[int, typer.Option(help="Step from which the pairwise margin is added.")] = 1500,
    start_from: Annotated[str, typer.Option(help="Folder of an earlier run to begin with.")] = "",
    leave_out: Annotated[str, typer.Option(help="A class to leave out, for anomaly experiments.")] = "",
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 8e-4,
    seed: Annotated[int, typer.Option(help="Seed of the order of cells, of times and of noises.")] = 20261123,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Train the class-conditional denoiser; resumable."""
    _check(out)
    from cytoserve_training.denoiser_train import DenoiserTrainConfig, train

    config = DenoiserTrainConfig(
        data=str(data),
        out=str(out),
        steps=steps,
        margin_from=margin_from,
        start_from=start_from,
        leave_out=leave_out,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        threads=threads,
    )
    typer.echo(f"run written to {train(config)}")


@app.command()
def pack(
    run: Annotated[Path, typer.Option(help="Folder of a denoiser run.")] = Path("runs/denoiser"),
    data: Data = Path("../shared/data/pbc"),
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")] = Path("models/reference"),
    choosing: Annotated[int, typer.Option(help="Validation cells a class that choose bank and elimination.")] = 50,
    calibrating: Annotated[int, typer.Option(help="Other validation cells, at most, that calibrate.")] = 800,
    threads: Threads = 2,
) -> None:
    """Choose the probe bank's weights, fit temperature and thresholds on val, write the checkpoint."""
    _check(out)
    _check(run)
    from cytoserve_training.checkpoint import PackConfig
    from cytoserve_training.checkpoint import pack as pack_run

    config = PackConfig(
        data=str(data),
        run=str(run),
        out=str(out),
        choosing_per_class=choosing,
        calibrating=calibrating,
        threads=threads,
    )
    typer.echo(f"checkpoint written to {pack_run(config)}")


@app.command()
def refit(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint whose scoring is fitted again.")] = Path(
        "models/reference"
    ),
    repository: Annotated[Path, typer.Option(help="Model repository exported from it.")] = Path("model_repository"),
    data: Data = Path("../shared/data/pbc"),
    run: Annotated[Path, typer.Option(help="Folder that keeps the computed errors.")] = Path("runs/refit"),
    threads: Threads = 2,
) -> None:
    """Fit elimination, temperature, thresholds and references again, on the served graphs (about 10 minutes)."""
    from cytoserve_training.checkpoint import PackConfig
    from cytoserve_training.refit import RefitConfig
    from cytoserve_training.refit import refit as fit_again

    pack = PackConfig(data=str(data), threads=threads)
    written = fit_again(RefitConfig(str(checkpoint), str(repository), str(run), pack))
    typer.echo(f"scoring written to {written}; export it: cytoserve export onnx {checkpoint} --to {repository}")


@app.command("synthetic-field")
def synthetic_field(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint to sample from.")] = Path("models/reference"),
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("examples/synthetic_field.png"),
    seed: Annotated[int, typer.Option(help="Another seed, another field.")] = 11,
) -> None:
    """Sample cells from the denoiser and render the synthetic field of the demo."""
    _check(out, folder=False)
    import hashlib

    from cytoserve_training.autoencoder import WEIGHTS_NAME, PatchPCAAutoencoder
    from cytoserve_training.synthesis import FieldConfig, render_field, write_field
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet").float().eval()
    digest = hashlib.sha256((checkpoint / "unet" / WEIGHTS_NAME).read_bytes()).hexdigest()
    config = FieldConfig(seed=seed)
    write_field(render_field(unet, PatchPCAAutoencoder.load(checkpoint / "vae"), config), out, config, digest)
    typer.echo(f"{out}: synthetic, {len(config.cells)} nucleated cells")


@app.command()
def segmenter(
    data: Annotated[Path, typer.Option(help="Folder that holds smears/ and pbc/.")] = Path("../shared/data"),
    run: Annotated[Path, typer.Option(help="Folder of the run; stages found there are taken up again.")] = Path(
        "runs/segmenter"
    ),
    out: Annotated[Path, typer.Option(help="Where the finished model goes.")] = Path("models/reference/segmenter"),
    steps: Annotated[int, typer.Option(help="Steps of the first stage.")] = 4000,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Train the segmenter in its two stages; resumable."""
    _check(run)
    _check(out)
    from cytoserve_training.segmenter_train import SegmenterTrainConfig, second_stage, train

    first = SegmenterTrainConfig(data=data, run=run / "first", steps=steps, device=device, threads=threads)
    train(first)
    typer.echo(f"segmenter written to {train(second_stage(first, run / 'second', out))}")
