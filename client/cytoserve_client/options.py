"""What a caller may choose per call, checked at the border: time, effort, classes, urgency."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, TypedDict, get_args

from cytoserve_client._config import check_timeout
from cytoserve_client._contract import ServiceInfo
from cytoserve_client._wire import Parameter
from cytoserve_client.errors import BadParameter

Priority = Literal["routine", "stat"]
"""``stat``: before every ``routine`` request that waits in the same queue. What runs already is not interrupted."""

PRIORITY_LEVELS: Final[dict[Priority, int]] = {"routine": 0, "stat": 1}
"""Triton's numbers: 0 is the model's own default, 1 the most urgent. A model without levels serves all alike."""


class Arguments(TypedDict):
    """Keyword arguments of a call; see `Options`."""

    budget: int | None
    alpha: float | None
    classes: tuple[str, ...] | None
    priority: Priority


@dataclass(frozen=True)
class Options:
    """Per-call choices, checked; see `Client.analyze`."""

    timeout: float  # seconds per request, retries included
    budget: int | None = None
    alpha: float | None = None
    classes: tuple[str, ...] | None = None
    priority: Priority = "routine"

    @classmethod
    def of(
        cls,
        timeout: float | None,
        default_timeout: float,
        budget: int | None = None,
        alpha: float | None = None,
        classes: Collection[str] | None = None,
        priority: str = "routine",
    ) -> Options:
        """Return checked options; ``None`` as timeout means the client's.

        Raises
        ------
        ConfigurationError
            For a timeout that is not finite and positive.
        BadParameter
            For any other value out of its range; `check_served` compares classes and budget with the served model.
        """
        return cls(
            timeout=check_timeout(default_timeout if timeout is None else timeout),
            budget=_budget(budget),
            alpha=_alpha(alpha),
            classes=_classes(classes),
            priority=_priority(priority),
        )

    @property
    def arguments(self) -> Arguments:
        """The choices as keyword arguments of `Client.analyze` and `Client.classify`, the timeout left out."""
        return {"budget": self.budget, "alpha": self.alpha, "classes": self.classes, "priority": self.priority}

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The request parameters of docs/contract.md; what was not chosen is not sent."""
        classes = None if self.classes is None else ",".join(self.classes)
        choices = {"budget": self.budget, "alpha": self.alpha, "classes": classes}
        return {name: value for name, value in choices.items() if value is not None}

    def check_served(self, info: ServiceInfo) -> None:
        """Refuse what the served model cannot do; here, because the scorer would refuse it only after segmentation.

        Raises
        ------
        BadParameter
            For classes that the model does not have (the message lists those it has), or a budget above its probes.
        """
        unknown = sorted(set(self.classes or ()) - set(info.classes))
        if unknown:
            raise BadParameter(f"the model has no class {', '.join(unknown)}; choose from {', '.join(info.classes)}")
        if self.budget is not None and info.probes is not None and self.budget > info.probes:
            raise BadParameter(f"budget {self.budget} is above the {info.probes} probes that the served model has")


def _budget(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise BadParameter(f"budget must be a whole number of probes, 1 or more, not {value!r}")


def _alpha(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise BadParameter(f"alpha must be a number from 0 (no class leaves early) to below 1, not {value!r}")


def _classes(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
        raise BadParameter(f"classes must be a list of class names, not {value!r}; for one class give a list of one")
    names = tuple(dict.fromkeys(value))  # naming a class twice means nothing more
    if not names:
        raise BadParameter("classes is empty, so no class could win; name one at least, or leave it out for all")
    if not all(isinstance(name, str) and name for name in names):
        raise BadParameter(f"classes must hold names only, not {list(value)!r}")
    return names


def _priority(value: object) -> Priority:
    for known in get_args(Priority):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise BadParameter(f"priority must be one of {', '.join(get_args(Priority))}, not {value!r}")
