"""Whether something grows with use: a robust slope with its interval, and when it counts as a leak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

WARM_UP: Final = 1 / 3
"""Part of the samples at the beginning that is left out: pools and caches fill up once."""

LEAST_SAMPLES: Final = 12
TOLERATED: Final = 2_000.0
"""Growth in bytes a request up to which nothing is called a leak. Allocators and caches of a server that has served
for minutes still creep by some hundred."""


@dataclass(frozen=True)
class Trend:
    """Slope of a quantity over the requests served, with its 95 % interval.

    Attributes
    ----------
    slope, low, high : float
        Growth a request, in the quantity's unit (Theil-Sen: the median over all pairs of samples).
    """

    slope: float
    low: float
    high: float

    @classmethod
    def of(cls, requests: Sequence[float], values: Sequence[float]) -> Trend:
        """Fit the samples after the warm-up.

        Raises
        ------
        ValueError
            There are fewer than `LEAST_SAMPLES` of them.

        References
        ----------
        Sen 1968, Journal of the American Statistical Association 63, 1379.
        """
        begin = int(len(requests) * WARM_UP)
        x, y = np.asarray(requests[begin:], float), np.asarray(values[begin:], float)
        if len(x) < LEAST_SAMPLES:
            raise ValueError(f"{len(x)} samples after the warm-up are too few for a slope; run longer")
        slope, _, low, high = stats.theilslopes(y, x, 0.95)
        return cls(float(slope), float(low), float(high))

    def is_leak(self, tolerated: float = TOLERATED) -> bool:
        """Return whether the whole interval lies above what is tolerated."""
        return self.low > tolerated
