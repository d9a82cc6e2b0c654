"""Extraction: painted maps with known cells in, the same cells out."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from cytoserve_contract.models import CELL_EXTRACTOR
from cytoserve_contract.values import FLAG_OUT_OF_SCALE, FLAG_POOR_IMAGE, FLAG_SEGMENTED_WHITE_CELL, FLAG_TOUCHES_BORDER
from cytoserve_scoring.constants import RED_CELL_DIAMETER_UM
from cytoserve_scoring.errors import BadShape
from cytoserve_scoring.serving.outputs import encode
from cytoserve_scoring.vision.crops import cut_crop
from cytoserve_scoring.vision.extraction import (
    PLATELET,
    RED,
    WHITE,
    Detections,
    detect,
    extract_cells,
    overlaps,
    refine_scale,
)
from cytoserve_scoring.vision.quality import luminance, poor_image, sharpness
from cytoserve_scoring.vision.scale import BOX_TO_DIAMETER, segmenter_geometry
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

RED_SIDE = 7.5 / BOX_TO_DIAMETER / 0.15
"""Side of a normal red cell's box at the segmenter's scale."""


def painted(place, cells):
    """Return maps in which each (kind, box in input pixels, score) stands as the network would say it."""
    maps = np.zeros((1, 15, place.padded_height // 2, place.padded_width // 2), np.float32)
    maps[:, 3:] = 1.0
    for kind, box, score in cells:
        col, row = int((box[0] + box[2]) / 4), int((box[1] + box[3]) / 4)
        x, y = (col + 0.5) * 2, (row + 0.5) * 2
        maps[0, kind, row, col] = score
        maps[0, 3 + 4 * kind : 7 + 4 * kind, row, col] = (x - box[0], y - box[1], box[2] - x, box[3] - y)
    return maps


def square(x, y, side):
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def red_row(count=4, side=RED_SIDE, y=40.0):
    return [(RED, square(40 + 70 * i, y, side), 0.9) for i in range(count)]


def test_painted_cells_come_back_in_field_pixels():
    place = segmenter_geometry((480, 640, 3), 0.075)
    cells = [(WHITE, (100.0, 60.0, 190.0, 150.0), 0.95), *red_row(), (PLATELET, (20.0, 180.0, 40.0, 202.0), 0.8)]
    found = detect(painted(place, cells), place)
    assert found.box.dtype == np.float32
    assert found.kind.tolist() == [WHITE, RED, RED, RED, RED, PLATELET]
    np.testing.assert_allclose(found.box[0], [200, 120, 380, 300], atol=1e-3)
    np.testing.assert_allclose(found.box[5], [40, 360, 80, 404], atol=1e-3)
    assert (np.diff(found.score) <= 0).all()


@settings(max_examples=30, deadline=None)
@given(
    kind=st.integers(0, 2),
    x=st.floats(2, 318),
    y=st.floats(2, 238),
    width=st.floats(6, 120),
    height=st.floats(6, 120),
    factor=st.sampled_from([0.05, 0.15, 0.3]),
)
def test_any_single_cell_comes_back_clipped_at_the_field(kind, x, y, width, height, factor):
    shape = (round(240 * 0.15 / factor), round(320 * 0.15 / factor), 3)
    place = segmenter_geometry(shape, factor)
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    found = detect(painted(place, [(kind, box, 0.9)]), place)
    expected = np.clip(box, 0, [place.width, place.height] * 2) / place.factor
    assert found.kind.tolist() == [kind]
    np.testing.assert_allclose(found.box[0], expected, rtol=1e-3, atol=1e-2 / factor)


def test_doubles_go_and_touching_cells_stay():
    place = segmenter_geometry((240, 320, 3), 0.15)
    cells = [
        (RED, square(100, 100, 52), 0.9),
        (RED, square(106, 100, 52), 0.5),  # the same cell again
        (RED, square(140, 100, 52), 0.8),  # its neighbour
        (WHITE, square(220, 100, 90), 0.9),
        (RED, square(224, 100, 88), 0.6),  # the white cell seen as a red one
        (PLATELET, square(190, 90, 20), 0.7),  # on the white cell's rim
    ]
    found = detect(painted(place, cells), place)
    assert sorted((int(k), round(float(s), 2)) for k, s in zip(found.kind, found.score, strict=True)) == [
        (WHITE, 0.9),
        (RED, 0.8),
        (RED, 0.9),
        (PLATELET, 0.7),
    ]


def test_overlap_of_known_boxes():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [0, 0, 1, 1]], np.float32)
    np.testing.assert_allclose(overlaps(boxes[0], boxes), [1.0, 1 / 3, 0.0, 0.25])


def test_an_empty_field_is_a_valid_answer():
    field = np.full((200, 300, 3), 220, np.uint8)
    place = segmenter_geometry(field.shape, 0.15)
    cells = extract_cells(field, painted(place, []), np.array([0.15, 0.0], np.float32))
    assert cells.box.shape == (0, 4)
    assert cells.crop.shape == (0, 96, 96, 3)
    assert cells.cell_index.shape == cells.cell_flags.shape == (0,)
    assert np.isnan(cells.scale).all()
    assert cells.scale_source == "none"
    tensors = encode(CELL_EXTRACTOR, cells)
    assert tensors["SCALE_SOURCE"].tolist() == [b"none"]
    types = {name: str(value.dtype) for name, value in tensors.items()}
    assert types == {
        "BOX": "float32",
        "KIND": "uint8",
        "DETECTION_SCORE": "float32",
        "SCALE": "float32",
        "SCALE_SOURCE": "object",
        "CELL_INDEX": "int32",
        "CROP": "uint8",
        "IMAGE_STATISTICS": "float32",
        "CELL_FLAGS": "int32",
    }


def textured(height, width, seed=0):
    """Return a field with sharp structure everywhere, so that no crop is a poor image."""
    rng = np.random.default_rng(seed)
    grey = rng.integers(90, 210, (height // 4 + 1, width // 4 + 1, 1))
    blocks = grey + rng.integers(-30, 30, (height // 4 + 1, width // 4 + 1, 3))  # no colour that only a pen has
    return np.repeat(np.repeat(blocks, 4, 0), 4, 1)[:height, :width].astype(np.uint8)


def test_red_cells_set_the_scale_and_the_crop_is_cut_there():
    field = textured(480, 640)
    guess = np.array([0.09, 0.0], np.float32)  # 20 % too large: the true scale is 0.075
    place = segmenter_geometry(field.shape, 0.09)
    scale_up = 0.09 / 0.075
    cells = [(WHITE, (150.0, 120.0, 258.0, 228.0), 0.95), *red_row(4, RED_SIDE * scale_up)]
    out = extract_cells(field, painted(place, cells), guess)
    assert out.scale_source == "red_cells"
    assert out.scale[0] == pytest.approx(0.075, rel=0.01)
    assert out.scale[1] == pytest.approx(RED_CELL_DIAMETER_UM)
    center = (out.box[0, 0] + out.box[0, 2]) / 2, (out.box[0, 1] + out.box[0, 3]) / 2
    expected = cut_crop(field, (float(center[0]), float(center[1])), float(out.scale[0]))
    assert np.abs(out.crop[0].astype(int) - expected).max() <= 1
    assert out.cell_flags.tolist() == [FLAG_SEGMENTED_WHITE_CELL]


def test_the_callers_scale_wins_and_small_red_cells_are_reported():
    field = textured(480, 640)
    place = segmenter_geometry(field.shape, 0.075)
    cells = [(WHITE, (100.0, 100.0, 190.0, 190.0), 0.9), *red_row(4, RED_SIDE * 0.8)]
    out = extract_cells(field, painted(place, cells), np.array([0.075, 1.0], np.float32))
    assert out.scale_source == "caller"
    np.testing.assert_allclose(out.scale, [0.075, 7.5 * 0.8], rtol=0.02)


def test_without_red_cells_the_cell_is_its_own_ruler():
    field = textured(200, 200)
    place = segmenter_geometry(field.shape, 0.1)
    out = extract_cells(field, painted(place, [(WHITE, square(66, 66, 90), 0.9)]), np.array([0.1, 0], np.float32))
    assert out.scale_source == "cell_itself"
    assert out.cell_flags[0] & FLAG_OUT_OF_SCALE
    assert np.isfinite(out.scale[0])


def test_a_guess_far_off_is_flagged():
    box = np.array([[10 + 200 * i, 100, 110 + 200 * i, 200] for i in range(4)], np.float32)
    found = Detections(box, np.full(4, RED, np.uint8), np.ones(4, np.float32))
    true = RED_CELL_DIAMETER_UM / (100 * BOX_TO_DIAMETER)
    for wrong, doubtful in ((1.0, False), (1.3, False), (2.5, True), (0.4, True)):
        answer = refine_scale(found, (400, 900, 3), np.array([true * wrong, 0.0], np.float32))
        assert answer[0] == pytest.approx(true, rel=1e-5)
        assert answer[3] is doubtful


def test_red_cells_cut_by_the_edge_or_in_clumps_are_no_rulers():
    whole = [[100 + 200 * i, 100, 200 + 200 * i, 200] for i in range(3)]
    cut = [[0, 300 + 60 * i, 50, 350 + 60 * i] for i in range(5)]
    clump = [[300 + 20 * i, 400, 440 + 20 * i, 540] for i in range(8)]
    box = np.array(whole + cut + clump, np.float32)
    found = Detections(box, np.full(len(box), RED, np.uint8), np.ones(len(box), np.float32))
    answer = refine_scale(found, (800, 900, 3), np.array([0.08, 0.0], np.float32))
    assert answer[0] == pytest.approx(RED_CELL_DIAMETER_UM / (100 * BOX_TO_DIAMETER), rel=1e-5)


def test_cells_at_the_edge_and_poor_images_are_flagged():
    field = textured(300, 400)
    field[:, :130] = 215
    place = segmenter_geometry(field.shape, 0.15)
    cells = [(WHITE, (0.0, 100.0, 70.0, 190.0), 0.9), (WHITE, square(260, 150, 90), 0.8), *red_row()]
    out = extract_cells(field, painted(place, cells), np.array([0.15, 0.0], np.float32))
    assert out.cell_flags[0] & FLAG_TOUCHES_BORDER
    assert out.cell_flags[0] & FLAG_POOR_IMAGE
    assert not out.cell_flags[1] & (FLAG_TOUCHES_BORDER | FLAG_POOR_IMAGE)
    assert (out.kind[out.cell_index] == WHITE).all()


@pytest.mark.parametrize("shape", [(1, 15, 120, 159), (1, 14, 120, 160), (15, 120, 160)])
def test_maps_of_another_field_are_refused(shape):
    with pytest.raises(BadShape, match="segmenter maps"):
        extract_cells(np.zeros((240, 320, 3), np.uint8), np.zeros(shape, np.float32), np.array([0.15, 0], np.float32))


@pytest.mark.parametrize("guess", [[0.0, 0.0], [np.nan, 0.0], [0.1], [-1.0, 1.0]])
def test_a_broken_scale_is_refused(guess):
    with pytest.raises(ValueError, match=r"SCALE_GUESS|um per pixel"):
        extract_cells(
            np.zeros((240, 320, 3), np.uint8), np.zeros((1, 15, 128, 160), np.float32), np.array(guess, np.float32)
        )


def test_broken_maps_give_no_cells_rather_than_cells_without_a_place():
    place = segmenter_geometry((240, 320, 3), 0.15)
    maps = painted(place, red_row())
    maps[0, 3:] = np.nan
    assert len(detect(maps, place).box) == 0
    assert len(detect(np.full_like(maps, np.nan), place).box) == 0


def test_a_field_10_000_px_wide_with_hundreds_of_cells_stays_in_memory():
    field = np.broadcast_to(np.array([200, 180, 190], np.uint8), (600, 10_000, 3)).copy()
    field[::7, ::7] = 90
    place = segmenter_geometry(field.shape, 0.15)
    cells = [(RED, square(60 + 70 * i, 60 + 70 * j, RED_SIDE), 0.9) for i in range(140) for j in range(7)]
    cells += [(WHITE, square(95 + 70 * i, 552, 60), 0.8) for i in range(0, 136, 2)]
    maps = painted(place, cells)
    tracemalloc.start()
    out = extract_cells(field, maps, np.array([0.15, 0.0], np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(out.kind) == len(cells)
    assert len(out.cell_index) == 68
    assert peak < 200e6  # the field alone is 30 MB


def test_a_field_of_background_alone_has_no_cells_whatever_the_maps_say():
    flat = np.full((240, 320, 3), 225, np.uint8)
    maps = painted(segmenter_geometry(flat.shape, 0.15), [(WHITE, square(100, 100, 60), 0.9)])
    guess = np.array([0.15, 1.0], np.float32)
    assert len(extract_cells(flat, maps, guess).kind) == 0
    flat[80:120, 80:120] = 120
    assert len(extract_cells(flat, maps, guess).kind) == 1


def test_blur_lowers_sharpness_below_the_limit():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    crop = np.full((96, 96, 3), 235.0)
    crop[np.hypot(x - 48, y - 48) < 26] = (200, 185, 215)
    crop[np.hypot(x - 44, y - 50) < 14] = (80, 60, 140)
    sharp = ndimage.gaussian_filter(crop, (0.7, 0.7, 0)) + rng.normal(0, 1.5, crop.shape)
    soft = ndimage.gaussian_filter(sharp, (4, 4, 0))
    as_bytes = [np.clip(image, 0, 255).astype(np.uint8) for image in (sharp, soft)]
    assert sharpness(luminance(as_bytes[0])) > 2 * sharpness(luminance(as_bytes[1]))
    assert [poor_image(image) for image in as_bytes] == [False, True]
    assert poor_image((as_bytes[0] * 0.15).astype(np.uint8))  # too dark
    burnt = as_bytes[0].copy()
    burnt[32:64, 32:64] = 255
    assert poor_image(burnt)


def field_at(given, true=0.15, origin=1.0, count=4):
    """Extract a field with four red cells of ordinary size at the true scale, under a scale that was given."""
    field = textured(480, 640)
    place = segmenter_geometry(field.shape, given)
    factor = given / true
    cells = [(WHITE, square(150, 180, 90), 0.9), *red_row(count, RED_SIDE * factor, y=60.0)]
    return extract_cells(field, painted(place, cells), np.array([given, origin], np.float32))


@pytest.mark.parametrize("wrong", [0.7, 1.3, 0.25 / 0.145])
def test_a_given_scale_that_the_red_cells_contradict_refers_every_cell(wrong):
    for origin, source in ((1.0, "caller"), (2.0, "file")):
        out = field_at(0.15 * wrong, origin=origin)
        assert out.scale_source == source
        assert len(out.cell_flags) > 0
        assert (out.cell_flags & FLAG_OUT_OF_SCALE == FLAG_OUT_OF_SCALE).all()


def test_a_given_scale_that_fits_is_believed_whoever_gave_it():
    for origin, source in ((1.0, "caller"), (2.0, "file")):
        out = field_at(0.15, origin=origin)
        assert (out.scale_source, out.cell_flags.tolist()) == (source, [FLAG_SEGMENTED_WHITE_CELL])


def test_a_caller_and_a_file_that_disagree_refer_every_cell():
    out = field_at(0.15, origin=3.0)
    assert out.scale_source == "caller"
    assert out.cell_flags[0] & FLAG_OUT_OF_SCALE


def test_odd_red_cells_are_no_ruler():
    place = (600, 1200, 3)
    for stretch, doubtful in ((1.0, False), (1.45, True)):
        sides = [(RED_SIDE * (stretch if i % 2 else 1), RED_SIDE) for i in range(24)]
        box = [[70 + 90 * (i % 12), 100 + 200 * (i // 12)] for i in range(24)]
        box = np.array(
            [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for (x, y), (w, h) in zip(box, sides, strict=True)]
        )
        found = Detections(box.astype(np.float32), np.full(24, RED, np.uint8), np.ones(24, np.float32))
        answer = refine_scale(found, place, np.array([0.15, 0.0], np.float32))
        assert (answer[2], answer[3]) == ("red_cells", doubtful)
