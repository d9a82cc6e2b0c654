"""Is a cell's picture like those that the site was calibrated with? A distance, conformal p-values, and the cause.

The reference is made of calibration cells: per class the median of the image statistics and a covariance that leans on
all classes where the class has few cells. A cell's distance is the squared Mahalanobis distance to the nearest class,
in units of what is usual for that class. The distances of the calibration cells, each measured with a reference that
it did not help to make, are what p-values count (cross-conformal prediction, Vovk 2015). Nothing here looks at a
cell's scores: a wrong class with ordinary scores, which is how a model fails away from home, does not pass by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from numpy.typing import NDArray

from cytoserve_scoring.classifier.scores import conformal_p_values
from cytoserve_scoring.errors import BadShape, CytoserveError

Doubles = NDArray[np.float64]

LEVEL: Final = 0.01
"""A cell is unfamiliar at or below this p-value: one home cell in a hundred at most."""
FOLDS: Final = 5
LEAST_CELLS: Final = 40
"""With fewer calibration cells there is no reference: the statistics are 24."""
LEAST_OF_KIND: Final = 50
"""A class with fewer calibration cells nearest to it has no p-values of its own."""
LEAST_TO_STAND: Final = 5
"""A class with fewer calibration cells has no centre of its own; its cells count as neighbours of other classes."""
LEAN: Final = 50.0
"""Cells of a class at which its own covariance weighs as much as that of all classes."""
LEAST_SHRINKAGE: Final = 0.05
CLIP: Final = (0.5, 99.5)
"""Percentiles at which deviations are clipped before a covariance is taken: odd cells must not widen it."""
RESOLUTION: Final = 0.01
"""Least standard deviation of a statistic: what is constant in a few calibration cells (a saturated lamp) may still
vary by rounding."""


@dataclass(frozen=True)
class Assessment:
    """How familiar M cells look.

    Attributes
    ----------
    distance : (M,) ndarray of float64
        1 is usual for a calibration cell of the nearest class.
    p_value : (M,) ndarray of float64
        Share of all calibration cells at least as far away; decides about the cell.
    p_value_of_kind : (M,) ndarray of float64
        The same among the calibration cells nearest to the same class: uniform for home cells whatever classes a
        sample holds, so it is what samples are judged by.
    cells_of_kind : (M,) ndarray of int64
        How many calibration cells that p-value counts.
    cause : list of str
        The statistic that adds most to the distance, with ``+`` where it is high and ``-`` where it is low.
    unfamiliar : (M,) ndarray of bool
        Whether a cell is so far away that nothing is known about errors on it.
    """

    distance: Doubles
    p_value: Doubles
    p_value_of_kind: Doubles
    cells_of_kind: NDArray[np.int64]
    cause: list[str]
    unfamiliar: NDArray[np.bool_]

    @classmethod
    def unmeasured(cls, cells: int) -> Assessment:
        """Return the assessment of cells whose picture was not measured: what is not known is not familiar."""
        unknown = np.full(cells, np.nan)
        return cls(unknown, unknown, unknown, np.zeros(cells, np.int64), [""] * cells, np.ones(cells, bool))

    def take(self, rows: NDArray[Any]) -> Assessment:
        """Return the assessment of some of the cells."""
        index = np.arange(len(self.cause))[rows]
        return Assessment(
            self.distance[index],
            self.p_value[index],
            self.p_value_of_kind[index],
            self.cells_of_kind[index],
            [self.cause[i] for i in index],
            self.unfamiliar[index],
        )

    def columns(self) -> Doubles:
        """Return the rows of the tensor ``DOMAIN``."""
        counted = np.where(self.cells_of_kind > 0, self.cells_of_kind, np.nan)
        return np.stack([self.distance, self.p_value, self.p_value_of_kind, counted], axis=1)


@dataclass(frozen=True)
class FamiliarPictures:
    """The familiar cells of one site.

    Attributes
    ----------
    names : tuple of str
        Classes that calibration cells were labelled with.
    centre : (K, S) ndarray of float64
        Median statistics of each.
    precision : (K, S, S) ndarray of float64
        Inverse covariance of each.
    usual : (K,) ndarray of float64
        Median squared distance of the cells of each class to it.
    distances : tuple of K (N_k,) ndarrays of float64
        Distances of the calibration cells, sorted, by the nearest class.
    """

    names: tuple[str, ...]
    centre: Doubles
    precision: Doubles
    usual: Doubles
    distances: tuple[Doubles, ...]

    @property
    def cells(self) -> int:
        """Number of calibration cells."""
        return sum(len(found) for found in self.distances)

    @property
    def level(self) -> float:
        """The p-value at or below which a cell is unfamiliar.

        `LEVEL`, or with few calibration cells the least p-value there is: a check that could never reject would let
        everything pass.
        """
        return max(LEVEL, 1.0 / (self.cells + 1))

    @classmethod
    def fit(cls, statistics: NDArray[Any], labels: Sequence[str]) -> FamiliarPictures:
        """Make the reference of labelled calibration cells.

        Parameters
        ----------
        statistics : (N, S) ndarray
        labels : sequence of N str

        Raises
        ------
        BadShape
            Fewer than `LEAST_CELLS`, another number of labels, statistics that are not finite, no class with
            `LEAST_TO_STAND` cells, or a class whose cells hold one and the same picture.
        """
        values, label = _checked(statistics, labels)
        return cls._of(values, label, _frequent(label, LEAST_TO_STAND))

    @classmethod
    def _of(cls, values: Doubles, label: NDArray[Any], names: tuple[str, ...]) -> FamiliarPictures:
        """Make the reference of (N, S) statistics that were checked, with a centre for each class of ``names``."""
        if not names:
            raise BadShape(f"no class has {LEAST_TO_STAND} cells")
        centre, precision = _fitted(values, label, names)
        left_out = _left_out(values, label, names)
        usual = np.array([np.median(left_out[label == name, k]) for k, name in enumerate(names)])
        alike = [name for name, distance in zip(names, usual, strict=True) if not distance > 0]
        if alike:
            raise BadShape(f"most cells of {', '.join(alike)} hold one and the same picture; give cells that differ")
        scaled = left_out / usual
        nearest, distance = scaled.argmin(axis=1), scaled.min(axis=1)
        distances = tuple(np.sort(distance[nearest == k]) for k in range(len(names)))
        return cls(names, centre, precision, usual, distances)

    @classmethod
    def cross_fitted(
        cls, statistics: NDArray[Any], labels: Sequence[str], slides: Sequence[str] | None = None
    ) -> Assessment:
        """Assess each calibration cell by a reference that it did not help to make.

        Cells are dealt out over `FOLDS` parts, and each part is compared with a reference of the others: what new
        cells of the same slides would get. Where slides are given, a slide stays in one part: what cells of new slides
        would get.

        Parameters
        ----------
        statistics : (N, S) ndarray
        labels : sequence of N str
        slides : sequence of N str, optional
            Two different ones at least.

        Returns
        -------
        Assessment of the N cells, in their order.

        Raises
        ------
        BadShape
            As `fit`; or fewer than two slides.
        """
        values, label = _checked(statistics, labels)
        if slides is not None and (len(slides) != len(values) or len(set(slides)) < 2):
            raise BadShape(f"{len(slides)} slides, {len(set(slides))} different ones, do not fit {len(values)} cells")
        fold = _dealt(label) if slides is None else _dealt_by_slide(slides)
        parts = [(np.flatnonzero(fold == part), fold != part) for part in np.unique(fold)]
        # A class that has a centre in the reference of all cells keeps it where a part of them is left out.
        standing = set(_frequent(label, LEAST_TO_STAND))
        found = []
        for rows, inside in parts:
            names = tuple(name for name in _frequent(label[inside], 2) if name in standing)
            found.append(cls._of(values[inside], label[inside], names).assess(values[rows]))
        columns = ("distance", "p_value", "p_value_of_kind", "cells_of_kind", "unfamiliar")
        arrays = {name: np.concatenate([getattr(one, name) for one in found]) for name in columns}
        together = Assessment(cause=[cause for one in found for cause in one.cause], **arrays)
        return together.take(np.argsort(np.concatenate([rows for rows, _ in parts])))

    def assess(self, statistics: NDArray[Any]) -> Assessment:
        """Compare (M, S) statistics with the reference.

        Raises
        ------
        BadShape
            Statistics of another number.
        """
        values = np.asarray(statistics, np.float64)
        if values.ndim != 2 or values.shape[1] != self.centre.shape[1]:
            raise BadShape(f"IMAGE_STATISTICS is {values.shape}, expected (M, {self.centre.shape[1]})")
        # What is not finite is as far away as can be: it must not pass for want of a number.
        known = np.where(np.isfinite(values), values, 1e6)
        scaled = _squared(known, self.centre, self.precision) / self.usual
        nearest, distance = scaled.argmin(axis=1), scaled.min(axis=1)
        pooled = conformal_p_values(distance, np.sort(np.concatenate(self.distances)))
        of_kind, counted = pooled.copy(), np.full(len(values), self.cells)
        for k, own in enumerate(self.distances):
            rows = nearest == k
            if len(own) >= LEAST_OF_KIND and rows.any():
                # Beyond all cells of its kind, all cells tell how far.
                beyond = distance[rows] > own[-1]
                found = conformal_p_values(distance[rows], own)
                of_kind[rows] = np.where(beyond, np.minimum(found, pooled[rows]), found)
                counted[rows] = len(own)
        return Assessment(distance, pooled, of_kind, counted, self._causes(known, nearest), pooled <= self.level)

    def _causes(self, values: Doubles, nearest: NDArray[np.int64]) -> list[str]:
        """Return per cell the statistic without which the distance would be least: (P z)_i^2 / P_ii is what goes."""
        deviation = values - self.centre[nearest]
        pulled = np.einsum("mij,mj->mi", self.precision[nearest], deviation)
        share = pulled**2 / np.diagonal(self.precision, axis1=1, axis2=2)[nearest]
        worst = share.argmax(axis=1)
        sign = pulled[np.arange(len(worst)), worst] > 0
        return [f"{IMAGE_STATISTIC_NAMES[i]}{'+' if high else '-'}" for i, high in zip(worst, sign, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in ``scoring.json`` and in a site's calibration."""
        return {
            "statistics": list(IMAGE_STATISTIC_NAMES),
            "classes": {
                name: {
                    "centre": _rounded(self.centre[k]),
                    "precision": [_rounded(row) for row in self.precision[k]],
                    "usual": float(f"{self.usual[k]:.6g}"),
                    "distances": _rounded(self.distances[k]),
                }
                for k, name in enumerate(self.names)
            },
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FamiliarPictures:
        """Build from the parsed JSON.

        Raises
        ------
        CytoserveError
            Made for other statistics than this release measures, or not of this form.
        """
        if tuple(data.get("statistics", ())) != IMAGE_STATISTIC_NAMES:
            raise CytoserveError("the reference of familiar pictures is of another release; calibrate again")
        try:
            classes = data["classes"]
            names = tuple(sorted(classes))
            parts = [classes[name] for name in names]
            built = cls(
                names,
                np.array([part["centre"] for part in parts], np.float64),
                np.array([part["precision"] for part in parts], np.float64),
                np.array([part["usual"] for part in parts], np.float64),
                tuple(np.sort(np.array(part["distances"], np.float64)) for part in parts),
            )
            size = len(IMAGE_STATISTIC_NAMES)
            sound = built.centre.shape == (len(names), size) and built.precision.shape == (len(names), size, size)
            numbers = (built.centre, built.precision, built.usual, *built.distances)
            if not sound or built.cells == 0 or not all(np.isfinite(part).all() for part in numbers):
                raise ValueError("shapes or numbers")
            # With a distance that may be below zero, everything would be familiar.
            if (built.usual <= 0).any() or (np.diagonal(built.precision, axis1=1, axis2=2) <= 0).any():
                raise ValueError("it measures no distance")
        except (KeyError, TypeError, ValueError) as error:
            raise CytoserveError(
                f"the reference of familiar pictures is not usable ({error}); calibrate again"
            ) from error
        return built


def _checked(statistics: NDArray[Any], labels: Sequence[str]) -> tuple[Doubles, NDArray[Any]]:
    """Return the (N, S) statistics and the labels of calibration cells; `BadShape` where they make no reference."""
    values, label = np.asarray(statistics, np.float64), np.asarray(labels)
    if values.ndim != 2 or values.shape[1] != len(IMAGE_STATISTIC_NAMES) or len(label) != len(values):
        raise BadShape(f"image statistics {values.shape} do not fit {len(label)} labels")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise BadShape(f"{bad} of {len(values)} cells have image statistics that are not finite; leave them out")
    if len(values) < LEAST_CELLS:
        raise BadShape(f"{len(values)} cells make no reference of familiar pictures; give {LEAST_CELLS} or more")
    return values, label


def _frequent(label: NDArray[Any], least: int) -> tuple[str, ...]:
    """Return the classes with ``least`` cells or more, sorted."""
    names, counts = np.unique(label, return_counts=True)
    return tuple(names[counts >= least].tolist())


def _rounded(values: Doubles) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _fitted(values: Doubles, label: NDArray[Any], names: tuple[str, ...]) -> tuple[Doubles, Doubles]:
    """Return (K, S) centres and (K, S, S) precisions."""
    rows = [values[label == name] for name in names]
    centre = np.stack([np.median(own, axis=0) for own in rows])
    deviations = [own - middle for own, middle in zip(rows, centre, strict=True)]
    low, high = np.percentile(np.concatenate(deviations), CLIP, axis=0)
    clipped = [np.clip(part, low, high) for part in deviations]
    every = np.cov(np.concatenate(clipped).T)
    size = values.shape[1]
    shrinkage = max(LEAST_SHRINKAGE, size / (size + len(values)))
    spread = np.diag(np.maximum(np.diag(every), RESOLUTION**2))
    precision = []
    for part in clipped:
        own = np.cov(part.T) if len(part) > 2 else every
        weight = len(part) / (len(part) + LEAN)
        mixed = (1 - shrinkage) * (weight * own + (1 - weight) * every) + shrinkage * spread
        precision.append(np.linalg.inv(mixed + RESOLUTION**2 * np.eye(size)))
    return centre, np.stack(precision)


def _dealt(label: NDArray[Any]) -> NDArray[np.int64]:
    """Return the (N,) fold of each cell: each class is dealt out over the folds, so that none misses in one."""
    fold = np.empty(len(label), np.int64)
    for name in np.unique(label):
        rows = np.flatnonzero(label == name)
        fold[rows] = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    return fold


def _dealt_by_slide(slides: Sequence[str]) -> NDArray[np.int64]:
    """Return the (N,) fold of each cell: the largest slide first, each to the fold with the fewest cells so far."""
    own, counts = np.unique(np.asarray(slides), return_inverse=True, return_counts=True)[1:]
    filled, place = np.zeros(min(FOLDS, len(counts)), np.int64), np.empty(len(counts), np.int64)
    for slide in np.argsort(-counts, kind="stable"):
        place[slide] = filled.argmin()
        filled[place[slide]] += counts[slide]
    return place[own]


def _left_out(values: Doubles, label: NDArray[Any], names: tuple[str, ...]) -> Doubles:
    """Return (N, K) squared distances of each cell to the classes, by references that the cell did not help to make."""
    fold = _dealt(label)
    found = np.empty((len(values), len(names)))
    for part in range(FOLDS):
        inside = fold != part
        found[fold == part] = _squared(values[fold == part], *_fitted(values[inside], label[inside], names))
    return found


def _squared(values: Doubles, centre: Doubles, precision: Doubles) -> Doubles:
    """Return (M, K) squared Mahalanobis distances."""
    deviation = values[:, None, :] - centre
    found: Doubles = np.einsum("mki,kij,mkj->mk", deviation, precision, deviation, optimize=True)
    return found
