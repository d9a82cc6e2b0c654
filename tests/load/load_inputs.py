"""The pictures that are sent: real ones where they are, else those of ``examples``, else drawn ones.

Real cells are the first of each class of ``pbc/val`` below ``CYTOSERVE_DATA``; nothing of them is kept or reported.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from cytoserve_client.images import encode_array
from PIL import Image, ImageDraw

ROOT: Final = Path(__file__).resolve().parents[2]
EXAMPLES: Final = ROOT / "examples"
EACH: Final = 4
"""Cells of each class."""

ENV_DATA: Final = "CYTOSERVE_DATA"
ENV_IMAGE: Final = "CYTOSERVE_LOAD_IMAGE"
"""A field to send instead."""


@dataclass(frozen=True)
class Pictures:
    """What is sent."""

    cells: tuple[bytes, ...]
    um_of_cells: float
    field: bytes
    source: str
    """For the report: where the cells come from."""

    def some(self, count: int, first: int) -> list[bytes]:
        """Return ``count`` cells, from number ``first`` on, round and round."""
        return [self.cells[(first + index) % len(self.cells)] for index in range(count)]


def pictures() -> Pictures:
    """Return the pictures of this machine."""
    asked = os.environ.get(ENV_IMAGE)
    demo = Path(asked) if asked else EXAMPLES / "synthetic_field.png"
    field = demo.read_bytes() if demo.exists() else drawn(640, 480, 2, 60, 50)
    data = Path(os.environ.get(ENV_DATA) or ROOT.parent / "shared" / "data") / "pbc" / "val"
    for folder, um, source in ((data, 0.18, "pbc/val"), (EXAMPLES / "cells", 0.15, "examples/cells (generated)")):
        if folder.is_dir():
            return Pictures(_first_of_each(folder), um, field, source)
    return Pictures((drawn(96, 96, 1, 0, 40),), 0.25, field, "drawn")


def _first_of_each(folder: Path) -> tuple[bytes, ...]:
    """Return the first cells of each class, classes taking turns, so that any few of them are mixed."""
    homes = sorted(home for home in folder.iterdir() if home.is_dir())
    by_class = [sorted(file for file in home.iterdir() if file.is_file())[:EACH] for home in homes]
    turns = [files[turn] for turn in range(EACH) for files in by_class if turn < len(files)]
    return tuple(file.read_bytes() for file in turns)


def drawn(width: int, height: int, white: int, red: int, diameter: int) -> bytes:
    """Return a drawn stand-in for a smear as PNG: pale red discs, and white cells with a dark nucleus."""
    place = random.Random(7)
    image = Image.new("RGB", (width, height), (232, 226, 230))
    draw = ImageDraw.Draw(image)
    for number in range(red + white):
        radius = diameter // 2 if number < red else diameter * 4 // 5
        x, y = place.randint(radius, width - radius), place.randint(radius, height - radius)
        is_red = number < red
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=(205, 150, 160) if is_red else (190, 170, 215))
        if not is_red:
            nucleus = radius * 3 // 5
            draw.ellipse((x - nucleus, y - nucleus, x + nucleus, y + nucleus), fill=(95, 50, 145))
    return encode_array(np.asarray(image))
