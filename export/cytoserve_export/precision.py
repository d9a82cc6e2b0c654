"""The denoiser in fewer bits: fp16, bf16 and int8, each made in its own way.

``fp16`` and ``bf16``
    The trunk of the network is cast before it is traced, so every type stands in the graph (what TensorRT calls
    strongly typed). What surrounds it stays in single precision: the noising of the latent, the residual, the sum.
``int8``
    ONNX Runtime's own static quantiser on the single-precision graph: weights and activations of convolutions and
    matrix products, ranges from real cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from cytoserve_scoring.classifier.engine import denoiser_inputs
from numpy.typing import NDArray
from torch import Tensor, nn

from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.errors import PrecisionRefused
from cytoserve_export.graphs import external_files, widen
from cytoserve_export.networks import TracedDenoiser
from cytoserve_export.specs import GraphSpec, Tolerance

PRECISIONS: Final = ("fp32", "fp16", "bf16", "int8")
DTYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}

BF16_OPSET: Final = 22
"""First opset whose ``Conv`` and ``InstanceNormalization`` take bfloat16."""

OFFERED_BELOW: Final = 0.005
"""Largest share of changed decisions with which a precision is offered as a default."""

ENOUGH_CELLS: Final = 200
"""Fewer cells cannot show 0.5 %: one change among them would be more."""


class CastTrunk(nn.Module):
    """A trunk that computes in ``dtype``; its inputs and outputs are in single precision."""

    def __init__(self, trunk: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.trunk, self.dtype = trunk.to(dtype), dtype

    def forward(self, z: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        """Cast, run, cast back; shapes as those of :class:`~cytoserve_export.networks.Trunk`."""
        cast = None if context is None else context.to(self.dtype)
        return self.trunk(z.to(self.dtype), embedding.to(self.dtype), cast).float()


def cast_denoiser(denoiser: TracedDenoiser, precision: str) -> TracedDenoiser:
    """Cast the trunk of ``denoiser`` in place and return it; ``fp32`` leaves it alone.

    Raises
    ------
    PrecisionRefused
        Not a floating precision: int8 is made from the graph, see :func:`quantise`.
    """
    if precision in DTYPES:
        module: Any = denoiser
        module.trunk = CastTrunk(denoiser.trunk, DTYPES[precision])
    elif precision != "fp32":
        raise PrecisionRefused(f"{precision!r} is no floating precision; known are fp32, {', '.join(DTYPES)}")
    return denoiser


def spec_for(precision: str, checkpoint: Checkpoint) -> GraphSpec:
    """Return the declaration of a checkpoint's denoiser for a precision: its opset, and what difference is no fault.

    The tolerance of a reduced precision only catches a broken graph; what it may cost is judged on decisions.
    """
    spec = checkpoint.spec("denoiser")
    if precision == "fp32":
        return spec
    opset = BF16_OPSET if precision == "bf16" else spec.opset
    return replace(spec, opset=opset, tolerance=Tolerance(atol=2e-2, rtol=1e-1))


@dataclass(frozen=True)
class Calibration:
    """Rows for the quantiser: the denoiser's input tensors by name, N rows each."""

    inputs: dict[str, NDArray[Any]]

    @classmethod
    def spread(cls, latents: NDArray[np.float32], probes: int, classes: int | None) -> Calibration:
        """Pair every latent with one probe and one class, both running round their banks.

        None stands for the classes of a denoiser that answers them all.
        """
        at = np.arange(len(latents))
        labels = None if classes is None else (at * 3 % classes).astype(np.int32)
        return cls(denoiser_inputs(latents, (at % probes).astype(np.int32), labels))

    def __len__(self) -> int:
        return len(self.inputs["LATENT"])

    def batches(self, rows: int = 4) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield feeds of ``rows`` rows."""
        for start in range(0, len(self), rows):
            yield {name: values[start : start + rows] for name, values in self.inputs.items()}


def quantise(source: Path, target: Path, calibration: Calibration | None) -> None:
    """Quantise a single-precision denoiser to int8 with ONNX Runtime's static quantiser.

    Raises
    ------
    PrecisionRefused
        No calibration cells, or a graph too large for the quantiser, which works in memory.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if calibration is None or not len(calibration):
        raise PrecisionRefused("int8 needs cells to calibrate on: give --cells, a folder with one sub-folder a class")
    if external_files(source):
        raise PrecisionRefused(f"{source} keeps its weights beside it: too large for the quantiser; choose fp16")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feeds: Iterator[dict[str, NDArray[Any]]]) -> None:
            self.feeds = feeds

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.feeds, None)

    target.parent.mkdir(parents=True, exist_ok=True)
    wide = target.with_suffix(".wide.onnx")
    onnx.save_model(widen(onnx.load(source)), wide)
    try:
        quantize_static(
            str(wide),
            str(target),
            Reader(calibration.batches()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        )
    finally:
        wide.unlink(missing_ok=True)


def offered(changed: int, cells: int) -> bool:
    """Whether a precision may be a default: at most 0.5 % of the decisions changed, on enough cells to see that."""
    return cells >= ENOUGH_CELLS and changed <= OFFERED_BELOW * cells
