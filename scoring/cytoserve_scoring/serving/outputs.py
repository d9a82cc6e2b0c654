"""A producer's result as the tensors that the contract declares: types cast, shapes and ranges checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cytoserve_contract.models import ModelSpec
from cytoserve_contract.tensors import TensorSpec, shape_problem
from cytoserve_contract.values import NOT_COMPUTED
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]


class OutputMismatch(RuntimeError):
    """A model made something else than its declaration says: a fault of ours, never the caller's."""


def encode(model: ModelSpec, result: object) -> Tensors:
    """Return the outputs of a model as they travel.

    Parameters
    ----------
    model : ModelSpec
        Its declaration.
    result : mapping, or any other object
        A mapping from the outputs' names, or an object whose attributes are those of the declaration
        (`TensorSpec.attribute`). A text or a list of texts becomes BYTES, a number one element.

    Returns
    -------
    dict of str to ndarray : one array for each output; ``NOT_COMPUTED`` in the place of NaN and of infinity.

    Raises
    ------
    OutputMismatch
        A type that cannot be cast without loss of kind, a shape or a number that the declaration does not allow.
    """
    made = {spec.name: _array(spec, _part(spec, result)) for spec in model.outputs}
    problem = shape_problem(model.outputs, {name: array.shape for name, array in made.items()})
    problem = problem or next(filter(None, (spec.value_problem(made[spec.name]) for spec in model.outputs)), "")
    if problem:
        raise OutputMismatch(f"{model.name}: {problem}")
    return {name: finite(array) for name, array in made.items()}


def _part(spec: TensorSpec, result: object) -> Any:
    return result[spec.name] if isinstance(result, Mapping) else getattr(result, spec.attribute)


def _array(spec: TensorSpec, value: Any) -> NDArray[Any]:
    if spec.is_text:
        return texts([value] if isinstance(value, str) else list(value))
    array = np.asarray(value)
    if array.ndim == 0 and spec.dims == (1,):
        array = array.reshape(1)
    try:
        return array.astype(spec.dtype, casting="same_kind", copy=False)
    except TypeError:
        raise OutputMismatch(f"{spec.name} is of type {array.dtype}, not {spec.dtype}") from None


def texts(values: list[str]) -> NDArray[np.object_]:
    """Return strings as a BYTES tensor, one dimension, also when there are none."""
    out = np.empty(len(values), dtype=np.object_)
    out[:] = [value.encode("utf-8") for value in values]
    return out


def finite(values: NDArray[Any]) -> NDArray[Any]:
    """Return an output as it travels: ``NOT_COMPUTED`` in the place of NaN and of infinity (no deadline)."""
    if values.dtype.kind != "f":
        return values
    return np.where(np.isfinite(values), values, values.dtype.type(NOT_COMPUTED))
