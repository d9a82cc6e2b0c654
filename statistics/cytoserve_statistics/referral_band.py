"""The share of cells to expect under review, and the band outside which an alert makes sense."""

from __future__ import annotations

import math
from typing import Any, Final

WINDOW_CELLS: Final = 500
"""Cells that an alert's window holds at least; with fewer it stays quiet (``cytoserve:band:cells_min``)."""
DESIGN_EFFECT: Final = 4.0
"""How much less cells of samples tell than independent ones: samples of 100 cells with an intraclass correlation of
0.03, ``1 + 99 * 0.03``. That correlation is an assumption."""
FALSE_ALARM: Final = 0.001
"""Probability that a window without any change lies outside the band, half of it on either side."""
STEP: Final = 0.01
"""Both ends are rounded outward to this."""


def expected_referral(referred: int, cells: int, design_effect: float = DESIGN_EFFECT) -> dict[str, Any]:
    """Return the share of cells to expect under review and the band of an alert on it.

    Two things keep a window's share from the true one, and the band holds both: the calibration cells are few, so the
    expected share is known with an error (Beta distribution of Jeffreys' prior), and a window's cells are few
    (binomial). Both count cells as so many independent ones, their number divided by the design effect; the window is
    `WINDOW_CELLS`. The ends are quantiles of the beta-binomial distribution that follows. With many calibration cells
    they become those of the binomial distribution at the expected share.

    Not in the band: another mix of classes. Classes are referred at different rates, so a ward of unusual patients
    moves the share without any fault of pictures or model; the class mix has its own alert.

    Parameters
    ----------
    referred, cells : int
        ``0 <= referred <= cells`` and ``cells >= 1``.
    design_effect : float
        From 1; 1 where cells are independent.

    Returns
    -------
    dict
        ``value``, ``low`` and ``high`` as shares, ``cells`` as given.

    Raises
    ------
    ValueError
        Counts or a design effect outside these ranges.

    Examples
    --------
    >>> expected_referral(144_000, 1_000_000)
    {'value': 0.144, 'low': 0.04, 'high': 0.26, 'cells': 1000000}
    >>> expected_referral(20, 100)
    {'value': 0.2, 'low': 0.01, 'high': 0.56, 'cells': 100}
    """
    from scipy import stats

    if not 0 <= referred <= cells or cells < 1 or design_effect < 1:
        raise ValueError(f"need 0 <= referred <= cells and cells >= 1, not {referred} of {cells}")
    window = round(WINDOW_CELLS / design_effect)
    known = (referred / design_effect + 0.5, (cells - referred) / design_effect + 0.5)
    low, high = stats.betabinom.ppf((FALSE_ALARM / 2, 1 - FALSE_ALARM / 2), window, *known) / window
    steps = 1 / STEP
    return {
        "value": float(f"{referred / cells:.6g}"),
        "low": max(0.0, math.floor(steps * low) / steps),
        "high": min(1.0, math.ceil(steps * high) / steps),
        "cells": cells,
    }


def everything_referred(cells: int) -> dict[str, Any]:
    """Return what to expect where a calibration accepts nothing: an alert as soon as anything is accepted."""
    return {"value": 1.0, "low": 1 - STEP, "high": 1.0, "cells": cells}
