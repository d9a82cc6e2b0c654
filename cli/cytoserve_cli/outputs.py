"""Where results go: checked before the work, written after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cytoserve_client import SmearAnalysis
from cytoserve_files import NotWritable, check_output, check_output_folder, path_of, shown, write_bytes
from rich.console import Console

from cytoserve_cli.terminal import plain

if TYPE_CHECKING:
    from cytoserve_reports.page import ReviewPage


def check_outputs(
    json_out: Path | None, overlay: Path | None, sources: Sequence[Path], page: Path | None = None
) -> None:
    """Refuse outputs that could not be written after the work, or that would overwrite an input (`NotWritable`)."""
    if page is not None:
        _check_page(page, json_out, sources)
    if json_out is not None and str(json_out) != "-":
        check_output(json_out)
        if any(_same_file(json_out, source) for source in sources):
            raise NotWritable(f"cannot write {shown(json_out)}: it is one of the images; give another name")
    if overlay is not None:
        check_output_folder(overlay)


def _check_page(page: Path, json_out: Path | None, sources: Sequence[Path]) -> None:
    check_output(page)
    if any(_same_file(page, source) for source in sources):
        raise NotWritable(f"cannot write {shown(page)}: it is one of the images; give another name")
    if json_out is not None and os.path.realpath(page) == os.path.realpath(json_out):
        raise NotWritable(f"cannot write {shown(page)}: the JSON goes there; give another name")


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def write_json(path: Path | None, document: Callable[[], str], notes: Console) -> bool:
    """Write a document, UTF-8 whatever the terminal's encoding; return False where it could not be written."""
    if path is None:
        return True
    return write_document("JSON", path, lambda: (document() + "\n").encode("utf-8"), notes)


def write_document(title: str, path: Path, content: Callable[[], bytes], notes: Console) -> bool:
    """Write a file, or standard output for ``-``; return False where it could not be written."""
    try:
        data = content()
        if str(path) == "-":
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


def write_overlays(folder: Path | None, analysis: SmearAnalysis, notes: Console) -> bool:
    """Write one annotated picture per field; return False where one failed; the others are still drawn."""
    if folder is None:
        return True
    from cytoserve_reports.overlay import draw_overlay, read_displayed
    from cytoserve_reports.overlay_names import overlay_names

    names = overlay_names((field.source for field in analysis.fields), folder)
    whole = True
    for field, name in zip(analysis.fields, names, strict=True):
        try:
            picture = read_displayed(path_of(field.source))
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
