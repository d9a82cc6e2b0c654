"""Statistics of the evidence against SciPy, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_scoring.classifier import score_profile as profile
from cytoserve_validation.zeta import zeta
from scipy import integrate, special, stats
from scipy.spatial import distance

from benchmarks import sequential, strangeness
from benchmarks.statistics import clopper_pearson, paired_difference, recalls, share
from benchmarks.strangeness import STATISTICS, Errors, by_class, level_power, mahalanobis, p_values, peer_scores


def cells(count: int, rng: np.random.Generator, classes: int = 4, probes: int = 6, level: float = 1.0) -> Errors:
    """Return errors of cells of class ``i % classes``: the own class is less wrong, the level is the cell's."""
    own = np.arange(count) % classes
    values = level * np.exp(rng.normal(0, 0.05, (count, 1, 1))) * (1 + rng.normal(0, 0.01, (count, probes, classes)))
    values[np.arange(count), :, own] *= 0.8
    return Errors(values, rng.normal(0, 0.1, count))


def test_share_is_scipys_exact_interval():
    found = share(3, 40)
    truth = stats.binomtest(3, 40).proportion_ci(method="exact")
    assert found["interval"] == [round(truth.low, 4), round(truth.high, 4)]
    assert share(0, 0)["value"] is None
    assert clopper_pearson(0, 10)[0] == 0.0


def test_recalls_count_only_classes_that_occur():
    truth, guess = np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0])
    found = recalls(guess, truth, ("a", "b", "c"))
    assert {name: (row["count"], row["of"]) for name, row in found.items()} == {"a": (1, 2), "c": (2, 3)}


def test_paired_difference_is_the_mcnemar_variance():
    rng = np.random.default_rng(0)
    first, second = rng.random(600) < 0.9, rng.random(600) < 0.8
    found = paired_difference(first, second)
    b, c, n = (first & ~second).sum(), (~first & second).sum(), 600
    half = 1.96 * 100 * np.sqrt((b + c) / n - ((b - c) / n) ** 2) / np.sqrt(n)
    assert found["points"] == pytest.approx(100 * (b - c) / n, abs=0.01)
    assert found["interval"] == pytest.approx([found["points"] - half, found["points"] + half], abs=0.5)
    assert paired_difference(first, first) == {"points": 0.0, "interval": [0.0, 0.0]}


def test_mahalanobis_is_scipys_where_nothing_is_shrunk(monkeypatch):
    monkeypatch.setattr(profile, "SHRINKAGE", 0.0)
    rng = np.random.default_rng(1)
    label = np.arange(90) % 3
    reference = rng.normal(size=(90, 4)) @ rng.normal(size=(4, 4)) + label[:, None]
    values, of = rng.normal(size=(5, 4)), np.array([0, 1, 2, 2, 0])
    means = np.stack([reference[label == c].mean(axis=0) for c in range(3)])
    inverse = np.linalg.inv((reference - means[label]).T @ (reference - means[label]) / 87)
    truth = [distance.mahalanobis(v, means[c], inverse) ** 2 for v, c in zip(values, of, strict=True)]
    assert mahalanobis(values, of, reference, label) == pytest.approx(truth, rel=1e-6)
    # A class that no reference cell has is held against the nearest one.
    nearest = min(distance.mahalanobis(values[0], mean, inverse) ** 2 for mean in means)
    assert mahalanobis(values[:1], np.array([7]), reference, label)[0] == pytest.approx(nearest, rel=1e-6)


def test_standardising_by_class_borrows_where_a_class_is_too_small():
    reference, label = np.array([0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 9.0]), np.array([0, 0, 0, 0, 0, 0, 1])
    found = by_class(np.array([1.0, 1.0]), np.array([0, 1]), reference, label)
    assert found[0] == pytest.approx(0.0)
    assert found[1] == pytest.approx((1 - reference.mean()) / reference.std(ddof=1))


def test_p_values_are_valid_under_exchangeability():
    rng = np.random.default_rng(2)
    reference, label = rng.normal(size=400), np.arange(400) % 4
    fresh, of = rng.normal(size=20000), np.arange(20000) % 4
    p = p_values(fresh, of, reference, label)
    for level in (0.02, 0.1, 0.5):
        assert (p <= level).mean() <= level + 0.05
    assert p.min() >= 1 / 101
    # Within a class a p-value only falls as the value rises.
    inside = np.argsort(fresh[of == 1])
    assert (np.diff(p[of == 1][inside]) <= 0).all()


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_statistics_are_finite_and_do_not_know_the_order_of_cells_or_classes(name):
    rng = np.random.default_rng(3)
    some, reference = cells(40, rng), cells(200, rng)
    found = STATISTICS[name](some, reference)
    assert np.isfinite(found).all()
    back = np.arange(40)[::-1]
    turned = Errors(some.values[back][..., ::-1], some.detail[back])
    other = Errors(reference.values[..., ::-1], reference.detail)
    assert STATISTICS[name](turned, other)[back] == pytest.approx(found, rel=1e-6, abs=1e-9)


def test_each_kind_of_strangeness_is_seen_by_the_statistic_that_is_made_for_it():
    rng = np.random.default_rng(4)
    ordinary, reference = cells(300, rng), cells(400, rng)
    loud = cells(300, rng, level=1.3)
    torn = Errors(ordinary.values.copy(), ordinary.detail)
    torn.values[:, :, :] = ordinary.values.mean(axis=2, keepdims=True) * (
        1 + rng.normal(0, 0.01, ordinary.values.shape)
    )
    assert level_power(strangeness.absolute(loud, reference), strangeness.absolute(ordinary, reference)) > 0.95
    assert level_power(strangeness.gap(torn, reference), strangeness.gap(ordinary, reference)) > 0.95
    # Zeta is relative: it does not see that everything is harder to predict.
    assert zeta(1.3 * ordinary.mean) == pytest.approx(zeta(ordinary.mean))
    for strange in (loud, torn):
        assert (
            level_power(
                strangeness.profile_and_level(strange, reference), strangeness.profile_and_level(ordinary, reference)
            )
            > 0.9
        )


