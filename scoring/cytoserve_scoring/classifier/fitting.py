"""Fit what turns scores into answers on labelled cells: temperature, acceptance, anomaly, prediction sets.

The cells' errors are recorded in full, so the race itself is replayed over them at every budget: what is fitted is what
will be served. Risk guarantees are Learn-then-Test over cells exchangeable with these, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cytoserve_statistics.clusters import (
    clustered_upper_bound,
    effective_total,
    highest_correlation,
    per_cluster,
)
from cytoserve_statistics.referral_band import everything_referred, expected_referral
from cytoserve_statistics.shares import upper_bound
from numpy.typing import NDArray
from scipy import optimize, special

from cytoserve_scoring.classifier.familiarity import Assessment
from cytoserve_scoring.classifier.replay import replay
from cytoserve_scoring.classifier.score_profile import ScoreProfile, early_errors
from cytoserve_scoring.classifier.scores import CellScores, nonconformity
from cytoserve_scoring.classifier.settings import BudgetSettings, Reference, ScoringConfig
from cytoserve_scoring.errors import BadShape

Doubles = NDArray[np.float64]

STRICT_TO_LAX = tuple(1 - float(x) for x in np.geomspace(1e-4, 0.5, 120))
"""Thresholds on the top posterior in the order in which they are tested."""


@dataclass(frozen=True)
class RiskGuarantee:
    """What is guaranteed of accepted cells, for the site that the calibration cells came from."""

    tolerated_error: float = 0.01
    """Largest share of wrong labels among accepted cells."""
    confidence: float = 0.95
    """Probability that this holds, over the draw of the calibration cells."""
    most_accepted: float = 1.0
    """Largest share of the calibration cells that the threshold may accept, however few of them are wrong: errors on
    known kinds say nothing of unknown ones, which a stricter threshold refers (docs/lessons.md, "Strangers")."""


@dataclass(frozen=True)
class LabelledAnswers:
    """What a server answered for M labelled cells at one budget."""

    label: NDArray[Any]
    """(M,) integer, -1 where a cell was not scored."""
    scores: NDArray[Any]
    """(M, C) floating, lower is better."""
    anomaly: NDArray[Any]
    """(M,) floating, the out-of-distribution score (:mod:`.score_profile`)."""
    evaluations: NDArray[Any]
    """(M,) integer."""

    @classmethod
    def of(cls, answered: CellScores) -> LabelledAnswers:
        """Take them from the engine's own answer."""
        return cls(answered.label, answered.scores, answered.anomaly[:, 0], answered.evaluations)


@dataclass(frozen=True)
class FittedBudget:
    """The settings fitted for one budget, and what the calibration cells showed under them."""

    settings: BudgetSettings
    """Without a profile: that is fitted on other cells."""
    seen: dict[str, float]
    """Balanced accuracy, share accepted, evaluations a cell."""


