"""Build a TensorRT engine from an exported graph, behind an interface as narrow as what is used.

**Not run here**: there is no GPU and no TensorRT library. What can be checked without them is: every name and signature
below stands in the bindings of 10.3, 10.13, 10.16 and 11.4 (``tests/export/tensorrt_signatures.json``, read from the
wheels ``tensorrt-cu12-bindings``), and the tests run this module on a fake that accepts nothing else.

Networks are strongly typed: precisions are those that stand in the graph (``cytoserve_export.precision``), so no
builder flag chooses one. TensorRT 11 has no other networks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import onnx
from cytoserve_contract.models import CLASS, MAX_BATCH
from cytoserve_files import NotWritable, read_bytes, write_bytes

from cytoserve_export.configs import shapes
from cytoserve_export.devices import DeviceProfile
from cytoserve_export.errors import EngineBuildFailed, EngineMismatch, TensorRTUnavailable
from cytoserve_export.progress import Report, silent
from cytoserve_export.specs import GraphSpec, denoiser_spec
from cytoserve_export.tensorrt_engine import EngineKey, check_operators, model_hash, write_engine

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Least, best and greatest shape of every input."""

WORKSPACE_BYTES: Final = 8 * 2**30


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    ``version_compatible`` lets later TensorRT of the same major version load it. Such an engine carries code of its own
    that runs on loading: load only engines you built. ``timing_cache`` keeps kernel timings between builds.
    """

    version_compatible: bool = False
    timing_cache: Path | None = None


class TensorRT(Protocol):
    """What the export needs of TensorRT and the GPU."""

    version: str
    compute_capability: str

    def build(self, graph: Path, inputs: Shapes, options: BuildOptions, report: Report) -> bytes:
        """Return the serialised engine of an ONNX file."""


class Bindings:
    """:class:`TensorRT` by the official Python bindings, for a GPU of this compute capability (``major.minor``)."""

    def __init__(self, trt: ModuleType | Any, compute_capability: str) -> None:
        self.trt = trt
        self.version = str(trt.__version__)
        self.compute_capability = compute_capability

    @classmethod
    def find(cls) -> Bindings:
        """Take TensorRT and the first GPU of this machine.

        Raises
        ------
        TensorRTUnavailable
        """
        import importlib

        import torch

        try:
            trt = importlib.import_module("tensorrt")
        except (ImportError, OSError) as error:
            raise TensorRTUnavailable(
                f"the package tensorrt cannot be loaded ({error}): run this in NVIDIA's TensorRT or Triton "
                "container of the release you will serve with, or use --runtime onnx"
            ) from error
        if not torch.cuda.is_available():
            raise TensorRTUnavailable("torch sees no CUDA GPU: an engine is built on the GPU that will run it")
        major, minor = torch.cuda.get_device_capability(0)
        return cls(trt, f"{major}.{minor}")

    def build(self, graph: Path, inputs: Shapes, options: BuildOptions, report: Report) -> bytes:
        """Return the serialised engine of an ONNX file.

        Raises
        ------
        EngineBuildFailed
            With the parser's message, where there is one.
        """
        trt = self.trt
        logger = trt.Logger(trt.Logger.WARNING)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(graph)):
            words = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise EngineBuildFailed(f"TensorRT {self.version} does not take {graph}: {words or 'no reason given'}")
        config = self._config(builder, network, inputs, options)
        monitor = _monitor(trt, report)
        config.progress_monitor = monitor
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise EngineBuildFailed(
                f"TensorRT {self.version} gave no engine for {graph}: see its log above; often the memory was too "
                f"small (workspace {WORKSPACE_BYTES / 2**30:.0f} GiB)"
            )
        if options.timing_cache is not None:
            try:
                write_bytes(options.timing_cache, bytes(config.get_timing_cache().serialize()))
            except NotWritable as error:  # the engine took minutes and is whole; only the next build is slower
                warnings.warn(str(error), stacklevel=2)
        return bytes(engine)

    def _config(self, builder: Any, network: Any, inputs: Shapes, options: BuildOptions) -> Any:
        trt = self.trt
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
        config.builder_optimization_level = 3
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.timing_cache is not None:
            known = read_bytes(options.timing_cache) if options.timing_cache.is_file() else b""
            config.set_timing_cache(config.create_timing_cache(known), False)
        names = {network.get_input(index).name for index in range(network.num_inputs)}
        if names != set(inputs):
            raise EngineBuildFailed(f"the graph's inputs are {sorted(names)}, declared are {sorted(inputs)}")
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in inputs.items():
            profile.set_shape(name, least, best, most)
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuildFailed(f"TensorRT {self.version} refuses the shapes {inputs}")
        return config


def _monitor(trt: Any, report: Report) -> Any:
    """Return an ``IProgressMonitor`` that reports the builder's outermost phase."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.steps[phase_name] = num_steps
                report(f"TensorRT, {phase_name}", 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                report(f"TensorRT, {phase_name}", step + 1, self.steps[phase_name])
            return True  # False would end the build

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.steps:
                report(f"TensorRT, {phase_name}", self.steps[phase_name], self.steps[phase_name])

    return Monitor()


def input_shapes(spec: GraphSpec, sizes: Mapping[str, int], best: int) -> Shapes:
    """Return the optimisation profile from the declared batch axis: 1, ``best`` and 256 rows."""
    least, opt, most = (shapes(spec, sizes, rows) for rows in (1, best, MAX_BATCH))
    return {name: (least[name], opt[name], most[name]) for name in least}


def sizes_of(graph: Path, spec: GraphSpec) -> dict[str, int]:
    """Read the checkpoint's sizes from a graph's own inputs and outputs.

    Raises
    ------
    EngineBuildFailed
        The graph is not the declared one.
    """
    model = onnx.load(graph, load_external_data=False)
    found = {value.name: value.type.tensor_type.shape.dim for value in (*model.graph.input, *model.graph.output)}
    sizes: dict[str, int] = {}
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.name not in found or len(found[tensor.name]) != len(tensor.dims):
            raise EngineBuildFailed(f"{graph} has tensors {sorted(found)}; it is no {spec.name} of this release")
        for word, dim in zip(tensor.dims, found[tensor.name], strict=True):
            if isinstance(word, str) and dim.WhichOneof("value") == "dim_value":
                sizes[word] = dim.dim_value
    return sizes


def takes_class(graph: Path) -> bool:
    """Return whether a denoiser's graph is told a class, rather than answering all of them."""
    return any(value.name == CLASS.name for value in onnx.load(graph, load_external_data=False).graph.input)


def build_engine(
    graph: Path,
    profile: DeviceProfile,
    tensorrt: TensorRT,
    report: Report = silent,
    options: BuildOptions | None = None,
    *,
    named: bool = False,
) -> dict[str, Any]:
    """Build the denoiser's engine beside its graph, for the GPU here, and return the facts written beside it.

    ``named``: name the engine by its key; else it is ``model.plan``, as Triton loads it.

    Raises
    ------
    UnknownOperator, MissingExternalData, EngineBuildFailed, EngineMismatch
    """
    if tensorrt.compute_capability != profile.compute_capability:
        raise EngineMismatch(
            f"--profile {profile.name} is compute capability {profile.compute_capability}, this GPU has "
            f"{tensorrt.compute_capability}: build on the GPU that will serve, or name its profile"
        )
    options = options or BuildOptions()
    check_operators(graph)
    key = EngineKey(model_hash(graph), tensorrt.version, tensorrt.compute_capability, options.version_compatible)
    spec = denoiser_spec(not takes_class(graph))
    inputs = input_shapes(spec, sizes_of(graph, spec), profile.optimum_rows)
    engine = tensorrt.build(graph, inputs, options, report)
    path = graph.with_name(key.file_name if named else "model.plan")
    facts = {"profile": profile.name, "shapes": {name: list(map(list, three)) for name, three in inputs.items()}}
    return write_engine(path, engine, key, {**facts, "file": path.name})
