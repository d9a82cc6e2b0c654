"""Fit what turns scores into answers on labelled cells: temperature, acceptance, anomaly, prediction sets.

The cells' errors are known in full, so the engine itself is run over them at every budget, with its elimination: what
is fitted is what will be served. Promises are Learn-then-Test over cells exchangeable with these, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from cytoserve_scoring.classifier.augmentation import TURNS, SecondLook
from cytoserve_scoring.classifier.engine import Evaluate, ScoringEngine
from cytoserve_scoring.classifier.score_profile import Profile
from cytoserve_scoring.classifier.scores import CellScores, nonconformity, paired_statistic
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.errors import BadShape

Doubles = NDArray[np.float64]

STRICT_TO_LAX = tuple(1 - float(x) for x in np.geomspace(1e-4, 0.5, 120))
"""Thresholds on the top posterior in the order in which they are tested."""


@dataclass(frozen=True)
class Promise:
    """What a laboratory asks of accepted cells.

    Attributes
    ----------
    tolerated_error : float
        Largest share of wrong labels among accepted cells.
    confidence : float
        Probability with which that shall hold, over the draw of the calibration cells.
    """

    tolerated_error: float = 0.01
    confidence: float = 0.95


class _Replayed(ScoringEngine):
    """The engine on cells whose latent is their number: a turn adds the number of cells."""

    cells: int = 0

    def turned(self, latents: NDArray[np.float32], look: SecondLook) -> NDArray[np.float32]:
        """Return the numbers under which the errors of the turned cells lie."""
        return np.stack([latents + turn * self.cells for turn in range(1, TURNS + 1)])


def replay(config: ScoringConfig, errors: Doubles, budget: int, turned: Doubles | None = None) -> CellScores:
    """Run the engine over M cells whose errors are known.

    Parameters
    ----------
    config : ScoringConfig
    errors : (M, P, C) ndarray
    budget : int
    turned : (TURNS, M, P, C) ndarray, optional
        Errors of the turned cells; NaN, or none at all, where there was no second look.

    Returns
    -------
    CellScores as the server would answer under ``config``.
    """
    known = config if turned is not None else replace(config, second_look=None)
    engine, latents, evaluate = _known(known, errors, turned)
    return engine.score(latents, np.zeros(len(errors), np.int32), evaluate, budget=budget)


def _known(
    config: ScoringConfig, errors: Doubles, turned: Doubles | None
) -> tuple[_Replayed, NDArray[np.float32], Evaluate]:
    """Return an engine, latents that are the cells' numbers, and the look-up of their errors."""
    engine = _Replayed(config)
    engine.cells = len(errors)
    index = np.arange(len(errors), dtype=np.float32)[:, None, None, None]
    latents = np.ascontiguousarray(np.broadcast_to(index, (len(errors), *config.latent_shape)))
    known = errors.astype(np.float32)
    if turned is not None:
        known = np.concatenate([known, turned.astype(np.float32).reshape(-1, *errors.shape[1:])])

    def evaluate(rows: NDArray[np.float32], probe: NDArray[np.int32], label: NDArray[np.int32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = known[rows[:, 0, 0, 0].astype(np.int64), probe, label]
        return found

    return engine, latents, evaluate


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

    found = optimize.minimize_scalar(loss, bounds=(centre - 8, centre + 8), method="bounded")
    return float(np.exp(found.x))


def upper_bound(wrong: int, count: int, confidence: float) -> float:
    """Return the one-sided exact upper bound of a share (Clopper & Pearson 1934)."""
    return 1.0 if wrong >= count else float(stats.beta.ppf(confidence, wrong + 1, count - wrong))


def accept_threshold(confidence: Doubles, right: NDArray[np.bool_], promise: Promise) -> float | None:
    """Return the least threshold on the top posterior whose accepted cells keep the promise, or None.

    Thresholds are tested from strict to lax (fixed-sequence testing of Learn-then-Test, Angelopoulos et al. 2025). The
    walk may start at the first threshold that accepts enough cells to promise anything at all, which does not look at
    the labels, and it ends at the first failure.
    """
    needed = np.log(1 - promise.confidence) / np.log(1 - promise.tolerated_error)
    chosen: float | None = None
    for threshold in STRICT_TO_LAX:
        accepted = confidence >= threshold
        count = int(accepted.sum())
        if count < needed:
            continue
        if upper_bound(int((~right[accepted]).sum()), count, promise.confidence) > promise.tolerated_error:
            break
        chosen = threshold
    return chosen


def fit(
    config: ScoringConfig,
    errors: Doubles,
    labels: NDArray[np.int64],
    promise: Promise,
    budgets: Sequence[int],
    turned: Doubles | None = None,
) -> dict[str, Any]:
    """Fit temperature, threshold and references for each of ``budgets``.

    Parameters
    ----------
    config : ScoringConfig
        Classes, bank, elimination and anomaly profiles; its own temperatures and thresholds are not looked at.
    errors : (M, P, C) ndarray of float64
    labels : (M,) ndarray of int64
    turned : (TURNS, M, P, C) ndarray, optional
        See :func:`replay`.

    Returns
    -------
    dict : ``temperature``, ``accept_threshold``, ``anomaly_reference``, ``conformal_reference`` (one entry per budget
        from 1 to P; null or empty where a budget was not asked for), ``calibrated`` (the budgets), ``promise``, and
        ``by_budget``, what was seen: balanced accuracy, share accepted, evaluations a cell.

    Raises
    ------
    BadShape
        Errors, labels and configuration do not fit one another.
    """
    if errors.ndim != 3 or errors.shape[1:] != (config.probes, len(config.classes)) or len(labels) != len(errors):
        raise BadShape(f"errors {errors.shape} and labels {labels.shape} do not fit {config.probes} probes")
    bare = replace(
        config,
        temperature=(1.0,) * config.probes,
        accept_threshold=(None,) * config.probes,
        anomaly_reference=None,
        conformal_reference=None,
    )
    fitted = {
        budget: fit_budget(Answers.of(replay(bare, errors, budget, turned)), labels, config.classes, promise)
        for budget in budgets
    }
    return document(fitted, config.probes, promise, len(labels))


def fit_profiles(
    config: ScoringConfig, errors: Doubles, budgets: Sequence[int], turned: Doubles | None = None
) -> tuple[Profile | None, ...]:
    """Return the anomaly profile of each budget from 1 to P, None where it is not one of ``budgets``.

    Fit them on other cells than those that :func:`fit` calibrates on: the distances of the latter are then
    exchangeable with those of new cells, which is what a conformal p-value asks for.

    Parameters
    ----------
    config : ScoringConfig
    errors : (M, P, C) ndarray of float64, of ordinary cells
    turned : (TURNS, M, P, C) ndarray, optional
        See :func:`replay`.
    """
    found: dict[int, Profile] = {}
    for budget in budgets:
        answers = replay(config, errors, budget, turned)
        scored = answers.label >= 0
        found[budget] = Profile.fit(answers.scores[scored], answers.label[scored], config.classes)
    return tuple(found.get(budget) for budget in range(1, config.probes + 1))


def first_looks(config: ScoringConfig, errors: Doubles, budgets: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Return what the first look sees of (M, P, C) errors, by budget: (M, budget, C), NaN where a class had left."""
    engine, latents, evaluate = _known(replace(config, second_look=None), errors, None)
    return {budget: engine.first_look(latents, evaluate, budget) for budget in budgets}


def near_ties(config: ScoringConfig, errors: Doubles, budgets: Sequence[int], look: SecondLook) -> NDArray[np.int64]:
    """Return the rows of (M, P, C) errors that ``look`` would ask for at any of ``budgets``, sorted."""
    found: set[int] = set()
    for budget, asked in first_looks(config, errors, [b for b in budgets if b >= look.least_budget]).items():
        found |= {cell for cell in range(len(errors)) if look.asks(paired_statistic(asked[cell]), budget)}
    return np.array(sorted(found), np.int64)


@dataclass(frozen=True)
class Answers:
    """What a server said about M labelled cells at one budget.

    Attributes
    ----------
    label : (M,) integer ndarray, -1 where a cell was not scored
    scores : (M, C) floating ndarray, lower is better
    own : (M,) floating ndarray, the anomaly score: distance to the profile of the answered class
    evaluations : (M,) integer ndarray
    """

    label: NDArray[Any]
    scores: NDArray[Any]
    own: NDArray[Any]
    evaluations: NDArray[Any]

    @classmethod
    def of(cls, found: CellScores) -> Answers:
        """Take them from the engine's own answer."""
        return cls(found.label, found.scores, found.anomaly[:, 0], found.evaluations)


def document(fitted: dict[int, dict[str, Any]], probes: int, promise: Promise, count: int) -> dict[str, Any]:
    """Put the fits of some budgets together as ``scoring.json`` and a site's calibration hold them.

    Parameters
    ----------
    fitted : dict of int to dict
        What :func:`fit_budget` gave, by budget; at least one.
    probes : int
        Probes in the bank: one entry for each budget from 1 to it, taken from the nearest budget that was fitted
        (temperature), else null or empty: an unmeasured budget accepts nothing.
    count : int
        Calibration cells.
    """
    every = range(1, probes + 1)
    nearest = {b: min(fitted, key=lambda known: abs(known - b)) for b in every}
    return {
        "temperature": [fitted[nearest[b]]["temperature"] for b in every],
        "accept_threshold": [fitted[b]["accept_threshold"] if b in fitted else None for b in every],
        "anomaly_reference": [fitted[b]["anomaly_reference"] if b in fitted else {} for b in every],
        "conformal_reference": [fitted[b]["conformal_reference"] if b in fitted else {} for b in every],
        "calibrated": sorted(fitted),
        "promise": {"tolerated_error": promise.tolerated_error, "confidence": promise.confidence, "n": count},
        "by_budget": {str(b): fitted[b]["seen"] for b in sorted(fitted)},
    }


def fit_budget(found: Answers, labels: NDArray[np.int64], classes: tuple[str, ...], promise: Promise) -> dict[str, Any]:
    """Fit temperature, accept threshold and references on M labelled answers of one budget.

    Raises
    ------
    BadShape
        No cell was scored, or the arrays differ in length.
    """
    scored = found.label >= 0
    if len(labels) != len(scored) or not scored.any():
        raise BadShape(f"{int(scored.sum())} scored cells and {len(labels)} labels: nothing to calibrate on")
    scores, truth = found.scores[scored].astype(np.float64), labels[scored]
    guess = found.label[scored]
    temperature = fit_temperature(scores, truth)
    top = special.softmax(-scores / temperature, axis=1).max(axis=1)
    threshold = accept_threshold(top, guess == truth, promise)
    strangeness = nonconformity(found.scores[scored])[np.arange(len(truth)), truth]
    recalls = [(guess[truth == c] == c).mean() for c in np.unique(truth)]
    return {
        "temperature": temperature,
        "accept_threshold": threshold,
        "anomaly_reference": _by_class(found.own[scored], guess, classes),
        "conformal_reference": _by_class(strangeness, truth, classes),
        "seen": {
            "balanced_accuracy": round(float(np.mean(recalls)), 4),
            "accepted": 0.0 if threshold is None else round(float((top >= threshold).mean()), 4),
            "evaluations": round(float(found.evaluations.mean()), 2),
        },
    }


def _by_class(values: NDArray[Any], index: NDArray[Any], classes: tuple[str, ...]) -> dict[str, list[float]]:
    known = np.isfinite(values) | np.isposinf(values)
    return {name: [float(f"{v:.6g}") for v in np.sort(values[(index == c) & known])] for c, name in enumerate(classes)}
