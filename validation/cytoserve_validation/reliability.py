"""Does a confidence of 0.9 mean nine right in ten? Reliability, its error, and the psychometric curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from cytoserve_validation.answers import Doubles, Flags
from cytoserve_validation.intervals import clopper_pearson
from cytoserve_validation.resampling import Weights, ratio

BINS = 15
"""Equal bins of the top posterior (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2)."""

PSYCHOMETRIC_BINS = 12
LOGIT_LIMIT = 13.8
"""Confidences are compared in log-odds; a float32 posterior of exactly 1 stands at one in a million."""

MOST_LAPSES = 0.1


def bin_of(confidence: Doubles, bins: int = BINS) -> Any:
    """Return the (M,) bin indices: bin ``b`` holds ``b / bins < confidence <= (b + 1) / bins``."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def expected_calibration_error(confidence: Doubles, right: Flags, weights: Weights, bins: int = BINS) -> Doubles:
    """Return the (D,) expected calibration errors under (D, M) weights.

    ``sum over bins of share of cells * |accuracy - mean confidence|`` (Guo et al. 2017, equation 3).
    It is never below zero, so chance alone makes it positive where a bin holds few cells.
    """
    index = bin_of(confidence, bins)
    gap = (right.astype(float) - confidence)[:, None] * (index[:, None] == np.arange(bins))
    return ratio(np.abs(weights @ gap).sum(axis=1), weights.sum(axis=1))


def chance_level(confidence: Doubles, draws: int = 1000, seed: int = 0) -> dict[str, float]:
    """Return the calibration error that exactly honest confidences would show by chance: mean and 95th percentile.

    Source: consistency resampling (Broecker & Smith 2007, "Increasing the reliability of reliability diagrams"): labels
    are drawn from the confidences themselves.
    """
    rng = np.random.default_rng(seed)
    index = bin_of(confidence)
    members = (index[:, None] == np.arange(BINS)).astype(np.float64)
    gaps = (rng.random((draws, len(confidence))) < confidence) - confidence
    drawn = np.abs(gaps @ members).sum(axis=1) / len(confidence)
    return {"mean": float(drawn.mean()), "percentile_95": float(np.percentile(drawn, 95))}


def reliability(confidence: Doubles, right: Flags, bins: int = BINS) -> list[dict[str, Any]]:
    """Return the bins that hold cells: edges, number, mean confidence, accuracy with its exact interval."""
    index = bin_of(confidence, bins)
    return [
        _bin(confidence[index == b], right[index == b], b / bins, (b + 1) / bins)
        for b in range(bins)
        if (index == b).any()
    ]


def _bin(confidence: Doubles, right: Flags, low: float, high: float) -> dict[str, Any]:
    count, total = int(right.sum()), len(right)
    interval = clopper_pearson(count, total)
    return {
        "from": low,
        "to": high,
        "cells": total,
        "confidence": float(confidence.mean()),
        "accuracy": count / total,
        "low": interval[0],
        "high": interval[1],
    }


def log_odds(confidence: Doubles) -> Doubles:
    """Return ``ln(p / (1 - p))``, held within ``LOGIT_LIMIT``."""
    with np.errstate(divide="ignore"):
        out: Doubles = np.clip(special.logit(confidence), -LOGIT_LIMIT, LOGIT_LIMIT)
    return out


def psychometric_bins(confidence: Doubles, right: Flags, bins: int = PSYCHOMETRIC_BINS) -> list[dict[str, Any]]:
    """Return accuracy in bins of equally many cells, from the least to the most confident."""
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    return [_bin(confidence[p], right[p], float(confidence[p].min()), float(confidence[p].max())) for p in parts]


@dataclass(frozen=True)
class Psychometric:
    """A fitted curve ``accuracy(x) = guess + (1 - guess - lapse) * Phi((x - threshold) / width)``, x in log-odds.

    Attributes
    ----------
    guess : float
        Accuracy by chance, one over the number of classes; not fitted.
    lapse : float
        Share wrong however sure the model is, 0 to 0.1.
    threshold, width : float
        Place and spread in log-odds of the top posterior.
    """

    guess: float
    lapse: float
    threshold: float
    width: float

    def accuracy(self, confidence: Doubles) -> Doubles:
        """Return the curve at these confidences."""
        x = (log_odds(confidence) - self.threshold) / self.width
        out: Doubles = self.guess + (1 - self.guess - self.lapse) * stats.norm.cdf(x)
        return out

    def json(self) -> dict[str, float]:
        """Return the parameters, and the confidence at which accuracy is halfway between chance and its top."""
        halfway = float(special.expit(self.threshold))
        return {
            "guess": self.guess,
            "lapse": self.lapse,
            "threshold_log_odds": self.threshold,
            "width_log_odds": self.width,
            "halfway_confidence": halfway,
        }


def fit_psychometric(confidence: Doubles, right: Flags, classes: int) -> Psychometric | None:
    """Fit the curve by maximum likelihood; None where all cells are right, or all wrong: no curve is determined.

    Source: Wichmann & Hill 2001, "The psychometric function: I", Perception & Psychophysics 63:1293, equations 1-3 (the
    lapse rate is held in a narrow range, as they advise).
    """
    if right.all() or not right.any():
        return None
    guess, x = 1 / classes, log_odds(confidence)

    def loss(values: Doubles) -> float:
        threshold, log_width, lapse = values
        p = guess + (1 - guess - lapse) * stats.norm.cdf((x - threshold) / np.exp(log_width))
        p = np.clip(p, 1e-9, 1 - 1e-9)
        return -float(np.where(right, np.log(p), np.log1p(-p)).mean())

    bounds = [(-2 * LOGIT_LIMIT, 2 * LOGIT_LIMIT), (np.log(0.05), np.log(50.0)), (0.0, MOST_LAPSES)]
    starts = [(place, np.log(width), 0.01) for place in (-1.0, 1.0, 4.0) for width in (1.5,)]
    fits = [optimize.minimize(loss, np.array(start), bounds=bounds, method="L-BFGS-B") for start in starts]
    best = min(fits, key=lambda fit: float(fit.fun))
    return Psychometric(guess, float(best.x[2]), float(best.x[0]), float(np.exp(best.x[1])))
