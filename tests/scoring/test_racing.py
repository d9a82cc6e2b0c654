"""Racing: the claim by simulation, the race against a plain loop, and the border cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cytoserve_scoring.classifier.augmentation import TieAugmentation
from cytoserve_scoring.classifier.engine import ScoringEngine
from cytoserve_scoring.classifier.race import race
from cytoserve_scoring.classifier.racing_calibration import calibrate_racing, race_at, usual_spread
from cytoserve_scoring.classifier.racing_rule import RacingRule, round_ends, statistics, survivors
from cytoserve_scoring.classifier.replay import race_recorded, replay
from cytoserve_scoring.classifier.scores import class_scores, nonconformity
from cytoserve_scoring.classifier.settings import BudgetSettings, RaceTerms, ScoringConfig
from cytoserve_scoring.errors import BadParameter, BadShape, CytoserveError
from scipy import stats

CLASSES = ("lymphocyte", "monocyte", "neutrophil", "platelet")


def world(cells: int, seed: int, probes: int = 16, gap: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    favoured = np.eye(4)[rng.integers(0, 4, cells)] * rng.exponential(gap, (cells, 1))
    return 5 - favoured[:, None] + rng.normal(0, 0.2, (cells, probes, 4)) + rng.normal(0, 1, (cells, probes, 1))


def test_the_claim_holds_as_often_as_it_says():
    """Calibrate on 200 cells, look at 1,500 fresh ones, 60 times: at most 5 % of claims may be broken."""
    alpha, broken = 0.05, 0
    for seed in range(60):
        rule = calibrate_racing(world(200, seed, 8), alphas=(alpha,), default_alpha=alpha, confirm=1)
        fresh = world(1500, 10_000 + seed, 8)
        label, _ = race_at(fresh, rule, rule.threshold(None))
        broken += (label != fresh.mean(axis=1).argmin(axis=1)).mean() > alpha
    assert broken <= 0.05 * 60 + 3 * np.sqrt(60 * 0.05 * 0.95)


def test_it_saves_most_of_the_evaluations():
    rule = calibrate_racing(world(1000, 1), default_alpha=0.01)
    _, spent = race_at(world(1000, 2), rule, rule.threshold(None))
    assert spent.mean() < 0.6 * 16 * 4
    assert spent.max() <= 16 * 4


def test_a_stricter_level_is_never_bolder():
    rule = calibrate_racing(world(1500, 3))
    thresholds = [threshold for _, threshold in rule.levels]
    assert thresholds == sorted(thresholds, reverse=True)
    assert len(thresholds) >= 3


def test_a_cell_that_is_not_clear_goes_on_with_its_best_two_classes():
    """Of two cells, the best two classes are 0.3 and 0.7 apart; both labels are settled long since."""
    errors = np.array([[[0, 0.3, 2, 3]], [[0, 0.7, 2, 3]]]).repeat(4, axis=1).astype(float)
    everyone = np.ones((2, 4), bool)
    for clear, left in ((0.0, [0, 0]), (0.5, [2, 0]), (0.9, [2, 2])):
        rule = RacingRule((), 0.01, spread=0.01, confirm=1, clear=clear)
        stay = survivors(errors, everyone, 4, 16, rule, threshold=2.0)
        assert stay.sum(axis=1).tolist() == left
        assert not stay[:, 2:].any()


@pytest.mark.parametrize(("confirm", "stays"), [(8, True), (4, False)])
def test_a_class_without_a_rival_waits_to_be_confirmed_and_no_longer(confirm, stays):
    rule = RacingRule((), 0.01, spread=0.01, confirm=confirm)
    assert (survivors(np.ones((2, 4, 1)), np.ones((2, 1), bool), 4, 8, rule, 2.0) == stays).all()


def test_the_share_of_cells_that_is_not_clear_is_the_one_asked_for():
    known = world(1000, 1)
    ordered = np.sort(known.mean(axis=1), axis=1)
    apart = ordered[:, 1] - ordered[:, 0]
    assert (apart < calibrate_racing(known, unclear=0.2).clear).mean() == pytest.approx(0.2, abs=0.01)
    assert calibrate_racing(known).clear == 0.0


def test_too_few_cells_let_nobody_leave():
    rule = calibrate_racing(world(20, 4), alphas=(0.01,), default_alpha=0.01)
    assert rule.levels == ()
    assert rule.threshold(None) == float("inf")


def plain_race(errors, rule, threshold):
    """The race written out for errors that are all known: (M,) winners and (M,) evaluations."""
    cells, total, classes = errors.shape
    live = np.ones((cells, classes), bool)
    spent = np.zeros(cells, np.int64)
    label = np.zeros(cells, np.int64)
    before = 0
    for end in round_ends(total, min(rule.minimum, total)):
        unfinished = np.flatnonzero(live.any(axis=1))
        if unfinished.size == 0:
            break
        spent[unfinished] += live[unfinished].sum(axis=1) * (end - before)
        seen = np.where(live[unfinished], errors[unfinished, :end].mean(axis=1), np.inf)
        label[unfinished] = seen.argmin(axis=1)
        live[unfinished] = survivors(errors[unfinished], live[unfinished], end, total, rule, threshold)
        before = end
    return label, spent


def test_the_engine_and_the_replay_agree_cell_by_cell():
    errors = world(300, 5).astype(np.float32).astype(np.float64)
    rule = calibrate_racing(world(1000, 6), default_alpha=0.02)
    config = ScoringConfig(CLASSES, (1, 1, 1), (BudgetSettings(),) * 16, 16, racing=rule)
    label, spent = plain_race(errors, rule, rule.threshold(None))
    answer = replay(config, errors, 16)
    np.testing.assert_array_equal(answer.label, label)
    np.testing.assert_array_equal(answer.evaluations, spent)


def test_alpha_zero_is_the_whole_budget():
    errors = world(50, 7)
    rule = calibrate_racing(world(1000, 6))
    config = ScoringConfig(CLASSES, (1, 1, 1), (BudgetSettings(),) * 16, 16, racing=rule)
    latents = np.arange(50, dtype=np.float32)[:, None, None, None]

    def evaluate(rows, probe, label):
        return errors[rows[:, 0, 0, 0].astype(int), probe, label].astype(np.float32)

    engine = ScoringEngine(config)
    answer = engine.score(latents, np.zeros(50, np.int32), evaluate, alpha=0.0)
    assert (answer.evaluations == 64).all()
    np.testing.assert_allclose(answer.scores, errors.mean(axis=1), rtol=1e-5)
    few = engine.score(latents, np.zeros(50, np.int32), evaluate, classes=["monocyte", "platelet"])
    assert set(few.label.tolist()) <= {1, 3}
    assert (few.posterior[:, [0, 2]] == 0).all()
    assert all("not_calibrated" in reasons for reasons in (*few.reasons, *answer.reasons))
    with pytest.raises(BadParameter, match="alpha"):
        engine.score(latents, np.zeros(50, np.int32), evaluate, alpha=1.5)
    with pytest.raises(BadParameter, match="choose from"):
        engine.score(latents, np.zeros(50, np.int32), evaluate, classes=["blast"])


def test_the_statistic_is_the_paired_t_where_the_cells_own_spread_rules():
    """With almost no weight on the usual spread, and many probes to come, it is the t statistic of SciPy."""
    errors = np.random.default_rng(8).normal(0, 1, (1, 12, 3))
    rule = RacingRule((), 0.01, spread=1.0, prior=1e-9)
    found = statistics(errors, 10**9, rule)[0]
    best = errors[0].mean(axis=0).argmin()
    for rival in range(3):
        if rival != best:
            expected = stats.ttest_rel(errors[0, :, rival], errors[0, :, best]).statistic
            assert found[rival] == pytest.approx(expected, rel=1e-6)
    assert found[best] == 0


def test_at_the_end_nothing_is_left_to_say():
    errors = np.random.default_rng(9).normal(0, 1, (2, 6, 3))
    found = statistics(errors, 6, RacingRule((), 0.01, spread=1.0))
    assert np.isinf(found).sum() == 4


@pytest.mark.parametrize(("budget", "minimum"), [(1, 1), (2, 2), (3, 2), (16, 2), (24, 3)])
def test_rounds_end_with_the_budget(budget, minimum):
    ends = round_ends(budget, minimum)
    assert ends[-1] == budget
    assert list(ends) == sorted(set(ends))


def test_a_class_that_left_is_scored_by_its_difference_to_the_winner():
    """Two probes of very different level; the third class saw the first probe only."""
    errors = np.array([[[1.0, 1.5, 2.0], [9.0, 9.5, np.nan]]])
    scores, best = class_scores(errors.astype(np.float32))
    assert best.tolist() == [0]
    np.testing.assert_allclose(scores[0], [5.0, 5.5, 6.0])
    np.testing.assert_allclose(nonconformity(scores)[0], [-0.5, 0.5, 1.0])


def test_the_usual_spread_of_one_probe_is_no_number_to_divide_by():
    assert usual_spread(np.ones((3, 1, 4))) == 1.0


def test_an_unusable_rule_says_so():
    with pytest.raises(CytoserveError, match="export the model again"):
        RacingRule.from_json({"levels": []})
    rule = calibrate_racing(world(1000, 6))
    assert RacingRule.from_json(rule.to_json()) == rule
    with pytest.raises(CytoserveError, match="positive"):
        RacingRule.from_json({**rule.to_json(), "spread": 0.0})
    assert replace(rule, default_alpha=0.0).threshold(None) == float("inf")


def test_where_one_evaluation_answers_all_classes_none_is_dropped():
    """Every class is seen at every noise sample that a cell gets; the cell ends when a single class can still win."""
    errors = world(60, 11).astype(np.float32)
    config = ScoringConfig(
        CLASSES,
        (1, 1, 1),
        (BudgetSettings(),) * 16,
        16,
        racing=RacingRule(((0.01, 2.5),), 0.01, spread=0.3),
        augmentation=TieAugmentation(4.0, 8, np.eye(1, dtype=np.float32), np.zeros(1, np.float32)),
        all_classes=True,
    )
    turned = world(180, 12).astype(np.float32).reshape(3, 60, 16, 4)
    known = np.concatenate([errors[None], turned])
    calls: list[np.ndarray] = []

    def all_at_once(rows):
        calls.append(rows)
        return known[rows[:, 1], rows[:, 0], rows[:, 2]]

    terms = config.terms()
    raced = race(all_at_once, np.ones(60, bool), terms)
    rows = np.concatenate(calls)
    assert len(np.unique(rows, axis=0)) == len(rows), "no evaluation is repeated for another class"
    np.testing.assert_array_equal(raced.evaluations, np.bincount(rows[:, 0], minlength=60))
    seen = np.isfinite(raced.errors)
    assert (seen.all(axis=2) == seen.any(axis=2)).all(), "all classes or none"
    count = seen.any(axis=2).sum(axis=1)
    augmented = np.array([3 * raced.augmented[c].difference.shape[1] if c in raced.augmented else 0 for c in range(60)])
    np.testing.assert_array_equal(raced.evaluations, count + augmented)
    assert 0 < len(raced.augmented) < 60
    assert count.min() == config.racing.confirm < count.max()
    for cell in range(60):
        behind = statistics(errors[[cell], : count[cell]].astype(np.float64), 16, config.racing)[0]
        assert count[cell] == 16 or (behind >= terms.threshold).sum() == 3, "only one class could still win"
    again = race_recorded(errors, terms, turned)
    np.testing.assert_array_equal(again.errors, raced.errors)
    np.testing.assert_array_equal(again.evaluations, raced.evaluations)
    by_class = race_recorded(errors, replace(terms, all_classes=False), turned)
    assert (raced.evaluations < by_class.evaluations).all()
    with pytest.raises(BadShape, match="every class"):
        race(lambda rows: np.zeros(len(rows), np.float32), np.ones(1, bool), terms)


def test_the_race_of_all_classes_heeds_the_classes_that_may_win():
    errors = world(40, 3).astype(np.float32)
    terms = RaceTerms(16, np.array([True, False, True, True]), all_classes=True)
    raced = race_recorded(errors, terms)
    assert np.isnan(raced.errors[:, :, 1]).all()
    assert np.isfinite(raced.errors[:, :, [0, 2, 3]]).all()
    np.testing.assert_array_equal(raced.evaluations, 16)
