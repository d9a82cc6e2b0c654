"""A model of `models` as Triton's ``config.pbtxt``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cytoserve_contract.models import MAX_BATCH, Deployment, ModelSpec
from cytoserve_contract.tensors import REFERENCE_SIZES, TensorSpec

HEADER = "# Generated from cytoserve_contract.models by `make contract`."


def config_type(tensor: TensorSpec) -> str:
    """Return Triton's name of the element type, such as ``TYPE_FP32``."""
    return "TYPE_STRING" if tensor.is_text else f"TYPE_{tensor.datatype}"


def config_dims(tensor: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    """Return the dimensions as Triton wants them: -1 where dynamic, without the batch axis."""
    dims = [dim if isinstance(dim, int) else -1 for dim in tensor.shape(sizes)]
    return dims[1:] if tensor.is_batched else dims


def config_text(model: ModelSpec) -> str:
    """Return the configuration of a model of the reference checkpoint's sizes."""
    return "".join(f"{line}\n" for line in _lines(model))


def _lines(model: ModelSpec) -> Iterator[str]:
    yield HEADER
    yield from _comment(model.meaning)
    yield f'name: "{model.name}"'
    yield f'platform: "{model.backend}"' if model.steps else f'backend: "{model.backend}"'
    yield f"max_batch_size: {MAX_BATCH if model.is_batched else 0}"
    yield from _tensors("input", model.inputs)
    yield from _tensors("output", model.outputs)
    yield from _steps(model.steps) if model.steps else _deployment(model.deployment)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in text.splitlines()]


def _tensors(side: str, tensors: Sequence[TensorSpec]) -> Iterator[str]:
    for tensor in tensors:
        dims = ", ".join(map(str, config_dims(tensor, REFERENCE_SIZES)))
        optional = " optional: true" if tensor.optional else ""
        yield f'{side} {{ name: "{tensor.name}" data_type: {config_type(tensor)} dims: [ {dims} ]{optional} }}'


def _deployment(how: Deployment) -> Iterator[str]:
    yield from _comment(how.note)
    settings = []
    if how.priority_levels:
        settings += [f"priority_levels: {how.priority_levels}", f"default_priority_level: {how.priority_levels}"]
    if how.queue_delay_us:
        settings.append(f"max_queue_delay_microseconds: {how.queue_delay_us}")
    if settings:
        yield f"dynamic_batching {{ {' '.join(settings)} }}"
    yield f"instance_group [ {{ count: {how.instances} kind: {how.processor} }} ]"
    for key, (value, comment) in how.parameters.items():
        yield from _comment(comment)
        yield f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def _steps(steps: Sequence[ModelSpec]) -> Iterator[str]:
    yield "ensemble_scheduling {"
    for step in steps:
        yield "  step {"
        yield f'    model_name: "{step.name}"'
        yield "    model_version: -1"
        for side, tensors in (("input", step.inputs), ("output", step.outputs)):
            for tensor in tensors:
                yield f'    {side}_map {{ key: "{tensor.name}" value: "{tensor.name}" }}'
        yield "  }"
    yield "}"
