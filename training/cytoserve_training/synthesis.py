"""A synthetic smear field: cells sampled from the diffusion model among rendered red cells.

The demo's input. It is no photograph and says so: in the PNG's metadata (``cytoserve:synthetic``) and wherever the
client shows it. White cells and platelets come from the denoiser (deterministic sampling, Song et al. 2021, DDIM,
eta = 0); red cells are discs with a pale centre and a ragged outline, because the model never learned them alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from cytoserve_contract.limits import CROP_UM_PER_PIXEL
from cytoserve_files import output_file
from cytoserve_networks.autoencoder import WEIGHTS_NAME, PatchPCAAutoencoder
from cytoserve_scoring.constants import RED_CELL_DIAMETER_UM, WHITE_LEVEL
from cytoserve_scoring.vision.crops import background_gain
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage
from torch import Tensor, nn

from cytoserve_training.cells import CLASSES
from cytoserve_training.denoiser import build_scheduler, predict

Pixels = NDArray[np.float32]

SINGLE_CELL_SIDE = 160
"""Side of the window that is cut about one cell, pixels."""

METADATA_KEY = "cytoserve:synthetic"


@dataclass(frozen=True)
class FieldConfig:
    """What stands in the field."""

    width: int = 640
    height: int = 480
    um_per_pixel: float = 0.15
    red_cells: int = 60
    platelets: int = 7
    cells: tuple[str, ...] = (
        "neutrophil",
        "neutrophil",
        "neutrophil",
        "lymphocyte",
        "lymphocyte",
        "monocyte",
        "eosinophil",
        "basophil",
        "erythroblast",
    )
    tint: tuple[float, float, float] = (1.0, 0.975, 0.92)
    steps: int = 50
    seed: int = 11


class NoClearOutline(RuntimeError):
    """None of the samples of a class can be cut out; another seed will do."""


@torch.no_grad()
def sample_latents(unet: nn.Module, labels: Tensor, shape: tuple[int, ...], steps: int, seed: int) -> Tensor:
    """Sample (B, c, h, w) latents of the given (B,) classes by DDIM with eta = 0 (equation 12 of the paper)."""
    scheduler = build_scheduler()
    scheduler.register_to_config(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    z = torch.randn(len(labels), *shape, generator=torch.Generator().manual_seed(seed))
    for timestep in scheduler.timesteps:
        v = predict(unet, z, timestep.expand(len(labels)), labels, len(CLASSES)).float()
        step = scheduler.step(v, timestep, z, eta=0.0)
        z = step.prev_sample
    return step.pred_original_sample


def cell_alpha(crop: Pixels) -> Pixels | None:
    """Return the (96, 96) opacity in 0..1 that takes the central cell out of a crop, or None if no nucleus is there.

    A disc about the centre with a soft edge, 3 um wider than the nucleus (or platelet) reaches: it keeps the whole
    cytoplasm and lets the neighbours that the model drew fade out.
    """
    size = len(crop)
    green = ndimage.gaussian_filter(crop[..., 1], 0.8)
    at = np.hypot(*np.meshgrid(*(np.arange(size) + 0.5 - size / 2,) * 2))
    background = np.percentile(green[at < size / 2 - 1], 92)
    labels, count = ndimage.label((green < background * 0.66) & (at < size * 0.4))
    areas = ndimage.sum_labels(labels > 0, labels, np.arange(1, count + 1))
    if count == 0 or areas.max() < 40:
        return None
    nucleus = np.isin(labels, 1 + np.flatnonzero(areas > 0.15 * areas.max()))
    reach = np.percentile(at[nucleus], 97) + 3.0 / CROP_UM_PER_PIXEL
    if reach > size / 2 - 1:
        return None
    alpha: Pixels = np.clip((reach - at) / 4.0 + 0.5, 0, 1).astype(np.float32)
    return alpha


def red_cell(diameter_px: float, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Render one red cell: (k, k, 3) colour in 0..1 and (k, k) opacity."""
    side = int(np.ceil(diameter_px * 1.3))
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle = np.arctan2(y, x)
    stretch, turn = rng.uniform(0.88, 1.12), rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    outline = 1 + sum(rng.normal(0, 0.012) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in range(2, 6))
    r = np.hypot(u * stretch, v / stretch) / (diameter_px / 2) / outline
    thickness = np.clip(1 - rng.uniform(0.35, 0.75) * np.exp(-((r / rng.uniform(0.38, 0.5)) ** 2)), 0, 1)
    rim = 1 + 0.25 * np.exp(-(((r - 0.93) / 0.06) ** 2))
    depth = (0.30 + rng.normal(0, 0.03)) * thickness * rim
    colour = 0.96 - depth[..., None] * np.array([0.42, 0.95, 0.80])
    opacity = np.clip((1 - r) * diameter_px / 2 / 1.5 + 0.5, 0, 1)
    return colour.astype(np.float32), opacity.astype(np.float32)


