"""Triton configurations of the exported graphs, for one processor each: ``config.pbtxt`` and ``configs/<name>.pbtxt``.

Triton picks ``configs/<name>.pbtxt`` when it is started with ``--model-config-name=<name>``; without, ``config.pbtxt``
rules. Names and shapes are those of :data:`~cytoserve_export.specs.SPECS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cytoserve_contract.models import MAX_BATCH
from cytoserve_contract.parameters import PRIORITY_LEVELS
from cytoserve_contract.tensors import TensorSpec
from cytoserve_contract.triton_config import config_dims, config_type
from cytoserve_files import read_text
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from cytoserve_export.devices import DeviceProfile
from cytoserve_export.errors import TargetError
from cytoserve_export.specs import GraphSpec

WARM_ROWS: Final = (1, 8)
"""Rows of the warm-up requests; on a GPU the profile's optimum is added."""

ENGINE_CACHE: Final = "/var/cache/cytoserve/tensorrt"
"""Where ONNX Runtime keeps the engines it builds: a volume that outlives the pod, see deploy/."""

WORKSPACE_BYTES: Final = 4 * 2**30

PRECISION_MODES: Final = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""The ``precision_mode`` of ONNX Runtime's TensorRT provider by the precision that stands in a graph."""


def graph_config(
    spec: GraphSpec,
    sizes: Mapping[str, int],
    profile: DeviceProfile,
    *,
    runtime: str,
    heavy: bool = False,
    execution_provider: str = "cuda",
    precision: str = "fp32",
) -> str:
    """Return the configuration of one graph, for a checkpoint's ``sizes``.

    ``runtime`` is ``onnx``, or ``tensorrt`` to serve ``model.plan`` by the TensorRT backend; on a GPU ONNX Runtime runs
    by the ``execution_provider`` ``cuda`` or ``tensorrt``, which is allowed the graph's own ``precision`` only. A
    ``heavy`` network fills the device with one instance.
    """
    batched = spec.model.is_batched
    config: Any = model_config_pb2.ModelConfig(name=spec.name, max_batch_size=MAX_BATCH if batched else 0)
    if runtime == "tensorrt":
        config.platform, config.default_model_filename = "tensorrt_plan", "model.plan"
    else:
        config.backend = "onnxruntime"
    for tensors, field in ((spec.inputs, config.input), (spec.outputs, config.output)):
        for tensor in tensors:
            field.add(name=tensor.name, data_type=config_type(tensor), dims=config_dims(tensor, sizes))
    count = 1 if heavy or spec.name != "denoiser" else profile.denoiser_instances
    config.instance_group.add(count=count, kind="KIND_GPU" if profile.is_gpu else "KIND_CPU")
    if batched:
        config.dynamic_batching.max_queue_delay_microseconds = profile.queue_delay_us
    else:
        config.dynamic_batching.priority_levels = config.dynamic_batching.default_priority_level = PRIORITY_LEVELS
    if runtime == "onnx" and profile.is_gpu and execution_provider == "tensorrt":
        _tensorrt_provider(config, spec, sizes, profile, precision)
    rows_warm = (*WARM_ROWS, profile.optimum_rows) if batched and profile.is_gpu else WARM_ROWS
    if runtime == "tensorrt":
        config.optimization.cuda.graphs = True
        # by itself the backend captures 1 and max_batch_size only where a dynamic batcher names no preferred sizes
        for rows in sorted({*rows_warm, MAX_BATCH}):
            config.optimization.cuda.graph_spec.add(batch_size=rows)
    for rows in rows_warm:
        if "height" not in spec.inputs[0].dims:
            _warm_up(config, spec, sizes, rows, batched)
    return text_format.MessageToString(config)


def _warm_up(config: Any, spec: GraphSpec, sizes: Mapping[str, int], rows: int, batched: bool) -> None:
    """Add a request of ``rows`` rows: Triton says it is ready only once that has been answered."""
    sample = config.model_warmup.add(name=f"rows_{rows}", batch_size=rows if batched else 1)
    for tensor in spec.inputs:
        dims = [rows if dim == -1 else dim for dim in config_dims(tensor, sizes)]
        value = sample.inputs[tensor.name]
        value.data_type, value.zero_data = config_type(tensor), True
        value.dims.extend(dims)


def shapes(spec: GraphSpec, sizes: Mapping[str, int], rows: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input with its batch axis at ``rows``."""

    def at(tensor: TensorSpec) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else rows for dim in tensor.shape(sizes))

    return {tensor.name: at(tensor) for tensor in spec.inputs}


def _tensorrt_provider(
    config: Any, spec: GraphSpec, sizes: Mapping[str, int], profile: DeviceProfile, precision: str
) -> None:
    """Add ONNX Runtime's TensorRT provider with its engine and timing caches and one profile of shapes."""
    provider = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    parameters = {
        "precision_mode": PRECISION_MODES[precision],
        "max_workspace_size_bytes": str(WORKSPACE_BYTES),
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": f"{ENGINE_CACHE}/{profile.name}",
        "trt_timing_cache_enable": "true",
        "trt_timing_cache_path": f"{ENGINE_CACHE}/{profile.name}",
    }
    if spec.model.is_batched:
        for word, rows in (("min", 1), ("opt", profile.optimum_rows), ("max", MAX_BATCH)):
            bound = shapes(spec, sizes, rows)
            parameters[f"trt_profile_{word}_shapes"] = ",".join(
                f"{name}:{'x'.join(map(str, shape))}" for name, shape in bound.items()
            )
    for key, value in parameters.items():
        provider.parameters[key] = value


def check_fits(path: Path, spec: GraphSpec) -> None:
    """Refuse a graph's configuration that declares other inputs than the graph has; a missing one is no fault.

    Raises
    ------
    TargetError
    """
    if not path.is_file():
        return
    declared = [tensor.name for tensor in _parsed(path).input]
    wanted = [tensor.name for tensor in spec.inputs]
    if declared != wanted:
        raise TargetError(
            f"{path} declares the inputs {declared}, this checkpoint's {spec.name} has {wanted}: "
            "make a repository of its own with cytoserve export repository"
        )


def refit(path: Path, sizes: Mapping[str, int]) -> str:
    """Return a Python model's configuration with this checkpoint's latent shape.

    Raises
    ------
    TargetError
        The file is no Triton configuration.
    """
    config = _parsed(path)
    latent = [sizes["latent_channels"], sizes["latent_height"], sizes["latent_width"]]
    for tensor in (*config.input, *config.output):
        if tensor.name == "LATENT":
            tensor.dims[-3:] = latent
    return text_format.MessageToString(config)


def _parsed(path: Path) -> Any:
    try:
        return text_format.Parse(read_text(path), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise TargetError(f"{path} is not a Triton configuration: {error}; take the one of the release") from error
