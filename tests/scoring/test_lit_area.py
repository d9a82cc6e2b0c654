"""A rim through a cell is an edge, whoever drew it; an ordinary picture has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cytoserve_contract.values import FLAG_TOUCHES_BORDER
from cytoserve_scoring.vision.cells import decode_cells
from cytoserve_scoring.vision.lit_area import find_outside
from PIL import Image
from test_imaging import decode_image, encoded

CENTRE = np.array([45, 45, 115, 115], np.float32)
"""Box of a cell in the middle of a picture of 160 px."""


def film(side: int = 160) -> np.ndarray:
    """A pale, slightly uneven background with a purple cell in the middle."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    pixels = np.full((side, side, 3), (232, 222, 226), float) + (x / side * 8)[..., None]
    far = np.hypot(x - side / 2, y - side / 2)
    pixels[far < 34] = (190, 160, 200)
    pixels[far < 22] = (95, 60, 140)
    return np.clip(pixels + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)


def masked(image: np.ndarray, kind: str, at: float) -> np.ndarray:
    """Hide what lies beyond ``at`` pixels right of the centre, or draw a mark there."""
    image = image.copy()
    side = image.shape[0]
    y, x = np.mgrid[:side, : image.shape[1]]
    rim = np.hypot(x - (side / 2 + at - 100), y - side / 2) - 100
    if kind == "black rim":
        image[rim > 0] = 2
    elif kind == "soft rim":
        image = (image * np.clip(0.5 - rim / 12, 0, 1)[..., None]).astype(np.uint8)
    elif kind == "white rim":
        image[rim > 0] = 255
    elif kind == "black bar":
        image[:, int(side / 2 + at) :] = 0
    elif kind == "white bar":
        image[:, int(side / 2 + at) :] = 255
    else:
        colour = {"red arrow": (250, 20, 20), "green arrow": (10, 240, 10), "scale bar": (0, 0, 0)}[kind]
        image[side // 2 - 4 : side // 2 + 4, int(side / 2 + at) : int(side / 2 + at) + 30] = colour
    return image


KINDS = ["black rim", "soft rim", "white rim", "black bar", "white bar", "red arrow", "green arrow", "scale bar"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rim_through_the_cell_is_found_and_one_beside_it_is_not(kind: str) -> None:
    for at, cut in ((20, True), (60, False)):
        outside = find_outside(masked(film(), kind, at))
        assert outside is not None
        assert outside.touches(CENTRE, 1.5) is cut, at


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_cell_that_a_rim_cuts_carries_the_flag(kind: str) -> None:
    files = [encoded(Image.fromarray(image), "PNG") for image in (film(), masked(film(), kind, 20))]
    flags = decode_cells(files, np.full(2, 0.18, np.float32)).flags & FLAG_TOUCHES_BORDER
    assert flags.tolist() == [0, FLAG_TOUCHES_BORDER]


@pytest.mark.parametrize("image", [film(), np.zeros((90, 120, 3), np.uint8), np.full((90, 120, 3), 255, np.uint8)])
def test_pictures_without_a_rim(image: np.ndarray) -> None:
    assert find_outside(image) is None


def test_a_burnt_out_background_is_no_surround() -> None:
    rng = np.random.default_rng(1)
    image = np.full((300, 400, 3), 255, np.uint8)
    y, x = np.mgrid[:300, :400]
    for _ in range(25):
        image[np.hypot(x - rng.uniform(0, 400), y - rng.uniform(0, 300)) < 22] = (205, 150, 160)
    assert find_outside(image) is None


@pytest.mark.data
def test_ordinary_cells_and_fields_have_no_rim(data_dir: Path) -> None:
    pbc = sorted((data_dir / "pbc" / "val").rglob("*.webp"))[::14]
    files = [path.read_bytes() for path in pbc]
    flags = decode_cells(files, np.full(len(files), 0.18, np.float32)).flags
    assert np.count_nonzero(flags & FLAG_TOUCHES_BORDER) == 0
    fields = sorted((data_dir / "smears" / "bccd" / "images").iterdir())[::12]
    assert [path.name for path in fields if find_outside(decode_image(path.read_bytes())) is not None] == []
