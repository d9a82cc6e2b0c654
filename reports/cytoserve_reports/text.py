"""Text from outside, made safe to show."""

from __future__ import annotations

from rich.text import Text


def plain(text: object, style: str = "") -> Text:
    """Return text for the terminal: no markup is read in it, and control characters (ANSI codes too) show as '?'."""
    return Text("".join(ch if ch.isprintable() else "?" for ch in str(text)), style=style)
