"""One p-value for a sample: against SciPy's gamma tail, and against what conformal p-values of home cells do."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_statistics.combined import combined_p_value
from scipy import stats


def conformal(calibration: np.ndarray, values: np.ndarray) -> list[float]:
    below = np.searchsorted(np.sort(calibration), values)
    return ((1 + len(calibration) - below) / (len(calibration) + 1)).tolist()


@pytest.mark.parametrize("cells", [1, 2, 40, 700])
def test_with_endless_calibration_cells_it_is_fishers_method(cells: int) -> None:
    p_values = np.random.default_rng(cells).uniform(0.001, 1, cells)
    fisher = stats.combine_pvalues(p_values, "fisher").pvalue
    assert combined_p_value(p_values.tolist(), [10**12] * cells) == pytest.approx(fisher, rel=1e-6)


@pytest.mark.parametrize(("calibration", "cells"), [(150, 50), (500, 500), (1700, 200)])
def test_home_samples_are_rejected_as_rarely_as_promised(calibration: int, cells: int) -> None:
    rng = np.random.default_rng(1)
    found = [
        combined_p_value(conformal(rng.random(calibration), rng.random(cells)), [calibration] * cells)
        for _ in range(2000)
    ]
    assert np.mean(np.array(found) < 0.01) < 0.02
    # Fisher's own method would not keep the promise for a large sample
    assert 0.35 < np.median(found) < 0.65


def test_many_slightly_odd_cells_are_seen_where_one_is_not() -> None:
    assert combined_p_value([0.08], [1000]) > 0.05
    assert combined_p_value([0.08] * 40, [1000] * 40) < 1e-9


def test_no_cell_says_nothing_and_nonsense_is_refused() -> None:
    assert combined_p_value([], []) == 1.0
    assert combined_p_value([1.0] * 5, [10] * 5) > 0.99
    for p_values, counted in (([0.0], [5]), ([1.2], [5]), ([float("nan")], [5]), ([0.5], [0]), ([0.5], [])):
        with pytest.raises(ValueError, match="p-values"):
            combined_p_value(p_values, counted)
