"""From errors to answers: the numbers returned for each cell, and the formulas behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CellScores:
    """Answers for M cells and C classes; rows of cells that could not be scored hold NaN and label -1."""

    label: NDArray[np.int32]
    """(M,) int32."""
    posterior: Floats
    """(M, C) float32."""
    interval: Floats
    """(M, 2) float32, 95 % interval of the top posterior over the draw of the noise samples. (:mod:`.probe_interval`;
    NaN where fewer than two were evaluated)"""
    scores: Floats
    """(M, C) float32, mean weighted error per class, lower is better."""
    uncertainty: Floats
    """(M,) float32, one minus the top posterior."""
    anomaly: Floats
    """(M, 4) float32, `ANOMALY_COLUMNS` of the contract: the out-of-distribution score (:mod:`.score_profile`) and its
    p-values. (NaN where there is no profile or no reference)"""
    conformal: Floats
    """(M, C) float32, conformal p-value of each class; the prediction set at level eps is ``{c: p_c > eps}``. (NaN
    where no reference is given)"""
    domain: Floats
    """(M, 4) float32, see `DOMAIN` of the contract and :mod:`.familiarity`; NaN where it was not compared."""
    domain_cause: list[str]
    """The image statistic that adds most to the distance, with its side; empty where it was not compared."""
    decision: NDArray[np.uint8]
    """(M,) uint8, 0 accept, 1 review."""
    reasons: list[str]
    evaluations: NDArray[np.int32]
    """(M,) int32."""


def softmax_posterior(scores: Floats, temperature: float) -> Floats:
    """Turn (M, C) scores into posteriors: ``softmax(-scores / temperature)``, equal priors; a NaN score gives 0."""
    values = np.where(np.isnan(scores), np.inf, scores).astype(np.float64)
    logits = -(values - values.min(axis=1, keepdims=True)) / temperature
    weights = np.exp(logits)
    posterior: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return posterior


def conformal_p_value(error: float, reference: ArrayLike) -> float:
    """Return the one of `conformal_p_values` that belongs to one value."""
    return float(conformal_p_values(error, reference))


def conformal_p_values(values: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Return ``(1 + #{reference >= value}) / (n + 1)``, valid in finite samples under exchangeability.

    Parameters
    ----------
    values : array_like of float, of any shape
    reference : (n,) array_like of float, sorted

    Source: Vovk, Gammerman & Shafer 2005, section 2.2; Bates et al. 2023, "Testing for outliers with conformal
    p-values", equation (2).
    """
    known = np.asarray(reference)
    p_values: NDArray[np.float64] = (1.0 + len(known) - np.searchsorted(known, values, side="left")) / (
        len(known) + 1.0
    )
    return p_values


LEAST_FREEDOM: Final = 3.0
"""Degrees of freedom up to which the usual spread stands in for noise samples that a cell did not see: the standard
deviation of two or three numbers may be almost nothing, or very large, by chance."""


def paired_statistic(errors: Floats, usual_spread: float | None = None) -> float:
    """Return the paired t statistic between the best two classes of one cell.

    Parameters
    ----------
    errors : (P, C) ndarray
        Errors of one cell under P noise samples and C classes, NaN where not evaluated. Two classes that saw all of the
        same samples are compared; one sample, or one class left at the end, gives infinity: nothing to pair.
    usual_spread : float, optional
        See :func:`paired_t`.
    """
    seen = np.isfinite(errors).sum(axis=0)
    probes = int(seen.max(initial=0))
    if probes < 2 or np.count_nonzero(seen == probes) < 2:
        return float("inf")
    pair = errors[:probes, tied_pair(errors)].astype(np.float64)
    return paired_t(pair[:, 1] - pair[:, 0], usual_spread)


def tied_pair(errors: Floats) -> tuple[int, int]:
    """Return the best two of the classes that saw the most noise samples, from the (P, C) errors of one cell."""
    seen = np.isfinite(errors).sum(axis=0)
    last = np.flatnonzero(seen == seen.max())
    mean = errors[: seen.max(), last].astype(np.float64).mean(axis=0)
    best, second = last[np.argsort(mean, kind="stable")[:2]]
    return int(best), int(second)


def shared_probes(errors: Floats, pair: NDArray[np.int64]) -> int:
    """Return how many noise samples both classes of a pair saw, from the (P, C) errors of one cell.

    Noise samples are evaluated in order, so they are the first ones.
    """
    return int(np.isfinite(errors[:, pair]).all(axis=1).sum())


def paired_t(difference: NDArray[np.float64], usual_spread: float | None = None) -> float:
    """Return the size of the paired t statistic of (Q,) differences; infinity where they do not differ at all.

    Of few samples the variance is mixed with that of ``usual_spread``, the usual standard deviation of such differences
    over noise samples, which fills up the degrees of freedom to :data:`LEAST_FREEDOM` (conjugate normal model: Gelman
    et al. 2013, Bayesian Data Analysis, section 3.3).
    """
    variance, freedom = float(difference.var(ddof=1)), len(difference) - 1.0
    lacking = 0.0 if usual_spread is None else max(0.0, LEAST_FREEDOM - freedom)
    if lacking and usual_spread is not None:
        variance = (lacking * usual_spread**2 + freedom * variance) / (lacking + freedom)
    return float("inf") if variance == 0 else float(abs(difference.mean()) / np.sqrt(variance / len(difference)))


def class_scores(errors: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return (M, C) scores and (M,) winners from (M, P, C) errors, NaN where a class was dropped or never offered.

    The winner is the best of the classes that saw the most noise samples; its score is its mean error. A class that was
    dropped earlier is scored by its mean difference to the winner over the samples that both saw, added to the winner's
    score (the samples differ too much in level to compare bare means), and never better than the winner.
    """
    values = errors.astype(np.float64)
    known = np.isfinite(values)
    seen = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / seen
    longest = np.where(seen == seen.max(axis=1, keepdims=True), mean, np.inf)
    best = longest.argmin(axis=1)
    winner = np.take_along_axis(values, best[:, None, None], axis=2)
    difference = np.where(known, values - winner, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        behind = np.maximum(difference / seen, 0.0)
    scores: Floats = (mean[np.arange(len(best)), best][:, None] + behind).astype(np.float32)
    return scores, best


def nonconformity(scores: Floats) -> NDArray[np.float64]:
    """Return how much worse each of (M, C) scores is than the best *other* class; a class never offered: infinity."""
    values = np.where(np.isnan(scores), np.inf, scores).astype(np.float64)
    if values.shape[1] < 2:
        return np.zeros_like(values)
    low = np.partition(values, 1, axis=1)[:, :2]
    other = np.where(values == low[:, :1], low[:, 1:2], low[:, :1])
    with np.errstate(invalid="ignore"):
        out: NDArray[np.float64] = np.where(np.isinf(values), np.inf, values - other)
    return out
