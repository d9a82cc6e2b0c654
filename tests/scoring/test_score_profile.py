"""The anomaly score against closed forms, and as evidence: an unseen kind stands out, whichever way it is strange."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cytoserve_scoring.classifier.score_profile import (
    EARLY,
    LEADS_TO_UNIT,
    LEAST_CELLS,
    LEAST_ERROR,
    LEAST_INDECISION,
    LEAST_PROBABILITY,
    SOFTER,
    ScoreProfile,
    early_errors,
    indecision,
    pattern,
    shared_precision,
)
from cytoserve_scoring.errors import BadShape
from scipy.spatial.distance import mahalanobis
from scipy.special import softmax
from scipy.stats import multivariate_t

CLASSES = ("lymphocyte", "monocyte", "neutrophil")
BEHIND = np.array([[0.0, 0.1, 0.3], [0.1, 0.0, 0.2], [0.3, 0.2, 0.0]])


def ordinary(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of cells whose rivals stand behind in an order of their class's own, and their errors at two probes."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, count)
    behind = BEHIND[label] * random.lognormal(0, 0.1, (count, 3))
    early = np.exp(random.normal([-0.5, -1.0], 0.1, (count, EARLY)))
    return early.mean(axis=1, keepdims=True) + behind, early, label


def test_the_pattern_is_softened_probabilities_and_errors():
    scores, early, _ = ordinary(20, 0)
    values = pattern(scores, early, 0.01)
    expected = np.log(softmax(-scores / (SOFTER * 0.01), axis=1) + LEAST_PROBABILITY)
    np.testing.assert_allclose(values[:, :3], expected, atol=1e-5)
    np.testing.assert_allclose(values[:, 3:], np.log(early + LEAST_ERROR))


def test_early_errors_are_those_of_the_answered_class():
    errors = np.arange(24.0).reshape(2, 4, 3)
    assert early_errors(errors, np.array([2, 0])).tolist() == [[2.0, 5.0], [12.0, 15.0]]
    assert early_errors(errors[:, :1], np.array([2, 0])).tolist() == [[2.0], [12.0]]


def test_the_unit_is_told_by_the_usual_lead():
    scores, early, label = ordinary(500, 1)
    ranked = np.sort(scores, axis=1)
    profile = ScoreProfile.fit(scores, early, label, CLASSES)
    assert profile.unit == pytest.approx(np.median(ranked[:, 1] - ranked[:, 0]) / LEADS_TO_UNIT)


def test_the_score_is_a_students_density_and_the_indecision():
    """Half the logarithm of SciPy's density, of as many degrees of freedom as the pattern has numbers."""
    scores, early, label = ordinary(500, 1)
    profile = ScoreProfile.fit(scores, early, label, CLASSES)
    values = pattern(scores, early, profile.unit)
    means = np.stack([values[label == c].mean(axis=0) for c in range(3)])
    precision = shared_precision(values, means, label)
    size = values.shape[1]
    for row in range(5):
        density = multivariate_t(means[label[row]], np.linalg.inv(precision), df=size)
        likelihood = (density.logpdf(means[label[row]]) - density.logpdf(values[row])) / 2
        top = softmax(-scores[row] / profile.unit).max()
        expected = likelihood + np.log((1 - top + LEAST_INDECISION) / LEAST_INDECISION)
        found = profile.score(scores[row], early[row], CLASSES[label[row]])
        assert found == pytest.approx(expected, rel=2e-2)
        assert found >= 0
        distance = mahalanobis(values[row], means[label[row]], precision) ** 2
        assert likelihood == pytest.approx(size / 2 * np.log1p(distance / size))


@pytest.mark.parametrize(
    ("behind", "level"),
    [((0.0, 0.3, 0.1), 1.0), ((0.0, 0.004, 0.3), 1.0), ((0.0, 0.1, 0.3), 0.3), ((0.0, 0.1, 0.3), 3.0)],
    ids=["other rivals", "no class leads", "easier than its class", "harder than its class"],
)
def test_a_cell_that_is_strange_in_one_way_is_stranger_than_ordinary_ones(behind, level):
    scores, early, label = ordinary(500, 2)
    profile = ScoreProfile.fit(scores, early, label, CLASSES)
    usual = [profile.score(s, e, CLASSES[c]) for s, e, c in zip(*ordinary(200, 3), strict=True)]
    own = level * np.exp([-0.5, -1.0])
    assert profile.score(own.mean() + np.array(behind), own, "lymphocyte") > np.quantile(usual, 0.98)


def test_indecision_has_bounds():
    certain, undecided = indecision(np.array([[0.0, 100.0], [1.0, 1.0]]), 0.01)
    assert certain == 0
    assert undecided == pytest.approx(np.log(0.5 / LEAST_INDECISION), rel=1e-5)


def test_it_survives_the_file():
    scores, early, label = ordinary(300, 4)
    profile = ScoreProfile.fit(scores, early, label, CLASSES)
    again = ScoreProfile.from_json(json.loads(json.dumps(profile.to_json())))
    assert again.score(scores[0], early[0], "monocyte") == pytest.approx(
        profile.score(scores[0], early[0], "monocyte"), rel=1e-3
    )


def test_a_class_with_few_cells_and_a_cell_not_asked_everything_have_no_score():
    scores, early, label = ordinary(300, 5)
    kept = (label != 2) | (np.cumsum(label == 2) < LEAST_CELLS)
    profile = ScoreProfile.fit(scores[kept], early[kept], label[kept], CLASSES)
    assert np.isnan(profile.score(scores[0], early[0], "neutrophil"))
    assert np.isnan(profile.score(np.array([1.0, np.nan, 1.2]), early[0], "monocyte"))
    assert np.isnan(profile.score(scores[0], np.array([1.0, np.nan]), "monocyte"))


def test_too_few_cells_are_refused_with_the_number_needed():
    scores, early, _ = ordinary(LEAST_CELLS - 1, 6)
    with pytest.raises(BadShape, match=str(LEAST_CELLS)):
        ScoreProfile.fit(scores, early, np.zeros(len(scores), np.int64), CLASSES)


def test_numbers_that_contradict_each_other_are_refused():
    square = [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match="differ in size"):
        ScoreProfile.from_json({"unit": 1.0, "mean": {"monocyte": [1.0]}, "precision": square})
    with pytest.raises(ValueError, match="above 0"):
        ScoreProfile.from_json({"unit": 0.0, "mean": {"monocyte": [1.0, 0.0]}, "precision": square})
