"""Labelled cells on disk: one folder per class, image files in it, and what they are grouped by."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cytoserve_files import FileProblem, read_bytes, read_text, shown
from cytoserve_files import selection as chosen
from cytoserve_files.pictures import SUFFIXES, is_overlay_file
from cytoserve_files.selection import Skipped
from numpy.typing import NDArray

from cytoserve_validation.errors import BadGroups, BadLabelledFolder, NoCells, RepeatedImage, UnknownClass

NAMES_SHOWN = 5
"""Names that an error lists before it says how many more there are."""


@dataclass(frozen=True)
class LabelledCells:
    """The images of a labelled folder."""

    root: Path
    files: tuple[Path, ...]  # sorted by their name relative to root
    truth: tuple[str, ...]  # name of the folder that each file lies in
    ignored: tuple[Skipped, ...] = ()  # files that were not read, by their relative names, with the reason

    def name(self, file: Path) -> str:
        """Return a file's name relative to the folder, with forward slashes, as valid text (`cytoserve_files`)."""
        return shown(file.relative_to(self.root).as_posix())

    @property
    def names(self) -> tuple[str, ...]:
        """Relative names of all files."""
        return tuple(self.name(file) for file in self.files)


def scan(folder: Path) -> LabelledCells:
    """List a labelled folder.

    Raises
    ------
    BadLabelledFolder
        It does not exist, images lie outside the class folders, or class folders hold folders: leaving those out
        would change what is measured.
    NoCells
    """
    if not folder.is_dir():
        raise BadLabelledFolder(f"{folder} is no folder; give one that holds a folder per class")
    top = chosen.list_folder(folder)
    if top.files:
        loose = [shown(file.name) for file in top.files]
        raise BadLabelledFolder(f"{some(loose)} lie(s) directly in {folder}; put each image into its class's folder")
    files, truth = [], []
    ignored = [item for item in top.skipped if item.reason not in _FOLDERS]
    for part in sorted(item for item in folder.iterdir() if item.is_dir() and not chosen.is_system(item.name)):
        found = chosen.list_folder(part)
        nested = [item.source for item in found.skipped if item.reason in _FOLDERS]
        if nested:
            raise BadLabelledFolder(f"{nested[0]} is a folder inside a class folder; put the images directly into it")
        drawn = {file for file in found.files if is_overlay_file(file)}
        kept = [file for file in found.files if file not in drawn]
        files += kept
        truth += [shown(part.name)] * len(kept)
        ignored += [*found.skipped, *(chosen.overlay_skipped(file) for file in sorted(drawn))]
    if not files:
        raise NoCells(f"no image ({', '.join(sorted(SUFFIXES))}) lies in a class folder of {folder}")
    return LabelledCells(folder, tuple(files), tuple(truth), relative(ignored, folder))


_FOLDERS = frozenset({chosen.FOLDER, chosen.FOLDER_WITH_IMAGES})


def relative(skipped: Sequence[Skipped], root: Path) -> tuple[Skipped, ...]:
    """Return what was passed over with names relative to a folder; the system's files are left out."""
    start = f"{shown(root)}/"
    return tuple(
        replace(item, source=item.source.removeprefix(start)) for item in skipped if item.reason != chosen.SYSTEM_FILE
    )


def scan_unlabelled(folder: Path) -> tuple[tuple[Path, ...], tuple[Skipped, ...]]:
    """Return the images in a folder and its folders, each content once, and the files that were left out.

    Raises
    ------
    BadLabelledFolder, NoCells
    """
    if not folder.is_dir():
        raise BadLabelledFolder(f"{folder} is no folder; give one that holds images of strangers")
    found = chosen.gather_tree(folder)
    if not found.files:
        raise NoCells(f"no image lies in {folder}")
    return found.files, relative(found.skipped, folder)


def remarks(ignored: Sequence[Skipped]) -> list[str]:
    """Return what a reader of a report must know about the files that were left out, as sentences."""
    out = []
    copies = [f"{item.source} ({item.message})" for item in ignored if item.reason == chosen.DUPLICATE]
    if copies:
        out.append(f"The same image lies there more than once and counts once: {some(copies)}.")
    others = [f"{item.source} ({item.message})" for item in ignored if item.reason != chosen.DUPLICATE]
    if others:
        out.append(f"Files that were left out: {some(others)}.")
    return out


def without_repeats(cells: LabelledCells, hashes: Sequence[str]) -> tuple[LabelledCells, list[str]]:
    """Return the cells and hashes with each content once; the copies are among ``ignored``.

    Raises
    ------
    RepeatedImage
        The same image lies in two classes: one of the labels is wrong, and nobody can tell which.
    """
    copies = dict(repeats(cells.names, hashes))
    truth = dict(zip(cells.names, cells.truth, strict=True))
    split = [f"{name} = {first}" for name, first in copies.items() if truth[name] != truth[first]]
    if split:
        raise RepeatedImage(f"{some(split)}: the same image in two classes; keep it in the right one")
    kept = [i for i, name in enumerate(cells.names) if name not in copies]
    repeated = [
        Skipped(source=name, reason=chosen.DUPLICATE, message=f"the same content as {first}; it counts once")
        for name, first in copies.items()
    ]
    fewer = replace(
        cells,
        files=tuple(cells.files[i] for i in kept),
        truth=tuple(cells.truth[i] for i in kept),
        ignored=(*cells.ignored, *repeated),
    )
    return fewer, [hashes[i] for i in kept]


