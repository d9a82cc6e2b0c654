"""Request parameters of the ensembles and the scorer, declared once."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeGuard


@dataclass(frozen=True)
class ParameterSpec:
    """One request parameter."""

    name: str
    kind: Literal["integer", "number", "names", "name"]
    """A number may be sent as a number or as its ASCII text; names are joined by commas; a name is one line of text."""
    meaning: str
    low: float = 0
    high: float = 0
    """Range, both ends included; of a name's characters."""
    default: str = ""
    """What rules where it is not sent."""

    def is_name(self, value: Any) -> TypeGuard[str]:
        """Return whether a value is a name that may be sent: a text of so many printable characters."""
        return isinstance(value, str) and self.low <= len(value) <= self.high and value.isprintable()


HOME_SITE: Final = "home"
"""The site of the model's own calibration: the one that its validation cells came from."""

MAX_SITE_NAME: Final = 100


def folded_site(name: str) -> str:
    """Return a site's name without what people do not tell apart: capitals, blanks, how a letter is composed."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


MAX_DEADLINE_MS: Final = 24 * 60 * 60 * 1000

PARAMETERS: Final[dict[str, ParameterSpec]] = {
    spec.name: spec
    for spec in (
        ParameterSpec(
            "budget", "integer", "most noise samples (probes) of a cell", 1, 1_000_000, "`default_budget` of the model"
        ),
        ParameterSpec(
            "alpha",
            "number",
            "share of cells whose answer may differ from that of the whole budget; 0 spends it all, and 1 is refused",
            0.0,
            1.0,
            "`default_alpha` of the model",
        ),
        ParameterSpec("classes", "names", "only these classes may win", default="all"),
        ParameterSpec(
            "site",
            "name",
            "whose calibration decides; `service_info` lists the sites, and any other is refused",
            1,
            MAX_SITE_NAME,
            f"`{HOME_SITE}`, the model's own calibration",
        ),
        ParameterSpec(
            "stat",
            "integer",
            "1: let in where routine requests are refused; send Triton's `priority` 1 too, which no model sees, and "
            "single cells to `stat_cell_analysis`, which has instances of its own",
            0,
            1,
            "0, routine",
        ),
        ParameterSpec(
            "deadline_ms",
            "integer",
            "milliseconds left; 0 or less is over on arrival",
            -MAX_DEADLINE_MS,
            MAX_DEADLINE_MS,
            "no deadline",
        ),
    )
}
"""Every parameter of ours by name."""

PRIORITY: Final = "priority"
"""Triton's own request parameter, an unsigned integer; ensembles hand it on to their steps."""

PRIORITY_LEVELS: Final = 2
"""A request of priority 1 (stat) is taken before one of 2 (routine, the default)."""
