"""The anomaly score of the published method, for comparison with the served one."""

from __future__ import annotations

import numpy as np

from cytoserve_validation.answers import Doubles

MOST_NEIGHBOURS = 10


def zeta(scores: Doubles) -> Doubles:
    """Return the anomaly score of the published method for (M, C) class errors; *low* for anomalies.

    With errors ``e_0 <= e_1 <= ...`` less their smallest, divided by the mean error over classes, and
    ``k = min(C - 1, 10)``::

        zeta = sum over j = 1..k-1 of [ (e_j - e_0) / k - sum over l = 1..k-1 of |e_l - e_j| / (k (k - 1)) ]

    Source: the code published with Deltadahl et al. 2025 (Nature Machine Intelligence 7, 1791), as described by its
    readers; that the mean is over the classes of the cell is our reading. It knows no absolute error. Classes that
    were dropped early enter with the error that the server estimates for them.

    Raises
    ------
    ValueError
        Fewer than three classes.
    """
    if scores.shape[1] < 3:
        raise ValueError(f"zeta needs three classes or more, not {scores.shape[1]}")
    errors: Doubles = np.sort(scores, axis=1)
    errors = (errors - errors[:, :1]) / errors.mean(axis=1, keepdims=True)
    k = min(scores.shape[1] - 1, MOST_NEIGHBOURS)
    inner = errors[:, 1:k]
    apart = np.abs(inner[:, :, None] - inner[:, None, :]).sum(axis=(1, 2))
    out: Doubles = inner.sum(axis=1) / k - apart / (k * (k - 1))
    return out