def test_a_hidden_class_is_no_longer_an_answer():
    some = cells(40, np.random.default_rng(5))
    hidden = some.drop(2, some.label == 2)
    assert hidden.values.shape[2] == 3
    assert len(hidden.values) == 10


def test_peer_scores_are_the_textbook_ones():
    rng = np.random.default_rng(6)
    logits, features = rng.normal(size=(7, 4)), rng.normal(size=(7, 5))
    logits[:, 3] = -np.inf
    train, labels = rng.normal(size=(60, 5)), np.arange(60) % 3
    found = peer_scores(logits, features, train, labels)
    assert found["softmax"] == pytest.approx(1 - special.softmax(logits[:, :3], axis=1).max(axis=1))
    assert found["energy"] == pytest.approx(-np.log(np.exp(logits[:, :3]).sum(axis=1)))
    near = np.sort(distance.cdist(*(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, train))), axis=1)
    assert found["neighbours"] == pytest.approx(near[:, 9])
    assert all(np.isfinite(values).all() for values in found.values())


def test_the_t_test_e_value_is_a_bayes_factor():
    # Against numerical integration over scale (right Haar) and effect size.
    x = np.array([0.3, 1.1, -0.2, 0.9, 0.5])
    n = len(x)

    def marginal(effect: float) -> float:
        # sigma^-(n+1) exp(-sum (x - effect sigma)^2 / 2 sigma^2), integrated over u = 1 / sigma.
        found, _ = integrate.quad(lambda u: u ** (n - 1) * np.exp(-0.5 * ((x * u - effect) ** 2).sum()), 0, 50)
        return found

    above, _ = integrate.quad(lambda d: marginal(d) * stats.norm.pdf(d), -8, 8)
    assert sequential.t_test_e_value(x) == pytest.approx(above / marginal(0.0), rel=1e-5)
    assert sequential.t_test_e_value(-x) == 0.0
    assert sequential.t_test_e_value(x[:1]) == 1.0


def test_e_values_have_mean_one_under_the_null():
    rng = np.random.default_rng(7)
    x = rng.normal(0, 3, (200_000, 6))
    both = sequential.t_test_e_value(x) + sequential.t_test_e_value(-x)
    assert both.mean() == pytest.approx(1.0, abs=0.05)
    # Without replacement from one bank whose mean is zero: every prefix, over the orders.
    bank = np.array([0.9, -0.4, 0.2, -0.7, 0.5, -0.5, 0.3, -0.3])
    orders = bank[rng.permuted(np.broadcast_to(np.arange(8), (100_000, 8)), axis=1)]
    for n in (1, 3, 6):
        capital = sequential.betting(1.0)(orders[:, :n], 8)
        assert np.isfinite(capital).all()
        assert capital.mean() == pytest.approx(1.0, abs=0.03)


def test_betting_knows_when_the_rest_can_change_nothing():
    evidence = sequential.betting(1.0)
    assert np.isinf(evidence(np.array([1.0, 1.0, 0.5]), 4))
    assert np.isfinite(evidence(np.array([0.5, 0.4]), 8))
    assert np.isfinite(evidence(np.zeros(4), 4))


@pytest.mark.parametrize("gap", [0.001, 0.2])
@pytest.mark.parametrize("evidence", [sequential.t_test_e_value, sequential.betting(6.0)], ids=["t", "betting"])
def test_the_full_budget_answer_is_lost_no_more_often_than_promised(gap, evidence):
    alpha = 0.1
    bank = sequential.tied_bank(1500, 24, 3, gap, np.random.default_rng(8))
    assert (bank.mean(axis=1).argmin(axis=1) == 0).all()
    lost = int((sequential.eliminate(bank, evidence, alpha).label != 0).sum())
    assert stats.binomtest(lost, 1500, alpha, alternative="greater").pvalue > 1e-3


def test_a_test_that_forgets_its_looks_loses_more_than_promised():
    # The control: the same loop, with an uncorrected t-test after every probe.
    bank = sequential.tied_bank(1500, 24, 3, 0.001, np.random.default_rng(8))
    lost = sequential.eliminate(bank, sequential.published_p(level=0.1, first=2, every=1), 0.1).label != 0
    assert stats.binomtest(int(lost.sum()), 1500, 0.1, alternative="greater").pvalue < 1e-6


def test_clear_cells_are_decided_early_and_ties_stay_open():
    rng = np.random.default_rng(9)
    clear = sequential.eliminate(sequential.tied_bank(50, 40, 4, 6.0, rng), sequential.t_test_e_value, 0.05)
    assert (clear.label == 0).all()
    assert clear.spent.max() < 40 * 4 / 2
    assert not clear.open.any()
    tie = sequential.tied_bank(50, 40, 4, 0.0, rng)
    still = sequential.eliminate(tie, sequential.t_test_e_value, 0.05)
    assert still.open.mean() > 0.8


def test_shuffling_keeps_each_probe_together():
    errors = np.arange(24.0).reshape(2, 4, 3)
    found = sequential.shuffled(errors, np.random.default_rng(10))
    assert {tuple(row) for row in found[0]} == {tuple(row) for row in errors[0]}
    assert found.sum(axis=1) == pytest.approx(errors.sum(axis=1))
