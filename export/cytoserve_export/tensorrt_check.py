"""From a graph to a checked engine: build, load again, compare decisions. **Not run here** (no GPU)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_files import open_regular
from numpy.typing import NDArray

from cytoserve_export.devices import DeviceProfile
from cytoserve_export.errors import MalformedFile
from cytoserve_export.progress import Report, silent
from cytoserve_export.specs import denoiser_spec
from cytoserve_export.tensorrt_builder import Bindings, BuildOptions, build_engine, sizes_of, takes_class
from cytoserve_export.tensorrt_engine import EngineKey, check_engine, model_hash
from cytoserve_export.tensorrt_parity import EngineRun, check_engine_decisions

RANDOM_CELLS = 64


def build_and_check(
    graph: Path,
    profile: DeviceProfile,
    bindings: Bindings,
    options: BuildOptions,
    latents: Path | None = None,
    report: Report = silent,
    *,
    device: str = "cuda",
) -> dict[str, Any]:
    """Build the engine of a denoiser, load it as a server would, and compare its decisions with ONNX Runtime's.

    ``latents`` is an ``.npy`` of (N, C, H, W) float32 latents of real cells; without it random ones are taken, which
    say nothing about real decisions. The tensors are on ``device``; ``cpu`` is for the tests' fake only.

    Returns
    -------
    dict
        The engine's facts, and under ``decision`` the comparison.

    Raises
    ------
    EngineError, DecisionChanged, MalformedFile
    """
    facts = build_engine(graph, profile, bindings, report, options, named=True)
    path = graph.with_name(facts["file"])
    key = EngineKey(model_hash(graph), bindings.version, bindings.compute_capability)
    check_engine(path, key)
    sizes = sizes_of(graph, denoiser_spec(not takes_class(graph)))
    shape = (sizes["latent_channels"], sizes["latent_height"], sizes["latent_width"])
    rows = np.random.default_rng(0).standard_normal((RANDOM_CELLS, *shape), dtype=np.float32)
    if latents is not None:
        rows = read_latents(latents)
        if rows.ndim != 4 or rows.shape[1:] != shape:
            raise MalformedFile(f"{latents} holds {rows.shape}; this denoiser takes (N, {', '.join(map(str, shape))})")
    run = EngineRun(
        bindings.trt,
        path,
        answers=sizes["answers"],
        version_compatible=options.version_compatible,
        device=device,
    )
    tables = table_sizes(graph)
    decision = check_engine_decisions(run, graph, rows, min(4, tables["PROBE"]), tables.get("CLASS"))
    return {**facts, "decision": {**decision, "cells_are": "random" if latents is None else latents.name}}


def read_latents(path: Path) -> NDArray[np.float32]:
    """Return the array of an ``.npy`` file.

    Raises
    ------
    MalformedFile
    """
    try:
        with open_regular(path) as file:
            return np.load(file, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError) as error:
        raise MalformedFile(f"{path} cannot be read as an .npy file of numbers: {error}") from error


def table_sizes(graph: Path) -> dict[str, int]:
    """Return the lengths of the tables that PROBE and CLASS index: noise samples and classes of a denoiser.

    One that answers all classes has no CLASS.

    Raises
    ------
    MalformedFile
        The graph looks nothing up by one of them.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    makers = {name: node for node in model.graph.node for name in node.output}
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}

    def origin(name: str) -> str:
        while name in makers and makers[name].op_type in ("Cast", "Reshape", "Squeeze", "Slice", "Gather", "Identity"):
            name = makers[name].input[0]
        return name

    found: dict[str, int] = {}
    for node in model.graph.node:
        table = node.input[0] if node.op_type == "Gather" else ""
        table = makers[table].input[0] if table in makers and makers[table].op_type == "Cast" else table
        if table in shapes:
            found.setdefault(origin(node.input[1]), shapes[table][0])
    wanted = ("PROBE", "CLASS") if takes_class(graph) else ("PROBE",)
    if not set(wanted) <= set(found):
        raise MalformedFile(f"{graph} looks nothing up by {' and '.join(wanted)}: it is no denoiser of this release")
    return {name: found[name] for name in wanted}
