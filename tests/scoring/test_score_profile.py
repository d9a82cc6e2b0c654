"""The anomaly profile against closed forms, and as evidence: an unseen kind stands out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cytoserve_scoring.classifier.score_profile import FLOOR, LEAST_CELLS, ScoreProfile, pattern, shared_precision
from cytoserve_scoring.errors import BadShape
from scipy.spatial.distance import mahalanobis

CLASSES = ("lymphocyte", "monocyte", "neutrophil")


def ordinary(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of cells whose rivals stand behind in an order of their class's own."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, count)
    behind = np.array([[0.0, 0.1, 0.3], [0.1, 0.0, 0.2], [0.3, 0.2, 0.0]])[label]
    level = random.lognormal(0, 0.3, (count, 1))
    return level * (1 + behind * random.lognormal(0, 0.1, (count, 3))), label


def test_the_pattern_does_not_know_the_level_of_the_error():
    scores, _ = ordinary(20, 0)
    np.testing.assert_allclose(pattern(scores), pattern(7 * scores))
    assert np.all(pattern(scores).min(axis=1) == np.log(FLOOR))


def test_the_distance_is_the_mahalanobis_distance_to_the_answered_class():
    scores, label = ordinary(500, 1)
    profile = ScoreProfile.fit(scores, label, CLASSES)
    values = pattern(scores)
    means = np.stack([values[label == c].mean(axis=0) for c in range(3)])
    precision = shared_precision(values, means, label)
    for row in range(5):
        expected = mahalanobis(values[row], means[label[row]], precision) ** 2
        assert profile.distance(scores[row], CLASSES[label[row]]) == pytest.approx(expected)


def test_a_kind_with_another_pattern_is_farther_than_ordinary_cells_whatever_its_error():
    scores, label = ordinary(500, 2)
    profile = ScoreProfile.fit(scores, label, CLASSES)
    fresh, fresh_label = ordinary(200, 3)
    usual = [profile.distance(s, CLASSES[c]) for s, c in zip(fresh, fresh_label, strict=True)]
    for level in (0.2, 1.0, 5.0):
        strange = profile.distance(level * np.array([1.0, 1.3, 1.1]), "lymphocyte")
        assert strange > np.quantile(usual, 0.99)


def test_it_survives_the_file():
    scores, label = ordinary(300, 4)
    profile = ScoreProfile.fit(scores, label, CLASSES)
    again = ScoreProfile.from_json(json.loads(json.dumps(profile.to_json())))
    assert again.distance(scores[0], "monocyte") == pytest.approx(profile.distance(scores[0], "monocyte"), rel=1e-3)


def test_a_class_with_few_cells_and_a_cell_not_asked_everything_have_no_distance():
    scores, label = ordinary(300, 5)
    kept = (label != 2) | (np.cumsum(label == 2) < LEAST_CELLS)
    profile = ScoreProfile.fit(scores[kept], label[kept], CLASSES)
    assert np.isnan(profile.distance(scores[0], "neutrophil"))
    assert np.isnan(profile.distance(np.array([1.0, np.nan, 1.2]), "monocyte"))


def test_too_few_cells_are_refused_with_the_number_needed():
    scores, _ = ordinary(LEAST_CELLS - 1, 6)
    with pytest.raises(BadShape, match=str(LEAST_CELLS)):
        ScoreProfile.fit(scores, np.zeros(len(scores), np.int64), CLASSES)


def test_sizes_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        ScoreProfile.from_json({"mean": {"monocyte": [1.0]}, "precision": [[1.0, 0.0], [0.0, 1.0]]})
