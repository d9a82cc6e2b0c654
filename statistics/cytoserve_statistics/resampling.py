"""Resampling of cells, or of slides where they are known, and intervals from it.

Cells of one slide share its stain, its smear and its patient. Where the slides are known whole slides are drawn, so
that an interval says how the figure would vary with other slides, not with other cells of the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve_statistics.shares import CONFIDENCE, clopper_pearson

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

DRAWS = 1000
SEED = 20260
FEW_SLIDES = 20
"""Below so many slides percentile intervals are too narrow to be trusted."""

Weights = NDArray[np.float64]
Figure = Callable[[Weights], Doubles]
"""(D, M) weights of the cells -> (D,) values; weights of one give the figure itself."""


@dataclass(frozen=True)
class Interval:
    """A figure with its interval."""

    value: float | None  # None where there is nothing to measure it on
    low: float | None
    high: float | None
    of: int  # cells it is measured on
    method: str

    def json(self) -> dict[str, float | int | str | None]:
        """Return it as the report holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Resampler:
    """How often each of M cells was drawn in each of D draws."""

    weights: Weights  # (D, M)
    slides: int | None  # number of slides drawn from; None where cells were drawn

    def take(self, chosen: Flags, slide: Sequence[str] | None = None) -> Resampler:
        """Return the same draws, restricted to some of the cells; ``slide`` of all M serves to count those left."""
        left = None if slide is None else len({name for name, kept in zip(slide, chosen, strict=True) if kept})
        return Resampler(self.weights[:, chosen], left)

    def share(self, hits: Flags, among: Flags) -> Interval:
        """Return the share of ``hits`` among ``among`` with its interval.

        Exact where cells are independent. Where slides are drawn, the percentile interval over slides, and never
        narrower than the exact one: with few slides, or with no miss at all, resampling alone says too little.
        """
        total, count = int(among.sum()), int((hits & among).sum())
        if total == 0:
            return Interval(None, None, None, 0, "none")
        low, high = clopper_pearson(count, total)
        if self.slides is None:
            return Interval(count / total, low, high, total, "exact")
        drawn = ratio(self.weights @ (hits & among), self.weights @ among)
        low_slides, high_slides = percentiles(drawn)
        return Interval(count / total, min(low, low_slides), max(high, high_slides), total, "slides")

    def figure(self, of: Figure, cells: int, never_below_zero: bool = False) -> Interval:
        """Return any other figure with its percentile interval (Efron & Tibshirani 1993, chapter 13).

        ``cells`` is the number that it is measured on. A figure that is ``never_below_zero``, a mean of absolute
        values, is raised by chance: its interval is corrected for that.
        """
        if cells == 0:
            return Interval(None, None, None, 0, "none")
        value = float(of(np.ones((1, self.weights.shape[1])))[0])
        if np.isnan(value):
            return Interval(None, None, None, 0, "none")
        drawn = of(self.weights)
        low, high = unbiased_ends(drawn, value) if never_below_zero else percentiles(drawn)
        if never_below_zero:
            low = max(0.0, low)
        return Interval(value, low, high, cells, "slides" if self.slides is not None else "bootstrap")


def draw(
    strata: Sequence[str],
    slide: Sequence[str] | None,
    group: Sequence[str] | None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Resampler:
    """Draw with replacement.

    Parameters
    ----------
    strata : sequence of str
        One per cell; cells are drawn within them (class by class, group by group) where no slides are given.
    slide, group : sequence of str, optional
        One per cell. Slides are drawn within their group, those of several groups among themselves.
    """
    rng = np.random.default_rng(seed)
    if slide is None:
        weights = np.zeros((draws, len(strata)))
        for name in sorted(set(strata)):
            members = np.flatnonzero(np.array(strata) == name)
            weights[:, members] = _multinomial(rng, len(members), draws)
        return Resampler(weights, None)
    names = sorted(set(slide))
    place = np.array([names.index(name) for name in slide])
    home = [_home(place == i, group) for i in range(len(names))]
    drawn = np.zeros((draws, len(names)))
    for stratum in sorted(set(home)):
        members = np.flatnonzero(np.array(home) == stratum)
        drawn[:, members] = _multinomial(rng, len(members), draws)
    return Resampler(drawn[:, place], len(names))


def _home(cells: Flags, group: Sequence[str] | None) -> str:
    if group is None:
        return ""
    found = {group[i] for i in np.flatnonzero(cells)}
    return found.pop() if len(found) == 1 else "\0several"


def _multinomial(rng: np.random.Generator, count: int, draws: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    return found


def mean_of(values: Doubles, among: Flags) -> Figure:
    """Return the figure: mean of ``values`` over the cells ``among``; a NaN among them counts as 0."""
    kept, weight = np.where(among, np.nan_to_num(values), 0.0), among.astype(float)
    return lambda weights: ratio(weights @ kept, weights @ weight)


def ratio(above: NDArray[Any], below: NDArray[Any]) -> Doubles:
    """Divide; NaN where nothing was drawn."""
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Doubles = np.where(below > 0, above / below, np.nan)
    return out


def percentiles(drawn: Doubles) -> tuple[float, float]:
    """Return the central interval of the draws that could be computed."""
    known = drawn[~np.isnan(drawn)]
    if not known.size:
        return float("nan"), float("nan")
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def unbiased_ends(drawn: Doubles, value: float) -> tuple[float, float]:
    """Return the percentile interval widened by what resampling itself adds to a mean of absolute values.

    The draws lie above the figure by about as much as the figure lies above the truth, so both ends are also taken less
    twice that. The wider interval is returned: it may be too wide, but not too narrow.
    """
    low, high = percentiles(drawn)
    shift = 2 * (float(np.nanmean(drawn)) - value) if not np.isnan(drawn).all() else 0.0
    return min(low, low - shift, value), max(high, high - shift, value)
