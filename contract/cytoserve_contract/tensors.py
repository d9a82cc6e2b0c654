"""How a tensor is declared, and what is wrong with one that was sent.

A dimension is a number or a word. Words name axes (`AXES`): within one answer, tensors that share a word share a size.
The checks take anything that compares like an array, so that this module needs no NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

Dim = int | str

DATATYPES: Final[dict[str, str]] = {
    "float32": "FP32",
    "float64": "FP64",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "bytes": "BYTES",
}
"""NumPy's name of an element type (``bytes``: texts or files) and KServe's."""

AXES: Final[dict[str, str]] = {
    "N": "cells of every kind in a field",
    "M": "cells that are scored, or images of single cells",
    "C": "classes of the model, in the order that `service_info` gives",
    "B": "rows of a batch, at least one",
    "answers": "classes that one evaluation of the denoiser answers: all `C`, or 1 where the class is an input",
    "scales": "1, or one for each image",
    "size": "side of a crop, px",
    "latent_channels": "channels of a latent",
    "latent_height": "rows of a latent",
    "latent_width": "columns of a latent",
    "field_height": "rows of the field after EXIF orientation, px",
    "field_width": "columns of the field, px",
    "height": "rows at the segmenter's scale, padded to a multiple of 32",
    "width": "columns at the segmenter's scale, padded to a multiple of 32",
    "maps": "maps of the segmenter (`cytoserve_scoring.vision.extraction`)",
    "map_height": "`height` / 2",
    "map_width": "`width` / 2",
}
"""Every word that stands for a dimension."""

REFERENCE_SIZES: Final[dict[str, int]] = {
    "size": 96,
    "answers": 8,
    "latent_channels": 24,
    "latent_height": 16,
    "latent_width": 16,
}
"""Axes that a checkpoint fixes, as in the reference model; the committed configurations have these numbers."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output."""

    name: str
    """Name on the wire."""
    dtype: str
    """Element type, a key of `DATATYPES`."""
    dims: tuple[Dim, ...]
    """Dimensions, see the module's description."""
    meaning: str = ""
    """What it holds, for docs/contract.md."""
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    """Range of every element, both ends included."""
    may_lack: bool = False
    """Whether -1 (`values.NOT_COMPUTED`) may stand for a number that was not computed or is not known."""
    optional: bool = False
    """Whether the input may be left out."""
    internal: bool = False
    """Whether the output stays between an ensemble's steps."""
    attribute: str = ""
    """Name of it in the producer's result; the wire's name in lower case unless given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attribute", self.attribute or self.name.lower())

    @property
    def datatype(self) -> str:
        """KServe's name of the element type, such as ``FP32``."""
        return DATATYPES[self.dtype]

    @property
    def is_batched(self) -> bool:
        """Whether the first axis is Triton's batch axis, which its configuration leaves out."""
        return self.dims[:1] == ("B",)

    @property
    def is_text(self) -> bool:
        """Whether it holds texts or files in place of numbers."""
        return self.dtype == "bytes"

    @property
    def is_per_cell(self) -> bool:
        """Whether it has one row for each scored cell."""
        return self.dims[:1] == ("M",)

    def along(self, axis: Dim) -> TensorSpec:
        """Return the same tensor with another first axis."""
        return replace(self, dims=(axis, *self.dims[1:]))

    def shape(self, sizes: Mapping[str, int]) -> tuple[Dim, ...]:
        """Return the dimensions with ``sizes`` filled in; what is left as a word is dynamic."""
        return tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in self.dims)

    def dynamic(self, sizes: Mapping[str, int]) -> dict[int, str]:
        """Return the dynamic axes as ``{axis: word}``."""
        return {axis: dim for axis, dim in enumerate(self.shape(sizes)) if isinstance(dim, str)}

    def value_problem(self, values: Any) -> str:
        """Return what is wrong with the range of ``values``, or an empty string.

        Parameters
        ----------
        values : array of numbers, or one of NumPy's numbers
            NaN where a number was not computed.
        """
        if self.low == -math.inf and self.high == math.inf:
            return ""
        if not bool(((values < self.low) | (values > self.high)).any()):
            return ""
        return f"{self.name} holds a number outside {self.low:g} to {self.high:g}"


def shape_problem(
    specs: Iterable[TensorSpec], shapes: Mapping[str, Sequence[int]], sizes: Mapping[str, int] | None = None
) -> str:
    """Return what is wrong with the shapes of tensors that travel together, or an empty string.

    Parameters
    ----------
    specs : iterable of TensorSpec
        What was declared.
    shapes : mapping of str to sequence of int
        What was sent, by the tensors' names.
    sizes : mapping of str to int, optional
        Axes whose size is known beforehand.

    Examples
    --------
    >>> label, scores = TensorSpec("LABEL", "int32", ("M",)), TensorSpec("SCORES", "float32", ("M", "C"))
    >>> shape_problem([label, scores], {"LABEL": (3,), "SCORES": (2, 8)})
    'SCORES has shape (2, 8), not (3, 8)'
    """
    known = dict(sizes or {})
    for spec in specs:
        shape = tuple(shapes[spec.name])
        if len(shape) != len(spec.dims):
            return f"{spec.name} has {len(shape)} dimension(s), not {len(spec.dims)}"
        expected = tuple(known.setdefault(dim, have) if isinstance(dim, str) else dim
                         for dim, have in zip(spec.dims, shape, strict=True))  # fmt: skip
        if shape != expected:
            return f"{spec.name} has shape {shape}, not {expected}"
    return ""
