"""The page's texts in each language: one JSON table a language, all with the same keys."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Final

from cytoserve_reports.page.errors import UnknownLanguage

LANGUAGES: Final = ("en", "de", "fr")
"""Languages with a table in ``texts/``; the first is the default."""

MOST_SHOWN: Final = 120
"""Characters of a name from outside that the page shows."""


class PageTexts:
    """The texts of one language.

    Parameters
    ----------
    language : str
        One of `LANGUAGES`.

    Raises
    ------
    UnknownLanguage
    """

    def __init__(self, language: str = LANGUAGES[0]) -> None:
        if language not in LANGUAGES:
            raise UnknownLanguage(f"no texts in {language!r}; the languages are {', '.join(LANGUAGES)}")
        self.language = language
        self._table = table(language)

    def __call__(self, key: str, **values: object) -> str:
        """Return the text of a key with its places filled; `KeyError` for a key that is in no table."""
        return self._table[key].format(**values)

    def of_prefix(self, prefix: str) -> dict[str, str]:
        """Return the texts whose key begins so, without the beginning and with their places open."""
        return {key.removeprefix(prefix): text for key, text in self._table.items() if key.startswith(prefix)}

    def number(self, value: float, digits: int = 1) -> str:
        """Return a number with the language's decimal sign."""
        return f"{value:.{digits}f}".replace(".", self._table["number.decimal"])

    def percent(self, share: float) -> str:
        """Return a share in percent without needless digits, such as ``1 %``."""
        return f"{100 * share:.4g} %".replace(".", self._table["number.decimal"])

    def class_name(self, name: str) -> str:
        """Return a class in this language; one that no table knows as words."""
        return self._table.get(f"class.{name}") or visible(name.replace("_", " "))

    def reason(self, name: str) -> str:
        """Return a reason in short words; one that no table knows by its name."""
        return self._table.get(f"reason.{name}") or visible(name.replace("_", " "))

    def reason_explained(self, name: str) -> str:
        """Return a reason as a sentence."""
        return self._table.get(f"reason.{name}.explained") or self._table["reason.unknown.explained"]

    def cause(self, cause: str) -> str:
        """Return what differs from the calibration, in short words, for a cause such as ``nucleus_red+``."""
        known = self._table.get(f"cause.{cause}")
        side = "+" if cause.endswith("+") else "-"
        return known or self(f"cause.unknown{side}", name=visible(cause[:-1].replace("_", " ")))


@cache
def table(language: str) -> dict[str, str]:
    """Return the table of a language as it is in the package."""
    file = resources.files("cytoserve_reports.page") / "texts" / f"{language}.json"
    texts: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return texts


def visible(text: str, most: int = MOST_SHOWN) -> str:
    r"""Return text from outside as it may be shown: control and direction marks as escapes, not too long.

    Markup is left as it is: the template escapes it.

    >>> visible("ward\u202e7"), visible("x" * 10_000, most=4)
    ('ward\\u202e7', 'xxxx… (10000)')
    """
    head = "".join(ch if ch.isprintable() else _escaped(ch) for ch in text[:most])
    return head if len(text) <= most else f"{head}… ({len(text)})"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
