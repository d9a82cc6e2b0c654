"""Export a checkpoint into a model repository: everything is made aside, checked, then moved in.

Only files that the export itself makes are touched: ``<model>/1/model.onnx``, ``scorer/1/scoring.json``,
``service_info/1/service.json`` and ``manifest.json``. Configurations and Python models in the repository stay; the
manifest names them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cytoserve_contract.models import SYNTHESIS_REPOSITORY

from cytoserve_export import manifest
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.configs import check_fits
from cytoserve_export.decisions import CheckCells
from cytoserve_export.errors import MissingFile, UnknownModel
from cytoserve_export.graphs import export_graph
from cytoserve_export.isolation import Job, check_apart
from cytoserve_export.networks import build
from cytoserve_export.progress import Report, silent
from cytoserve_export.specs import SPECS
from cytoserve_export.staging import disk_errors, folder_aside, install, require_space, target_folder, write_json

DECIDERS: Final = ("encoder", "denoiser")
"""The graphs a decision depends on."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export and how to check it.

    ``only`` names graphs; empty: every graph the checkpoint has weights for. ``cells`` are for the decision check,
    ``threads`` those of torch and ONNX Runtime during the checks.
    """

    checkpoint: Path
    target: Path
    only: tuple[str, ...] = ()
    cells: CheckCells | None = None
    threads: int = 1


@dataclass(frozen=True)
class Destination:
    """One repository to fill: where it stands, where its files are made first, and its new graphs."""

    target: Path
    staged: Path
    names: tuple[str, ...]


def export_onnx(request: ExportRequest, report: Report = silent) -> dict[str, dict[str, Any]]:
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
    with disk_errors(target), folder_aside(target) as aside:
        places = _places(target, aside, names)
        for place in places:
            manifest.kept_entries(place.target, set(place.names), checkpoint)
        if "denoiser" in names:
            check_fits(target / "denoiser" / "config.pbtxt", checkpoint.spec("denoiser"))
        graphs = {name: place.staged / SPECS[name].path for place in places for name in place.names}
        for done, (name, path) in enumerate(graphs.items()):
            report(f"tracing {name}", done, len(graphs))
            export_graph(build(name, checkpoint), checkpoint.spec(name), checkpoint.geometry.sizes(), path)
        report("tracing", len(graphs), len(graphs))
        outcome = check_apart(_job(request, graphs, target), report)
        made = {}
        for place in places:
            if not place.names:
                continue
            if place.target == target:
                write_side_files(place.staged, checkpoint)
            made[place.target.name] = manifest.compose(place.staged, place.target, place.names, checkpoint, outcome)
            write_json(place.staged / manifest.NAME, made[place.target.name])
        install([(place.staged, place.target) for place in places if place.names])
    return made


def _places(target: Path, aside: Path, names: Sequence[str]) -> tuple[Destination, Destination]:
    scoring, synthesis = (tuple(n for n in names if SPECS[n].synthesis is wanted) for wanted in (False, True))
    return (
        Destination(target, aside / "scoring", scoring),
        Destination(target.parent / SYNTHESIS_REPOSITORY, aside / "synthesis", synthesis),
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
    if "segmenter" in only and not checkpoint.has_detector:
        raise MissingFile(f"{checkpoint.folder / 'segmenter'} is missing; leave the segmenter out of --only")
    wanted = set(only) or {name for name in SPECS if name != "segmenter" or checkpoint.has_detector}
    return tuple(name for name in SPECS if name in wanted)


def _job(request: ExportRequest, graphs: dict[str, Path], target: Path) -> Job:
    paths = {}
    for name in DECIDERS:
        path = graphs.get(name, target / SPECS[name].path)
        paths[name] = path if path.is_file() else None
    cells = request.cells if set(DECIDERS) & set(graphs) else None
    return Job(request.checkpoint, graphs, cells, paths["encoder"], paths["denoiser"], request.threads)


def write_side_files(staged: Path, checkpoint: Checkpoint) -> None:
    """Write ``scorer/1/scoring.json`` and ``service_info/1/service.json``."""
    write_json(staged / "scorer/1/scoring.json", checkpoint.scoring)
    geometry = checkpoint.geometry
    write_json(
        staged / "service_info/1/service.json",
        {
            "name": checkpoint.index.get("name", checkpoint.folder.name),
            "version": checkpoint.index.get("version", checkpoint.weights_sha256[:12]),
            "classes": list(geometry.classes),
            "weights_sha256": checkpoint.weights_sha256,
            "crop": {"size": geometry.size, "um_per_pixel": geometry.um_per_pixel, "circular": geometry.circular},
            "probes": checkpoint.scoring["probes"],
            "exported_with": manifest.tool_versions(),
        },
    )
