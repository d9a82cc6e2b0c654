"""Steps of a cell's decoding that are computed in a quicker way: each equals the library's to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_scoring.vision.crops import _bilinear
from cytoserve_scoring.vision.lit_area import FLAT_RANGE, _flat_corners
from cytoserve_scoring.vision.scale import _depth, _histogram, _peaks, _rim
from cytoserve_scoring.vision.smoothing import smoothed
from cytoserve_scoring.vision.stain import _frame
from scipy import ndimage


@pytest.mark.parametrize("step", [0.4, 1.0, 1.39, 3.0])
@pytest.mark.parametrize("start", [2.0, 2.25, 3.9])
def test_bilinear_sampling_is_scipys(step: float, start: float):
    rng = np.random.default_rng(0)
    at_y, at_x = start + np.arange(96) * step, start / 2 + np.arange(96) * step
    window = rng.uniform(0, 255, (int(at_y[-1]) + 3, int(at_x[-1]) + 3, 3)).astype(np.float32)
    places = np.meshgrid(at_y, at_x, indexing="ij")
    expected = [ndimage.map_coordinates(window[..., c], places, order=1, mode="nearest") for c in range(3)]
    assert np.array_equal(_bilinear(window, at_y, at_x), np.stack(expected, axis=-1))


@pytest.mark.parametrize("high", [0.6, 1.2])
def test_counts_and_edges_are_numpys(high: float):
    rng = np.random.default_rng(1)
    edges = np.linspace(0, high, 129, dtype=np.float32)
    beside = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(2))])
    for values in (rng.uniform(0, high, 25_600), beside, np.zeros(5), np.full(5, high)):
        clipped = np.clip(values.astype(np.float32), 0, high)
        counts, found = _histogram(clipped, high)
        expected, known = np.histogram(clipped, bins=128, range=(0.0, high))
        assert np.array_equal(counts, expected)
        assert np.array_equal(found, known)


@pytest.mark.parametrize("sigma", [0.17, 0.5, 1.0, 2.3])
@pytest.mark.parametrize("mode", ["reflect", "nearest"])
def test_smoothing_is_scipys(sigma: float, mode: str):
    rng = np.random.default_rng(3)
    for picture in (rng.uniform(0, 255, (40, 37, 3)).astype(np.float32), rng.normal(size=(5, 64))):
        expected = ndimage.gaussian_filter(picture, (sigma, sigma, 0)[: picture.ndim], mode=mode)
        assert np.array_equal(smoothed(picture, sigma, mode), expected)


@pytest.mark.parametrize("above", [-9.0, -0.5, 1.0, 9.0])
def test_depth_is_scipys_distance(above: float):
    area = blobs(4, above)
    assert np.array_equal(_depth(area), ndimage.distance_transform_edt(area))


def test_flat_corners_are_counted_one_by_one():
    rng = np.random.default_rng(5)
    for _ in range(40):
        sample = rng.integers(100, 100 + rng.integers(2, 6), (7, 9, 3), dtype=np.uint8)
        four = [sample[np.ix_(rows, columns)] for rows in ([0, 1], [-2, -1]) for columns in ([0, 1], [-2, -1])]
        flat = [int((part.max(axis=(0, 1)) - part.min(axis=(0, 1))).max()) <= FLAT_RANGE for part in four]
        assert _flat_corners(sample) == sum(flat)


def blobs(seed: int, above: float, size: tuple[int, int] = (160, 150)) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), 6)
    return smooth / smooth.std() > above


@pytest.mark.parametrize("seed", range(6))
def test_discs_clear_of_a_nucleus_are_those_of_a_distance_at_every_pixel(seed: int):
    cells, nucleus = blobs(seed, -0.2), blobs(seed + 100, 1.0)
    nucleus[0, :20] = True  # at the picture's edge too
    inner = ndimage.gaussian_filter(ndimage.distance_transform_edt(cells), 1.0)
    peak = (inner == ndimage.maximum_filter(inner, size=9)) & (inner > 4)
    peak[:3] = peak[-3:] = peak[:, :3] = peak[:, -3:] = False
    clear = peak & (ndimage.distance_transform_edt(~nucleus) > 0.8 * inner)
    assert 0 < clear.sum() < peak.sum(), "the nucleus takes some of them"
    assert np.array_equal(_peaks(cells, nucleus), inner[clear] + 0.5)
    assert np.array_equal(_peaks(cells, np.zeros_like(cells)), inner[peak] + 0.5)


def test_the_rim_holds_the_nearest_pixel_to_any_outside():
    area = blobs(3, 0.8)
    to_area, to_rim = (ndimage.distance_transform_edt(~mask) for mask in (area, _rim(area)))
    assert _rim(area).sum() < area.sum() / 2
    assert np.array_equal(to_area[~area], to_rim[~area])


def test_the_third_vector_of_a_stain_is_the_cross_product():
    rng = np.random.default_rng(2)
    for azure, eosin in rng.uniform(0.1, 1, (50, 2, 3)):
        rest = np.cross(azure, eosin)
        assert np.array_equal(_frame(azure, eosin)[:, 2], rest / np.linalg.norm(rest))
