"""Percentiles and medians are NumPy's to the last bit, whatever the precision, the ties and the size."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_scoring.vision.order_statistics import median, percentile, percentiles
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

POINTS = (0, 1, 5, 30, 50, 90, 95, 99, 99.8, 100)
GREY = st.floats(0, 255, width=32)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("ties", [False, True])
def test_percentiles_are_those_of_numpy(kind: type, ties: bool):
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 10, 257, 25_600):
        drawn = rng.normal(120, 50, size).clip(0, 255)
        values = (np.round(drawn / 40) * 40 if ties else drawn).astype(kind)
        # one number in an array of one: double precision, in every version of NumPy
        expected = [float(np.percentile(values.astype(np.float64), point)) for point in POINTS]
        assert percentiles(values, *POINTS) == pytest.approx(expected, rel=1e-7)
        if np.lib.NumpyVersion(np.__version__) < "2.0.0":
            assert percentiles(values, *POINTS) == [np.percentile(values, point) for point in POINTS]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=2, max_side=40), elements=GREY))
def test_a_median_is_that_of_numpy(kind: type, values: np.ndarray):
    precise = values.astype(kind) / kind(3)
    assert median(precise) == np.median(precise)
    assert median(precise).dtype == kind


@given(arrays.arrays(np.uint8, arrays.array_shapes(max_dims=2, max_side=40)), st.floats(0, 100, allow_subnormal=False))
def test_counting_levels_finds_what_selecting_finds(values: np.ndarray, point: float):
    assert percentile(values, point) == percentile(values.astype(np.float64), point)
