"""``manifest.json``: what the export wrote, from what, with what, and how well it agrees with the networks."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import onnx
from cytoserve_contract import manifest as manifest_check

from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.errors import MixedWeights
from cytoserve_export.files import read_json
from cytoserve_export.graphs import external_files
from cytoserve_export.isolation import ParityResult
from cytoserve_export.specs import SPECS, GraphSpec
from cytoserve_export.verification import verify

__all__ = ["compose", "describe", "describe_file", "tool_versions", "verify"]

NAME: Final = manifest_check.NAME
TOOLS: Final = ("cytoserve", "torch", "diffusers", "onnx", "onnxscript", "onnxruntime", "numpy")


def tool_versions() -> dict[str, str]:
    """Return the versions of Python and of every package that shapes the result."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in TOOLS}}


def describe(spec: GraphSpec, path: Path, checkpoint: Checkpoint, parity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest's entry of one graph, read from the file that was written."""
    hashes = checkpoint.part_hashes
    return {
        "file": spec.path,
        **describe_file(path),
        "parts": {part: hashes[part] for part in spec.parts if part in hashes},
        "parity": dict(parity),
    }


def describe_file(path: Path) -> dict[str, Any]:
    """Return what the ONNX file itself says: opset, file version, signature, and where its weights lie.

    Raises
    ------
    MissingExternalData, GraphError
    """
    beside = external_files(path)
    model = onnx.load(path, load_external_data=False)
    return {
        "external_data": [f"{path.parent.parent.name}/{path.parent.name}/{name}" for name in beside],
        "opset": {item.domain or "ai.onnx": item.version for item in model.opset_import},
        "ir_version": model.ir_version,
        "inputs": [_tensor(value) for value in model.graph.input],
        "outputs": [_tensor(value) for value in model.graph.output],
    }


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
        "shape": [dim.dim_param or dim.dim_value for dim in kind.shape.dim],
    }


def compose(
    staged: Path, target: Path, names: Sequence[str], checkpoint: Checkpoint, outcome: ParityResult
) -> dict[str, Any]:
    """Return the manifest of ``target`` as it will be once ``staged`` has been laid over it.

    It names every file there, those that the export does not write too (configurations, Python models). Graphs of an
    earlier export that are not written anew keep their entries.

    Raises
    ------
    MixedWeights
        Such a graph comes from other weights than this checkpoint's, or was changed since.
    """
    kept = kept_entries(target, set(names), checkpoint)
    files = {name: folder / name for folder in (target, staged) for name in manifest_check.tree(folder)}
    models = kept["models"] | {
        name: describe(SPECS[name], staged / SPECS[name].path, checkpoint, outcome.parity[name]) for name in names
    }
    return {
        "schema": manifest_check.SCHEMA,
        "provenance": {
            "checkpoint": checkpoint.index.get("name", checkpoint.folder.name),
            "weights_sha256": checkpoint.weights_sha256,
            "parts": checkpoint.part_hashes,
            "conditioning": checkpoint.conditioning.kind,
            "prediction_type": checkpoint.schedule.prediction_type,
        },
        "tools": tool_versions(),
        "models": {name: models[name] for name in SPECS if name in models},
        "decision": _decision(names, kept, outcome),
        "files": manifest_check.describe(files.items()),
    }


def _decision(names: Sequence[str], kept: Mapping[str, Any], outcome: ParityResult) -> dict[str, Any] | None:
    """The decision belongs to the manifest that holds the denoiser; a new denoiser or encoder voids the old one."""
    if "denoiser" not in {*names, *kept["models"]}:
        return None
    return outcome.decision or kept["decision"]


def kept_entries(target: Path, renewed: set[str], checkpoint: Checkpoint) -> dict[str, Any]:
    """Return ``models`` and ``decision`` of the old manifest as far as they stay true.

    Raises
    ------
    MixedWeights
        A graph that would stay comes from other weights than the checkpoint's, or is not the one that was exported.
    """
    old = read_json(target / NAME) if (target / NAME).is_file() else {}
    models = {}
    for name in SPECS:
        if name in renewed or not (target / SPECS[name].path).is_file():
            continue
        entry = old.get("models", {}).get(name)
        if entry is None or not _unchanged(target, entry, old["files"]):
            raise MixedWeights(
                f"{name} in {target.name} is not the graph that its manifest describes; export it too "
                "(leave --only away, or add it there), or remove it"
            )
        other = [part for part, digest in entry["parts"].items() if checkpoint.part_hashes.get(part) != digest]
        if other:
            raise MixedWeights(
                f"{name} in {target.name} was made from another {' and '.join(other)}; export it too "
                "(leave --only away, or add it there), or write to an empty folder"
            )
        models[name] = entry
    decided = {"encoder", "denoiser"} <= set(models)
    return {"models": models, "decision": old.get("decision") if decided else None}


def _unchanged(target: Path, entry: Mapping[str, Any], files: Mapping[str, Any]) -> bool:
    names = (entry["file"], *entry.get("external_data", ()))
    return all((target / n).is_file() and manifest_check.sha256(target / n) == files[n]["sha256"] for n in names)
