"""An interval for the posterior of the answer over the draw of the noise samples.

A score is a mean over a finite number of noise samples, so the posterior made of it is an estimate. What counts is how
much the lag of each rival behind the answered class differs from sample to sample; all classes share the samples, so
the lags of one sample belong together. The interval does not cover what the model does not know: that is the purpose of
calibration, prediction sets and the anomaly check.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from cytoserve_scoring.classifier.augmentation import AugmentedPair
from cytoserve_scoring.classifier.scores import LEAST_FREEDOM

Doubles = NDArray[np.float64]

LEVEL: Final = 0.95
"""Nominal share of cells whose probability under infinitely many noise samples lies within; measured coverage in
docs/evidence.md."""


def probe_lags(errors: NDArray[Any], winner: int, augmented: AugmentedPair | None = None) -> Doubles:
    """Return how far each class stood behind the answered one, noise sample by noise sample.

    Parameters
    ----------
    errors : (P, C) ndarray
        Of the cell as it came, NaN where not evaluated.
    winner : int
        The answered class.
    augmented : AugmentedPair, optional
        The tied classes in the other quarter turns.

    Returns
    -------
    (P, C) ndarray, NaN where not evaluated. The lag between the classes of a pair is the mean over the turns; the other
    classes are taken against the best before augmentation (:func:`.augmentation.revised`).
    """
    values = np.asarray(errors, np.float64)
    if augmented is None:
        bare: Doubles = values - values[:, [winner]]
        return bare
    best, second = augmented.pair
    lags: Doubles = values - values[:, [best]]
    apart = augmented.difference.mean(axis=0)
    lags[:, winner] = 0.0
    other = second if winner == best else best
    lags[:, other] = np.nan
    lags[: len(apart), other] = apart if winner == best else -apart
    return lags


def posterior_interval(
    scores: NDArray[Any], winner: int, lags: Doubles, temperature: float, usual_spread: float | None = None
) -> tuple[float, float]:
    """Return the :data:`LEVEL` interval of the answered class's posterior over the draw of the noise samples.

    Parameters
    ----------
    scores : (C,) ndarray
        As answered; NaN for classes that were not offered.
    lags : (P, C) ndarray
        See :func:`probe_lags`.
    temperature : float
        Of the softmax, as used for the posterior.
    usual_spread : float, optional
        Usual standard deviation, over noise samples, of the lag of a rival, in units of the error
        (:class:`.racing_rule.RacingRule`); it fills up the degrees of freedom to `LEAST_FREEDOM`. Below that, Student's
        factor makes every interval 0 to 1; beyond, a cell's own spread covers better (docs/evidence.md): ties spread
        less than usual, clear cells more.

    Returns
    -------
    (low, high) : floats within 0 to 1; NaN where a rival saw fewer than two noise samples, or there is no rival.

    Notes
    -----
    The log-odds of the answer are ``g = -log sum_c exp(-lag_c / T)`` over its rivals, with ``dg/dlag_c = w_c / T`` and
    ``w`` the rivals' shares of that sum. To first order (delta method) the error of ``g`` is a sum over samples of
    ``w_c (lag_pc - mean) / (T sqrt(n_c (n_c - 1)))``, added up over the rivals that saw the sample; with every rival
    on every sample, the sum of its squares is the usual variance of a mean. With ``n`` the samples of the rival that
    weighs most and ``k = LEAST_FREEDOM - (n - 1)`` degrees of freedom lacking, it is mixed with the variance under the
    usual spread, ``V = max(V_own, (k V_0 + (n - 1) V_own) / (k + n - 1))`` (conjugate normal model: Gelman et al.
    2013, Bayesian Data Analysis, section 3.3); ``V_0 = (sum_c w_c spread / (T sqrt(n_c)))^2`` takes the rivals' lags
    to move together, since the winner's noise is in all of them. The interval is Student's on the log-odds with
    ``k + n - 1`` degrees of freedom, carried back by the logistic function.
    """
    rivals = np.isfinite(scores) & (np.arange(len(scores)) != winner)
    seen = np.isfinite(lags[:, rivals])
    count = seen.sum(axis=0)
    if not rivals.any() or count.min() < 2:
        return float("nan"), float("nan")
    exponent = -(np.asarray(scores, np.float64)[rivals] - float(scores[winner])) / temperature
    weight = special.softmax(exponent)
    apart = np.where(seen, lags[:, rivals] - np.nanmean(lags[:, rivals], axis=0), 0.0)
    influence = apart @ (weight / (temperature * np.sqrt(count * (count - 1.0))))
    own, freedom = float((influence**2).sum()), float(count[weight.argmax()] - 1.0)
    lacking = 0.0 if usual_spread is None else max(0.0, LEAST_FREEDOM - freedom)
    usual = float((weight * (usual_spread or 0.0) / (temperature * np.sqrt(count))).sum()) ** 2
    variance = max(own, (lacking * usual + freedom * own) / (lacking + freedom))
    reach = special.stdtrit(lacking + freedom, 0.5 + LEVEL / 2) * np.sqrt(variance)
    odds = -special.logsumexp(exponent)
    return float(special.expit(odds - reach)), float(special.expit(odds + reach))
