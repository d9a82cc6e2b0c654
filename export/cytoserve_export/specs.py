"""What is exported: opset, tolerances and parity sizes of every graph, in one place.

Names, types and axes are those of the contract (`cytoserve_contract.models`). A dimension is a number, a size of the
checkpoint (a key of :meth:`Geometry.sizes`, fixed in the graph) or any other word, which is a dynamic axis and keeps
that word in the ONNX file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cytoserve_contract.models import (
    DECODER,
    DENOISER,
    DENOISER_BY_CLASS,
    ENCODER,
    NOISE_PREDICTOR,
    SEGMENTER,
    SYNTHESIS_REPOSITORY,
    ModelSpec,
)
from cytoserve_contract.tensors import TensorSpec

OPSET: Final = 18
"""Opset 18: what torch's exporter writes natively (nothing is converted down), read by the ONNX Runtime 1.19 of
Triton 24.10 (up to 21) and by TensorRT 10's parser (9 to 20 and later). 19 and 20 would add nothing used here; from
21 on ``GroupNormalization`` would be one node, which TensorRT 10.0 to 10.5 and that ONNX Runtime do not guarantee."""

MAX_IR_VERSION: Final = 10
"""Highest ONNX file version that ONNX Runtime 1.19 reads."""


@dataclass(frozen=True)
class Tolerance:
    """Accepted difference ``|onnx - torch| <= atol + rtol * |torch|``, element by element."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class GraphSpec:
    """One exported graph.

    ``parts`` are the checkpoint's folders whose bytes it holds, ``parity_sizes`` the values of the dynamic axes at
    which parity is measured, ``file`` its path inside the model's folder.
    """

    model: ModelSpec
    tolerance: Tolerance
    parts: tuple[str, ...]
    parity_sizes: tuple[dict[str, int], ...]
    opset: int = OPSET
    file: str = "1/model.onnx"

    @property
    def name(self) -> str:
        """Folder of the model in the repository."""
        return self.model.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs."""
        return self.model.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs."""
        return self.model.outputs

    @property
    def synthesis(self) -> bool:
        """Whether it belongs into the synthesis repository."""
        return self.model.repository == SYNTHESIS_REPOSITORY

    def sizes_to_check(self, heavy: bool) -> tuple[dict[str, int], ...]:
        """Return the sizes at which parity is measured; ``heavy`` networks get two rows at most."""
        if not heavy:
            return self.parity_sizes
        return tuple(sizes for sizes in self.parity_sizes if max(sizes.values()) <= 1) + tuple(
            {axis: 2 for axis in sizes} for sizes in self.parity_sizes[-1:] if set(sizes) <= {"B", "M"}
        )

    @property
    def path(self) -> str:
        """Path of the graph inside the model repository."""
        return f"{self.name}/{self.file}"


# The cell axis may be empty (a field without white cells); a Triton batch axis may not, so B starts at 1.
_CELLS: Final = tuple({"M": count} for count in (0, 1, 7, 64))
_ROWS: Final = tuple({"B": count} for count in (1, 7, 64))

SPECS: Final[dict[str, GraphSpec]] = {
    spec.name: spec
    for spec in (
        GraphSpec(
            SEGMENTER,
            # Scores are in 0..1, box sides are exponentials up to some 660 px: the relative part rules there. A
            # hundredth of a pixel on a 50 px red cell is 2e-4.
            tolerance=Tolerance(atol=1e-4, rtol=2e-4),
            parts=("segmenter",),
            # Input multiples of 32 as the contract pads them; one small, one oblong, one near a camera's field.
            parity_sizes=tuple({"height": h, "width": w} for h, w in ((32, 32), (96, 160), (416, 544))),
        ),
        GraphSpec(
            ENCODER,
            # Latents have unit variance; the probes add noise of the same size, so 1e-4 is far below what matters.
            tolerance=Tolerance(atol=1e-4, rtol=1e-4),
            parts=("vae",),
            parity_sizes=_CELLS,
        ),
        GraphSpec(
            DECODER,
            # A 40th of one step of 8-bit colour.
            tolerance=Tolerance(atol=1e-4, rtol=1e-4),
            parts=("vae",),
            parity_sizes=_CELLS,
        ),
        GraphSpec(
            DENOISER,
            # A mean of thousands of squared residuals: rounding averages out. Errors are near 0.5 and the posterior's
            # temperature near 2e-3, so this is three thousandths of a temperature. What
            # it must not move, the decision, is checked on real cells besides.
            tolerance=Tolerance(atol=1e-6, rtol=1e-5),
            parts=("unet", "scheduler", "scoring", "conditioning"),
            parity_sizes=_ROWS,
        ),
        GraphSpec(
            NOISE_PREDICTOR,
            # One element of unit-variance noise after some fifty layers.
            tolerance=Tolerance(atol=5e-4, rtol=1e-3),
            parts=("unet", "scheduler", "conditioning"),
            parity_sizes=_ROWS,
        ),
    )
}
"""Every graph by name, in the order of export, the denoiser as one that answers all classes."""


def denoiser_spec(all_classes: bool) -> GraphSpec:
    """Return the declaration of a denoiser that answers all classes, or of one that is told a class."""
    spec = SPECS[DENOISER.name]
    return spec if all_classes else replace(spec, model=DENOISER_BY_CLASS)
