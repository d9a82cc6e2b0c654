"""Bounds for clustered shares: against SciPy's analysis of variance and exact bound, and by simulation of slides."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_statistics.clusters import (
    clustered_upper_bound,
    effective_total,
    highest_correlation,
    intraclass_correlation,
    per_cluster,
)
from cytoserve_statistics.shares import upper_bound
from scipy import stats

DRAWS = 600


def drawn(rng: np.random.Generator, slides: int, cells: int, share: float, alike: float) -> tuple[np.ndarray, ...]:
    """Draw hits and cells of some slides from a beta-binomial distribution of that intraclass correlation."""
    size = np.maximum(rng.poisson(cells, slides), 1)
    scale = 1 / alike - 1 if alike else np.inf
    own = rng.beta(share * scale, (1 - share) * scale, slides) if alike else np.full(slides, share)
    return rng.binomial(size, own), size


@pytest.mark.parametrize("seed", range(5))
def test_the_correlation_is_that_of_an_analysis_of_variance(seed: int) -> None:
    hits, size = drawn(np.random.default_rng(seed), 12, 9, 0.3, 0.3)
    cells = [np.repeat([1, 0], [hit, of - hit]) for hit, of in zip(hits, size, strict=True)]
    f = stats.f_oneway(*cells).statistic
    usual = (size.sum() - (size**2).sum() / size.sum()) / (len(size) - 1)
    assert intraclass_correlation(hits, size) == pytest.approx(max(0, (f - 1) / (f - 1 + usual)))


def test_the_correlation_that_was_drawn_is_found() -> None:
    rng = np.random.default_rng(1)
    for alike in (0.0, 0.1, 0.4):
        found = [intraclass_correlation(*drawn(rng, 100, 20, 0.2, alike)) for _ in range(30)]
        assert np.mean(found) == pytest.approx(alike, abs=0.03)


@pytest.mark.parametrize(("slides", "alike"), [(10, 0.2), (40, 0.05), (40, 0.4)])
def test_the_upper_limit_of_the_correlation_lies_above_it_as_often_as_it_says(slides: int, alike: float) -> None:
    rng = np.random.default_rng(6)
    below = sum(highest_correlation(*drawn(rng, slides, 20, 0.3, alike), 0.9) < alike for _ in range(DRAWS))
    assert below <= 0.14 * DRAWS


def test_a_few_slides_cannot_show_that_their_cells_are_not_alike() -> None:
    limits = [highest_correlation([2, 1] * half, [10, 10] * half, 0.9) for half in (2, 5, 20, 100)]
    assert intraclass_correlation([2, 1] * 2, [10, 10] * 2) == 0.0
    assert limits == sorted(limits, reverse=True)
    assert limits[0] > 0.01
    assert highest_correlation([0] * 30, [10] * 30, 0.9) == 1.0, "cells that are all alike show nothing"


def test_cells_that_are_slides_of_their_own_are_nearly_independent() -> None:
    hits = np.repeat([1, 0], [3, 397])
    bound = clustered_upper_bound(hits, np.ones(400), 0.95, 0.7)  # alike or not, none has a second cell
    assert bound == pytest.approx(upper_bound(3, 400, 0.95), rel=0.02)


@pytest.mark.parametrize(("slides", "cells", "alike"), [(6, 12, 0.05), (10, 10, 0.2), (20, 10, 0.2), (50, 20, 0.2)])
def test_the_bound_keeps_its_confidence_where_the_bound_of_single_cells_does_not(
    slides: int, cells: int, alike: float
) -> None:
    rng, truth, confidence = np.random.default_rng(2), 0.1, 0.9
    missed = {"slides": 0, "cells": 0}
    for _ in range(DRAWS):
        hits, size = drawn(rng, slides, cells, truth, alike)
        known = highest_correlation(hits, size, confidence)
        missed["slides"] += clustered_upper_bound(hits, size, confidence, known) < truth
        missed["cells"] += upper_bound(int(hits.sum()), int(size.sum()), confidence) < truth
    assert missed["slides"] <= (1 - confidence) * DRAWS
    assert missed["cells"] > missed["slides"]
    if alike >= 0.2:
        assert missed["cells"] > 0.16 * DRAWS


def test_slides_without_a_hit_are_worth_less_the_more_alike_their_cells_are() -> None:
    none, size = np.zeros(20, int), np.full(20, 10)
    bounds = [clustered_upper_bound(none, size, 0.95, alike) for alike in (0.0, 0.1, 0.5, 1.0)]
    assert bounds == sorted(bounds)
    assert bounds[0] == pytest.approx(upper_bound(0, 200, 0.95), rel=0.15)
    assert bounds[-1] >= upper_bound(0, 20, 0.95)  # alike throughout, a slide is one observation
    assert effective_total(size, 0.95, 1.0) <= 20


@pytest.mark.parametrize(("hits", "size"), [([0], [50]), ([], []), ([0, 0], [0, 30]), ([5, 5], [5, 5])])
def test_one_slide_or_none_shows_nothing_about_another(hits: list[int], size: list[int]) -> None:
    assert clustered_upper_bound(hits, size, 0.9) == 1.0
    assert intraclass_correlation(hits, size) == 0.0


@pytest.mark.parametrize(("hits", "size"), [([2], [1]), ([-1], [3]), ([1, 1], [3]), ([[1]], [[2]])])
def test_counts_that_are_none_are_refused(hits: list[int], size: list[int]) -> None:
    with pytest.raises(ValueError, match="clusters"):
        clustered_upper_bound(hits, size, 0.9)


def test_counting_by_slide() -> None:
    hits, size = per_cluster([True, False, True, True], ["b", "a", "b", "a"], [True, True, False, True])
    assert (hits.tolist(), size.tolist()) == ([1, 1], [2, 1])