def fit_temperature(scores: Doubles, labels: NDArray[np.int64]) -> float:
    """Return the softmax temperature of (M, C) scores with the least negative log-likelihood.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    values = np.asarray(scores, np.float64)
    values = values - values.min(axis=1, keepdims=True)
    centre = np.log(max(float(np.median(np.partition(values, 1, axis=1)[:, 1])), 1e-12))

    def loss(log_temperature: float) -> float:
        logp = special.log_softmax(-values / np.exp(log_temperature), axis=1)
        return -float(logp[np.arange(len(labels)), labels].mean())

    best = optimize.minimize_scalar(loss, bounds=(centre - 8, centre + 8), method="bounded")
    return float(np.exp(best.x))


def accept_threshold(
    confidence: Doubles, right: NDArray[np.bool_], guarantee: RiskGuarantee, slides: NDArray[Any] | None = None
) -> float | None:
    """Return the least threshold on the top posterior whose accepted cells meet the guarantee, or None.

    Thresholds are tested from strict to lax (fixed-sequence testing of Learn-then-Test, Angelopoulos et al. 2025). The
    walk may start at the first threshold that accepts enough cells to guarantee anything at all, which does not depend
    on which accepted cells are wrong, and it ends at the first failure.

    Parameters
    ----------
    confidence : (M,) ndarray
        Top posteriors.
    right : (M,) ndarray of bool
    guarantee : RiskGuarantee
    slides : (M,) ndarray, optional
        Where each cell comes from. Given, the guarantee is for cells of new slides: the bound allows for cells of one
        slide being wrong together (`cytoserve_statistics.clusters`). Without it cells are taken as independent.
    """
    needed = np.log(1 - guarantee.confidence) / np.log(1 - guarantee.tolerated_error)
    alike = correlation_of_errors(right, guarantee.confidence, slides)
    chosen: float | None = None
    for threshold in STRICT_TO_LAX:
        accepted = confidence >= threshold
        worth, bound = _bound(accepted, right, guarantee.confidence, slides, alike)
        if worth < needed:
            continue
        if bound > guarantee.tolerated_error:
            break
        if chosen is not None and accepted.mean() > guarantee.most_accepted:
            break  # every threshold tested so far keeps the guarantee, so the strictest that is kept does
        chosen = threshold
    return chosen


def correlation_of_errors(right: NDArray[np.bool_], confidence: float, slides: NDArray[Any] | None) -> float:
    """Return how alike the answers of a slide's cells, right or wrong, may be at most; 0 where slides are not known.

    It is the upper limit that all calibration cells give: a few slides cannot show that there is no likeness.
    """
    if slides is None:
        return 0.0
    return highest_correlation(*per_cluster(~right, slides, np.ones(len(right), bool)), confidence)


def error_bound(
    accepted: NDArray[np.bool_], right: NDArray[np.bool_], confidence: float, slides: NDArray[Any] | None
) -> float:
    """Return the upper bound of the share of wrong cells among accepted ones; see `accept_threshold`."""
    return _bound(accepted, right, confidence, slides, correlation_of_errors(right, confidence, slides))[1]


def _bound(
    accepted: NDArray[np.bool_],
    right: NDArray[np.bool_],
    confidence: float,
    slides: NDArray[Any] | None,
    alike: float,
) -> tuple[float, float]:
    """Return how many independent cells the accepted ones are worth, and the bound of their error."""
    if slides is None:
        count, wrong = int(accepted.sum()), int((accepted & ~right).sum())
        return count, upper_bound(wrong, count, confidence)
    wrong_ones, all_of_them = per_cluster(~right, slides, accepted)
    worth = effective_total(all_of_them, confidence, alike)
    return worth, clustered_upper_bound(wrong_ones, all_of_them, confidence, alike)


def fit(
    config: ScoringConfig,
    errors: Doubles,
    labels: NDArray[np.int64],
    guarantee: RiskGuarantee,
    budgets: Sequence[int],
    turned: Doubles | None = None,
) -> dict[str, Any]:
    """Fit temperature, threshold and references for each of ``budgets``.

    Parameters
    ----------
    config : ScoringConfig
        Classes, racing rule and anomaly profiles; what else was fitted for its budgets is not used.
    errors : (M, P, C) ndarray of float64
    labels : (M,) ndarray of int64
    turned : (TURNS, M, P, C) ndarray, optional
        See :func:`.replay.race_recorded`.

    Returns
    -------
    dict : see :func:`document`.

    Raises
    ------
    BadShape
        Errors, labels and configuration do not fit one another.
    """
    if errors.ndim != 3 or errors.shape[1:] != (config.probes, len(config.classes)) or len(labels) != len(errors):
        raise BadShape(f"errors {errors.shape} and labels {labels.shape} do not fit {config.probes} probes")
    bare = replace(config, budgets=tuple(BudgetSettings(profile=budget.profile) for budget in config.budgets))
    fitted = {}
    for budget in budgets:
        answers = LabelledAnswers.of(replay(bare, errors, budget, turned))
        fitted[budget] = fit_budget(answers, labels, config.classes, guarantee)
    return document(fitted, config.probes, guarantee, len(labels))


def fit_referral(
    config: ScoringConfig, errors: Doubles, turned: Doubles | None, assessment: Assessment | None
) -> dict[str, Any]:
    """Return the share of cells to expect under review at the default budget, and the band of an alert on it.

    The calibration cells are replayed under what was fitted on them, every reason counted but those of a picture that
    no single-cell picture of theirs gives (blurred, touching the border, out of scale).

    Parameters
    ----------
    config : ScoringConfig
        With everything fitted.
    errors : (M, P, C) ndarray of float64, of the calibration cells
    turned : (TURNS, M, P, C) ndarray or None
        See :func:`.replay.race_recorded`.
    assessment : Assessment or None
        Of the M cells, by references that they did not help to make (`FamiliarPictures.cross_fitted`); None where
        pictures are not checked, and then every cell is referred.

    Returns
    -------
    dict : see :func:`cytoserve_statistics.referral_band.expected_referral`.
    """
    answers = replay(config, errors, config.default_budget, turned, assessment)
    referred = int(np.count_nonzero(answers.decision))
    count = len(answers.decision)
    return everything_referred(count) if referred == count else expected_referral(referred, count)


def fit_profiles(
    config: ScoringConfig, errors: Doubles, budgets: Sequence[int], turned: Doubles | None = None
) -> tuple[ScoreProfile | None, ...]:
    """Return the score profile of each budget from 1 to P, None where it is not one of ``budgets``.

    Fit them on other cells than those that :func:`fit` calibrates on: the scores of the latter are then exchangeable
    with those of new cells, which a conformal p-value requires.

    Parameters
    ----------
    errors : (M, P, C) ndarray of float64, of ordinary cells
    turned : (TURNS, M, P, C) ndarray, optional
        See :func:`.replay.race_recorded`.
    """
    fitted: dict[int, ScoreProfile] = {}
    for budget in budgets:
        answers = replay(config, errors, budget, turned)
        scored = answers.label >= 0
        label = answers.label[scored]
        early = early_errors(errors[scored, :budget], label)
        fitted[budget] = ScoreProfile.fit(answers.scores[scored], early, label, config.classes)
    return tuple(fitted.get(budget) for budget in range(1, config.probes + 1))


def document(fitted: dict[int, FittedBudget], probes: int, guarantee: RiskGuarantee, count: int) -> dict[str, Any]:
    """Put the fits of some budgets together as ``scoring.json`` and a site's calibration hold them.

    Parameters
    ----------
    fitted : dict of int to FittedBudget
        By budget; at least one.
    probes : int
        Noise samples in the bank.
    count : int
        Calibration cells.

    Returns
    -------
    dict : ``temperature``, ``accept_threshold``, ``anomaly_reference``, ``conformal_reference`` (one entry for each
        budget from 1 to ``probes``; a budget that was not fitted has the temperature of the nearest that was, and null
        or nothing else: it accepts no cell), ``calibrated`` (the budgets), ``promise``, and ``by_budget``, what the
        calibration cells showed.
    """
    every = range(1, probes + 1)
    nearest = {b: fitted[min(fitted, key=lambda known: abs(known - b))].settings for b in every}
    entries = [fitted[b].settings if b in fitted else BudgetSettings(nearest[b].temperature) for b in every]
    return {
        "temperature": [entry.temperature for entry in entries],
        "accept_threshold": [entry.accept_threshold for entry in entries],
        "anomaly_reference": [_listed(entry.anomaly_reference) for entry in entries],
        "conformal_reference": [_listed(entry.conformal_reference) for entry in entries],
        "calibrated": sorted(fitted),
        "promise": {"tolerated_error": guarantee.tolerated_error, "confidence": guarantee.confidence, "n": count},
        "by_budget": {str(b): fitted[b].seen for b in sorted(fitted)},
    }


def fit_budget(
    answers: LabelledAnswers,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    guarantee: RiskGuarantee,
    slides: NDArray[Any] | None = None,
) -> FittedBudget:
    """Fit temperature, accept threshold and references on M labelled answers of one budget.

    ``slides`` are those of the M cells, see `accept_threshold`.

    Raises
    ------
    BadShape
        No cell was scored, or the arrays differ in length.
    """
    scored = answers.label >= 0
    if len(labels) != len(scored) or not scored.any():
        raise BadShape(f"{int(scored.sum())} scored cells and {len(labels)} labels: nothing to calibrate on")
    scores, truth = answers.scores[scored].astype(np.float64), labels[scored]
    guess = answers.label[scored]
    temperature = fit_temperature(scores, truth)
    top = special.softmax(-scores / temperature, axis=1).max(axis=1)
    threshold = accept_threshold(top, guess == truth, guarantee, None if slides is None else slides[scored])
    own = nonconformity(answers.scores[scored])[np.arange(len(truth)), truth]
    recalls = [(guess[truth == c] == c).mean() for c in np.unique(truth)]
    settings = BudgetSettings(
        temperature,
        threshold,
        anomaly_reference=_by_class(answers.anomaly[scored], guess, classes),
        conformal_reference=_by_class(own, truth, classes),
    )
    seen = {
        "balanced_accuracy": round(float(np.mean(recalls)), 4),
        "accepted": 0.0 if threshold is None else round(float((top >= threshold).mean()), 4),
        "evaluations": round(float(answers.evaluations.mean()), 2),
    }
    return FittedBudget(settings, seen)


def _by_class(values: NDArray[Any], index: NDArray[Any], classes: tuple[str, ...]) -> Reference:
    known = np.isfinite(values) | np.isposinf(values)
    return {
        name: tuple(float(f"{v:.6g}") for v in np.sort(values[(index == c) & known])) for c, name in enumerate(classes)
    }


def _listed(reference: Reference | None) -> dict[str, list[float]]:
    return {name: list(values) for name, values in (reference or {}).items()}
