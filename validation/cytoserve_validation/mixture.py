"""Do labelled cells come from one scanner and stain, or are two mixed?

Cells of one site scatter around their class's usual picture. Where two scanners or stains are mixed they form two
clouds with nothing between. A direction that parts the cells is looked for in one half of them, and how far apart the
clouds lie is measured on the other half, in standard deviations within a cloud: chance finds directions, but not ones
that part cells it has not seen. Slides of one site differ too, by a few standard deviations, and two sites by many more
(docs/calibration.md). So this is a limit on a measured distance, and no test of a hypothesis: with many cells a test
would reject every site that has more than one slide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cytoserve_contract.image_statistics import IMAGE_STATISTICS
from cytoserve_scoring.classifier.familiarity import LEAST_TO_STAND, RESOLUTION
from numpy.typing import NDArray

from cytoserve_validation.answers import Doubles, Flags, Integers

SEPARATED: Final = 10.0
"""Standard deviations within a part from which two parts are not of one site. Single sites: at most 8.3 where the parts
are searched for and 4.3 between slides, but for the few odd cells of `LEAST_SHARE`; two sites: 13 and more of 300
cells."""
LEAST_SHARE: Final = 0.06
"""A part that is searched for and smaller than this is odd cells, which are told but not refused: about 3 % of PBC's
own pictures have another white balance."""
LEAST_FAR_SHARE: Final = 0.04
"""The same for parts that lie twice as far apart as `SEPARATED`: no such part was met within a site."""
LEAST_SEARCHED: Final = 0.03
"""A smaller part than this is not looked for."""
LEAST_TOLD: Final = 8
"""Cells that a part needs where it is told which cells it is."""
LEAST_HELD_OUT: Final = 4
"""Cells of the smaller part among those that the distance is measured on."""
PURE: Final = 0.02
"""A class with a smaller share of its cells in one part than this lies whole in the other."""
WITHIN_CLASSES: Final = 0.3
"""How much of the variation of membership must lie within classes: parts that are classes are no scanners."""
SHRINKAGE: Final = 0.2
STARTS: Final = (50, 88, 12)
"""Percentiles of the largest principal directions at which the search begins."""
DIRECTIONS: Final = 4
PARTITIONS: Final = 2
"""Ways of halving the cells that the search is made with."""
ITERATIONS: Final = 40
SETTLED: Final = 1e-3
"""EM ends where no membership changes by more."""
STATISTICS_NAMED: Final = 3


@dataclass(frozen=True)
class Parts:
    """Two parts of the cells, and how far apart they lie."""

    distance: float
    """Standard deviations within a part, on cells that did not choose the direction."""
    smaller: Flags
    """(N,) which cells are in the smaller part."""
    group: str | None
    """The group that is one of the parts, such as ``group ward 7``; None where the pictures alone tell them apart."""
    differences: tuple[str, ...]
    """The statistics that differ most, in words."""

    @property
    def apart(self) -> bool:
        """Whether the parts are too far apart to be one kind of pictures."""
        return self.distance >= SEPARATED

    @property
    def mixed(self) -> bool:
        """Whether the parts are too far apart, and the smaller one too large, for one site."""
        least = LEAST_FAR_SHARE if self.distance >= 2 * SEPARATED else LEAST_SHARE
        return self.apart and (self.group is not None or bool(self.smaller.mean() >= least))

    def sentence(self) -> str:
        """Return what was found, for people."""
        count, by = int(self.smaller.sum()), self.group or "the pictures alone"
        return (
            f"the cells are of two kinds of pictures ({count} and {len(self.smaller) - count} cells, told apart by "
            f"{by}, {self.distance:.0f} standard deviations apart): in the smaller part "
            f"{'; '.join(self.differences)} than in the other"
        )


def furthest_parts(
    statistics: NDArray[Any], labels: Sequence[str], told: Mapping[str, Sequence[str]] | None = None
) -> Parts | None:
    """Return the two parts of the cells that lie furthest apart; None where no two can be told apart.

    Parameters
    ----------
    statistics : (N, S) ndarray
        Image statistics, finite.
    labels : sequence of N str
        True classes. Cells of a class with fewer than `LEAST_TO_STAND` are passed over.
    told : mapping of str to sequence of N str, optional
        What else is known about each cell: by its name (a group, a kind of file) one value per cell. Each value's
        cells are compared with all others, and a part too small to be found by itself is compared too.
    """
    label = np.asarray(labels)
    kinds = [name for name in np.unique(label) if np.count_nonzero(label == name) >= LEAST_TO_STAND]
    kept = np.flatnonzero(np.isin(label, kinds))
    if len(kept) == 0:
        return None
    pictures = _Pictures.of(np.asarray(statistics, np.float64)[kept], label[kept], kinds)
    found: list[tuple[float, Flags, str | None]] = list(_found(pictures))
    for what, values in (told or {}).items():
        own = np.asarray(values)[kept]
        for value in np.unique(own):
            distance = _told_apart(pictures, own == value)
            if distance > 0:
                found.append((distance, own == value, f"{what} {value}"))
    if not found:
        return None
    parts = []
    for distance, member, group in found:
        smaller = member if member.sum() * 2 <= len(member) else ~member
        every = np.zeros(len(label), bool)
        every[kept[smaller]] = True
        parts.append(Parts(float(distance), every, group, pictures.differences(smaller)))
    return max(parts, key=lambda part: (part.mixed, part.distance))


@dataclass(frozen=True)
class _Split:
    """A direction that parts cells: the classes' means of the first part, what the second adds, and who is in it."""

    direction: Doubles
    kind_means: Doubles
    shift: Doubles
    member: Doubles
    distance: float

    def side(self, pictures: _Pictures) -> Doubles:
        """Return (N,) how far along the direction each cell lies, 0 between the parts."""
        found: Doubles = (pictures.values - pictures.kind @ self.kind_means - self.shift / 2) @ self.direction
        return found

    def sides(self, pictures: _Pictures) -> Flags:
        """Return (N,) which cells are in the second part.

        A class whose cells all lie on one side has a mean that hides which: it is placed by the means of the others.
        """
        second: Flags = self.side(pictures) >= 0
        share = (pictures.kind.T @ second) / np.maximum(pictures.kind.sum(axis=0), 1)
        whole = (share < PURE) | (share > 1 - PURE)
        if whole.all() or not whole.any():
            return second
        usual = float((self.kind_means[~whole] @ self.direction).mean())
        along = pictures.values @ self.direction - usual - float(self.shift @ self.direction) / 2
        for k in np.flatnonzero(whole):
            own = pictures.kind[:, k] > 0
            second[own] = along[own].mean() >= 0
        return second


