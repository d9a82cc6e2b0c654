"""Temperature, acceptance and references against worlds whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_scoring.classifier.familiarity import FamiliarPictures
from cytoserve_scoring.classifier.fitting import (
    LabelledAnswers,
    RiskGuarantee,
    accept_threshold,
    document,
    error_bound,
    fit,
    fit_budget,
    fit_profiles,
    fit_referral,
    fit_temperature,
)
from cytoserve_scoring.classifier.replay import replay
from cytoserve_scoring.classifier.settings import BudgetSettings, ScoringConfig
from cytoserve_scoring.errors import BadShape
from scipy import special

CLASSES = ("lymphocyte", "monocyte", "neutrophil", "platelet")


def make_config(probes: int = 8) -> ScoringConfig:
    return ScoringConfig(CLASSES, (1, 2, 2), (BudgetSettings(),) * probes, probes)


def world(cells: int, seed: int, probes: int = 8, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Errors of cells: 1 lower under the true class, with noise of each cell and of each evaluation."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, cells)
    own = rng.normal(0, noise, (cells, 1, 4))
    errors = 5 - np.eye(4)[labels][:, None] + own + rng.normal(0, noise, (cells, probes, 4))
    return errors, labels


def test_the_temperature_is_found_again():
    rng = np.random.default_rng(0)
    scores = rng.gamma(2.0, 0.01, (4000, 8))
    probability = special.softmax(-scores / 0.004, axis=1)
    labels = np.array([rng.choice(8, p=p) for p in probability])
    assert fit_temperature(scores, labels) == pytest.approx(0.004, rel=0.08)


def test_the_accept_threshold_keeps_its_promise_as_often_as_it_says():
    """A world with known error at each confidence: the promise may be broken in at most 5 % of calibrations."""
    rng = np.random.default_rng(1)
    guarantee = RiskGuarantee(tolerated_error=0.05, confidence=0.95)
    broken = granted = 0
    for _ in range(200):
        confidence = rng.beta(4, 1, 600) * 0.5 + 0.5
        threshold = accept_threshold(confidence, rng.random(600) < confidence, guarantee)
        if threshold is None:
            continue
        granted += 1
        fresh = rng.beta(4, 1, 20_000) * 0.5 + 0.5
        broken += (1 - fresh[fresh >= threshold]).mean() > 0.05
    assert granted > 80
    assert broken <= 0.05 * 200 + 3 * np.sqrt(200 * 0.05 * 0.95)


def slides_of_cells(rng, slides, cells, error=0.1, alike=0.25):
    """Return confidence, right and slide of cells whose errors come by slide (beta-binomial), at any confidence."""
    scale = 1 / alike - 1
    own = rng.beta(error * scale, (1 - error) * scale, slides)
    slide = np.repeat(np.arange(slides), cells)
    return rng.uniform(0.5, 1, len(slide)), rng.random(len(slide)) >= own[slide], slide


def test_by_slide_the_promise_holds_for_new_slides_and_by_cell_it_does_not():
    """The true error is 10 %, and just that is tolerated: any threshold that is granted breaks it for new slides."""
    rng, guarantee, draws = np.random.default_rng(3), RiskGuarantee(0.1, 0.9), 200
    granted = {"by slide": 0, "by cell": 0}
    for _ in range(draws):
        _, right, slide = slides_of_cells(rng, 25, 16)
        alike = np.full(len(slide), 0.999)  # all accepted or none: the walk has one step
        granted["by slide"] += accept_threshold(alike, right, guarantee, slide) is not None
        granted["by cell"] += accept_threshold(alike, right, guarantee) is not None
    assert granted["by slide"] <= 0.1 * draws + 3 * np.sqrt(draws * 0.1 * 0.9)
    assert granted["by cell"] > 0.2 * draws


def test_by_slide_much_is_granted_where_slides_are_many_and_errors_few():
    rng = np.random.default_rng(4)
    confidence, right, slide = slides_of_cells(rng, 120, 12, error=0.01, alike=0.05)
    threshold = accept_threshold(confidence, right, RiskGuarantee(0.05, 0.95), slide)
    assert threshold is not None
    assert threshold <= 0.55


def test_a_few_slides_promise_nothing_however_many_their_cells():
    rng = np.random.default_rng(5)
    confidence, right, slide = slides_of_cells(rng, 4, 500, error=0.02, alike=0.3)
    assert not right.all()
    assert accept_threshold(confidence, right, RiskGuarantee(0.1, 0.9), slide) is None
    one = accept_threshold(confidence, np.ones(len(slide), bool), RiskGuarantee(0.1, 0.9), np.zeros(len(slide)))
    assert one is None, "one slide says nothing about another"


@pytest.mark.parametrize(("cells", "promised"), [(298, False), (299, True)])
def test_one_per_cent_at_95_needs_299_faultless_cells(cells, promised):
    """The closed form: 0.99^n <= 0.05 from n = 299 on."""
    found = accept_threshold(np.full(cells, 0.99999), np.ones(cells, bool), RiskGuarantee(0.01, 0.95))
    assert (found is not None) == promised


def test_what_was_fitted_holds_on_fresh_cells():
    errors, labels = world(1500, 0)
    fitted = fit(make_config(), errors, labels, RiskGuarantee(0.05, 0.95), (2, 8))
    served = ScoringConfig.from_json(
        {"classes": CLASSES, "latent_shape": (1, 2, 2), "probes": 8, "default_budget": 8, **fitted}
    )
    fresh, truth = world(6000, 1)
    for budget in (2, 8):
        answer = replay(served, fresh, budget)
        accepted = np.array(["low_confidence" not in reasons for reasons in answer.reasons])
        assert accepted.sum() > 1000
        assert accepted.mean() == pytest.approx(fitted["by_budget"][str(budget)]["accepted"], abs=0.12)
        assert (answer.label[accepted] != truth[accepted]).mean() <= 0.06
        for label in range(4):
            own = answer.conformal[truth == label, label]
            assert (own > 0.1).mean() == pytest.approx(0.9, abs=0.04)  # coverage of each class's sets
        confidence = answer.posterior.max(axis=1)
        assert confidence.mean() == pytest.approx((answer.label == truth).mean(), abs=0.02)


def test_a_budget_that_was_not_measured_accepts_nothing():
    errors, labels = world(600, 2)
    fitted = fit(make_config(), errors, labels, RiskGuarantee(0.05, 0.95), (8,))
    assert fitted["calibrated"] == [8]
    assert fitted["accept_threshold"][:7] == [None] * 7
    assert fitted["temperature"][0] == fitted["temperature"][7]
    served = ScoringConfig.from_json(
        {"classes": CLASSES, "latent_shape": (1, 2, 2), "probes": 8, "default_budget": 8, **fitted}
    )
    answer = replay(served, errors, 4)
    assert (answer.decision == 1).all()
    assert all("not_calibrated" in reasons for reasons in answer.reasons)


def test_a_class_without_cells_can_never_be_excluded():
    errors, labels = world(400, 3)
    known = labels != 3
    fitted = fit(make_config(), errors[known], labels[known], RiskGuarantee(0.05, 0.95), (8,))
    served = ScoringConfig.from_json(
        {"classes": CLASSES, "latent_shape": (1, 2, 2), "probes": 8, "default_budget": 8, **fitted}
    )
    assert (replay(served, errors, 8).conformal[:, 3] == 1).all()


def test_answers_of_a_server_give_the_same_fit_as_the_errors_behind_them():
    errors, labels = world(500, 4)
    whole = fit(make_config(), errors, labels, RiskGuarantee(), (8,))
    answer = replay(make_config(), errors, 8)
    alone = document(
        {8: fit_budget(LabelledAnswers.of(answer), labels, CLASSES, RiskGuarantee())}, 8, RiskGuarantee(), 500
    )
    assert alone == whole


def test_nothing_to_calibrate_on_is_refused():
    errors, labels = world(5, 5)
    with pytest.raises(BadShape, match="do not fit"):
        fit(make_config(4), errors, labels, RiskGuarantee(), (4,))
    nobody = LabelledAnswers(np.full(2, -1), np.full((2, 4), np.nan), np.full(2, np.nan), np.zeros(2, int))
    with pytest.raises(BadShape, match="nothing to calibrate on"):
        fit_budget(nobody, np.zeros(2, np.int64), CLASSES, RiskGuarantee())


def test_the_expected_referral_is_what_the_calibration_cells_get_with_every_reason():
    errors, labels = world(600, 7)
    guarantee, bare = RiskGuarantee(0.05, 0.95), make_config()
    profiles = fit_profiles(bare, world(600, 8)[0], [8])
    config = replace(bare, budgets=tuple(BudgetSettings(profile=profile) for profile in profiles))
    made = fit(config, errors, labels, guarantee, [8])
    settings = {"classes": CLASSES, "latent_shape": [1, 2, 2], "probes": 8, "default_budget": 8}
    settings["anomaly_profile"] = [None if profile is None else profile.to_json() for profile in profiles]
    fitted = ScoringConfig.from_json({**settings, **made})
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (600, len(IMAGE_STATISTIC_NAMES)))
    assessment = FamiliarPictures.cross_fitted(values, [CLASSES[label] for label in labels])
    expected = fit_referral(fitted, errors, None, assessment)
    answers = replay(fitted, errors, 8, None, assessment)
    assert expected["cells"] == 600
    assert expected["value"] == pytest.approx((answers.decision == 1).mean(), abs=1e-6)
    assert 0 <= expected["low"] < expected["value"] < expected["high"] <= 1
    by_other_reasons = fit_referral(fitted, errors, None, replace(assessment, unfamiliar=np.zeros(600, bool)))
    assert assessment.unfamiliar.any()
    assert by_other_reasons["value"] < expected["value"]
    # Where nobody knows what the pictures look like, everything is referred.
    assert fit_referral(fitted, errors, None, None)["value"] == 1


def test_no_more_is_accepted_than_asked_for_and_the_guarantee_stays():
    """With easy cells the guarantee alone accepts all; the threshold is then one of those that it had passed before."""
    draw = np.random.default_rng(3)
    confidence = 1 - draw.uniform(0, 0.4, 4000) ** 3
    right = draw.random(4000) < 0.999
    free = accept_threshold(confidence, right, RiskGuarantee(0.05, 0.95))
    assert free is not None
    assert (confidence >= free).mean() > 0.95
    for most in (0.9, 0.8, 0.5):
        strict = accept_threshold(confidence, right, RiskGuarantee(0.05, 0.95, most))
        assert strict is not None
        assert strict > free
        assert most - 0.1 < (confidence >= strict).mean() <= most
        assert error_bound(confidence >= strict, right, 0.95, None) <= 0.05


def test_where_no_threshold_is_strict_enough_the_strictest_is_taken():
    found = accept_threshold(np.full(500, 0.99999), np.ones(500, bool), RiskGuarantee(0.01, 0.95, 0.5))
    assert found == pytest.approx(1 - 1e-4)
