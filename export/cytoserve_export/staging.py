"""Files of a repository are made in a folder on the target's disk and moved in together: all of them or none."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from cytoserve_contract.manifest import NAME as MANIFEST
from cytoserve_files import NotWritable, check_output_folder, write_text
from cytoserve_files import install as install_file

from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.errors import NoSpace, TargetError
from cytoserve_export.specs import SPECS

RESERVE_BYTES: Final = 64 * 2**20
"""Free space kept beside what the graphs are estimated to need."""


def target_folder(given: Path) -> Path:
    """Return the folder to write into, links followed, checked to be writable.

    Raises
    ------
    TargetError
    """
    try:
        check_output_folder(given)
    except NotWritable as error:
        raise TargetError(str(error)) from error
    return Path(os.path.realpath(given))


def require_space(target: Path, names: Sequence[str], checkpoint: Checkpoint) -> None:
    """Refuse early when the disk beside ``target`` cannot hold the graphs.

    Raises
    ------
    NoSpace
    """
    parts = [part for name in names for part in SPECS[name].parts]
    # Half-precision weights become single-precision ones where they are too many for one file.
    widest = 2 if checkpoint.is_heavy else 1
    need = RESERVE_BYTES + widest * sum(
        path.stat().st_size for part in parts for path in (checkpoint.folder / part).glob("*.safetensors")
    )
    there = next(folder for folder in (target, *target.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < need:
        raise NoSpace(
            f"{there} has {free / 2**20:.0f} MiB free, the export needs about {need / 2**20:.0f} MiB; "
            "free some, or give --to on another disk"
        )


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, indented, as every file of a repository is."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """Make a folder on the target's disk for the time of the context."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.export-", dir=target.parent))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn an `OSError` of writing below `target` into an error of the tree.

    Raises
    ------
    NoSpace, TargetError
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk of {target} is full; free some space and export again") from error
        raise TargetError(f"{target} could not be written: {error}") from error


def install(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Move the files of every (staged, target) pair into place: all of them or none.

    A new repository is one rename. Into an existing one files are renamed one by one, the manifest last, signals held
    back meanwhile; if one rename fails, everything is put back. Should the machine stop in between, the old manifest
    does not fit the new files, and :func:`cytoserve_export.verification.verify` says so.
    """
    with _signals_held():
        undo: list[Callable[[], object]] = []
        try:
            for staged, target in pairs:
                if not target.exists():
                    os.replace(staged, target)
                    undo.append(partial(os.replace, target, staged))
                else:
                    _lay_over(staged, target, undo)
        except BaseException:
            for step in reversed(undo):
                step()
            raise


def _lay_over(staged: Path, target: Path, undo: list[Callable[[], object]]) -> None:
    files = sorted(path.relative_to(staged) for path in staged.rglob("*") if path.is_file())
    files.sort(key=lambda path: path.name == MANIFEST)
    for path in files:
        backup = staged.with_suffix(".before") / path
        _keep(target / path, backup)
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        install_file(staged / path, target / path)
        undo.append(partial(_put_back, backup, target / path))


def _keep(path: Path, backup: Path) -> None:
    if path.exists():
        backup.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, backup)


def _put_back(backup: Path, path: Path) -> None:
    if backup.exists():
        install_file(backup, path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _signals_held() -> Iterator[None]:
    held = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
