"""The scoring engine against closed forms and a Gaussian world whose posterior is known."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_contract.models import MAX_BATCH
from cytoserve_contract.values import FLAG_INVALID, FLAG_SEGMENTED_WHITE_CELL
from cytoserve_scoring.classifier.engine import ScoringEngine
from cytoserve_scoring.classifier.score_profile import pattern
from cytoserve_scoring.classifier.scores import conformal_p_value, paired_statistic, softmax_posterior
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.errors import BadParameter, BadShape, CytoserveError, DeadlineExceeded
from ordinary_pictures import FAMILIAR, ordinary
from scipy import special, stats

CLASSES = ("monocyte", "neutrophil", "platelet")
SHAPE = (2, 4, 4)


def make_config(**changes):
    data = {
        "classes": list(CLASSES),
        "latent_shape": list(SHAPE),
        "probes": 8,
        "default_budget": 6,
        "temperature": [0.2] * 8,
        "accept_threshold": [0.9] * 8,
        "familiar": FAMILIAR.to_json(),
        **changes,
    }
    return ScoringConfig.from_json(data)


class World:
    """Class c is a constant image of value c; the error is the distance to it plus a probe's own ripple."""

    def __init__(self):
        self.rows: list[int] = []

    def __call__(self, latents, probes, classes):
        self.rows.append(len(latents))
        distance = ((latents - classes[:, None, None, None]) ** 2).mean(axis=(1, 2, 3))
        return (distance + 0.01 * probes).astype(np.float32)


def cells(values):
    return (
        np.stack([np.full(SHAPE, v, np.float32) for v in values]) if len(values) else np.zeros((0, *SHAPE), np.float32)
    )


def test_nearest_class_wins_and_the_posterior_is_the_softmax_of_the_mean_errors():
    latents = cells([0.1, 1.2, 1.9])
    out = ScoringEngine(make_config()).score(latents, np.zeros(3, np.int32), World())
    assert out.label.tolist() == [0, 1, 2]
    expected = special.softmax(-out.scores.astype(float) / 0.2, axis=1)
    np.testing.assert_allclose(out.posterior, expected, atol=1e-6)
    np.testing.assert_allclose(out.uncertainty, 1 - expected.max(axis=1), atol=1e-6)
    assert out.evaluations.tolist() == [6 * 3] * 3


def test_no_cells_is_a_valid_question():
    out = ScoringEngine(make_config()).score(cells([]), np.zeros(0, np.int32), World())
    assert out.label.shape == (0,)
    assert out.posterior.shape == (0, 3)
    assert out.reasons == []


def test_a_cell_gets_the_same_answer_alone_and_in_company():
    engine = ScoringEngine(make_config())
    rng = np.random.default_rng(0)
    latents = rng.normal(1, 1, (70, *SHAPE)).astype(np.float32)
    together = engine.score(latents, np.zeros(70, np.int32), World())
    for index in (0, 33, 69):
        alone = engine.score(latents[index : index + 1], np.zeros(1, np.int32), World())
        assert alone.scores[0].tobytes() == together.scores[index].tobytes()
        assert alone.reasons[0] == together.reasons[index]


def test_calls_never_exceed_the_denoisers_batch():
    world = World()
    ScoringEngine(make_config()).score(cells(np.linspace(0, 2, 100)), np.zeros(100, np.int32), world)
    assert max(world.rows) <= MAX_BATCH
    assert sum(world.rows) == 100 * 6 * 3


def test_an_invalid_cell_does_not_sink_the_others():
    latents = cells([0.0, 1.0, 2.0])
    latents[1, 0, 0, 0] = np.nan
    flags = np.array([0, 0, FLAG_INVALID], np.int32)
    out = ScoringEngine(make_config()).score(latents, flags, World(), statistics=ordinary(3))
    assert out.label.tolist() == [0, -1, -1]
    assert np.isnan(out.posterior[1:]).all()
    assert out.decision.tolist() == [0, 1, 1]
    assert out.evaluations.tolist() == [18, 0, 0]


