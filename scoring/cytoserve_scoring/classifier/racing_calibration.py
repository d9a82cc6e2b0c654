"""Calibrate when a class is dropped, on cells all of whose errors are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cytoserve_scoring.classifier.racing_rule import RacingRule
from cytoserve_scoring.classifier.replay import race_recorded
from cytoserve_scoring.classifier.scores import class_scores
from cytoserve_scoring.classifier.settings import RaceTerms

Doubles = NDArray[np.float64]

THRESHOLDS = tuple(float(x) for x in np.round(np.geomspace(40.0, 0.6, 64), 4))
"""Candidate thresholds, the most careful first: the order in which Learn-then-Test walks them."""


def race_at(
    errors: NDArray[Any], rule: RacingRule, threshold: float, all_classes: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Race with one threshold on (M, P, C) errors that are all known.

    Returns
    -------
    (M,) winning classes and (M,) evaluations spent.
    """
    terms = RaceTerms(errors.shape[1], np.ones(errors.shape[2], bool), rule, threshold, all_classes=all_classes)
    raced = race_recorded(errors, terms)
    return class_scores(raced.errors)[1], raced.evaluations


def calibrate_racing(
    errors: Doubles,
    alphas: Sequence[float] = (0.005, 0.01, 0.02, 0.05),
    default_alpha: float = 0.02,
    confidence: float = 0.95,
    minimum: int = 2,
    confirm: int = 8,
    unclear: float = 0.0,
    all_classes: bool = False,
) -> RacingRule:
    """Find, per level, the boldest threshold that Learn-then-Test allows.

    Parameters
    ----------
    errors : (M, P, C) ndarray of float64
        Errors of M calibration cells under the whole bank, in the bank's order.
    minimum, confirm : int
        Of the rule.
    unclear : float
        Share of the calibration cells, those whose best two classes are closest, that would not be clear.
    all_classes : bool
        Whether one evaluation answers all classes.

    Notes
    -----
    The hypotheses "the share of changed answers exceeds alpha" are tested from the most careful threshold on by the
    exact binomial tail, and the walk ends at the first that is not rejected (fixed-sequence testing). With so few
    cells that even no change at all rejects nothing, a level is left out, and no class is dropped at that level.
    """
    errors = np.asarray(errors, np.float64)
    full = errors.mean(axis=1).argmin(axis=1)
    spread, cells = usual_spread(errors), len(errors)
    best = np.sort(errors.mean(axis=1), axis=1)
    clear = float(np.quantile(best[:, 1] - best[:, 0], unclear)) if unclear else 0.0
    rule = RacingRule(
        (),
        default_alpha,
        spread,
        minimum=minimum,
        confirm=confirm,
        clear=clear,
        confidence=confidence,
        cells=cells,
    )
    allowed: dict[float, float] = {}
    walking = sorted(float(alpha) for alpha in alphas)
    for threshold in THRESHOLDS:
        changed = int((race_at(errors, rule, threshold, all_classes)[0] != full).sum())
        walking = [alpha for alpha in walking if stats.binom.cdf(changed, len(errors), alpha) <= 1 - confidence]
        if not walking:
            break
        allowed.update(dict.fromkeys(walking, threshold))
    return replace(rule, levels=tuple(sorted(allowed.items())))


def usual_spread(errors: Doubles) -> float:
    """Return the median over cells of the spread, over samples, of the difference between the best two classes."""
    if errors.shape[1] < 2 or errors.shape[2] < 2:
        return 1.0
    order = np.argsort(errors.mean(axis=1), axis=1)[:, :2]
    pair = np.take_along_axis(errors, order[:, None, :], axis=2)
    return float(np.median((pair[..., 1] - pair[..., 0]).std(axis=1, ddof=1)))
