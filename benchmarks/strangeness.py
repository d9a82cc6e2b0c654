"""How strange is a cell? Statistics of a denoiser's errors, and the scores that a discriminative peer offers.

Every statistic is *higher for stranger* cells. Those of the denoiser are made from (M, P, C) weighted errors alone, so
the service could compute them; references come from ordinary labelled cells, never from strange ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cytoserve_scoring.classifier.score_profile import pattern, shared_precision
from cytoserve_validation.zeta import zeta
from numpy.typing import NDArray
from scipy import special, stats

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

NEIGHBOURS = 10


@dataclass(frozen=True)
class Errors:
    """Errors of M cells, with what is read off them.

    Attributes
    ----------
    values : (M, P, C) ndarray, weighted errors
    detail : (M,) ndarray
        Log of the mean squared latent: how much there is to predict in a cell, whatever its class.
    """

    values: Doubles
    detail: Doubles

    @property
    def mean(self) -> Doubles:
        """(M, C) mean error per class."""
        found: Doubles = self.values.mean(axis=1)
        return found

    @property
    def label(self) -> Integers:
        """(M,) class of least mean error."""
        found: Integers = self.mean.argmin(axis=1)
        return found

    @property
    def own(self) -> Doubles:
        """(M, P) errors under the best class."""
        found: Doubles = np.take_along_axis(self.values, self.label[:, None, None], axis=2)[..., 0]
        return found

    def drop(self, column: int, keep: NDArray[np.bool_]) -> Errors:
        """Return the same errors without one class as an answer, of the cells of ``keep``."""
        return Errors(np.delete(self.values[keep], column, axis=2), self.detail[keep])

    def take(self, keep: NDArray[np.bool_]) -> Errors:
        """Return the cells of ``keep``."""
        return Errors(self.values[keep], self.detail[keep])


def by_class(values: Doubles, label: Integers, reference: Doubles, reference_label: Integers) -> Doubles:
    """Standardise (M,) values by mean and deviation of the reference cells that were given the same answer.

    A class to which fewer than five reference cells were given borrows mean and deviation of all of them.
    """
    out = np.empty(len(values))
    for c in np.unique(label):
        same = reference[reference_label == c]
        if len(same) < 5:
            same = reference
        out[label == c] = (values[label == c] - same.mean()) / max(float(same.std(ddof=1)), 1e-12)
    return out


def p_values(values: Doubles, label: Integers, reference: Doubles, reference_label: Integers) -> Doubles:
    """Return class-conditional conformal p-values ``(1 + #{reference >= value}) / (n + 1)``.

    Source: Bates et al. 2023, "Testing for outliers with conformal p-values", equation (2), within each answered class.
    """
    out = np.empty(len(values))
    for c in np.unique(label):
        same = np.sort(reference[reference_label == c])
        above = len(same) - np.searchsorted(same, values[label == c], side="left")
        out[label == c] = (1 + above) / (len(same) + 1)
    return out


def log_level(errors: Errors) -> Doubles:
    """Return the log of the mean error under the best class."""
    found: Doubles = np.log(errors.own.mean(axis=1))
    return found


def absolute(errors: Errors, reference: Errors) -> Doubles:
    """Level of the error under the best class against ordinary cells of that answer (served until the profile was)."""
    return by_class(log_level(errors), errors.label, log_level(reference), reference.label)


def relative(errors: Errors, reference: Errors) -> Doubles:
    """The published zeta, turned round; it needs no reference."""
    return -zeta(errors.mean)


def relative_by_class(errors: Errors, reference: Errors) -> Doubles:
    """The published zeta against ordinary cells of the same answer: some classes stand closer together than others."""
    return by_class(-zeta(errors.mean), errors.label, -zeta(reference.mean), reference.label)


def gap(errors: Errors, reference: Errors) -> Doubles:
    """Lead over the second class, turned round, against ordinary cells of the same answer."""

    def lead(found: Errors) -> Doubles:
        ordered = np.sort(found.mean, axis=1)
        negative: Doubles = -np.log(np.maximum(ordered[:, 1] - ordered[:, 0], 1e-9))
        return negative

    return by_class(lead(errors), errors.label, lead(reference), reference.label)


def absolute_for_detail(errors: Errors, reference: Errors) -> Doubles:
    """Level of the error beyond what a cell's detail explains, within its answered class.

    A smooth cell is easy to predict whatever it is (Serra et al. 2020, "Input complexity and out-of-distribution
    detection"). Level is regressed on detail with a slope shared by all classes.
    """
    level, label = log_level(reference), reference.label
    centred_level, centred_detail = level.copy(), reference.detail.copy()
    for c in np.unique(label):
        centred_level[label == c] -= level[label == c].mean()
        centred_detail[label == c] -= reference.detail[label == c].mean()
    slope = float(centred_level @ centred_detail / max(float(centred_detail @ centred_detail), 1e-12))
    return by_class(
        log_level(errors) - slope * errors.detail, errors.label, level - slope * reference.detail, reference.label
    )


def behind(errors: Errors) -> Doubles:
    """Return the :func:`pattern` of the mean errors."""
    return pattern(errors.mean)


def profile(errors: Errors, reference: Errors) -> Doubles:
    """Mahalanobis distance of a cell's pattern of errors to that of ordinary cells of the same answer.

    The pattern is which classes stand how far behind (:func:`behind`): zeta keeps of it only one sum. The covariance is
    shared by the classes (Lee et al. 2018, equation 2).
    """
    return mahalanobis(behind(errors), errors.label, behind(reference), reference.label)


def profile_and_detail(errors: Errors, reference: Errors) -> Doubles:
    """The same, with the cell's detail beside it."""

    def describe(found: Errors) -> Doubles:
        return np.concatenate([behind(found), found.detail[:, None]], axis=1)

    return mahalanobis(describe(errors), errors.label, describe(reference), reference.label)


def profile_and_level(errors: Errors, reference: Errors) -> Doubles:
    """The same, with the log error under the best class, probe by probe, beside it."""

    def describe(found: Errors) -> Doubles:
        return np.concatenate([np.log(found.own), behind(found)], axis=1)

    return mahalanobis(describe(errors), errors.label, describe(reference), reference.label)


def fisher(*parts: Callable[[Errors, Errors], Doubles]) -> Callable[[Errors, Errors], Doubles]:
    """Combine statistics: minus twice the sum of the logs of their class-conditional p-values (Fisher 1932)."""

    def combined(errors: Errors, reference: Errors) -> Doubles:
        total = np.zeros(len(errors.values))
        for part in parts:
            found = p_values(part(errors, reference), errors.label, part(reference, reference), reference.label)
            total -= 2 * np.log(found)
        return total

    return combined


def stouffer(*parts: Callable[[Errors, Errors], Doubles]) -> Callable[[Errors, Errors], Doubles]:
    """Combine statistics: the sum of their standardised values, which does not saturate at the reference's end."""

    def combined(errors: Errors, reference: Errors) -> Doubles:
        found: list[Doubles] = [
            by_class(part(errors, reference), errors.label, part(reference, reference), reference.label)
            for part in parts
        ]
        total: Doubles = np.sum(found, axis=0)
        return total

    return combined


def either(*parts: Callable[[Errors, Errors], Doubles]) -> Callable[[Errors, Errors], Doubles]:
    """Combine statistics: strange by any one of them is strange, each judged against all ordinary cells together."""

    def combined(errors: Errors, reference: Errors) -> Doubles:
        one = np.zeros(len(errors.values), np.int64), np.zeros(len(reference.values), np.int64)
        p = [p_values(part(errors, reference), one[0], part(reference, reference), one[1]) for part in parts]
        # The sum tells cells apart that are beyond every reference cell.
        found: Doubles = -np.log(np.min(p, axis=0)) - 1e-6 * np.log(p).sum(axis=0)
        return found

    return combined


STATISTICS: dict[str, Callable[[Errors, Errors], Doubles]] = {
    "absolute": absolute,
    "absolute_for_detail": absolute_for_detail,
    "relative_zeta": relative,
    "relative_zeta_by_class": relative_by_class,
    "gap": gap,
    "profile": profile,
    "profile_and_detail": profile_and_detail,
    "profile_and_level": profile_and_level,
    "absolute_and_zeta_fisher": fisher(absolute, relative_by_class),
    "absolute_and_zeta_sum": stouffer(absolute, relative_by_class),
    "absolute_and_gap_sum": stouffer(absolute, gap),
    "absolute_and_profile_sum": stouffer(absolute, profile),
    "profile_or_zeta": either(profile, relative),
}
"""The candidates among which validation cells choose."""


def mahalanobis(values: Doubles, label: Integers, reference: Doubles, reference_label: Integers) -> Doubles:
    """Return (M,) squared distances of (M, D) values to the mean of the reference cells of their class.

    The (D, D) covariance is that of all reference cells about their own class means, shrunk towards its diagonal.
    A class without reference cells takes the nearest class's distance.
    """
    classes = np.unique(reference_label)
    means = np.stack([reference[reference_label == c].mean(axis=0) for c in classes])
    precision = shared_precision(reference, means, np.searchsorted(classes, reference_label))
    apart = values[:, None, :] - means[None]
    distance = np.einsum("mcd,de,mce->mc", apart, precision, apart)
    known = np.isin(label, classes)
    place = np.where(known, np.searchsorted(classes, np.where(known, label, classes[0])), 0)
    out: Doubles = np.where(known, distance[np.arange(len(values)), place], distance.min(axis=1))
    return out


def peer_scores(
    logits: Doubles, features: Doubles, train_features: Doubles, train_labels: Integers
) -> dict[str, Doubles]:
    """Return what a discriminative network offers as strangeness of M cells.

    ``softmax``: one minus the top probability (Hendrycks & Gimpel 2017). ``logit_gap``: minus the lead of the top
    logit, the published comparison's own baseline. ``energy``: minus the log-sum-exp of the logits (Liu et al. 2020,
    temperature 1). ``mahalanobis``: least distance of the penultimate features to a class mean under the shared
    covariance (Lee et al. 2018). ``neighbours``: distance to the tenth nearest training cell among normalised features
    (Sun et al. 2022).

    Parameters
    ----------
    logits : (M, C) ndarray; minus infinity for a class that is not offered
    features : (M, F) ndarray
    train_features : (N, F) ndarray
    train_labels : (N,) ndarray
    """
    ordered = np.sort(logits, axis=1)
    every = [
        mahalanobis(features, np.full(len(features), c), train_features, train_labels) for c in np.unique(train_labels)
    ]
    unit, train_unit = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, train_features))
    near = -np.sort(-(unit @ train_unit.T), axis=1)[:, min(NEIGHBOURS, len(train_unit)) - 1]
    return {
        "softmax": 1 - special.softmax(logits, axis=1).max(axis=1),
        "logit_gap": -(ordered[:, -1] - ordered[:, -2]),
        "energy": -special.logsumexp(logits, axis=1),
        "mahalanobis": np.min(every, axis=0),
        "neighbours": np.sqrt(np.maximum(2 - 2 * near, 0)),
    }


def level_power(strange: Doubles, ordinary: Doubles, share: float = 0.05) -> float:
    """Return the share of strange cells above the score that ``share`` of the ordinary ones exceed."""
    return float((strange > stats.scoreatpercentile(ordinary, 100 * (1 - share))).mean())
