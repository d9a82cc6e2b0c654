"""The out-of-distribution score: how far the other classes stand behind the best, compared with ordinary cells.

The bare error under the best class measures how detailed a picture is, not how unusual: a smooth cell is easy to
predict whatever it is. Which classes come how close behind the winner is typical of a class, and a cell of a kind never
trained on shows another pattern. The published zeta (Deltadahl et al. 2025) keeps one sum of that pattern; here the
whole pattern is compared with the mean of the answered class under a covariance shared by all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoserve_scoring.errors import BadShape

Doubles = NDArray[np.float64]

FLOOR: Final = 0.01
"""Least lag behind the best class, relative to its error, that counts; chosen on ``pbc/val``."""

SHRINKAGE: Final = 0.1
"""Weight of the diagonal in a covariance that is estimated from some hundred cells."""

LEAST_CELLS: Final = 10
"""Cells answered with a class below which its mean is not trusted: such answers have no anomaly score."""


def pattern(scores: NDArray[Any]) -> Doubles:
    """Return the (M, C) logs of how far each class stands behind the best, in units of the best one's (M, C) score.

    The floor keeps a near tie, or the best class itself, from being infinitely close. Scores of classes that were
    dropped early are estimates of the same difference and count alike. NaN stays NaN.
    """
    values = np.asarray(scores, np.float64)
    lag = values / values.min(axis=1, keepdims=True) - 1
    logs: Doubles = np.log(np.maximum(lag, 0) + FLOOR)
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

    mean: dict[str, Doubles]
    """dict of str to (C,). Mean pattern of ordinary cells answered with that class; a class with too few is absent."""
    precision: Doubles
    """(C, C). Inverse covariance shared by the classes (Lee et al. 2018, equation 2)."""

    @classmethod
    def fit(cls, scores: NDArray[Any], label: NDArray[Any], classes: Sequence[str]) -> ScoreProfile:
        """Fit on the (M, C) scores and (M,) answers of ordinary cells.

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
        values, answered = pattern(scores[kept]), np.asarray(label[kept], np.int64)
        means = np.zeros((len(classes), values.shape[1]))
        for c in known:
            means[c] = values[answered == c].mean(axis=0)
        return cls({classes[c]: means[c] for c in known}, shared_precision(values, means, answered))

    def distance(self, scores: NDArray[Any], name: str) -> float:
        """Return the squared Mahalanobis distance of one cell's (C,) scores to the ordinary cells of class ``name``.

        NaN where the class has no mean or a class was not offered: nothing is known then.
        """
        mean = self.mean.get(name)
        if mean is None or np.isnan(scores).any():
            return float("nan")
        apart = pattern(scores[None])[0] - mean
        return float(apart @ self.precision @ apart)

    def to_json(self) -> dict[str, Any]:
        """Return what ``scoring.json`` holds of one budget."""
        return {
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
        precision = np.asarray(data["precision"], np.float64)
        size = len(precision)
        if precision.shape != (size, size) or any(values.shape != (size,) for values in mean.values()):
            raise ValueError("means and precision of an anomaly profile differ in size")
        return cls(mean, precision)
