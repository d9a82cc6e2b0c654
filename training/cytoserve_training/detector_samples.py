"""Training samples: random crops of the fields at a jittered physical scale, and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cytoserve_networks.detector import KINDS, STRIDE
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cytoserve_training.detector_data import LabelledField, red_cell_side
from cytoserve_training.pictures import read_rgb

RED_CELL_BOX_PX = 52.0
"""Median side of a red-cell box at the detector's scale: the boxes hug the cell with a little air."""


@dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn.

    ``crop`` is the side of the square crop, a multiple of 32; ``scale_low`` to ``scale_high`` the range of the
    log-uniform factor on the true scale; ``stretch`` the largest log stretch of one axis against the other; ``spread``
    the sigma of a centre's Gaussian, as a part of the box side. A box with less than ``least_visible`` of its area
    inside the crop does not count in the loss.
    """

    crop: int = 224
    scale_low: float = 0.7
    scale_high: float = 1.45
    stretch: float = 0.06
    least_visible: float = 0.3
    spread: float = 0.08


@dataclass(frozen=True)
class Targets:
    """Targets of one crop at stride 2.

    Parameters
    ----------
    heat : (3, s, s) ndarray of float32, 1 at the centres.
    sides : (12, s, s) ndarray of float32, distances to the sides in input pixels.
    side_weight : (3, s, s) ndarray of float32
    heat_weight : (3, s, s) ndarray of float32, 0 where nothing is known.
    """

    heat: NDArray[np.float32]
    sides: NDArray[np.float32]
    side_weight: NDArray[np.float32]
    heat_weight: NDArray[np.float32]


class FieldStore:
    """Images of the fields in memory, with the factor that brings each to the detector's scale."""

    def __init__(self, fields: Sequence[LabelledField], smears: Path) -> None:
        self.fields = list(fields)
        self.images = [read_rgb(smears / field.path) for field in self.fields]
        sides = [red_cell_side(f, im.size) for f, im in zip(self.fields, self.images, strict=True)]
        usual = {
            source: float(np.nanmedian([s for f, s in zip(self.fields, sides, strict=True) if f.source == source]))
            for source in {f.source for f in self.fields}
        }
        self.scales = [
            RED_CELL_BOX_PX / (usual[f.source] if np.isnan(side) else side)
            for f, side in zip(self.fields, sides, strict=True)
        ]


def draw_sample(
    store: FieldStore, index: int, config: SampleConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Targets]:
    """Draw one augmented crop of field ``index``.

    Returns
    -------
    image : (3, crop, crop) ndarray of float32 in 0..1
    targets : Targets
    """
    field, image = store.fields[index], store.images[index]
    factor = store.scales[index] * np.exp(rng.uniform(np.log(config.scale_low), np.log(config.scale_high)))
    skew = np.exp(rng.uniform(-config.stretch, config.stretch))
    scale = np.array([field.stretch[0] * factor * skew, field.stretch[1] * factor / skew])
    pixels, offset, inside = _cut(image, scale, config.crop, rng)
    boxes = field.box_array() * np.tile(scale, 2) - np.tile(offset, 2)
    array, boxes, inside = _turn(pixels, boxes, inside, config.crop, rng)
    targets = render_targets(boxes.astype(np.float32), field.kind_array(), inside, config)
    return np.ascontiguousarray(recolour(array, rng).transpose(2, 0, 1)), targets


