"""The interval of a probability over the draw of the probes: closed form, coverage, other estimators, the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cytoserve_scoring.classifier.augmentation import TURNS, AugmentedPair, TieAugmentation
from cytoserve_scoring.classifier.engine import ScoringEngine
from cytoserve_scoring.classifier.probe_interval import LEVEL, posterior_interval, probe_lags
from cytoserve_scoring.classifier.racing_calibration import calibrate_racing
from cytoserve_scoring.classifier.scores import softmax_posterior
from cytoserve_scoring.classifier.settings import BudgetSettings, ScoringConfig
from scipy import special, stats

CLASSES = ("lymphocyte", "monocyte", "neutrophil")
MEANS = np.array([1.0, 1.3, 1.6])


def interval(errors, temperature=0.2):
    scores = errors.mean(axis=0)
    winner = int(scores.argmin())
    return posterior_interval(scores, winner, probe_lags(errors, winner), temperature)


def test_with_one_rival_it_is_students_interval_of_the_mean_lag():
    errors = np.random.default_rng(0).normal(MEANS[:2], 0.3, (16, 2))
    lag = errors[:, 1] - errors[:, 0]
    expected = stats.t.interval(LEVEL, 15, lag.mean() / 0.2, stats.sem(lag) / 0.2)
    assert interval(errors) == pytest.approx(tuple(special.expit(expected)), rel=1e-9)


def test_it_covers_the_probability_under_endlessly_many_probes():
    """Noise shared by the classes of a probe cancels; its own noise of each class is what the interval is about."""
    random = np.random.default_rng(1)
    truth = softmax_posterior(MEANS[None].astype(np.float32), 0.2)[0, 0]
    hits, cells = 0, 3000
    for _ in range(cells):
        errors = MEANS + random.normal(0, 0.2, (16, 3)) + random.normal(0, 1, (16, 1))
        low, high = posterior_interval(errors.mean(axis=0), 0, probe_lags(errors, 0), 0.2)
        hits += low <= truth <= high
    nominal = stats.binom(cells, LEVEL).interval(0.9999)
    assert nominal[0] - 0.01 * cells <= hits <= nominal[1] + 0.01 * cells  # the delta method is of first order


def test_it_agrees_with_leaving_out_one_probe_at_a_time():
    errors = np.random.default_rng(2).normal(MEANS, 0.05, (24, 3))

    def odds(values):
        scores = values.mean(axis=0)
        return -special.logsumexp(-(scores[1:] - scores[0]) / 0.2)

    left_out = np.array([odds(np.delete(errors, i, axis=0)) for i in range(24)])
    error = np.sqrt(23 / 24 * ((left_out - left_out.mean()) ** 2).sum())
    low, high = special.logit(interval(errors))
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.5 + LEVEL / 2, 23) * error, rel=0.02)
    assert (high + low) / 2 == pytest.approx(odds(errors), rel=1e-9)


def test_rivals_that_left_early_count_by_the_probes_they_saw():
    errors = np.random.default_rng(3).normal(MEANS, 0.1, (16, 3))
    errors[4:, 2] = np.nan
    scores = np.array([1.0, 1.3, 1.6])
    full = posterior_interval(scores, 0, probe_lags(errors, 0), 0.2)
    assert 0 < full[0] < softmax_posterior(scores[None].astype(np.float32), 0.2)[0, 0] < full[1] < 1
    # A rival that left after one probe has no spread, and a guess at it would be an invention.
    errors[1:, 2] = np.nan
    assert np.isnan(posterior_interval(scores, 0, probe_lags(errors, 0), 0.2)).all()


def test_without_a_rival_there_is_no_interval():
    scores, errors = np.array([1.0, np.nan]), np.array([[1.0, np.nan], [1.1, np.nan]])
    assert np.isnan(posterior_interval(scores, 0, probe_lags(errors, 0), 0.2)).all()


@pytest.mark.parametrize("winner", [0, 1])
def test_after_a_second_look_the_tied_pair_is_told_apart_by_the_mean_of_the_turns(winner):
    random = np.random.default_rng(4)
    errors = random.normal((1.0, 1.01, 1.6), 0.05, (8, 3))
    more = random.normal(0.02 if winner == 0 else -0.04, 0.05, (TURNS, 8))
    difference = np.concatenate([[errors[:, 1] - errors[:, 0]], more])
    lags = probe_lags(errors, winner, AugmentedPair((0, 1), difference))
    np.testing.assert_array_equal(lags[:, winner], 0)
    assert lags[:, 1 - winner].mean() == pytest.approx(abs(difference.mean()))
    np.testing.assert_allclose(lags[:, 2], errors[:, 2] - errors[:, 0])


def test_a_probe_asked_again_in_every_turn_is_no_new_probe():
    """Four turns that all say what the first said bring no certainty."""
    errors = np.random.default_rng(6).normal(MEANS, 0.1, (16, 3))
    again = np.tile(errors[:, 1] - errors[:, 0], (1 + TURNS, 1))
    scores = errors.mean(axis=0)
    once, often = (
        posterior_interval(scores, 0, probe_lags(errors, 0, look), 0.2) for look in (None, AugmentedPair((0, 1), again))
    )
    assert often == pytest.approx(once, rel=1e-12)


class World:
    """Class 0 is best; each probe has a say of its own about each class."""

    def __call__(self, latents, probe, label):
        ripple = 0.1 * np.sin(7.0 * probe + 2.0 * label + 5 * latents[:, 0, 0, 0])
        return (1 + latents[:, 0, 0, 0] * label + ripple).astype(np.float32)


def engine(**changes):
    return ScoringEngine(ScoringConfig(CLASSES, (2, 4, 4), (BudgetSettings(0.1, 0.5),) * 16, 16, **changes))


def far_and_near():
    return np.stack([np.full((2, 4, 4), step, np.float32) for step in (0.02, 0.1, 0.5)])


def test_the_engine_tells_the_interval_around_its_posterior():
    flags = np.zeros(3, np.int32)
    out = engine().score(far_and_near(), flags, World())
    top = out.posterior.max(axis=1)
    assert (out.interval[:, 0] <= top).all()
    assert (top <= out.interval[:, 1]).all()
    width = out.interval[:, 1] - out.interval[:, 0]
    assert min(width[:2]) > width[2] > 0
    assert np.isnan(engine().score(far_and_near(), flags, World(), budget=1).interval).all()
    few = engine().score(far_and_near(), flags, World(), budget=4).interval
    assert few[1, 1] - few[1, 0] > width[1]


def test_elimination_and_the_second_look_leave_an_interval_around_the_posterior():
    random = np.random.default_rng(5)
    seen = 2 - 0.3 * np.eye(3)[random.integers(0, 3, 300)][:, None] + random.normal(0, 0.3, (300, 16, 3))
    augmentation = TieAugmentation(4.0, 8, np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    rule = calibrate_racing(seen, default_alpha=0.1, confidence=0.9)
    quick = engine(racing=rule, augmentation=augmentation)
    flags = np.zeros(3, np.int32)
    out = quick.score(far_and_near(), flags, World())
    assert (out.evaluations < 3 * 16).any()
    assert out.evaluations.max() > 2 * TURNS * 16
    top = out.posterior.max(axis=1)
    assert ((out.interval[:, 0] <= top) & (top <= out.interval[:, 1])).all()


def test_a_cell_without_a_score_has_no_interval():
    broken = far_and_near()
    broken[1, 0, 0, 0] = np.nan
    out = engine().score(broken, np.zeros(3, np.int32), World())
    assert np.isnan(out.interval[1]).all()
    assert np.isfinite(out.interval[[0, 2]]).all()


def test_few_probes_are_filled_up_with_the_usual_spread():
    """One rival: the conjugate normal model, its variance and its degrees of freedom."""
    errors = np.random.default_rng(0).normal(MEANS[:2], 0.3, (3, 2))
    lag = errors[:, 1] - errors[:, 0]
    assert lag.var(ddof=1) < 0.4**2
    variance = (1.0 * 0.4**2 + 2 * lag.var(ddof=1)) / 3.0
    expected = stats.t.interval(LEVEL, 3, lag.mean() / 0.2, np.sqrt(variance / 3) / 0.2)
    found = posterior_interval(errors.mean(axis=0), 0, probe_lags(errors, 0), 0.2, usual_spread=0.4)
    assert found == pytest.approx(tuple(special.expit(expected)), rel=1e-9)
    wide = posterior_interval(errors.mean(axis=0), 0, probe_lags(errors, 0), 0.2, usual_spread=1e-6)
    own = stats.t.interval(LEVEL, 3, lag.mean() / 0.2, stats.sem(lag) / 0.2)
    assert wide == pytest.approx(tuple(special.expit(own)), rel=1e-9), "never narrower than what the cell showed"
    many = np.random.default_rng(0).normal(MEANS[:2], 0.3, (4, 2))
    assert posterior_interval(many.mean(axis=0), 0, probe_lags(many, 0), 0.2, usual_spread=9.0) == interval(many)


def test_two_probes_that_agree_by_chance_do_not_say_everything_or_nothing():
    """Without the usual spread, two probes gave 1.000 (0.00 to 1.00); two equal ones 1.000 (1.00 to 1.00)."""
    scores, temperature, usual = np.array([1.0, 2.0]), 0.1, 0.15
    apart = np.array([[1.0, 1.9], [1.0, 2.1]])
    assert posterior_interval(scores, 0, probe_lags(apart, 0), temperature)[0] < 0.9
    low, high = posterior_interval(scores, 0, probe_lags(apart, 0), temperature, usual)
    assert 0.95 < low < high <= 1
    same = np.array([[1.0, 2.0], [1.0, 2.0]])
    low, high = posterior_interval(scores, 0, probe_lags(same, 0), temperature, usual)
    assert low < special.expit(10.0) < high


def test_the_engine_takes_the_eliminations_spread_for_the_usual_one():
    rule = calibrate_racing(np.random.default_rng(1).normal(MEANS, 0.1, (400, 8, 3)))
    config = ScoringConfig(CLASSES, (1, 2, 2), (BudgetSettings(0.2, 0.5),) * 8, 8)
    assert config.usual_spread is None
    assert replace(config, racing=rule).usual_spread == rule.spread
