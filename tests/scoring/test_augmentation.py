"""Test-time augmentation: latents are turned as pictures are, ties are decided by all turns, and only ties pay."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from cytoserve_contract.values import FLAG_INVALID
from cytoserve_networks.autoencoder import PatchPCAAutoencoder
from cytoserve_scoring.classifier.augmentation import TURNS, AugmentedPair, TieAugmentation, revised
from cytoserve_scoring.classifier.engine import ScoringEngine
from cytoserve_scoring.classifier.fitting import RiskGuarantee, fit, fit_profiles
from cytoserve_scoring.classifier.racing_rule import RacingRule
from cytoserve_scoring.classifier.replay import near_ties, replay
from cytoserve_scoring.classifier.scores import tied_pair
from cytoserve_scoring.classifier.settings import BudgetSettings, ScoringConfig
from cytoserve_scoring.errors import CytoserveError
from scipy import ndimage, stats

CLASSES = ("lymphocyte", "monocyte", "neutrophil")
SAME = TieAugmentation(4.0, 2, np.eye(2, dtype=np.float32), np.zeros(2, np.float32))


def config(augmentation: TieAugmentation | None = SAME, probes: int = 8) -> ScoringConfig:
    budgets = (BudgetSettings(0.2, 0.5),) * probes
    return ScoringConfig(CLASSES, (2, 4, 4), budgets, probes, augmentation=augmentation)


def crops(count: int) -> torch.Tensor:
    """Smooth coloured pictures without a preferred direction."""
    random = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(random.normal(0, 1, (count, 96, 96, 3)), (0, 3, 3, 0))
    return torch.from_numpy(np.clip(140 + 400 * noise, 0, 255).astype(np.uint8))


def test_turning_the_latent_is_encoding_the_turned_picture():
    model = PatchPCAAutoencoder()
    model.fit(torch.cat([torch.rot90(crops(60), turn, (1, 2)) for turn in range(4)]))
    matrix, offset = (part.numpy() for part in model.quarter_turn())
    augmentation = TieAugmentation(4.0, 8, matrix, offset)
    fresh = crops(70)[60:]
    turned = augmentation.turned(model.encode(fresh).numpy())
    inside = model.patch_mask().bool().numpy()
    for turn in range(1, TURNS + 1):
        truth = model.encode(torch.rot90(fresh, turn, (1, 2))).numpy()
        off = (turned[turn - 1] - truth)[:, :, inside]
        assert np.sqrt((off**2).mean()) < 0.05 * np.sqrt((truth[:, :, inside] ** 2).mean())


class Tilted:
    """Class 1 is best in truth; as the picture lies, class 0 looks a little better. The first pixel tells the turn."""

    def __init__(self, tie: bool) -> None:
        self.tie = tie
        self.rows = 0

    def __call__(self, latents, probe, label):
        self.rows += len(latents)
        upright = latents[:, 0, 0, 0] > 0.5
        behind = np.where(upright, [-0.01 if self.tie else -0.5], [0.05])
        ripple = 0.05 * np.sin(7.0 * probe + 2.0 * label)
        return (1 + np.select([label == 0, label == 1], [0, 0 - behind], 1.0) + ripple).astype(np.float32)


def corner() -> np.ndarray:
    latents = np.zeros((1, 2, 4, 4), np.float32)
    latents[:, :, 0, 0] = 1
    return latents


def test_a_tie_is_decided_by_all_turns_and_a_clear_cell_pays_nothing():
    flags = np.zeros(1, np.int32)
    tie, clear = Tilted(True), Tilted(False)
    before = ScoringEngine(config(None)).score(corner(), flags, Tilted(True))
    after = ScoringEngine(config()).score(corner(), flags, tie)
    assert (before.label[0], after.label[0]) == (0, 1)
    assert after.evaluations[0] - before.evaluations[0] == 2 * TURNS * 8 == tie.rows - 3 * 8
    assert after.scores[0, 1] < after.scores[0, 0] < after.scores[0, 2]
    sure = ScoringEngine(config()).score(corner(), flags, clear)
    assert sure.label[0] == 0
    assert clear.rows == sure.evaluations[0] == 3 * 8


def test_small_budgets_have_no_second_look():
    world = Tilted(True)
    augmentation = TieAugmentation(4.0, 8, SAME.matrix, SAME.offset)
    ScoringEngine(config(augmentation)).score(corner(), np.zeros(1, np.int32), world, budget=4)
    assert world.rows == 3 * 4


def test_the_answer_of_a_cell_does_not_depend_on_its_company():
    latents = np.concatenate([corner(), 1 - corner(), corner()])
    flags = np.zeros(3, np.int32)
    together = ScoringEngine(config()).score(latents, flags, Tilted(True))
    alone = [ScoringEngine(config()).score(latents[i : i + 1], flags[:1], Tilted(True)) for i in range(3)]
    assert together.scores.tolist() == [found.scores[0].tolist() for found in alone]


def test_a_turned_answer_that_is_no_number_leaves_the_first_look():
    class Broken(Tilted):
        def __call__(self, latents, probe, label):
            upright = latents[:, 0, 0, 0] > 0.5
            return np.where(upright, super().__call__(latents, probe, label), np.nan).astype(np.float32)

    found = ScoringEngine(config()).score(corner(), np.zeros(1, np.int32), Broken(True))
    assert found.label[0] == 0
    assert np.isfinite(found.scores).all()


def test_revised_scores_keep_the_order_and_the_statistic_is_the_paired_t():
    random = np.random.default_rng(2)
    difference = random.normal(-0.02, 0.05, (4, 16))
    scores, winner, statistic = revised(np.array([1.0, 1.01, 1.4], np.float32), AugmentedPair((0, 1), difference))
    assert winner == 1 == scores.argmin()
    assert scores[0] - scores[1] == pytest.approx(abs(difference.mean()), rel=1e-4)
    assert scores[2] - scores.min() == pytest.approx(0.4, rel=1e-5)
    assert statistic == pytest.approx(abs(stats.ttest_1samp(difference.mean(axis=0), 0).statistic))


def test_the_pair_is_the_best_two_of_those_that_stayed():
    errors = np.array([[1.0, 0.9, 0.2], [1.0, 1.1, np.nan], [1.0, 1.2, np.nan]], np.float32)
    assert tied_pair(errors) == (0, 1)


def test_calibration_replays_what_the_engine_does():
    """A replay of stored errors answers as the engine would: near ties by all turns, the others by the first look."""
    random = np.random.default_rng(5)
    truth = random.integers(0, 3, 120)
    picture = random.normal(0, 0.25, (1 + TURNS, 120, 1, 3))
    errors = 2 - 0.3 * np.eye(3)[truth][:, None] + picture + random.normal(0, 0.1, (1 + TURNS, 120, 8, 3))
    rows = near_ties(config(None), errors[0], (8,), SAME)
    assert 0 < len(rows) < 120
    turned = np.full((TURNS, 120, 8, 3), np.nan)
    turned[:, rows] = errors[1:, rows]
    first, second = replay(config(None), errors[0], 8), replay(config(), errors[0], 8, turned)
    untouched = np.setdiff1d(np.arange(120), rows)
    assert first.scores[untouched].tolist() == second.scores[untouched].tolist()
    assert (second.label == truth).sum() > (first.label == truth).sum()
    assert fit(config(), errors[0], truth, RiskGuarantee(0.2, 0.9), (8,), turned)["by_budget"]["8"]["evaluations"] > 24


def test_it_survives_the_file_and_sizes_that_contradict_are_refused():
    again = TieAugmentation.from_json(json.loads(json.dumps(SAME.to_json())))
    assert again.turned(corner()).tolist() == SAME.turned(corner()).tolist()
    with pytest.raises(ValueError, match="differ in size"):
        TieAugmentation.from_json({**SAME.to_json(), "offset": [0.0]})
    data = {"classes": ["a"], "latent_shape": [2, 4, 4], "probes": 1, "default_budget": 1, "temperature": [1.0]}
    with pytest.raises(CytoserveError, match="export"):
        ScoringConfig.from_json({**data, "accept_threshold": [None], "second_look": {"statistic": 4.0}})


class Counting:
    """Errors drawn by cell, turn, probe and class; counts the rows it is handed, as the real denoiser would."""

    def __init__(self, errors: np.ndarray, broken: tuple[int, ...] = ()) -> None:
        self.errors = errors
        self.broken = broken
        self.rows = 0
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, latents, probe, label):
        self.rows += len(latents)
        turn, cell = latents[:, 0, 0, 0].astype(int), latents[:, 1, 0, 0].astype(int)
        self.seen += list(zip(turn.tolist(), cell.tolist(), probe.tolist(), label.tolist(), strict=True))
        found = self.errors[turn, cell, probe, label].astype(np.float32)
        return np.where(np.isin(cell, self.broken) & (probe > 0), np.nan, found)


class Numbered(TieAugmentation):
    """A turn adds one to the first channel, by which `Counting` tells it."""

    def turned(self, latents):
        return np.stack([latents + np.array([turn, 0], np.float32)[:, None, None] for turn in range(1, TURNS + 1)])


RULE = RacingRule(((0.05, 2.5),), 0.05, spread=0.3, confirm=4)
NUMBERED = Numbered(4.0, 4, np.eye(2, dtype=np.float32), np.zeros(2, np.float32))


def world(cells: int = 200, probes: int = 12, broken: tuple[int, ...] = ()) -> tuple[Counting, np.ndarray]:
    """Cells of which many tie and many of those lose a class before the last probe."""
    random = np.random.default_rng(11)
    apart = np.stack([np.zeros(cells), random.uniform(0.0, 0.4, cells), np.full(cells, 1.0)], axis=1)
    errors = 2 + apart[None, :, None] + random.normal(0, 0.25, (1 + TURNS, cells, probes, 3))
    latents = np.zeros((cells, 2, 4, 4), np.float32)
    latents[:, 1] = np.arange(cells)[:, None, None]
    return Counting(errors, broken), latents


def test_every_row_that_the_denoiser_receives_is_counted():
    """The sum of the evaluations answered is the number of rows asked, second looks and given-up cells included."""
    denoiser, latents = world(broken=(3, 77))
    engine = ScoringEngine(replace(config(NUMBERED, probes=12), racing=RULE))
    flags = np.zeros(len(latents), np.int32)
    flags[5] = FLAG_INVALID
    found = engine.score(latents, flags, denoiser)
    of_cell = np.bincount([cell for _, cell, _, _ in denoiser.seen], minlength=len(latents))
    assert found.evaluations.tolist() == of_cell.tolist()
    assert int(found.evaluations.sum()) == denoiser.rows
    assert found.evaluations[5] == 0
    assert (found.label[[3, 77]] == -1).all()
    assert (found.evaluations[[3, 77]] > 0).all()


def test_nothing_is_computed_and_thrown_away_where_a_class_was_dropped_early():
    """A tie whose classes left before the last probe is asked again over what both saw, and the answer is used."""
    denoiser, latents = world()
    racing = replace(config(NUMBERED, probes=12), racing=RULE)
    flags = np.zeros(len(latents), np.int32)
    found = ScoringEngine(racing).score(latents, flags, denoiser)
    plain = ScoringEngine(replace(racing, augmentation=None)).score(latents, flags, world()[0])
    upright = {(cell, probe, label) for turn, cell, probe, label in denoiser.seen if turn == 0}
    turned = [row for row in denoiser.seen if row[0] > 0]
    assert {row[1:] for row in turned} <= upright
    assert len(turned) == len(set(turned))
    again = sorted({cell for _, cell, _, _ in turned})
    early = [cell for cell in again if max(p for t, c, p, _ in denoiser.seen if t == 0 and c == cell) < 11]
    assert len(early) > 10
    assert (np.abs(found.scores[again] - plain.scores[again]).max(axis=1) > 0).all()
    others = np.setdiff1d(np.arange(len(latents)), again)
    assert found.scores[others].tolist() == plain.scores[others].tolist()
    assert np.isfinite(found.interval[early]).all()


def test_a_replay_of_recorded_errors_is_what_the_engine_answers():
    """Every field, bit by bit: near ties, classes dropped early, cells given up and a profile included."""
    denoiser, latents = world(broken=(3, 77))
    recorded = denoiser.errors.copy()
    recorded[:, [3, 77], 1:] = np.nan
    settings = replace(config(NUMBERED, probes=12), racing=RULE)
    profile = fit_profiles(settings, recorded[0], (12,), recorded[1:])[-1]
    reference = {name: (0.5, 1.0, 2.0, 4.0) for name in CLASSES}
    fitted = BudgetSettings(0.2, 0.5, profile, reference, reference)
    settings = replace(settings, budgets=(fitted,) * 12)
    answered = ScoringEngine(settings).score(latents, np.zeros(len(latents), np.int32), denoiser)
    replayed = replay(settings, recorded[0], 12, recorded[1:])
    assert 10 < len({cell for turn, cell, _, _ in denoiser.seen if turn > 0}) < 190
    assert np.isfinite(answered.anomaly[answered.label >= 0]).all()
    for name, value in vars(answered).items():
        np.testing.assert_array_equal(value, getattr(replayed, name), err_msg=name)