def paste(field: Pixels, colour: Pixels, alpha: Pixels, x: float, y: float, multiply: bool = False) -> None:
    """Lay a patch over the field about (x, y); ``multiply`` lets what is below shine through, as in overlaps."""
    side = len(alpha)
    x0, y0 = round(x - side / 2), round(y - side / 2)
    cx0, cy0 = max(0, x0), max(0, y0)
    cx1, cy1 = min(field.shape[1], x0 + side), min(field.shape[0], y0 + side)
    if cx0 >= cx1 or cy0 >= cy1:
        return
    patch, a = colour[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0], alpha[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0, None]
    below = field[cy0:cy1, cx0:cx1]
    field[cy0:cy1, cx0:cx1] = below * (1 - a) + a * (patch * below / 0.96 if multiply else patch)


def place(
    taken: list[tuple[float, float, float]], radius: float, config: FieldConfig, rng: np.random.Generator, gap: float
) -> tuple[float, float] | None:
    """Find a place for a disc of ``radius`` pixels that keeps ``gap`` times the sum of radii from the others."""
    for _ in range(400):
        margin = radius if gap >= 1 else -radius * 0.4
        x = rng.uniform(margin, config.width - margin)
        y = rng.uniform(margin, config.height - margin)
        if all(np.hypot(x - a, y - b) > gap * (radius + r) for a, b, r in taken):
            taken.append((x, y, radius))
            return float(x), float(y)
    return None


def sample_cells(
    unet: nn.Module, autoencoder: PatchPCAAutoencoder, names: tuple[str, ...], config: FieldConfig, tries: int = 4
) -> list[tuple[Pixels, Pixels]]:
    """Sample a crop and its mask for every name; of ``tries`` samples the first with a clear outline is taken."""
    labels = torch.tensor([CLASSES.index(name) for name in names for _ in range(tries)])
    shape = (autoencoder.latent_channels, autoencoder.grid, autoencoder.grid)
    crops = autoencoder.decode(sample_latents(unet, labels, shape, config.steps, config.seed)).numpy()
    found = []
    for index, name in enumerate(names):
        options = [(c, cell_alpha(c)) for c in crops[index * tries : (index + 1) * tries]]
        clear = [(c, a) for c, a in options if a is not None]
        if not clear:
            raise NoClearOutline(f"none of {tries} samples of {name} has a clear outline; use another seed")
        crop, alpha = clear[0]
        gain = background_gain(np.rint(crop[12:84, 12:84] * 255).astype(np.uint8)) * 0.96 * 255 / WHITE_LEVEL
        found.append((np.clip(crop * gain, 0, 1), alpha))
    return found


@dataclass(frozen=True)
class SyntheticField:
    """A rendered field."""

    pixels: NDArray[np.uint8]
    """(height, width, 3) uint8."""
    places: tuple[tuple[str, float, float], ...]
    """Class, x and y of each sampled cell, pixels."""