def test_an_answer_that_is_no_number_costs_one_cell_only():
    def sometimes(latents, probes, classes):
        answer = World()(latents, probes, classes)
        answer[(latents[:, 0, 0, 0] == 2.0) & (probes == 3)] = np.nan
        return answer

    out = ScoringEngine(make_config()).score(cells([0.0, 2.0]), np.zeros(2, np.int32), sometimes)
    assert out.label.tolist() == [0, -1]
    assert np.isnan(out.scores[1]).all()


def test_the_deadline_is_looked_at_between_rounds():
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise DeadlineExceeded("time is up")

    world = World()
    with pytest.raises(DeadlineExceeded):
        ScoringEngine(make_config()).score(cells([1.0]), np.zeros(1, np.int32), world, check=check)
    assert len(world.rows) == 1


def profile_of(ordinary, names):
    """A profile whose mean for each of ``names`` is the pattern of the cell ``ordinary`` in the world."""
    out = ScoringEngine(make_config()).score(cells([ordinary]), np.zeros(1, np.int32), World())
    early = World()(cells([ordinary] * 2), np.arange(2), np.repeat(out.label, 2))[None]
    mean = pattern(out.scores, early, 0.02)[0].tolist()
    return [{"unit": 0.02, "mean": {name: mean for name in names}, "precision": np.eye(len(mean)).tolist()}] * 8


def test_reasons_name_what_is_wrong():
    engine = ScoringEngine(
        make_config(
            anomaly_profile=profile_of(1.0, CLASSES),
            anomaly_reference=[{name: [0.001 * i for i in range(99)] for name in CLASSES}] * 8,
        )
    )
    latents = cells([1.0, 0.5, 2.0, 5.0])
    flags = np.array([0, 0, FLAG_SEGMENTED_WHITE_CELL, 0], np.int32)
    out = engine.score(latents, flags, World(), statistics=ordinary(4))
    assert out.reasons[0] == ""
    assert {"ambiguous", "low_confidence"} <= set(out.reasons[1].split(","))
    assert "kind_conflict" in out.reasons[2]
    strange = engine.score(cells([1.4]), np.zeros(1, np.int32), World())
    assert "anomalous" in strange.reasons[0]
    # Among all 297 calibration cells, and among the 99 that were given its class.
    assert strange.anomaly[0, 1:].tolist() == pytest.approx([1 / 298, 1 / 100, 99])


def test_a_class_without_reference_cells_is_not_accepted_for_want_of_them():
    engine = ScoringEngine(
        make_config(
            anomaly_profile=profile_of(1.0, ("neutrophil",)), anomaly_reference=[{"neutrophil": [0.1] * 60}] * 8
        )
    )
    out = engine.score(cells([0.0, 1.0]), np.zeros(2, np.int32), World(), statistics=ordinary(2))
    assert out.reasons == ["not_calibrated", ""]
    assert np.isnan(out.anomaly[0, 1])


def test_nothing_is_accepted_without_a_threshold():
    engine = ScoringEngine(make_config(accept_threshold=[None] * 8))
    out = engine.score(cells([0.0]), np.zeros(1, np.int32), World(), statistics=ordinary(1))
    assert out.decision.tolist() == [1]
    assert out.reasons == ["low_confidence"]


def test_a_cell_whose_picture_is_strange_or_was_not_measured_is_referred():
    engine, latents, flags = ScoringEngine(make_config()), cells([0.0, 0.0]), np.zeros(2, np.int32)
    seen = ordinary(2)
    seen[1, 3] = 40.0
    out = engine.score(latents, flags, World(), statistics=seen)
    assert out.reasons == ["", "unfamiliar_image"]
    assert out.domain_cause[1] == f"{IMAGE_STATISTIC_NAMES[3]}+"
    assert out.domain[1].tolist() == [pytest.approx(out.domain[1, 0]), *[pytest.approx(1 / 201)] * 2, 200]
    unmeasured = engine.score(latents, flags, World())
    assert unmeasured.reasons == ["unfamiliar_image"] * 2
    assert np.isnan(unmeasured.domain).all()
    assert out.posterior.tobytes() == unmeasured.posterior.tobytes()


