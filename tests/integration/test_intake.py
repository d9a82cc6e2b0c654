"""Image intake on the real Triton: scales that cannot be true, rims through cells, files of kinds that are not read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from triton_calls import Ask
from tritonclient.utils import InferenceServerException

pytestmark = [pytest.mark.integration, pytest.mark.data]

POOR_IMAGE, OUT_OF_SCALE, TOUCHES_BORDER = 1, 2, 4
PBC, BCCD = 0.18, 0.074
"""Micrometres per pixel of the two sources."""


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def cells(data_dir: Path) -> list[Image.Image]:
    classes = ("neutrophil", "eosinophil", "lymphocyte", "monocyte")
    return [opened(path) for name in classes for path in sorted((data_dir / "pbc" / "val" / name).iterdir())[:4]]


@pytest.fixture(scope="module")
def field(data_dir: Path) -> Image.Image:
    return opened(sorted((data_dir / "smears" / "bccd" / "images").iterdir())[3])


def test_cells_under_a_wrong_scale_are_referred_and_say_why(ask: Ask, cells: list[Image.Image]) -> None:
    files = [encoded(cell) for cell in cells]
    right, wrong = (ask("cell_analysis", files, scale, budget=1) for scale in (PBC, 0.10))
    assert np.mean(right["CELL_FLAGS"] & OUT_OF_SCALE > 0) <= 0.1
    said = wrong["CELL_FLAGS"] & OUT_OF_SCALE > 0
    assert said.mean() > 0.75
    assert all(b"out_of_scale" in reasons for reasons in wrong["REASONS"][said])
    assert (wrong["DECISION"][said] == 1).all()


def test_a_field_under_a_wrong_scale_refers_all_its_cells(ask: Ask, field: Image.Image) -> None:
    right, wrong = (ask("smear_analysis", [encoded(field)], scale, budget=1) for scale in (BCCD, BCCD * 0.25 / 0.145))
    assert len(right["CELL_FLAGS"]) > 0
    assert (right["CELL_FLAGS"] & OUT_OF_SCALE == 0).all()
    assert len(wrong["CELL_FLAGS"]) > 0
    assert (wrong["CELL_FLAGS"] & OUT_OF_SCALE > 0).all()
    assert (wrong["DECISION"] == 1).all()


def test_the_scale_in_the_file_is_used_and_held_against_the_callers(ask: Ask, field: Image.Image) -> None:
    data = encoded(field, dpi=(25_400 / BCCD,) * 2)
    answer = ask("smear_analysis", [data], 0.0, budget=1)
    assert answer["SCALE_SOURCE"].tolist() == [b"file"]
    assert answer["SCALE"][0] == pytest.approx(BCCD, rel=1e-3)
    assert (answer["CELL_FLAGS"] & OUT_OF_SCALE == 0).all()
    answer = ask("smear_analysis", [data], BCCD * 1.1, budget=1)
    assert answer["SCALE_SOURCE"].tolist() == [b"caller"]
    assert (answer["CELL_FLAGS"] & OUT_OF_SCALE > 0).all()


def test_an_eyepieces_rim_through_a_cell_refers_it(ask: Ask, field: Image.Image) -> None:
    pixels = np.asarray(field).copy()
    found = ask("smear_analysis", [encoded(field)], BCCD, budget=1)
    box = found["BOX"][found["CELL_INDEX"][0]]
    assert not found["CELL_FLAGS"][0] & TOUCHES_BORDER
    y, x = np.mgrid[: field.height, : field.width]
    middle = (box[:2] + box[2:]) / 2
    toward = np.array([field.width, field.height]) / 2 - middle
    centre = middle + toward / max(1.0, float(np.hypot(*toward))) * 220
    pixels[np.hypot(x - centre[0], y - centre[1]) > 220] = 2
    cut = ask("smear_analysis", [encoded(Image.fromarray(pixels))], BCCD, budget=1)
    at = cut["BOX"][cut["CELL_INDEX"]]
    near = (np.abs((at[:, :2] + at[:, 2:]) / 2 - middle) < (box[2:] - box[:2])).all(axis=1)
    assert near.any()
    assert (cut["CELL_FLAGS"][near] & TOUCHES_BORDER > 0).all()
    assert (cut["DECISION"][near] == 1).all()


def test_a_defocused_cell_is_a_poor_image_and_a_bad_file_costs_its_own_cell(ask: Ask, cells: list[Image.Image]) -> None:
    blurred = cells[0].filter(ImageFilter.GaussianBlur(4))
    grey = cells[0].convert("L").convert("RGB")
    answer = ask("cell_analysis", [encoded(image) for image in (cells[0], blurred, grey)], PBC, budget=1)
    assert [bool(flags & POOR_IMAGE) for flags in answer["CELL_FLAGS"][:2]] == [False, True]
    assert answer["CELL_ERROR"][:2].tolist() == [b"", b""]
    assert answer["CELL_ERROR"][2].startswith(b"[cytoserve:unsupported_mode]")
    assert answer["LABEL"][0] >= 0


def test_the_area_limit_is_said_with_its_numbers(ask: Ask) -> None:
    image = Image.new("RGB", (2592, 1944), (230, 220, 225))
    with pytest.raises(InferenceServerException, match=r"\[cytoserve:too_many_pixels\].*0\.315 mm2.*0\.292 mm2"):
        ask("smear_analysis", [encoded(image)], 0.25)