def check_classes(cells: LabelledCells, classes: Sequence[str]) -> None:
    """Raise `UnknownClass` if a folder is named like no class of the model."""
    unknown = sorted(set(cells.truth) - set(classes))
    if unknown:
        raise UnknownClass(f"folder(s) {some(unknown)} are no class of this model; its classes: {', '.join(classes)}")


def file_hashes(files: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of every file; ``unreadable`` for one that cannot be read (it fails as an image later)."""
    found = []
    for file in files:
        try:
            found.append(hashlib.sha256(read_bytes(file)).hexdigest())
        except OSError:
            found.append("unreadable")
    return found


def data_sha256(names: Sequence[str], hashes: Sequence[str]) -> str:
    """Return one hash over the sorted relative names and the hashes of their files.

    It does not depend on where the folder lies. One line per file: name, NUL, hash, newline, in UTF-8.
    """
    whole = hashlib.sha256()
    for name, value in sorted(zip(names, hashes, strict=True)):
        whole.update(f"{name}\0{value}\n".encode())
    return whole.hexdigest()


def repeats(names: Sequence[str], hashes: Sequence[str]) -> list[tuple[str, str]]:
    """Return (file, earlier file of the same content) pairs."""
    first: dict[str, str] = {}
    out = []
    for name, value in zip(names, hashes, strict=True):
        if value == "unreadable":
            continue
        if value in first:
            out.append((name, first[value]))
        first.setdefault(value, name)
    return out


def refuse_repeats(names: Sequence[str], hashes: Sequence[str]) -> None:
    """Refuse a folder that holds an image twice.

    Raises
    ------
    RepeatedImage
    """
    found = repeats(names, hashes)
    if found:
        pairs = [f"{name} = {first}" for name, first in found]
        raise RepeatedImage(f"{some(pairs)}: the same image twice; remove the copies, or they count as two cells")


@dataclass(frozen=True)
class Groups:
    """What each labelled cell belongs to: one entry per cell, in the order of the folder's files."""

    group: tuple[str, ...]
    slide: tuple[str, ...] | None  # None where the table has no such column

    def of(self, names: Sequence[str], cells: LabelledCells) -> Groups:
        """Return the rows of the cells of these names, in the order given."""
        place = {name: number for number, name in enumerate(cells.names)}
        index = [place[name] for name in names]
        slide = None if self.slide is None else tuple(self.slide[i] for i in index)
        return Groups(tuple(self.group[i] for i in index), slide)

    def take(self, chosen: Sequence[bool] | NDArray[np.bool_]) -> Groups:
        """Return the rows that are chosen."""
        kept = [i for i, keep in enumerate(chosen) if keep]
        slide = None if self.slide is None else tuple(self.slide[i] for i in kept)
        return Groups(tuple(self.group[i] for i in kept), slide)


def read_groups(path: Path, cells: LabelledCells) -> Groups:
    """Read a table ``file,group[,slide]`` (CSV with a header) that has one row for every cell.

    ``file`` is the name relative to the labelled folder, or the bare file name where it is unique there.

    Raises
    ------
    BadGroups
        Not readable, a missing column or value, a file twice, a file that is not there, a cell without a row.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, "utf-8-sig")))
        columns = reader.fieldnames or []
        rows = list(reader)
    except FileProblem as error:
        raise BadGroups(str(error)) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadGroups(f"{path} cannot be read as CSV in UTF-8 ({type(error).__name__})") from error
    lacking = [name for name in ("file", "group") if name not in columns]
    if lacking:
        raise BadGroups(f"{path.name} has no column {', '.join(lacking)}; its first line must be file,group[,slide]")
    wanted = ["group", "slide"] if "slide" in columns else ["group"]
    known = _keys(cells)
    found: dict[str, list[str]] = {}
    for line, row in enumerate(rows, 2):
        name = known.get((row["file"] or "").strip())
        values = [(row[column] or "").strip() for column in wanted]
        if name is None:
            raise BadGroups(f"{path.name} line {line}: {row['file']!r} is no (or no unique) image of {cells.root}")
        if name in found:
            raise BadGroups(f"{path.name} line {line}: {name} has a row already")
        if not all(values):
            raise BadGroups(f"{path.name} line {line}: a value of {', '.join(wanted)} is empty")
        found[name] = values
    missing = [name for name in cells.names if name not in found]
    if missing:
        raise BadGroups(f"{path.name} has no row for {some(missing)}; every cell needs a group")
    table = [found[name] for name in cells.names]
    slides = tuple(row[1] for row in table) if len(wanted) == 2 else None
    return Groups(tuple(row[0] for row in table), slides)


def _keys(cells: LabelledCells) -> dict[str, str]:
    """Return what a row may call each file: its relative name, or its bare name where that is unique."""
    bare = Counter(file.name for file in cells.files)
    keys = {cells.name(file): cells.name(file) for file in cells.files}
    keys.update({shown(file.name): cells.name(file) for file in cells.files if bare[file.name] == 1})
    return keys


def some(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
