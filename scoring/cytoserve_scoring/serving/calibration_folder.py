"""Which files of the calibration folder count, and whether they may be trusted to be the operator's.

Every ``*.json`` is a site's calibration; anything else (signatures, notes, ``lost+found``, backups such as
``north.json.bak``, hidden files) is passed over. One file that must not be used stops the start: a site that is
missing without a word would be worse. A mounted ConfigMap (``north.json -> ..data/north.json -> ..2026_11_26/...``,
a folder that everybody may write to on a mount that nobody may) is a folder like any other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cytoserve_files import FileProblem, open_regular, shown

from cytoserve_scoring.serving.site import CALIBRATION_ENV, MAX_FILE_BYTES, CalibrationRefused

MAX_SITES: Final = 100
"""Most sites of one server besides its own: each is a row of `service_info` and dozens of series of metrics."""

SUFFIX: Final = ".json"


def find(folder: str | Path) -> list[Path]:
    """Return the calibrations of a folder, sorted by name.

    Raises
    ------
    CalibrationRefused
        There is no such folder, anybody may write to it, it holds more than `MAX_SITES` calibrations, or a name ends
        like ``.JSON``.
    """
    path = Path(folder)
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        kind = "is no folder" if isinstance(error, (FileNotFoundError, NotADirectoryError)) else "cannot be read"
        raise CalibrationRefused(
            f"{CALIBRATION_ENV} names {shown(path)}, which {kind} ({type(error).__name__}); create it, let the server "
            "read it, or unset the variable"
        ) from error
    _refuse_open_folder(path)
    found = [path / name for name in names if not name.startswith(".") and name.lower().endswith(SUFFIX)]
    misnamed = [file for file in found if file.suffix != SUFFIX]
    if misnamed:
        raise CalibrationRefused(f"{_named(misnamed[0])} would be passed over for its ending; rename it to {SUFFIX}")
    if len(found) > MAX_SITES:
        raise CalibrationRefused(
            f"{shown(path)} holds {len(found)} calibrations, and one server takes {MAX_SITES}; keep those that it is "
            "to serve, or start another server for the others"
        )
    return found


def read_safely(file: Path) -> bytes:
    """Return the content of a file that `find` found.

    Raises
    ------
    CalibrationRefused
        A link that leads out of the folder or nowhere, not a file, one that anybody may write to (or that lies in such
        a folder), larger than `MAX_FILE_BYTES`, or not readable.
    """
    name = _named(file)
    try:
        folder, target = file.parent.resolve(strict=True), file.resolve(strict=True)
        if not target.is_relative_to(folder):
            raise CalibrationRefused(
                f"{name} is a link out of the folder of calibrations; copy the file into the folder instead"
            )
        for between in _folders_between(target, folder):
            _refuse_open_folder(between)
        with open_regular(target) as opened:
            state = os.fstat(opened.fileno())
            if state.st_mode & stat.S_IWOTH:
                raise CalibrationRefused(f"{name} may be written to by everybody; `chmod o-w` it (ConfigMap: 0644)")
            return opened.read(MAX_FILE_BYTES + 1)
    except FileProblem as error:
        raise CalibrationRefused(f"{name}: {error}") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise CalibrationRefused(
            f"{name} cannot be read ({type(error).__name__}); let the server read it, or take it out of the folder"
        ) from error


def _named(file: Path) -> str:
    return shown(file.name)


def _folders_between(target: Path, folder: Path) -> Iterator[Path]:
    """Yield the folders inside the folder of calibrations that a file lies in."""
    for parent in target.parents:
        if parent == folder:
            return
        yield parent


def _refuse_open_folder(folder: Path) -> None:
    """Refuse a folder whose files anybody may exchange: neither sticky nor on a mount that is read-only."""
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise CalibrationRefused(
            f"the folder of calibrations {shown(folder)} may be written to by everybody; `chmod o-w` it, or mount it "
            "read-only"
        )
