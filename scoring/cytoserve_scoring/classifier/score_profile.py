"""The out-of-distribution score: how unlike ordinary cells of its class a cell's errors are, and how undecided it is.

Two things speak for a kind that the model never learned, and each is blind where the other sees (docs/lessons.md,
"Strangers"). The *pattern*: which classes come how close behind the winner, and how well the winner predicts the noise,
differ from what is usual for that class. The *indecision*: no class leads by much, which training asks of strangers.
Their logarithms are added, as those of likelihoods are:

``(d / 2) log(1 + D / d) + log(1 + (1 - p) / 10^-6)``

``D`` is the squared Mahalanobis distance of the pattern's ``d`` numbers to the mean of the answered class, under a
covariance shared by all classes (Lee et al. 2018, equation 2); the first term is half of minus the logarithm of a
Student density of ``d`` degrees of freedom, because some hundred cells do not tell how thin the tails are. ``1 - p`` is
even for strangers and piled up at zero for ordinary cells, where its density falls about as its inverse. The half, the
unit and the softening were chosen among a few values on hidden classes (docs/lessons.md).

The published zeta (Deltadahl et al. 2025) keeps one sum of the pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoserve_scoring.classifier.scores import softmax_posterior
from cytoserve_scoring.errors import BadShape

Doubles = NDArray[np.float64]

EARLY: Final = 2
"""Noise samples whose errors under the answered class are part of the pattern: the first, which every cell sees."""

LEADS_TO_UNIT: Final = 8.0
"""The median lead of ordinary cells over the runner-up, in units. A unit is then about the temperature of a calibrated
softmax, and no label is needed for it."""

SOFTER: Final = 3.0
"""Times the unit: the temperature of the probabilities in the pattern, where rivals far behind still differ."""

LEAST_PROBABILITY: Final = 1e-4
"""Added to probabilities whose logarithm is taken: how far behind a rival is, beyond that, says nothing."""

LEAST_INDECISION: Final = 1e-6
"""The same for one minus the top probability."""

LEAST_ERROR: Final = 1e-6
"""The same for errors, whose usual size is 0.5."""

SHRINKAGE: Final = 0.1
"""Weight of the diagonal in a covariance that is estimated from some hundred cells."""

LEAST_CELLS: Final = 10
"""Cells answered with a class below which its mean is not trusted: such answers have no anomaly score."""


def early_errors(errors: NDArray[Any], label: NDArray[Any]) -> Doubles:
    """Return the (M, Q) errors of cells under the class they were answered with, at the first noise samples.

    Parameters
    ----------
    errors : (M, P, C) ndarray
        NaN where not evaluated.
    label : (M,) ndarray of int
    """
    first: Doubles = errors[np.arange(len(label)), :EARLY, label].astype(np.float64)
    return first


def pattern(scores: NDArray[Any], early: NDArray[Any], unit: float) -> Doubles:
    """Return the (M, C + Q) pattern: logs of softened probabilities, and of the errors under the answered class.

    Scores of classes that were dropped early are estimates of the same difference and count alike.

    Parameters
    ----------
    scores : (M, C) ndarray
    early : (M, Q) ndarray
        See `early_errors`.
    unit : float
        See `LEADS_TO_UNIT`.
    """
    softened = softmax_posterior(np.asarray(scores, np.float32), SOFTER * unit).astype(np.float64)
    size = np.maximum(np.asarray(early, np.float64), 0)
    return np.concatenate([np.log(softened + LEAST_PROBABILITY), np.log(size + LEAST_ERROR)], axis=1)


def indecision(scores: NDArray[Any], unit: float) -> Doubles:
    """Return (M,) logs of one minus the top probability of (M, C) scores, from 0 (none) to 13.8."""
    top = softmax_posterior(np.asarray(scores, np.float32), unit).astype(np.float64).max(axis=1)
    logs: Doubles = np.log1p(np.maximum(1 - top, 0) / LEAST_INDECISION)
    return logs


def shared_precision(values: Doubles, means: Doubles, label: NDArray[np.int64]) -> Doubles:
    """Return the (D, D) inverse of the covariance of (M, D) values about their class's row of ``means``.

    The covariance is shrunk towards its diagonal by :data:`SHRINKAGE`, so that few cells give a usable one.
    """
    centred = values - means[label]
    covariance = centred.T @ centred / max(1, len(values) - len(np.unique(label)))
    size = len(covariance)
    diagonal = np.diag(np.diag(covariance)) + max(1e-9 * np.trace(covariance) / size, 1e-12) * np.eye(size)
    precision: Doubles = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal)
    return precision


@dataclass(frozen=True)
class ScoreProfile:
    """Ordinary patterns of each class."""

    unit: float
    """A lead of this much more error makes a rival e times less likely. A site's temperature does not change it."""
    mean: dict[str, Doubles]
    """dict of str to (D,). Mean pattern of ordinary cells answered with that class; a class with too few is absent."""
    precision: Doubles
    """(D, D). Inverse covariance shared by the classes."""

    @classmethod
    def fit(
        cls, scores: NDArray[Any], early: NDArray[Any], label: NDArray[Any], classes: Sequence[str]
    ) -> ScoreProfile:
        """Fit on the (M, C) scores, (M, Q) early errors and (M,) answers of ordinary cells.

        Raises
        ------
        BadShape
            No class was answered for :data:`LEAST_CELLS` cells.
        """
        counts = np.bincount(label, minlength=len(classes))
        known = np.flatnonzero(counts >= LEAST_CELLS)
        if not len(known):
            raise BadShape(f"a profile needs {LEAST_CELLS} cells answered with one class, there are {counts.max()}")
        kept = np.isin(label, known)
        low = np.partition(np.asarray(scores[kept], np.float64), 1, axis=1)
        unit = max(float(np.median(low[:, 1] - low[:, 0])) / LEADS_TO_UNIT, float(np.finfo(np.float32).tiny))
        values, answered = pattern(scores[kept], early[kept], unit), np.asarray(label[kept], np.int64)
        means = np.zeros((len(classes), values.shape[1]))
        for c in known:
            means[c] = values[answered == c].mean(axis=0)
        return cls(unit, {classes[c]: means[c] for c in known}, shared_precision(values, means, answered))

    def score(self, scores: NDArray[Any], early: NDArray[Any], name: str) -> float:
        """Return how strange one cell is that was answered ``name``, from its (C,) scores and (Q,) early errors.

        Never negative. NaN where the class has no mean or a class was not offered: nothing is known then.
        """
        mean = self.mean.get(name)
        if mean is None or np.isnan(scores).any() or np.isnan(early).any():
            return float("nan")
        apart = pattern(scores[None], early[None], self.unit)[0] - mean
        size, distance = len(mean), max(0.0, float(apart @ self.precision @ apart))
        return size / 2 * float(np.log1p(distance / size)) + float(indecision(scores[None], self.unit)[0])

    def to_json(self) -> dict[str, Any]:
        """Return what ``scoring.json`` holds of one budget."""
        return {
            "unit": float(f"{self.unit:.8g}"),
            "mean": {name: [float(f"{v:.6g}") for v in values] for name, values in self.mean.items()},
            "precision": [[float(f"{v:.8g}") for v in row] for row in self.precision],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ScoreProfile:
        """Read it back.

        Raises
        ------
        KeyError, ValueError
            Keys are missing or numbers are none.
        """
        mean = {str(name): np.asarray(values, np.float64) for name, values in data["mean"].items()}
        precision, unit = np.asarray(data["precision"], np.float64), float(data["unit"])
        size = len(precision)
        if precision.shape != (size, size) or any(values.shape != (size,) for values in mean.values()):
            raise ValueError("means and precision of an anomaly profile differ in size")
        if not unit > 0:
            raise ValueError(f"the unit of an anomaly profile must be above 0, it is {unit}")
        return cls(unit, mean, precision)