@dataclass(frozen=True)
class _Pictures:
    """(N, S) statistics in units of their usual spread, (N, K) classes one-hot, (S,) least variance of each."""

    values: Doubles
    kind: Doubles
    least: Doubles

    @classmethod
    def of(cls, values: Doubles, label: NDArray[Any], kinds: Sequence[str]) -> _Pictures:
        kind = (label[:, None] == np.asarray(kinds)).astype(np.float64)
        middle = np.stack([np.median(values[label == name], axis=0) for name in kinds])
        resolution = np.array([_resolution(column) for column in values.T])
        spread = np.maximum(1.4826 * np.median(np.abs(values - kind @ middle), axis=0), resolution)
        return cls(values / spread, kind, (resolution / spread) ** 2)

    def take(self, rows: Flags) -> _Pictures:
        return _Pictures(self.values[rows], self.kind[rows], self.least)

    def within(self, columns: Doubles) -> Doubles:
        """Return (N, ...) columns less their class's mean."""
        counts = np.maximum(self.kind.sum(axis=0), 1e-9)
        means = (self.kind.T @ columns) / (counts if columns.ndim == 1 else counts[:, None])
        found: Doubles = columns - self.kind @ means
        return found

    def split(self, member: Doubles) -> _Split | None:
        """Return the direction that parts (N,) memberships, 0 to 1; None where they are the classes themselves."""
        counts = np.maximum(self.kind.sum(axis=0), 1e-9)
        apart = self.within(member)
        if apart @ apart < WITHIN_CLASSES * len(member) * member.var():
            return None
        # Classes and parts add up (two-way analysis of variance); the 1 keeps a shift that few cells show from
        # growing without limit.
        shift = (apart @ self.values) / (apart @ apart + 1.0)
        kind_means = (self.kind.T @ (self.values - member[:, None] * shift)) / counts[:, None]
        rest = self.values - self.kind @ kind_means
        other = rest - shift
        covariance = ((other * member[:, None]).T @ other + (rest * (1 - member)[:, None]).T @ rest) / len(member)
        diagonal = np.diag(np.diag(covariance))
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal + np.diag(self.least)
        direction = np.linalg.solve(covariance, shift)
        return _Split(direction, kind_means, shift, member, math.sqrt(max(float(direction @ shift), 0.0)))

    def differences(self, smaller: Flags) -> tuple[str, ...]:
        """Return what differs most between the parts, each statistic by its own spread, as words."""
        member = smaller.astype(np.float64)
        apart, values = self.within(member), self.within(self.values)
        shift = (apart @ values) / max(float(apart @ apart), 1e-9)
        spread = np.sqrt((values - np.outer(apart, shift)).var(axis=0) + self.least)
        most = np.argsort(-np.abs(shift / spread))[:STATISTICS_NAMED]
        return tuple(IMAGE_STATISTICS[i].high if shift[i] > 0 else IMAGE_STATISTICS[i].low for i in most)


