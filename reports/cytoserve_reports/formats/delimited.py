"""Lines of fields parted by ``|`` and components parted by ``^``: what HL7 v2 and LIS2 have in common.

Each has delimiters of its own beside these, and its own way to escape them all.
"""

from __future__ import annotations

from collections.abc import Callable

Value = str | int | float | tuple[str, ...] | None
"""A field: text to be escaped, a number, or components."""


def delimited(escaped: Callable[[str], str], name: str, *fields: Value) -> str:
    """Return a line: its name and its fields, empty ones at the end left out.

    Parameters
    ----------
    escaped : callable
        Text -> text as a field may hold it.
    """
    return "|".join([name, *(_field(escaped, value) for value in fields)]).rstrip("|")


def _field(escaped: Callable[[str], str], value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "^".join(map(escaped, value)).rstrip("^")
    return escaped(value) if isinstance(value, str) else f"{value:g}"
