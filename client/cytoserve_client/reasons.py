"""Why a person should look at a cell: the reasons that this release knows, and what each says in plain words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cytoserve_contract.reasons import Reason as Reason

UNKNOWN: Final = "a reason that this release of the client does not know"


def in_words(reason: str) -> str:
    """Return a reason as short words, such as ``low confidence``."""
    return reason.replace("_", " ")


def explained(reasons: Iterable[str]) -> dict[str, str]:
    """Return the sentence for each reason that occurs: the known ones in their order, then the others by name.

    >>> explained(["near_tie", "from_the_future", "near_tie"])["from_the_future"] == UNKNOWN
    True
    """
    found = set(reasons)
    known = {reason.value: reason.explanation for reason in Reason if reason.value in found}
    return known | {name: UNKNOWN for name in sorted(found - known.keys())}