def _resolution(column: NDArray[np.float64]) -> float:
    """Return the least spread of a statistic: a median of whole grey levels takes few values, which are no clouds."""
    steps = np.diff(np.unique(np.round(column, 4)))
    return max(RESOLUTION, float(np.median(steps)) if len(steps) else 0.0)


def _halves(pictures: _Pictures, seed: int, member: Flags | None = None) -> Flags:
    """Return (N,) which cells are in the first half; every class, and each part of it, is dealt out over both."""
    first = np.zeros(len(pictures.values), bool)
    groups = pictures.kind.argmax(axis=1) * 2 + (0 if member is None else member)
    for group in np.unique(groups):
        rows = np.random.default_rng(seed).permutation(np.flatnonzero(groups == group))
        first[rows[::2]] = True
    return first


def _found(pictures: _Pictures) -> Iterator[tuple[float, Flags, str | None]]:
    """Yield the parts that the pictures themselves show, searched for in either half and measured on the other."""
    firsts = [_halves(pictures, seed) for seed in range(PARTITIONS)]
    for half in (half for first in firsts for half in (first, ~first)):
        others = pictures.take(~half)
        for split in _searched(pictures.take(half)):
            held_out = split.side(others)
            measured = _distance(held_out, held_out >= 0)
            if measured > 0:
                yield min(measured, split.distance), split.sides(pictures), None


def _searched(pictures: _Pictures) -> list[_Split]:
    """Return the splits that the search ends at, each once: two Gaussians of one shape, by EM from several starts."""
    found: dict[float, _Split] = {}
    for member in _starts(pictures):
        split = _settled(pictures, member)
        if split is not None:
            found.setdefault(round(split.distance, 1), split)
    return list(found.values())


def _settled(pictures: _Pictures, member: Doubles) -> _Split | None:
    """Return the split that EM comes to from a first membership; None where a part dies out or becomes a class."""
    split = pictures.split(member)
    for _ in range(ITERATIONS):
        if split is None or not LEAST_SEARCHED <= split.member.mean() <= 1 - LEAST_SEARCHED:
            return None
        share = split.member.mean()
        odds = split.side(pictures) + np.log(share / (1 - share))
        member = 1 / (1 + np.exp(-np.clip(odds, -40, 40)))
        settled = float(np.abs(member - split.member).max()) < SETTLED
        split = pictures.split(member)
        if settled:
            break
    return split


def _starts(pictures: _Pictures) -> Iterator[Doubles]:
    """Yield (N,) first memberships: cuts through the largest principal directions, within classes and over all."""
    for values in (pictures.within(pictures.values), pictures.values - pictures.values.mean(axis=0)):
        for direction in np.linalg.svd(values, full_matrices=False)[2][:DIRECTIONS]:
            along = values @ direction
            for percentile in STARTS:
                yield np.where(along > np.percentile(along, percentile), 0.95, 0.05)


def _told_apart(pictures: _Pictures, member: Flags) -> float:
    """Return the distance between cells that are told and all others; 0 where there are too few."""
    if min(member.sum(), (~member).sum()) < LEAST_TOLD:
        return 0.0
    first = _halves(pictures, 0, member)
    measured = []
    for half in (first, ~first):
        split = pictures.take(half).split(member[half].astype(np.float64))
        if split is not None:
            measured.append(_distance(split.side(pictures.take(~half)), member[~half]))
    return max(measured, default=0.0)


def _distance(side: Doubles, member: Flags | Integers) -> float:
    """Return the distance between the means of two parts along a line, in standard deviations within a part."""
    one, other = side[member], side[~member]
    if min(len(one), len(other)) < LEAST_HELD_OUT:
        return 0.0
    within = np.sqrt((one.var() * len(one) + other.var() * len(other)) / len(side))
    return float((one.mean() - other.mean()) / max(within, 1e-9))
