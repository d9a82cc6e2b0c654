"""What a caller may choose per call, checked at the border: time, effort, classes, urgency, site, sample."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, TypedDict, get_args

from cytoserve_contract.parameters import HOME_SITE, MAX_SITE_NAME

from cytoserve_client._config import check_timeout
from cytoserve_client._contract import ServiceInfo
from cytoserve_client._wire import CELL_MODEL, STAT_CELL_MODEL, Parameter
from cytoserve_client.errors import BadParameter

Priority = Literal["routine", "stat"]
"""``stat``: before every ``routine`` request that waits in the same queue. What runs already is not interrupted, but
single cells have a lane that no routine request enters."""

PRIORITY_LEVELS: Final[dict[Priority, int]] = {"routine": 0, "stat": 1}
"""Triton's numbers: 0 is the model's own default, 1 the most urgent. A model without levels serves all alike."""


class Arguments(TypedDict):
    """Keyword arguments of a call; see `Options`."""

    budget: int | None
    alpha: float | None
    classes: tuple[str, ...] | None
    priority: Priority
    site: str | None


@dataclass(frozen=True)
class Options:
    """Per-call choices, checked; see `Client.analyze`."""

    timeout: float  # seconds per request, retries included
    budget: int | None = None
    alpha: float | None = None
    classes: tuple[str, ...] | None = None
    priority: Priority = "routine"
    site: str | None = None
    one_sample: bool = True  # whether the images of the call are judged together

    @classmethod
    def of(
        cls,
        timeout: float | None,
        default_timeout: float,
        budget: int | None = None,
        alpha: float | None = None,
        classes: Collection[str] | None = None,
        priority: str = "routine",
        site: str | None = None,
        one_sample: bool = True,
    ) -> Options:
        """Return checked options; ``None`` as timeout means the client's.

        Raises
        ------
        ConfigurationError
            For a timeout that is not finite and positive.
        BadParameter
            For any other value out of its range; `check_served` compares classes, budget and site with what is served.
        """
        return cls(
            timeout=check_timeout(default_timeout if timeout is None else timeout),
            budget=_budget(budget),
            alpha=_alpha(alpha),
            classes=_classes(classes),
            priority=_priority(priority),
            site=_site(site),
            one_sample=_one_sample(one_sample),
        )

    @property
    def arguments(self) -> Arguments:
        """The choices as keyword arguments of `Client.analyze` and `Client.classify`.

        Left out: the timeout, and what makes a sample, which is a matter of the images and not of the request.
        """
        return {
            "budget": self.budget,
            "alpha": self.alpha,
            "classes": self.classes,
            "priority": self.priority,
            "site": self.site,
        }

    @property
    def cell_model(self) -> str:
        """The ensemble that single cells are sent to: each lane has its own."""
        return STAT_CELL_MODEL if self.priority == "stat" else CELL_MODEL

    @property
    def site_name(self) -> str:
        """The site whose calibration decides."""
        return HOME_SITE if self.site is None else self.site

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The request parameters of docs/contract.md; what was not chosen is not sent."""
        classes = None if self.classes is None else ",".join(self.classes)
        stat = 1 if self.priority == "stat" else None  # the models do not see Triton's own priority
        choices = {"budget": self.budget, "alpha": self.alpha, "classes": classes, "site": self.site, "stat": stat}
        return {name: value for name, value in choices.items() if value is not None}

    def check_served(self, info: ServiceInfo) -> None:
        """Refuse what the served model cannot do; here, because the scorer would refuse it only after segmentation.

        Raises
        ------
        BadParameter
            For classes that the model does not have, or a site without a calibration on the server (the message lists
            those there are), or a budget above the model's probes.
        """
        unknown = sorted(set(self.classes or ()) - set(info.classes))
        if unknown:
            raise BadParameter(f"the model has no class {', '.join(unknown)}; choose from {', '.join(info.classes)}")
        if self.budget is not None and info.probes is not None and self.budget > info.probes:
            raise BadParameter(f"budget {self.budget} is above the {info.probes} probes that the served model has")
        if self.site_name not in info.site_names:
            raise BadParameter(f"the server has no site {self.site!r}; {_choose_from(info)}")


def _choose_from(info: ServiceInfo) -> str:
    if not info.sites:
        return f"it declares no sites, so only '{HOME_SITE}', the model's own calibration, can be named"
    return f"choose from {', '.join(info.site_names)}"


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


def _site(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise BadParameter(f"site must be the name of a site (`cytoserve info` lists them), not {value!r}")
    if len(value) > MAX_SITE_NAME:
        raise BadParameter(f"site has {len(value)} characters; a name of a site has {MAX_SITE_NAME} at most")
    if not value.isprintable():
        raise BadParameter(f"site must be printable, without control characters, not {value!r}")
    return value


def _one_sample(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise BadParameter(f"one_sample must be True (the images are one sample) or False, not {value!r}")
