"""Export a checkpoint into a model repository: everything is made aside, checked, then moved in.

Only files that the export itself makes are touched: ``<model>/1/model.onnx``, ``scorer/1/scoring.json``,
``service_info/1/service.json`` and ``manifest.json``. Configurations and Python models in the repository stay; the
manifest names them too.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cytoserve_contract.models import SYNTHESIS_REPOSITORY
from cytoserve_files import NotWritable, check_output_folder, write_text
from cytoserve_files import install as install_file

from cytoserve_export import manifest
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.decisions import Cells
from cytoserve_export.errors import MissingFile, NoSpace, RepositoryError, UnknownModel
from cytoserve_export.graphs import export_graph
from cytoserve_export.isolation import Job, check_apart
from cytoserve_export.networks import build
from cytoserve_export.progress import Report, silent
from cytoserve_export.specs import SPECS

RESERVE_BYTES: Final = 64 * 2**20
"""Free space kept beside what the graphs are estimated to need."""

DECIDERS: Final = ("encoder", "denoiser")
"""The graphs a decision depends on."""


@dataclass(frozen=True)
class Request:
    """What to export and how to check it.

    Parameters
    ----------
    checkpoint, target : Path
    only : tuple of str
        Names of graphs; empty for every graph the checkpoint has weights for.
    cells : Cells or None
        Real cells for the decision check.
    threads : int
        Of torch and ONNX Runtime during the checks.
    """

    checkpoint: Path
    target: Path
    only: tuple[str, ...] = ()
    cells: Cells | None = None
    threads: int = 1


@dataclass(frozen=True)
class Place:
    """One repository to fill: where it stands, where its files are made first, and its new graphs."""

    target: Path
    staged: Path
    names: tuple[str, ...]


def export_onnx(request: Request, report: Report = silent) -> dict[str, dict[str, Any]]:
    """Export, check and install; return the manifest of each repository written, by folder name.

    ``decoder`` and ``noise_predictor`` go into the folder `cytoserve_contract.models.SYNTHESIS_REPOSITORY` beside the
    target, the other graphs into the target.

    Raises
    ------
    ExportError
        One of its subclasses; the repositories are then as they were before.
    """
    checkpoint = Checkpoint(request.checkpoint)
    names = select(request.only, checkpoint)
    target = target_folder(request.target)
    require_space(target, names, checkpoint)
    with _disk_errors(target), _aside(target) as aside:
        places = _places(target, aside, names)
        for place in places:
            manifest.kept_entries(place.target, set(place.names), checkpoint)
        graphs = {name: place.staged / SPECS[name].path for place in places for name in place.names}
        for done, (name, path) in enumerate(graphs.items()):
            report(f"tracing {name}", done, len(graphs))
            export_graph(build(name, checkpoint), SPECS[name], checkpoint.geometry.sizes(), path)
        report("tracing", len(graphs), len(graphs))
        outcome = check_apart(_job(request, graphs, target), report)
        made = {}
        for place in places:
            if not place.names:
                continue
            if place.target == target:
                write_side_files(place.staged, checkpoint)
            made[place.target.name] = manifest.compose(place.staged, place.target, place.names, checkpoint, outcome)
            _write_json(place.staged / manifest.NAME, made[place.target.name])
        install([(place.staged, place.target) for place in places if place.names])
    return made


def target_folder(given: Path) -> Path:
    """Return the folder to write into, links followed, after seeing that it can be written.

    Raises
    ------
    RepositoryError
    """
    try:
        check_output_folder(given)
    except NotWritable as error:
        raise RepositoryError(str(error)) from error
    return Path(os.path.realpath(given))


def _places(target: Path, aside: Path, names: Sequence[str]) -> tuple[Place, Place]:
    synthesis = tuple(name for name in names if SPECS[name].synthesis)
    scoring = tuple(name for name in names if not SPECS[name].synthesis)
    return (
        Place(target, aside / "scoring", scoring),
        Place(target.parent / SYNTHESIS_REPOSITORY, aside / "synthesis", synthesis),
    )


def select(only: Sequence[str], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the graphs to export in their declared order.

    Raises
    ------
    UnknownModel, MissingFile
    """
    unknown = sorted(set(only) - set(SPECS))
    if unknown:
        raise UnknownModel(f"no graph is called {unknown}; known are {list(SPECS)}")
    if "segmenter" in only and not checkpoint.has_segmenter:
        raise MissingFile(f"{checkpoint.folder / 'segmenter'} is missing; leave the segmenter out of --only")
    wanted = set(only) or {name for name in SPECS if name != "segmenter" or checkpoint.has_segmenter}
    return tuple(name for name in SPECS if name in wanted)


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


def _job(request: Request, graphs: dict[str, Path], target: Path) -> Job:
    paths = {}
    for name in DECIDERS:
        path = graphs.get(name, target / SPECS[name].path)
        paths[name] = path if path.is_file() else None
    cells = request.cells if set(DECIDERS) & set(graphs) else None
    return Job(request.checkpoint, graphs, cells, paths["encoder"], paths["denoiser"], request.threads)


def write_side_files(staged: Path, checkpoint: Checkpoint) -> None:
    """Write ``scorer/1/scoring.json`` and ``service_info/1/service.json``."""
    _write_json(staged / "scorer/1/scoring.json", checkpoint.scoring)
    geometry = checkpoint.geometry
    _write_json(
        staged / "service_info/1/service.json",
        {
            "name": checkpoint.index.get("name", checkpoint.folder.name),
            "version": checkpoint.index.get("version", checkpoint.weights_sha256[:12]),
            "classes": list(geometry.classes),
            "weights_sha256": checkpoint.weights_sha256,
            "crop": {
                "size": geometry.size,
                "um_per_pixel": geometry.um_per_pixel,
                "circular": geometry.circular,
            },
            "probes": checkpoint.scoring["probes"],
            "exported_with": manifest.tool_versions(),
        },
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """Give a folder on the target's disk; whatever happens, it is gone afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.export-", dir=target.parent))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk of {target} is full; free some space and export again") from error
        raise RepositoryError(f"{target} could not be written: {error}") from error


def install(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Move the files of every (staged, target) pair into place: all of them or none.

    A new repository is one rename. Into an existing one files are renamed one by one, the manifest last, signals held
    back meanwhile; if one rename fails, everything is put back. Should the machine stop in between, the old manifest
    does not fit the new files, and :func:`manifest.verify` says so.
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
    files.sort(key=lambda path: path.name == manifest.NAME)
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
