"""Add one line to the end of a file that others may add to as well: whole, in order, on the disk before it returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from cytoserve_files.errors import NotWritable
from cytoserve_files.names import shown
from cytoserve_files.reading import open_regular
from cytoserve_files.writing import explained, is_regular_or_new, write_all

_BLOCK: Final = 1 << 16


def append_line(path: str | os.PathLike[str], line: Callable[[bytes | None], bytes]) -> None:
    """Append a line, made of the last one, while no other process that appends so can come between.

    Parameters
    ----------
    path : path
        A regular file; a new one, and its folders, are made.
    line : callable
        Gets the last line without its line feed, None of an empty file, and returns the new one, without line feeds.

    Raises
    ------
    NotWritable
        No regular file, not writable, its last line is not whole, or the disk is full; then what was there is there.
    """
    with explained(path):
        if not is_regular_or_new(path):
            raise NotWritable(f"cannot append to {shown(path)}: it is no file; give the name of a file")
        os.makedirs(os.path.dirname(os.path.realpath(path)), exist_ok=True)
        with _locked(path) as file:
            size = file.seek(0, os.SEEK_END)
            data = line(_last_line(file, path)) + b"\n"
            try:
                write_all(file.fileno(), data)
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise


def last_line(path: str | os.PathLike[str]) -> bytes | None:
    """Return the last line of a regular file without its line feed; None where the file is empty or not there.

    Raises
    ------
    NotWritable
        The line is not whole: it lacks its line feed.
    NotRegularFile, OSError
        See `open_regular`.
    """
    try:
        with open_regular(path) as file:
            return _last_line(file, path)
    except FileNotFoundError:
        return None


@contextmanager
def _locked(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open for reading and appending, alone among all that open so (an advisory lock, which ends with the file)."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(number, "r+b", buffering=0) as file:
        try:
            import fcntl
        except ModuleNotFoundError:  # Windows: no such lock; two that append at once are seen when the chain is checked
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _last_line(file: BinaryIO, path: str | os.PathLike[str]) -> bytes | None:
    end = file.seek(0, os.SEEK_END)
    if not end:
        return None
    tail = b""
    while end and tail[:-1].count(b"\n") == 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    if not tail.endswith(b"\n"):
        raise NotWritable(
            f"cannot append to {shown(path)}: its last line is not whole, as after a crash while it was written; look "
            f"at that line, keep a copy of the file, and begin a new one"
        )
    return tail[:-1].rpartition(b"\n")[2]
