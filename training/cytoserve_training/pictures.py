"""Reading of training pictures."""

from __future__ import annotations

from pathlib import Path

from cytoserve_files import open_regular
from PIL import Image


def read_rgb(path: Path) -> Image.Image:
    """Return the picture in a file as RGB, its pixels read."""
    with open_regular(path) as opened, Image.open(opened) as image:
        return image.convert("RGB")
