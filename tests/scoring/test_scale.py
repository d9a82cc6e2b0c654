"""Scale: the classical guess on drawn cells of known size, the resampling against Pillow, the refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cytoserve_contract.limits import MAX_AREA_UM2, MAX_SEGMENTER_PIXELS
from cytoserve_contract.values import FLAG_OUT_OF_SCALE
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL, RED_CELL_DIAMETER_UM
from cytoserve_scoring.errors import BadScale, BadShape, TooManyPixels
from cytoserve_scoring.vision.scale import (
    GUESS_FALLBACK_UM,
    GUESS_TO_DIAMETER,
    given_scale,
    guess_um_per_pixel,
    prepare_field,
    resample,
    segmenter_geometry,
)
from cytoserve_scoring.vision.single_cell_scale import scale_of_single_cell
from PIL import Image


def drawn_field(diameter: float, width: int, height: int, seed: int = 0, pale: float = 0.45) -> np.ndarray:
    """Draw a field of pink discs with pale centres, some touching, at least a little apart on average."""
    rng = np.random.default_rng(seed)
    depth = np.zeros((height, width))
    step, reach = diameter * 1.25, int(diameter)
    for cy in np.arange(step * 0.6, height, step):
        for cx in np.arange(step * 0.6, width, step):
            at = (cx + rng.normal(0, 0.09) * diameter, cy + rng.normal(0, 0.09) * diameter)
            radius = diameter / 2 * rng.uniform(0.95, 1.05)
            rows = slice(max(0, int(at[1]) - reach), int(at[1]) + reach)
            columns = slice(max(0, int(at[0]) - reach), int(at[0]) + reach)
            y, x = np.mgrid[rows, columns][:, : height - rows.start, : width - columns.start]
            far = np.hypot(x - at[0], y - at[1]) / radius
            disc = np.where(far < 1, np.where(far < pale, 0.45, 1.0), 0.0)
            depth[rows, columns] = np.maximum(depth[rows, columns], disc)
    colour = np.array([235, 225, 220]) * np.exp(-depth[..., None] * np.array([0.15, 0.45, 0.40]))
    return np.clip(colour + rng.normal(0, 2, colour.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("diameter", [22.0, 42.0, 75.0, 104.0, 136.0])
def test_guess_finds_the_diameter_of_drawn_red_cells(diameter):
    field = drawn_field(diameter, 640, 480)
    # Drawn cells have hard edges, so the allowance for soft ones is taken out again.
    found = RED_CELL_DIAMETER_UM / (guess_um_per_pixel(field) * GUESS_TO_DIAMETER)
    assert found == pytest.approx(diameter, rel=0.12)


def test_guess_works_on_windows_of_a_wide_field():
    field = np.tile(drawn_field(60.0, 500, 600), (1, 20, 1))
    assert field.shape == (600, 10_000, 3)
    found = RED_CELL_DIAMETER_UM / (guess_um_per_pixel(field) * GUESS_TO_DIAMETER)
    assert found == pytest.approx(60.0, rel=0.12)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_guess_of_an_empty_field_is_the_fallback(level):
    assert guess_um_per_pixel(np.full((120, 160, 3), level, np.uint8)) == GUESS_FALLBACK_UM


def test_a_nucleus_does_not_count_as_a_red_cell():
    field = drawn_field(42.0, 160, 160)
    y, x = np.mgrid[:160, :160]
    field[np.hypot(x - 80, y - 80) < 40] = (70, 40, 120)
    found = RED_CELL_DIAMETER_UM / (guess_um_per_pixel(field) * GUESS_TO_DIAMETER)
    assert found == pytest.approx(42.0, rel=0.15)


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75, 1.25, 2.0])
def test_resampling_agrees_with_pillow(factor):
    source = drawn_field(30.0, 128, 96, seed=3)
    width, height = round(128 * factor), round(96 * factor)
    ours = resample(source, width, height, factor) * 255
    theirs = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.BILINEAR), np.float32)
    # Pillow rounds to whole numbers after each of its two passes.
    assert np.abs(ours - theirs).max() <= 1.6


def test_resampling_an_identity_changes_nothing():
    source = drawn_field(30.0, 70, 50, seed=4)
    np.testing.assert_allclose(resample(source, 70, 50, 1.0), source / 255.0, atol=1e-6)


def test_prepared_field_is_padded_with_its_edge():
    field = drawn_field(50.0, 333, 201)
    prepared = prepare_field(field, 0.15)
    image = prepared.segmenter_input
    assert image.shape == (1, 3, 224, 352)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image[0, :, :201, 333:], np.repeat(image[0, :, :201, 332:333], 352 - 333, axis=2))
    np.testing.assert_array_equal(image[0, :, 201:, :333], np.repeat(image[0, :, 200:201, :333], 224 - 201, axis=1))
    np.testing.assert_allclose(prepared.scale_guess, [0.15, 1.0], rtol=1e-6)


def test_without_a_scale_the_guess_is_used_and_marked():
    field = drawn_field(50.0, 320, 240)
    prepared = prepare_field(field, None)
    assert prepared.scale_guess[1] == 0.0
    assert prepared.scale_guess[0] == pytest.approx(guess_um_per_pixel(field), rel=1e-6)
    np.testing.assert_array_equal(prepared.scale_guess, prepare_field(field, 0.0).scale_guess)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 0.001, 5.0])
def test_implausible_scales_are_refused(value):
    with pytest.raises(BadScale, match="um per pixel"):
        prepare_field(np.zeros((40, 40, 3), np.uint8), value)


@pytest.mark.parametrize(
    "field",
    [
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((40, 40, 3), np.float32),
        np.zeros((0, 40, 3), np.uint8),
    ],
)
def test_wrong_fields_are_refused(field):
    with pytest.raises(BadShape):
        prepare_field(field, 0.15)


def test_large_fields_come_in_coarser_and_too_large_ones_are_refused():
    small = segmenter_geometry((480, 640, 3), 0.075)
    assert (small.width, small.height, small.factor) == (320, 240, 0.5)
    large = segmenter_geometry((1000, 10_000, 3), 0.15)
    assert large.width * large.height <= MAX_SEGMENTER_PIXELS * 1.001
    assert 0.68 <= large.factor < 1
    with pytest.raises(TooManyPixels, match="cut it into several fields"):
        segmenter_geometry((5000, 10_000, 3), 0.5)


def test_single_cell_prefers_the_callers_scale_then_the_red_cells():
    field = drawn_field(42.0, 160, 160)
    assert scale_of_single_cell(field, 0.2).um_per_pixel == 0.2
    assert scale_of_single_cell(field, 0.2).source == "caller"
    measured = scale_of_single_cell(field)
    assert measured.source == "red_cells"
    assert not measured.flags & FLAG_OUT_OF_SCALE


def test_a_lone_cell_is_its_own_ruler_and_says_so():
    field = np.full((100, 100, 3), 230, np.uint8)
    y, x = np.mgrid[:100, :100]
    field[np.hypot(x - 50, y - 50) < 40] = (200, 190, 215)
    field[np.hypot(x - 50, y - 50) < 25] = (80, 50, 130)
    measured = scale_of_single_cell(field)
    assert measured.source == "cell_itself"
    assert measured.flags & FLAG_OUT_OF_SCALE
    assert 0.1 < measured.um_per_pixel < 0.3


def test_an_empty_single_cell_image_still_gets_a_finite_scale():
    measured = scale_of_single_cell(np.full((64, 64, 3), 200, np.uint8))
    assert measured.source == "none"
    assert math.isfinite(measured.um_per_pixel)
    assert measured.flags & FLAG_OUT_OF_SCALE


@pytest.mark.data
def test_pbc_cells_measure_018_um_per_pixel(data_dir):
    """The ruler against the known scale of unseen PBC images."""
    paths = [path for folder in sorted((data_dir / "pbc/val").iterdir()) for path in sorted(folder.glob("*.webp"))[:8]]
    values = []
    for path in paths:
        with Image.open(path) as image:
            values.append(scale_of_single_cell(np.asarray(image.convert("RGB"))).um_per_pixel)
    assert len(values) == 64
    assert np.median(values) == pytest.approx(PBC_UM_PER_PIXEL, rel=0.05)
    assert np.mean(np.abs(np.array(values) / PBC_UM_PER_PIXEL - 1) < 0.2) > 0.8


@pytest.mark.parametrize(
    ("caller", "file", "expected"),
    [
        (None, None, (None, 0)),
        (0.0, 0.2, (0.2, 2)),
        (0.2, None, (0.2, 1)),
        (0.2, 0.201, (0.2, 1)),
        (0.2, 0.25, (0.2, 3)),
    ],
)
def test_who_gave_the_scale(caller, file, expected):
    assert given_scale(caller, file) == expected


def test_a_file_that_contradicts_the_caller_is_said_of_a_single_cell():
    field = drawn_field(42.0, 160, 160)
    assert not scale_of_single_cell(field, 0.18, 0.18).flags & FLAG_OUT_OF_SCALE
    assert scale_of_single_cell(field, 0.18, 0.30).flags & FLAG_OUT_OF_SCALE
    by_file = scale_of_single_cell(field, None, 0.18)
    assert (by_file.source, by_file.um_per_pixel) == ("file", 0.18)


@pytest.mark.data
def test_a_wrong_scale_of_pbc_cells_is_said_and_the_true_one_believed(data_dir):
    paths = [path for folder in sorted((data_dir / "pbc/val").iterdir()) for path in sorted(folder.glob("*.webp"))[:6]]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    flagged = {
        scale: np.mean([scale_of_single_cell(image, scale).flags & FLAG_OUT_OF_SCALE > 0 for image in images])
        for scale in (0.10, 0.18, 0.26)
    }
    assert flagged[0.18] <= 0.05
    assert flagged[0.10] > 0.75
    assert flagged[0.26] > 0.6


def test_the_area_limit_is_the_one_that_is_stated():
    side = 0.25
    with pytest.raises(TooManyPixels, match=r"2592 x 1944 px .* 0\.315 mm2, the limit is 0\.292 mm2.* 4\.7 million"):
        segmenter_geometry((1944, 2592, 3), side)
    widest = int(MAX_AREA_UM2 / side**2 / 2000)
    segmenter_geometry((2000, widest, 3), side)
    with pytest.raises(TooManyPixels):
        segmenter_geometry((2000, widest + 2, 3), side)
