"""Accuracy against confidence as a psychometric curve: fitted, with the share that is wrong however sure the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from cytoserve_validation.answers import Doubles, Flags

BINS = 12
LOGIT_LIMIT = 13.8
"""Confidences are compared in log-odds; a float32 posterior of exactly 1 stands at one in a million."""

MOST_LAPSES = 0.1


def log_odds(confidence: Doubles) -> Doubles:
    """Return ``ln(p / (1 - p))``, held within ``LOGIT_LIMIT``."""
    with np.errstate(divide="ignore"):
        out: Doubles = np.clip(special.logit(confidence), -LOGIT_LIMIT, LOGIT_LIMIT)
    return out


@dataclass(frozen=True)
class Psychometric:
    """A fitted curve ``accuracy(x) = guess + (1 - guess - lapse) * Phi((x - threshold) / width)``, x in log-odds."""

    guess: float  # accuracy by chance, one over the number of classes; not fitted
    lapse: float  # share wrong however sure the model is, 0 to 0.1
    threshold: float  # log-odds of the top posterior
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


def fit(confidence: Doubles, right: Flags, classes: int) -> Psychometric | None:
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
