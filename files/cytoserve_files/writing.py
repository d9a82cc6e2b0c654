"""Write where the user pointed, and destroy nothing on the way.

- A new name or a regular file: written aside in the same folder and renamed, so that a reader sees the old content or
  the whole new one. Rights (and, for root, the owner) of a file that was there are kept.
- A symbolic link is followed; a dangling one gets its target made.
- A device, a named pipe, a descriptor (``/dev/fd/N``, ``/dev/stdout``, a shell's ``>(...)``): written through, never
  replaced.
- A regular file that must not be renamed over (a bind mount, a folder without write permission, another user's file):
  written in place; if that fails half-way, its old content is put back.
- A second name of the file (a hard link, as backups make them) keeps the old content.
- Missing folders are made.

`check_output` finds before the work what would fail after it. Python's ``open(path, "w")`` has no place in this
repository where the path is the user's.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import select
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from cytoserve_files.errors import FileProblem, NotWritable
from cytoserve_files.names import shown
from cytoserve_files.reading import kind_of

READER_WAIT_S: Final = 10.0
"""Seconds that a named pipe is given to get a reader; opening it would wait for ever."""

STALL_S: Final = 60.0
"""Seconds that a reader of a pipe may take nothing before writing is given up."""

_DESCRIPTOR: Final = re.compile(r"/proc/(?:\d+|self|thread-self)(?:/task/\d+)?/fd")
_MOST_LINKS: Final = 40  # as the kernel counts them
_NO_RENAME: Final = frozenset({errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS})


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file by the rules at the top of this module.

    Raises
    ------
    NotWritable
        Nothing half-written is left, and no file beside it.
    """
    with output_file(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def output_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a binary file to fill; when the block ends without an error it stands at ``path``.

    Raises
    ------
    NotWritable
        It could not be written; what was there is still there.
    """
    with explained(path):
        target = _target(path)
        if target is None:
            with io.BytesIO() as memory:
                yield memory
                _write_through(path, memoryview(memory.getvalue()))
            return
        _refuse_folder(path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside, file = _beside(target)
        except OSError as error:
            if error.errno not in _NO_RENAME or not target.exists():
                raise
            with io.BytesIO() as memory:
                yield memory
                _write_in_place(target, memory.getvalue())
            return
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _put(aside, target)
        finally:
            aside.unlink(missing_ok=True)


def install(made: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Move a finished regular file to ``path`` by the rules at the top of this module; ``made`` is gone afterwards.

    Raises
    ------
    NotWritable
    """
    with explained(path):
        target = _target(path)
        if target is None:
            _write_through(path, memoryview(Path(made).read_bytes()))
        else:
            _refuse_folder(path, target)
            target.parent.mkdir(parents=True, exist_ok=True)
            _put(Path(made), target)
        Path(made).unlink(missing_ok=True)


def check_output(path: str | os.PathLike[str]) -> None:
    """Find out, before any work, whether a file can be written; nothing is changed.

    Raises
    ------
    NotWritable
        A folder, a socket, write-protected, on a read-only file system, a name too long, or below something that is
        no folder.
    """
    with explained(path):
        target = _target(path)
        if target is None:
            _check_through(path)
            return
        _refuse_folder(path, target)
        if target.exists():
            # Refuses a write-protected file too, which a rename would silently replace.
            os.close(os.open(target, os.O_WRONLY))
            return
        _check_room(target)


def check_output_folder(path: str | os.PathLike[str]) -> None:
    """Find out, before any work, whether files can be written into a folder, which may have to be made.

    Raises
    ------
    NotWritable
    """
    with explained(path):
        folder = Path(os.path.realpath(path))
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"is {kind_of(folder.stat().st_mode)}; give a folder")
        _check_room(folder / "x")