def _cut(
    image: Image.Image, scale: NDArray[np.float64], crop: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Resample one window; return its pixels, its offset and the field's own extent (x0, y0, x1, y1) in it."""
    size = np.array(image.size) * scale
    slack = 24.0
    low = np.where(size <= crop, size - crop, -slack)
    high = np.where(size <= crop, 0.0, size - crop + slack)
    # Clipping gives the field's own edges their fair share of windows.
    offset = rng.uniform(low, high)
    offset = np.where(size <= crop, offset, np.clip(offset, 0, size - crop))
    first = np.maximum(0, np.ceil(-offset)).astype(int)
    last = np.minimum(crop, np.floor(size - offset)).astype(int)
    source = np.concatenate([(first + offset) / scale, (last + offset) / scale])
    source = np.clip(source, 0, np.tile(image.size, 2))
    wanted = (int(last[0] - first[0]), int(last[1] - first[1]))
    part = np.asarray(image.resize(wanted, Image.Resampling.BILINEAR, box=tuple(source)), np.float32) / 255
    pad = ((first[1], crop - last[1]), (first[0], crop - last[0]), (0, 0))
    return np.pad(part, pad, mode="edge"), offset, np.concatenate([first, last]).astype(np.float64)


def _turn(
    array: NDArray[np.float32],
    boxes: NDArray[np.float64],
    inside: NDArray[np.float64],
    crop: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Flip and turn by 90 degrees at random."""
    rows = np.concatenate([boxes, inside[None]])
    if rng.random() < 0.5:
        array, rows = array[:, ::-1], np.stack([crop - rows[:, 2], rows[:, 1], crop - rows[:, 0], rows[:, 3]], 1)
    if rng.random() < 0.5:
        array, rows = array[::-1], np.stack([rows[:, 0], crop - rows[:, 3], rows[:, 2], crop - rows[:, 1]], 1)
    if rng.random() < 0.5:
        array, rows = array.transpose(1, 0, 2), rows[:, [1, 0, 3, 2]]
    return array, rows[:-1], rows[-1]


def recolour(array: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Change stain, light and focus a little; (H, W, 3) float32 in 0..1 in and out."""
    density = -np.log(np.clip(array, 1 / 255, 1))
    mix = np.eye(3) + rng.normal(0, 0.06, (3, 3))
    density = density @ (mix * np.exp(rng.normal(0, 0.15, 3))[:, None]).astype(np.float32)
    light = rng.normal(0, 0.06, 3) + rng.normal(0, 0.10)
    density = density * np.exp(rng.normal(0, 0.12)) + light.astype(np.float32)
    out = np.exp(-density)
    if rng.random() < 0.15:
        grey = out.mean(axis=2, keepdims=True)
        out = grey + (out - grey) * rng.uniform(0.4, 1.3)
    if rng.random() < 0.25:
        out = ndimage.gaussian_filter(out, (s := rng.uniform(0.3, 1.3), s, 0))
    if rng.random() < 0.25:
        out = out + rng.normal(0, rng.uniform(0.005, 0.03), out.shape)
    return np.asarray(np.clip(out, 0, 1), np.float32)


def render_targets(
    boxes: NDArray[np.float32], kinds: NDArray[np.int64], inside: NDArray[np.float64], config: SampleConfig
) -> Targets:
    """Turn boxes (crop pixels) into maps at stride 2.

    Boxes are clipped at the crop or the field's own edge, as the annotators clip theirs at the image's edge.
    """
    side = config.crop // STRIDE
    heat, near = np.zeros((KINDS, side, side), np.float32), np.zeros((KINDS, side, side), np.float32)
    sides = np.ones((4 * KINDS, side, side), np.float32)
    known = np.zeros((KINDS, side, side), np.float32)
    i = np.clip(np.rint(inside / STRIDE).astype(int), 0, side)
    known[:, i[1] : i[3], i[0] : i[2]] = 1
    at = (np.arange(side) + 0.5) * STRIDE
    low, high = np.tile(inside[:2], 2), np.tile(inside[2:], 2)
    for box, kind in zip(boxes, kinds, strict=True):
        cut = np.clip(box, low, high)
        width, height = cut[2] - cut[0], cut[3] - cut[1]
        whole = (box[2] - box[0]) * (box[3] - box[1])
        if width < 2 or height < 2:
            continue
        cols = slice(max(0, int(cut[0] // STRIDE)), min(side, int(np.ceil(cut[2] / STRIDE))))
        rows = slice(max(0, int(cut[1] // STRIDE)), min(side, int(np.ceil(cut[3] / STRIDE))))
        if width * height < config.least_visible * whole:
            known[kind, rows, cols] = 0
            continue
        center = ((cut[0] + cut[2]) / 2, (cut[1] + cut[3]) / 2)
        # Snap to the grid, so that exactly one pixel of every cell is 1.
        col, row = (min(side - 1, int(value // STRIDE)) for value in center)
        sx, sy = (max(1.0, config.spread * length / STRIDE) for length in (width, height))
        x, y = np.arange(side)[cols] - col, np.arange(side)[rows] - row
        bump = np.exp(-0.5 * ((x / sx) ** 2)[None, :] - 0.5 * ((y / sy) ** 2)[:, None]).astype(np.float32)
        heat[kind, rows, cols] = np.maximum(heat[kind, rows, cols], bump)
        wins = bump > np.maximum(near[kind, rows, cols], 0.2)
        near[kind, rows, cols][wins] = bump[wins]
        gaps = (
            at[cols][None, :] - cut[0],
            at[rows][:, None] - cut[1],
            cut[2] - at[cols][None, :],
            cut[3] - at[rows][:, None],
        )
        for place, gap in enumerate(gaps):
            sides[4 * kind + place, rows, cols][wins] = np.maximum(np.broadcast_to(gap, wins.shape)[wins], 0.5)
    known = np.maximum(known, (heat == 1).astype(np.float32))
    return Targets(heat, sides, near, known)
