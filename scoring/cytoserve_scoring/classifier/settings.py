"""What the scorer knows about its model: ``scoring.json`` as one frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cytoserve_scoring.classifier.augmentation import SecondLook
from cytoserve_scoring.classifier.racing import Elimination
from cytoserve_scoring.classifier.score_profile import Profile
from cytoserve_scoring.errors import CytoserveError


@dataclass(frozen=True)
class ScoringConfig:
    """What the scorer knows about its model, read from ``scoring.json``.

    Attributes
    ----------
    classes : tuple of str
    latent_shape : (c, h, w)
    probes : int
        Probes in the bank; a budget of ``b`` uses the first ``b``.
    default_budget : int
        Probes per class when the caller names none.
    temperature : tuple of float
        Softmax temperature for each budget from 1 to ``probes``, in units of the error.
    accept_threshold : tuple of (float or None)
        For each budget, the least top posterior that is accepted; None accepts nothing.
    ambiguous_from : float
        A second posterior at or above this adds the reason ``ambiguous``.
    tie_statistic : float
        A paired t statistic between the best two classes below this adds ``near_tie``.
    anomaly_level : float
        A p-value below this adds ``anomalous``.
    anomaly_profile : tuple of (Profile or None), or None
        For each budget, the ordinary patterns against which a cell is strange.
    anomaly_reference : tuple of dict, or None
        For each budget, sorted distances to the profile of calibration cells, by the class they were answered with.
    conformal_reference : tuple of dict, or None
        For each budget, sorted nonconformities of validation cells under their true class, by class name.
    elimination : Elimination, or None
        When classes leave; None spends the whole budget on every class.
    calibrated : tuple of int, or None
        Budgets that the calibration in force measured; None means all.
    second_look : SecondLook, or None
        When a near tie is looked at again, turned; None never.
    """

    classes: tuple[str, ...]
    latent_shape: tuple[int, int, int]
    probes: int
    default_budget: int
    temperature: tuple[float, ...]
    accept_threshold: tuple[float | None, ...]
    ambiguous_from: float = 0.2
    tie_statistic: float = 2.0
    anomaly_level: float = 0.05
    anomaly_profile: tuple[Profile | None, ...] | None = None
    anomaly_reference: tuple[dict[str, tuple[float, ...]], ...] | None = None
    conformal_reference: tuple[dict[str, tuple[float, ...]], ...] | None = None
    elimination: Elimination | None = None
    calibrated: tuple[int, ...] | None = None
    second_look: SecondLook | None = None

    @property
    def usual_spread(self) -> float | None:
        """Usual spread of a lag over probes, as the elimination knows it; None where there is none."""
        return None if self.elimination is None else self.elimination.spread

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ScoringConfig:
        """Build from the parsed file.

        Raises
        ------
        CytoserveError
            A key is missing or the numbers contradict each other.
        """
        try:
            probes = int(data["probes"])
            config = cls(
                classes=tuple(data["classes"]),
                latent_shape=tuple(data["latent_shape"]),
                probes=probes,
                default_budget=int(data["default_budget"]),
                temperature=tuple(float(t) for t in data["temperature"]),
                accept_threshold=tuple(None if t is None else float(t) for t in data["accept_threshold"]),
                ambiguous_from=float(data.get("ambiguous_from", 0.2)),
                tie_statistic=float(data.get("tie_statistic", 2.0)),
                anomaly_level=float(data.get("anomaly_level", cls.anomaly_level)),
                anomaly_profile=_profiles(data.get("anomaly_profile")),
                anomaly_reference=_reference(data.get("anomaly_reference")),
                conformal_reference=_reference(data.get("conformal_reference")),
                calibrated=None if data.get("calibrated") is None else tuple(int(b) for b in data["calibrated"]),
                elimination=Elimination.from_json(data["elimination"]) if data.get("elimination") else None,
                second_look=SecondLook.from_json(data["second_look"]) if data.get("second_look") else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CytoserveError(f"scoring.json is not usable ({error!r}); export the model again") from error
        references = (config.anomaly_profile, config.anomaly_reference, config.conformal_reference)
        per_budget = [config.temperature, config.accept_threshold, *(r for r in references if r is not None)]
        if any(len(values) != probes for values in per_budget) or not 1 <= config.default_budget <= probes:
            raise CytoserveError(
                "scoring.json: temperature, accept_threshold, profiles and references need one entry for each of "
                f"{probes} budgets, and default_budget must be one of them; export the model again"
            )
        return config


def _profiles(data: list[dict[str, Any] | None] | None) -> tuple[Profile | None, ...] | None:
    if data is None:
        return None
    return tuple(None if budget is None else Profile.from_json(budget) for budget in data)


def _reference(data: list[dict[str, list[float]]] | None) -> tuple[dict[str, tuple[float, ...]], ...] | None:
    if data is None:
        return None
    return tuple({name: tuple(sorted(values)) for name, values in budget.items()} for budget in data)