def test_nothing_is_accepted_where_no_calibration_says_which_pictures_it_holds_for():
    engine = ScoringEngine(make_config(familiar=None))
    out = engine.score(cells([0.0]), np.zeros(1, np.int32), World(), statistics=ordinary(1))
    assert out.reasons == ["not_calibrated"]


def test_statistics_that_do_not_fit_are_refused():
    engine = ScoringEngine(make_config())
    for statistics in (ordinary(2), np.zeros((1, 3), np.float32)):
        with pytest.raises(BadShape, match="IMAGE_STATISTICS"):
            engine.score(cells([0.0]), np.zeros(1, np.int32), World(), statistics=statistics)


def test_near_tie_is_the_paired_t_test_of_scipy():
    errors = np.random.default_rng(3).normal(1, 0.1, (12, 4)).astype(np.float32)
    best, second = np.argsort(errors.mean(0))[:2]
    expected = stats.ttest_rel(errors[:, second].astype(float), errors[:, best].astype(float)).statistic
    assert paired_statistic(errors) == pytest.approx(expected, rel=1e-6)
    assert paired_statistic(errors, usual_spread=9.0) == paired_statistic(errors), "enough samples speak for themselves"


def test_two_noise_samples_that_happen_to_agree_are_no_certainty():
    """The usual spread stands in for the samples that lack; by hand: three degrees of freedom, one of them its own."""
    errors = np.array([[1.0, 1.3], [1.0, 1.3001]])
    assert paired_statistic(errors) > 1000
    own = np.var([0.3, 0.3001], ddof=1)
    expected = 0.30005 / np.sqrt((2 * 0.2**2 + own) / 3 / 2)
    assert paired_statistic(errors, usual_spread=0.2) == pytest.approx(expected, rel=1e-6)
    apart = np.array([[1.0, 1.9], [1.0, 1.001]])
    assert paired_statistic(apart, usual_spread=0.2) > paired_statistic(apart), "nor is a chance spread all there is"


def test_conformal_p_values_are_valid_under_exchangeability():
    rng = np.random.default_rng(1)
    p = [conformal_p_value(x[0], tuple(sorted(x[1:]))) for x in rng.normal(size=(4000, 50))]
    for level in (0.02, 0.1, 0.5):
        assert np.mean(np.array(p) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 4000)


def test_softmax_survives_huge_errors():
    posterior = softmax_posterior(np.array([[1e6, 0.0], [5.0, 5.0]], np.float32), 1e-3)
    np.testing.assert_allclose(posterior, [[0, 1], [0.5, 0.5]])


@pytest.mark.parametrize("budget", [0, -1, 9])
def test_a_budget_outside_the_bank_is_refused(budget):
    with pytest.raises(BadParameter, match=r"1\.\.8"):
        ScoringEngine(make_config()).score(cells([1.0]), np.zeros(1, np.int32), World(), budget=budget)


def test_wrong_shapes_are_refused():
    engine = ScoringEngine(make_config())
    with pytest.raises(BadShape, match="LATENT"):
        engine.score(np.zeros((1, 3, 4, 4), np.float32), np.zeros(1, np.int32), World())
    with pytest.raises(BadShape, match="CELL_FLAGS"):
        engine.score(cells([1.0]), np.zeros(2, np.int32), World())
    with pytest.raises(BadShape, match="one number for each"):
        engine.score(cells([1.0]), np.zeros(1, np.int32), lambda z, p, c: np.zeros((len(z), 1), np.float32))


def test_an_unusable_file_says_so():
    with pytest.raises(CytoserveError, match="export the model again"):
        ScoringConfig.from_json({"classes": []})
    with pytest.raises(CytoserveError, match="one entry for each of 8"):
        make_config(temperature=[1.0])
