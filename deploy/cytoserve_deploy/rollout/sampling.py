"""Make the golden set: cells sampled from the diffusion model by its exported graphs, without torch.

Run once when the set shall change, and commit what it writes::

    python -m cytoserve_deploy.rollout.sampling model_repository_synthesis

The graphs are ``noise_predictor`` and ``decoder`` of ``model_repository_synthesis``. `golden` reads the result.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from cytoserve_files import check_output_folder, read_text, write_bytes, write_text
from numpy.typing import NDArray
from PIL import Image

from cytoserve_deploy.rollout.golden import DESCRIPTION_FILE, SCHEMA, SHEET_FILE

Floats = NDArray[np.float32]

TIMESTEPS: Final = 1000
FIRST_TIMESTEP: Final = 970
"""Above it next to no signal is left: the clean latent is the noise's error divided by less than 0.05."""

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Recipe:
    """How the cells are sampled: ``steps`` evaluations a cell, ``seed`` of the first latents, JPEG ``quality``."""

    per_class: int = 6
    steps: int = 40
    seed: int = 20
    um_per_pixel: float = 0.25
    quality: int = 92


def signal() -> NDArray[np.float64]:
    """Return the (TIMESTEPS,) products of alphas of the cosine schedule.

    Source: Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 17, with its bound
    of 0.999 on every beta; the denoiser was trained with it.
    """

    def bar(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    t = np.arange(TIMESTEPS, dtype=np.float64)
    betas = np.minimum(1 - bar((t + 1) / TIMESTEPS) / bar(t / TIMESTEPS), 0.999)
    return np.cumprod(1 - betas)


def sample(predictor: Any, labels: NDArray[np.int32], shape: tuple[int, int, int], recipe: Recipe) -> Floats:
    """Sample (B, c, h, w) latents of (B,) classes by DDIM with eta = 0.

    Source: Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", equation 12. ``predictor`` is an
    ``onnxruntime.InferenceSession``: (LATENT_NOISY, TIMESTEP, CLASS) -> NOISE.
    """
    alphas = signal()
    z = np.random.default_rng(recipe.seed).standard_normal((len(labels), *shape)).astype(np.float32)
    times = np.linspace(FIRST_TIMESTEP, 0, recipe.steps + 1).round().astype(int)
    clean = z
    for now, after in itertools.pairwise(times):
        step = np.full((len(labels), 1), now, np.int64)
        noise = predictor.run(["NOISE"], {"LATENT_NOISY": z, "TIMESTEP": step, "CLASS": labels[:, None]})[0]
        clean = (z - np.sqrt(1 - alphas[now]) * noise) / np.sqrt(alphas[now])
        z = (np.sqrt(alphas[after]) * clean + np.sqrt(1 - alphas[after]) * noise).astype(np.float32)
    return clean.astype(np.float32)


def draw(repository: Path, classes: int, recipe: Recipe) -> NDArray[np.uint8]:
    """Return the (classes * per_class, 96, 96, 3) uint8 crops, class by class."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    predictor, decoder = (
        onnxruntime.InferenceSession(repository / name / "1" / "model.onnx", options, ["CPUExecutionProvider"])
        for name in ("noise_predictor", "decoder")
    )
    shape = tuple(predictor.get_inputs()[0].shape[1:])
    labels = np.repeat(np.arange(classes, dtype=np.int32), recipe.per_class)
    crops = decoder.run(["CROP_FLOAT"], {"LATENT": sample(predictor, labels, shape, recipe)})[0]
    return np.clip(np.rint(crops * 255), 0, 255).astype(np.uint8)


def sheet(crops: NDArray[np.uint8], per_class: int) -> NDArray[np.uint8]:
    """Lay (B, s, s, 3) crops out as one picture: a row per class."""
    count, size = crops.shape[:2]
    grid = crops.reshape(count // per_class, per_class, size, size, 3)
    return np.ascontiguousarray(grid.transpose(0, 2, 1, 3, 4).reshape(count // per_class * size, per_class * size, 3))


@app.command()
def main(
    repository: Annotated[Path, typer.Argument(help="The folder model_repository_synthesis.")],
    to: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(__file__).parent / "golden",
    seed: Annotated[int, typer.Option(help="Seed of the first latents.")] = Recipe.seed,
) -> None:
    """Sample the golden set's cells and write sheet and description."""
    check_output_folder(to)
    recipe = Recipe(seed=seed)
    manifest = json.loads(read_text(repository / "manifest.json"))
    service = repository.parent / "model_repository" / "service_info" / "1" / "service.json"
    classes = json.loads(read_text(service))["classes"]
    crops = draw(repository, len(classes), recipe)
    buffer = io.BytesIO()
    Image.fromarray(sheet(crops, recipe.per_class)).save(buffer, "JPEG", quality=recipe.quality, subsampling=0)
    description = {
        "schema": SCHEMA,
        "synthetic": "Sampled from a diffusion model. Not photographs; no patient, no finding.",
        "classes": classes,
        "side": int(crops.shape[1]),
        "weights_sha256": manifest["provenance"]["weights_sha256"],
        "sheet_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        **asdict(recipe),
    }
    write_bytes(to / SHEET_FILE, buffer.getvalue())
    write_text(to / DESCRIPTION_FILE, json.dumps(description, indent=2) + "\n")
    typer.echo(f"{len(crops)} cells, {len(buffer.getvalue())} bytes: {to / SHEET_FILE}")


if __name__ == "__main__":
    app()
