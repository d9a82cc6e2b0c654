"""Draws of cells and of slides against standard errors known in closed form; balanced accuracy on worked cells."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_statistics import accuracy, resampling


def test_bootstrap_of_a_mean_has_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(4).normal(10, 2, 200)
    drawn = resampling.draw([""] * 200, None, None)
    found = drawn.figure(lambda w: w @ values / w.sum(axis=1), 200)
    half = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert found.high is not None
    assert found.low is not None
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_slides_that_hold_one_answer_each_widen_the_interval_as_slides_not_cells() -> None:
    """Every cell of a slide is right, or every one is wrong: 40 slides say as much as 40 cells, not as 400."""
    slide = [f"s{i // 10}" for i in range(400)]
    right = np.repeat(np.random.default_rng(8).random(40) < 0.7, 10)
    everyone = np.ones(400, bool)
    by_cell = resampling.draw([""] * 400, None, None).share(right, everyone)
    by_slide = resampling.draw([""] * 400, slide, None).share(right, everyone)
    assert by_cell.low is not None
    assert by_cell.high is not None
    assert by_slide.low is not None
    assert by_slide.high is not None
    share = right.mean()
    assert by_slide.high - by_slide.low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 40), rel=0.12)
    assert by_slide.high - by_slide.low > 2.5 * (by_cell.high - by_cell.low)


def test_slides_are_drawn_whole_and_within_their_group() -> None:
    slide, group = ["a", "a", "b", "c", "c"], ["x", "x", "x", "y", "y"]
    weights = resampling.draw([""] * 5, slide, group).weights
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()
    assert (weights[:, 3] == 1).all()


TRUTH = np.array([0] * 40 + [1] * 10)
LABEL = np.array([0] * 36 + [1] * 4 + [1] * 5 + [0] * 4 + [-1])


def test_balanced_accuracy_is_the_mean_of_the_recalls() -> None:
    figure = accuracy.balanced_accuracy_figure(LABEL, TRUTH)
    assert figure(np.ones((1, 50))) == pytest.approx((36 / 40 + 5 / 10) / 2)


def test_the_interval_of_the_balanced_accuracy_has_its_standard_error() -> None:
    error = np.sqrt(0.9 * 0.1 / 40 + 0.5 * 0.5 / 10) / 2
    drawn = resampling.draw([str(c) for c in TRUTH], None, None, draws=4000)
    found = drawn.figure(accuracy.balanced_accuracy_figure(LABEL, TRUTH), len(TRUTH))
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
