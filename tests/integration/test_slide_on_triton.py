"""A whole slide through the real server: every cell once, in the place where it lies."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from cytoserve_client import Client
from cytoserve_slides import Film, Slide
from PIL import Image
from triton_calls import ROOT

sys.path.append(str(ROOT / "tests" / "slides"))

from slide_files import write_svs

ACROSS, DOWN = 6, 5
UM_PER_PIXEL = 0.15


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    return np.asarray(Image.open(ROOT / "examples" / "synthetic_field.png").convert("RGB"))


def centres(boxes: list[tuple[float, float, float, float]]) -> np.ndarray:
    return np.array([((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes])


@pytest.mark.integration
def test_cells_of_overlapping_fields_count_once(triton_url: str, field: np.ndarray, tmp_path: Path) -> None:
    """The slide is one field many times over: what is found in the field is found so many times in the slide."""
    height, width = field.shape[:2]
    file = write_svs(
        tmp_path / "film.svs", np.tile(field, (DOWN, ACROSS, 1)), UM_PER_PIXEL, note="|cytoserve:synthetic"
    )
    with Client(triton_url, timeout=120) as client, Slide(file) as slide:
        alone = client.analyze([ROOT / "examples" / "synthetic_field.png"], UM_PER_PIXEL, budget=1).fields[0]
        film = Film(slide)
        with client.analyze_stream(film.fields(), film.um_per_pixel, budget=1) as stream:
            sent = len(list(stream))
        result = stream.result(placed=film.placed)
    assert sent == film.tally.regions == 4
    assert result.failures == ()
    assert result.synthetic
    found = []
    for one in result.fields:
        assert one.region is not None
        for cell in one.cells:
            if cell.kind == "white_cell" and cell.box is not None:
                x, y = one.region.x, one.region.y
                found.append((cell.box[0] + x, cell.box[1] + y, cell.box[2] + x, cell.box[3] + y))
    places = centres(found)
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + 1e9 * np.eye(len(places))
    assert apart.min() * UM_PER_PIXEL > 4, "no cell twice"
    known = centres([cell.box for cell in alone.cells if cell.kind == "white_cell" and cell.box is not None])
    inside = (known > 60).all(axis=1) & (known < (width - 60, height - 60)).all(axis=1)
    for row in range(DOWN):
        for column in range(ACROSS):
            for x, y in known[inside] + (column * width, row * height):
                nearest = np.hypot(*(places - (x, y)).T).min() * UM_PER_PIXEL
                assert nearest < 2, f"the cell at ({x:.0f}, {y:.0f}) is missing"
