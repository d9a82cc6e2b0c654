"""Accuracy where classes differ in size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve_statistics.resampling import Figure, Weights, ratio

Labels = NDArray[np.integer[Any]]
"""(M,) class numbers."""


def balanced_accuracy_figure(label: Labels, truth: Labels) -> Figure:
    """Return the mean of the recalls of the classes that occur in ``truth``, as a figure of `Resampler.figure`.

    Parameters
    ----------
    label, truth : (M,) integer ndarrays
        Class numbers; a label of -1 (no answer) is never right.

    Notes
    -----
    Where slides are drawn, a class of very few slides is missing from some draws, which widens the interval.
    """
    present = np.unique(truth)
    members = (truth[:, None] == present).astype(float)
    hits = members * (label == truth)[:, None]

    def figure(weights: Weights) -> NDArray[np.float64]:
        recalls = ratio(weights @ hits, weights @ members)
        known = ~np.isnan(recalls)
        return ratio(np.where(known, recalls, 0.0).sum(axis=1), known.sum(axis=1))

    return figure