def render_field(unet: nn.Module, autoencoder: PatchPCAAutoencoder, config: FieldConfig) -> SyntheticField:
    """Render a field."""
    rng = np.random.default_rng(config.seed)
    zoom = CROP_UM_PER_PIXEL / config.um_per_pixel
    y, x = np.mgrid[: config.height, : config.width]
    field = np.full((config.height, config.width, 3), 0.96, np.float32)
    taken: list[tuple[float, float, float]] = []
    names = config.cells + ("platelet",) * config.platelets
    places = []
    for name, (crop, alpha) in zip(names, sample_cells(unet, autoencoder, names, config), strict=True):
        big = np.clip(ndimage.zoom(crop, (zoom, zoom, 1), order=1), 0, 1)
        mask = np.clip(ndimage.zoom(alpha, zoom, order=1), 0, 1)
        radius = float(np.sqrt((mask > 0.5).sum() / np.pi))
        where = place(taken, radius, config, rng, gap=1.02)
        if where is not None:
            paste(field, big, mask, *where)
            places.append((name, *where))
    cell_layer = field.copy()
    for _ in range(config.red_cells):
        diameter = RED_CELL_DIAMETER_UM / config.um_per_pixel * rng.normal(1, 0.05)
        where = place(taken, diameter / 2, config, rng, gap=1.12)
        if where is not None:
            paste(cell_layer, *red_cell(diameter, rng), *where, multiply=True)
    light = 1 - 0.05 * (((x / config.width - 0.5) ** 2) + ((y / config.height - 0.5) ** 2))
    out = ndimage.gaussian_filter(cell_layer, (0.6, 0.6, 0)) * light[..., None] * np.array(config.tint)
    out = out + rng.normal(0, 0.006, out.shape)
    return SyntheticField(np.clip(np.rint(out * 255), 0, 255).astype(np.uint8), tuple(places))


def single_cells(field: SyntheticField, side: int = SINGLE_CELL_SIDE) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield class and (side, side, 3) window of each sampled cell that lies far enough from the edge."""
    height, width = field.pixels.shape[:2]
    for name, x, y in field.places:
        left, top = round(x - side / 2), round(y - side / 2)
        if 0 <= left <= width - side and 0 <= top <= height - side:
            yield name, field.pixels[top : top + side, left : left + side]


def write_field(pixels: NDArray[np.uint8], path: Path, config: FieldConfig, weights_sha256: str) -> None:
    """Write the PNG with its metadata: that it is synthetic, by what, and how it was made."""
    info = PngInfo()
    info.add_text(METADATA_KEY, json.dumps({"weights_sha256": weights_sha256, **asdict(config)}))
    info.add_text("Description", "Synthetic blood smear: sampled by a diffusion model and rendered. Not a photograph.")
    with output_file(path) as file:
        # the scale is known here, and a file may carry it (PNG pHYs)
        density = 25400 / config.um_per_pixel
        Image.fromarray(pixels).save(file, "PNG", pnginfo=info, optimize=True, dpi=(density, density))


def load_sampler(checkpoint: Path) -> tuple[nn.Module, PatchPCAAutoencoder, str]:
    """Return what samples cells, from a checkpoint: the denoiser, the autoencoder, and the hash of the weights."""
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet").float().eval()
    digest = hashlib.sha256((checkpoint / "unet" / WEIGHTS_NAME).read_bytes()).hexdigest()
    return unet, PatchPCAAutoencoder.load(checkpoint / "vae"), digest


def write_cells(
    unet: nn.Module, autoencoder: PatchPCAAutoencoder, weights_sha256: str, out: Path, fields: int, seed: int
) -> Counter[str]:
    """Render fields of one cell per class and write their cells as ``out/<class>/<seed>.png``.

    Seeds follow one another; one that gives no clear outline is passed over. A cell too near to the edge is left out.

    Returns
    -------
    Counter of str : cells written of each class.
    """
    counts: Counter[str] = Counter()
    while fields > 0:
        config = FieldConfig(cells=tuple(name for name in CLASSES if name != "platelet"), platelets=1, seed=seed)
        with suppress(NoClearOutline):
            for name, pixels in single_cells(render_field(unet, autoencoder, config)):
                write_field(pixels, out / name / f"{seed}.png", config, weights_sha256)
                counts[name] += 1
            fields -= 1
        seed += 1
    return counts
