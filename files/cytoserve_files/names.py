r"""Names of files as text that every encoding and document takes, and back.

A POSIX file name is bytes. Python holds bytes that are not text as lone surrogates, which neither UTF-8 nor JSON may
carry. Here they become ``\xNN``, one escape per byte; a name in which such an escape could be misread has its
backslashes doubled. So ``path_of(shown(path))`` is the path again, whatever its bytes; usual names stay as they are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPE: Final = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")
_FIRST_BYTE: Final = 0xDC00
"""``surrogateescape`` (PEP 383) holds the byte 0xNN as U+DCNN."""


def shown(path: str | os.PathLike[str]) -> str:
    r"""Return a path as text without lone surrogates.

    Examples
    --------
    >>> shown("cells/a.png"), shown("caf\udce9.png"), shown("a\\xe9.png")
    ('cells/a.png', 'caf\\xe9.png', 'a\\\\xe9.png')
    """
    text = os.fspath(path)
    if _SURROGATE.search(text) is None and _ESCAPE.search(text) is None:
        return text
    return writable_text(text.replace("\\", "\\\\"))


def path_of(name: str) -> Path:
    r"""Return the path that `shown` gave the name of.

    Examples
    --------
    >>> path_of("caf\\xe9.png").name == "caf\udce9.png"
    True
    """
    return Path(_ESCAPE.sub(_unescaped, name))


def writable_text(text: str) -> str:
    r"""Return text with lone surrogates as escapes (``\xNN`` for a byte, ``\uNNNN`` else); for what is no path."""
    return _SURROGATE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code - _FIRST_BYTE:02x}" if 0x80 <= code - _FIRST_BYTE <= 0xFF else f"\\u{code:04x}"


def _unescaped(found: re.Match[str]) -> str:
    escape = found.group(1)
    if escape == "\\":
        return "\\"
    return chr(int(escape[1:], 16) + (_FIRST_BYTE if escape[0] == "x" else 0))