def is_regular_or_new(path: str | os.PathLike[str]) -> bool:
    """Return whether a rename may replace what is at ``path``: a regular file, or nothing yet."""
    try:
        target = _target(path)
    except OSError:
        return False
    return target is not None and not target.is_dir()


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the path and the reason in every error of writing."""
    try:
        yield
    except FileProblem:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        wrong = NotWritable(f"cannot write {shown(path)}: {reason}")
        wrong.errno = error.errno
        raise wrong from error


def _target(path: str | os.PathLike[str]) -> Path | None:
    """Return the regular file, folder or new name that a path leads to; None for what must be written through."""
    if _own_descriptor(path) is not None:
        return None
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return None
    target = Path(os.path.realpath(path))
    # A link of /proc to a file that has no name any more leads to a name that is another's, or nobody's.
    return target if target.exists() and target.samefile(path) else None


def _own_descriptor(path: str | os.PathLike[str]) -> int | None:
    """Return N for ``/dev/fd/N`` and links to it, where N is a descriptor of this process."""
    step = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(step)
        folder = os.path.realpath(folder)
        if _DESCRIPTOR.fullmatch(folder) and name.isdigit():
            mine = folder.split("/")[2] in ("self", "thread-self", str(os.getpid()))
            return int(name) if mine else None
        if not os.path.islink(os.path.join(folder, name)):
            return None
        step = os.path.join(folder, os.readlink(os.path.join(folder, name)))
    return None


def _check_through(path: str | os.PathLike[str]) -> None:
    """See that a device, pipe or descriptor takes anything at all; what opening it would do is left to the writing."""
    number = _own_descriptor(path)
    if number is None:
        allowed = os.access(path, os.W_OK)
    else:
        import fcntl  # not on Windows, which has no such descriptors either

        allowed = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    if not allowed:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _refuse_folder(path: str | os.PathLike[str], target: Path) -> None:
    if target.is_dir():
        raise NotWritable(f"cannot write {shown(path)}: it is a folder; give the name of a file")


def _check_room(target: Path) -> None:
    """See that a file could be made at ``target``, by making one beside it, or where its folder would be made."""
    there = next(folder for folder in target.parents if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{shown(there)} is {kind_of(there.stat().st_mode)}, not a folder")
    aside, file = _beside(there / target.name)
    file.close()
    aside.unlink()


def _beside(target: Path) -> tuple[Path, BinaryIO]:
    """Make a new file in the target's folder, with the rights that any new file gets there."""
    while True:
        # Not the target's own name with something added: that may be too long.
        aside = target.parent / f".cytoserve-{secrets.token_hex(8)}.part"
        try:
            number = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        except FileExistsError:
            continue
        return aside, os.fdopen(number, "w+b")


def _put(made: Path, target: Path) -> None:
    """Rename a whole file to its place, or copy it into the file there where no rename is allowed."""
    try:
        before = os.stat(target)
    except FileNotFoundError:
        before = None
    if before is not None:
        os.close(os.open(target, os.O_WRONLY))  # write-protected: not replaced behind its owner's back
        if not _like(made, before):
            _write_in_place(target, made.read_bytes())
            return
    try:
        os.replace(made, target)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        data = made.read_bytes()
        if before is not None:
            _write_in_place(target, data)
        else:  # another file system
            write_bytes(target, data)


def _like(made: Path, before: os.stat_result) -> bool:
    """Give a new file the rights and the owner of an old one; say whether that was allowed."""
    try:
        if (made.stat().st_uid, made.stat().st_gid) != (before.st_uid, before.st_gid):
            os.chown(made, before.st_uid, before.st_gid)
        os.chmod(made, stat.S_IMODE(before.st_mode))
    except OSError:
        return False
    return True


def _write_in_place(target: Path, data: bytes) -> None:
    """Overwrite a regular file; if that fails, its old content is put back."""
    with open(target, "r+b", buffering=0) as file:
        before = file.read()
        try:
            _overwrite(file.fileno(), data)
        except BaseException:
            with contextlib.suppress(OSError):
                _overwrite(file.fileno(), before)
            raise


def _overwrite(number: int, data: bytes) -> None:
    os.lseek(number, 0, os.SEEK_SET)
    write_all(number, data)
    os.ftruncate(number, len(data))
    os.fsync(number)


def write_all(number: int, data: bytes) -> None:
    """Write all of the data to a descriptor, however little of it one call takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]


def _write_through(path: str | os.PathLike[str], data: memoryview) -> None:
    """Write into what is there: a device, a pipe, an open descriptor."""
    number = _own_descriptor(path)
    for stream in (sys.stdout, sys.stderr):
        # What was printed before comes before.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    handle = os.dup(number) if number is not None else _opened(path)
    try:
        rest = data
        while rest:
            _, ready, _ = select.select([], [handle], [], STALL_S)
            if not ready:
                raise TimeoutError(errno.ETIMEDOUT, f"its reader took nothing for {STALL_S:g} s")
            try:
                # Small pieces: a pipe that select calls ready takes that much without waiting.
                rest = rest[os.write(handle, rest[: select.PIPE_BUF]) :]
            except BlockingIOError:
                continue
    finally:
        os.close(handle)


def _opened(path: str | os.PathLike[str]) -> int:
    """Open a device or a pipe for writing; a pipe that nobody reads is waited for only so long."""
    end = time.monotonic() + READER_WAIT_S
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            mode = os.stat(path).st_mode
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(mode):
                raise OSError(error.errno, f"{error.strerror} (it is {kind_of(mode)})") from error
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, f"nobody reads from this pipe ({READER_WAIT_S:g} s)") from error
            time.sleep(0.05)
