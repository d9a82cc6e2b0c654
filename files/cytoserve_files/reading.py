"""Read what the user named, if it is a file: a named pipe or a terminal would keep a program waiting for ever.

The file is opened without waiting and checked afterwards, through the descriptor: nothing can be put in its place
between the check and the reading.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO, Final

from cytoserve_files.errors import NotRegularFile
from cytoserve_files.names import shown

_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)  # Windows would translate line ends

KINDS: Final = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of(mode: int) -> str:
    """Return what a file mode stands for, in words."""
    return next((name for test, name in KINDS if test(mode)), "a file")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading, at its beginning.

    Raises
    ------
    NotRegularFile
        It is a named pipe, a device, a socket or a folder; nothing was read and nothing was waited for.
    OSError
        It is not there, or may not be read.
    """
    try:
        number = os.open(path, _FLAGS | _BINARY)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise _refusal(path, os.stat(path).st_mode) from error
        raise
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode):
            raise _refusal(path, mode)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def _refusal(path: str | os.PathLike[str], mode: int) -> NotRegularFile:
    kind = kind_of(mode)
    return NotRegularFile(f"{shown(path)} is {kind}, not a file; give a file (save the data to one first)", kind)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    NotRegularFile, OSError
        See `open_regular`.
    """
    with open_regular(path) as file:
        return file.read()


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8") -> str:
    """Return the text of a regular file, line ends as ``\\n``.

    Raises
    ------
    NotRegularFile, OSError
        See `open_regular`.
    UnicodeDecodeError
        It is not of that encoding.
    """
    text = read_bytes(path).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")
