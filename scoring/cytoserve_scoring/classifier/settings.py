"""What the scorer knows about its model, ``scoring.json`` as frozen objects, and what one request chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cytoserve_scoring.classifier.augmentation import TieAugmentation
from cytoserve_scoring.classifier.familiarity import FamiliarPictures
from cytoserve_scoring.classifier.racing_rule import RacingRule
from cytoserve_scoring.classifier.score_profile import ScoreProfile
from cytoserve_scoring.errors import BadParameter, CytoserveError

Reference = Mapping[str, tuple[float, ...]]
"""By class name, sorted values of calibration cells: what a conformal p-value is taken against."""

T = TypeVar("T")


@dataclass(frozen=True)
class BudgetSettings:
    """What was fitted for one budget; the defaults are those of a budget that was not fitted."""

    temperature: float = 1.0
    """Of the softmax, in units of the error."""
    accept_threshold: float | None = None
    """Least top posterior that is accepted; None accepts nothing."""
    profile: ScoreProfile | None = None
    """Ordinary score patterns, from which the out-of-distribution score is measured."""
    anomaly_reference: Reference | None = None
    """Out-of-distribution scores by the class the cells were answered with; None: no cell is checked for anomaly."""
    conformal_reference: Reference | None = None
    """Nonconformities under the true class; None: no prediction sets."""

    @cached_property
    def all_anomalies(self) -> NDArray[np.float64]:
        """(N,) float64. The out-of-distribution scores of all calibration cells, sorted."""
        return np.sort([value for values in (self.anomaly_reference or {}).values() for value in values])


@dataclass(frozen=True)
class RaceTerms:
    """What one request chose, checked against the settings of the model."""

    budget: int
    """Most noise samples of a cell."""
    classes: NDArray[np.bool_]
    """(C,) bool. Classes that may win."""
    rule: RacingRule | None = None
    """When a class is dropped; None: never."""
    threshold: float = float("inf")
    """Of the rule, for the level chosen; infinite: no class is dropped."""
    augmentation: TieAugmentation | None = None
    """When a near tie is evaluated in the other quarter turns; None: never."""
    all_classes: bool = False
    """Whether one evaluation answers all classes, so that no class need be dropped."""
    calibrated: bool = False
    """Whether temperature and thresholds were measured for requests like this; if not, nothing is accepted."""


@dataclass(frozen=True)
class ScoringConfig:
    """What the scorer knows about its model, read from ``scoring.json``."""

    classes: tuple[str, ...]
    latent_shape: tuple[int, int, int]
    budgets: tuple[BudgetSettings, ...]
    """For each budget from 1 to the size of the bank; a budget of ``b`` uses the first ``b`` noise samples."""
    default_budget: int
    """Most noise samples of a cell when the caller names none."""
    ambiguous_from: float = 0.2
    """A second posterior at or above this adds the reason ``ambiguous``."""
    tie_statistic: float = 2.0
    """A paired t statistic between the best two classes below this adds ``near_tie``."""
    anomaly_level: float = 0.05
    """A p-value below this adds ``anomalous``."""
    racing: RacingRule | None = None
    """When classes are dropped; None spends the whole budget on every class."""
    calibrated: tuple[int, ...] | None = None
    """Budgets that the calibration in force measured; None means all."""
    augmentation: TieAugmentation | None = None
    """When a near tie is evaluated in the other quarter turns; None never."""
    all_classes: bool = False
    """Whether one evaluation of the denoiser answers all classes; else it is told one."""
    familiar: FamiliarPictures | None = None
    """The pictures that the calibration knows; None: no picture is checked."""

    @property
    def probes(self) -> int:
        """Noise samples in the bank."""
        return len(self.budgets)

    @property
    def usual_spread(self) -> float | None:
        """Usual spread of a lag over noise samples, as the racing rule has it; None where there is none."""
        return None if self.racing is None else self.racing.spread

    def at(self, budget: int) -> BudgetSettings:
        """Return what was fitted for a budget from 1 to ``probes``."""
        return self.budgets[budget - 1]

    def terms(
        self, budget: int | None = None, alpha: float | None = None, classes: Sequence[str] | None = None
    ) -> RaceTerms:
        """Return the terms of a request; None takes the default.

        Raises
        ------
        BadParameter
            A budget outside the bank, an alpha outside [0, 1), an unknown class.
        """
        spent = self.default_budget if budget is None else budget
        if not 1 <= spent <= self.probes:
            raise BadParameter(f"budget {budget} is outside 1..{self.probes}, the probes of this model's bank")
        threshold = float("inf")
        if self.racing is not None:
            threshold = self.racing.threshold(alpha)
        elif alpha is not None and not 0 <= alpha < 1:
            raise BadParameter(f"alpha must be from 0 to below 1, it is {alpha}")
        chosen = np.ones(len(self.classes), bool)
        if classes is not None:
            unknown = sorted(set(classes) - set(self.classes))
            if unknown or not classes:
                raise BadParameter(f"classes {unknown or 'is empty'}: choose from {', '.join(self.classes)}")
            chosen = np.array([name in classes for name in self.classes])
        usual = alpha is None or (self.racing is not None and alpha == self.racing.default_alpha)
        measured = self.calibrated is None or spent in self.calibrated
        calibrated = bool(usual and measured and chosen.all())
        return RaceTerms(spent, chosen, self.racing, threshold, self.augmentation, self.all_classes, calibrated)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ScoringConfig:
        """Build from the parsed file, in which what was fitted stands in one list per quantity.

        Raises
        ------
        CytoserveError
            A key is missing or the numbers contradict each other.
        """
        try:
            probes = int(data["probes"])
            columns = (
                [float(t) for t in data["temperature"]],
                [None if t is None else float(t) for t in data["accept_threshold"]],
                _column(data.get("anomaly_profile"), probes, ScoreProfile.from_json),
                _column(data.get("anomaly_reference"), probes, _reference),
                _column(data.get("conformal_reference"), probes, _reference),
            )
            config = cls(
                classes=tuple(data["classes"]),
                latent_shape=tuple(data["latent_shape"]),
                budgets=tuple(BudgetSettings(*fitted) for fitted in zip(*columns, strict=False)),
                default_budget=int(data["default_budget"]),
                ambiguous_from=float(data.get("ambiguous_from", cls.ambiguous_from)),
                tie_statistic=float(data.get("tie_statistic", cls.tie_statistic)),
                anomaly_level=float(data.get("anomaly_level", cls.anomaly_level)),
                calibrated=None if data.get("calibrated") is None else tuple(int(b) for b in data["calibrated"]),
                racing=RacingRule.from_json(data["elimination"]) if data.get("elimination") else None,
                augmentation=TieAugmentation.from_json(data["second_look"]) if data.get("second_look") else None,
                all_classes=bool(data.get("all_classes", False)),
                familiar=FamiliarPictures.from_json(data["familiar"]) if data.get("familiar") else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CytoserveError(f"scoring.json is not usable ({error!r}); export the model again") from error
        if any(len(column) != probes for column in columns) or not 1 <= config.default_budget <= probes:
            raise CytoserveError(
                "scoring.json: temperature, accept_threshold, profiles and references need one entry for each of "
                f"{probes} budgets, and default_budget must be one of them; export the model again"
            )
        return config


def _column(values: list[Any] | None, probes: int, read: Callable[[Any], T]) -> Sequence[T | None]:
    """Return one entry per budget of a list of the file; a file may leave out the list, or one budget's entry."""
    return [None] * probes if values is None else [None if value is None else read(value) for value in values]


def _reference(budget: dict[str, list[float]]) -> Reference:
    return {name: tuple(sorted(values)) for name, values in budget.items()}
