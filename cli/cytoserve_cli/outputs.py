"""Where results go: checked before the work, written after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cytoserve_client import SmearAnalysis
from cytoserve_files import (
    NotWritable,
    check_output,
    check_output_folder,
    is_regular_or_new,
    shown,
    write_bytes,
)
from rich.console import Console

from cytoserve_cli.terminal import plain

if TYPE_CHECKING:
    from cytoserve_reports.page import ReviewPage
    from cytoserve_reports.page.pictures import ReadField


STANDARD_OUTPUT: Final = "-"
"""In place of a file's name."""


def check_outputs(files: Iterable[Path | None], folders: Iterable[Path | None], sources: Sequence[Path]) -> None:
    """Refuse before the work what could not be written after it; None stands for an output that is not wanted.

    Raises
    ------
    NotWritable
        A folder in place of a file, or write-protected; one of the ``sources``; two outputs of one name.
    """
    named = [path for path in files if path is not None]
    for path in named:
        if str(path) != STANDARD_OUTPUT:
            check_output(path)
    for folder in folders:
        if folder is not None:
            check_output_folder(folder)
    read, seen = {_place(source) for source in sources}, set()
    for path in named:
        standard = str(path) == STANDARD_OUTPUT
        if not standard and not is_regular_or_new(path):
            continue  # what goes through a device or a pipe replaces nothing
        place = STANDARD_OUTPUT if standard else _place(path)
        if place in read:
            raise NotWritable(f"cannot write {shown(path)}: it is one of the inputs; give another name")
        if place in seen:
            raise NotWritable(f"cannot write {shown(path)}: two outputs have this name; give each its own")
        seen.add(place)


def _place(path: Path) -> tuple[int, int] | str:
    """Return what two names of one file have in common."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def write_json(path: Path | None, document: Callable[[], str], notes: Console) -> bool:
    """Write a document, UTF-8 whatever the terminal's encoding; return False where it could not be written."""
    if path is None:
        return True
    return write_document("JSON", path, lambda: (document() + "\n").encode("utf-8"), notes)


def write_document(title: str, path: Path, content: Callable[[], bytes], notes: Console) -> bool:
    """Write a file, or standard output for ``-``; return False where it could not be written."""
    try:
        data = content()
        if str(path) == STANDARD_OUTPUT:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
            return True
        write_bytes(path, data)
    except OSError as error:
        notes.print(plain(f"cannot write the result: {error}", "red"))
        return False
    notes.print(plain(f"{title}: {shown(path)}"))
    return True


def write_overlays(folder: Path | None, analysis: SmearAnalysis, notes: Console, read: ReadField) -> bool:
    """Write one annotated picture per field; return False where one failed; the others are still drawn.

    ``read`` returns the image of a field.
    """
    if folder is None:
        return True
    from cytoserve_reports.displayed import displayed
    from cytoserve_reports.overlay import draw_overlay
    from cytoserve_reports.overlay_names import overlay_names

    names = overlay_names((field.source for field in analysis.fields), folder)
    whole = True
    for field, name in zip(analysis.fields, names, strict=True):
        try:
            picture = displayed(read(field))
            write_bytes(folder / name, draw_overlay(picture, field, analysis.familiarity, analysis.site))
        except Exception as error:  # whatever it is, it concerns this picture and not the next
            notes.print(plain(f"no overlay of {field.source}: {error}", "yellow"))
            whole = False
            continue
        notes.print(plain(f"overlay: {shown(folder / name)}"))
    return whole


def write_page(path: Path | None, page: Callable[[], ReviewPage], notes: Console) -> tuple[bool, bool]:
    """Write the review page; return whether it was written, and whether every field has its picture in it."""
    if path is None:
        return True, True
    made = page()
    try:
        write_bytes(path, made.html.encode("utf-8"))
    except OSError as error:
        notes.print(plain(f"cannot write the review page: {error}", "red"))
        return False, True
    notes.print(plain(f"review page: {shown(path)}"))
    for problem in made.pictures_missing:
        notes.print(plain(f"a field has no picture in the page: {problem}", "yellow"))
    return True, not made.pictures_missing
