"""The golden set: synthetic cells that running version and candidate both classify.

48 cells sampled from the diffusion model (`sampling`; files in ``golden/``), and altered copies of a part of them:
out of focus, pale, dark. A sound model is sure about the plain ones; on the altered ones decisions change first. They
are no photographs and have no true diagnosis: they show that two servers decide alike, not that either is right. For
that, run `cytoserve validate` on labelled cells of the site.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from cytoserve_client.images import SYNTHETIC_KEY, EncodedImage
from cytoserve_contract.names import GOLDEN_SET
from cytoserve_files import read_bytes, shown
from cytoserve_files.selection import SYSTEM_FILE, gather_tree
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from PIL.PngImagePlugin import PngInfo

from cytoserve_deploy.errors import GoldenSetError, ObjectRefused

FOLDER: Final = Path(__file__).parent / "golden"
SHEET_FILE: Final = "cells.jpg"
DESCRIPTION_FILE: Final = "cells.json"
SCHEMA: Final = GOLDEN_SET

BLUR_PX: Final = 1.6
PALE: Final = 0.55
"""Share of the staining that is left in a pale copy."""
DARK: Final = 0.75
"""Brightness of a dark copy."""


@dataclass(frozen=True)
class GoldenSet:
    """Cells to classify, their physical scale (None: the server measures it), and one hash over all files in order."""

    cells: tuple[EncodedImage, ...]
    um_per_pixel: float | None
    sha256: str

    def first(self, count: int | None) -> GoldenSet:
        """Return a set of `count` cells, spread evenly over this one."""
        if count is None or count >= len(self.cells):
            return self
        index = np.linspace(0, len(self.cells) - 1, max(1, count)).round().astype(int)
        return _of([self.cells[i] for i in index], self.um_per_pixel)


@cache
def golden_set() -> GoldenSet:
    """Return the set of this release.

    Raises
    ------
    GoldenSetError
        If its files are missing or were changed.
    """
    try:
        description = json.loads((FOLDER / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        data = (FOLDER / SHEET_FILE).read_bytes()
    except OSError as error:
        raise GoldenSetError(f"the golden set is not part of this installation ({error}); install it again") from error
    if hashlib.sha256(data).hexdigest() != description["sheet_sha256"]:
        raise GoldenSetError(f"{SHEET_FILE} is not the file that {DESCRIPTION_FILE} describes; install it again")
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    side, per_class = description["side"], description["per_class"]
    cells = []
    for row, name in enumerate(description["classes"]):
        for column in range(per_class):
            crop = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
            cells.append(_encode(f"{name}-{column}", crop))
        first = pixels[row * side : (row + 1) * side, :side]
        cells += [_encode(f"{name}-0-{how}", changed) for how, changed in altered(first).items()]
    return _of(cells, description["um_per_pixel"])


def altered(crop: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Return copies of a (s, s, 3) crop as a bad preparation would show it: ``blurred``, ``pale``, ``dark``."""
    blurred = np.asarray(Image.fromarray(crop).filter(ImageFilter.GaussianBlur(BLUR_PX)))
    light = crop.astype(np.float64)
    pale = 255 - (255 - light) * PALE
    return {"blurred": blurred, "pale": np.rint(pale).astype(np.uint8), "dark": np.rint(light * DARK).astype(np.uint8)}


def _encode(name: str, crop: NDArray[np.uint8]) -> EncodedImage:
    info = PngInfo()
    info.add_text(SYNTHETIC_KEY, "golden set")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(crop)).save(buffer, "PNG", pnginfo=info)
    return EncodedImage(f"{name}.png", buffer.getvalue(), synthetic=True)


def _of(cells: list[EncodedImage], um_per_pixel: float | None) -> GoldenSet:
    digest = hashlib.sha256()
    for cell in cells:
        digest.update(hashlib.sha256(cell.data).digest())
    return GoldenSet(tuple(cells), um_per_pixel, digest.hexdigest())


def from_files(files: Sequence[Path], um_per_pixel: float | None) -> GoldenSet:
    """Return a set of the site's own single-cell images.

    Raises
    ------
    GoldenSetError
        If a file cannot be read.
    """
    try:
        cells = [EncodedImage(shown(file), read_bytes(file)) for file in files]
    except OSError as error:
        raise GoldenSetError(f"a golden cell cannot be read: {error}") from error
    return _of(cells, um_per_pixel)


def from_folder(folder: Path, um_per_pixel: float | None, tell: Callable[[str], None]) -> GoldenSet:
    """Return a set of the images in a folder and its folders, each content once; ``tell`` names what is left out.

    Raises
    ------
    ObjectRefused
        There is none.
    GoldenSetError
        If a file cannot be read.
    """
    found = gather_tree(folder)
    for item in found.skipped:
        if item.reason != SYSTEM_FILE:
            tell(f"{item.source} was left out: {item.message} [{item.reason}]")
    if not found.files:
        raise ObjectRefused(f"no image lies in {folder}")
    return from_files(found.files, um_per_pixel)
