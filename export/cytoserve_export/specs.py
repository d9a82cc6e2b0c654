"""What is exported: names, types, axes, opset and tolerances of every graph, declared in one place.

A dimension is a number, a size of the checkpoint (a key of :meth:`Geometry.sizes`, fixed in the graph) or any other
word, which is a dynamic axis and keeps that word in the ONNX file. The names and shapes are those of
``docs/contract.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Dim = int | str

OPSET: Final = 18
"""Opset 18: what torch's exporter writes natively (nothing is converted down), read by the ONNX Runtime 1.19 of
Triton 24.10 (up to 21) and by TensorRT 10's parser (9 to 20 and later). 19 and 20 would add nothing used here; from
21 on ``GroupNormalization`` would be one node, which TensorRT 10.0 to 10.5 and that ONNX Runtime do not promise."""

MAX_IR_VERSION: Final = 10
"""Highest ONNX file version that ONNX Runtime 1.19 reads."""


SYNTHESIS_FOLDER: Final = "model_repository_synthesis"
"""Second repository, beside the first: graphs loaded only where synthesis or explanation is switched on. Triton loads
whatever lies in a repository, so they must not lie in the first."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Parameters
    ----------
    name : str
        Name on the wire.
    dtype : str
        NumPy name of the element type.
    dims : tuple
        Dimensions as declared, see the module's description.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[Dim, ...]:
        """Return the dimensions with the checkpoint's ``sizes`` filled in; what is left as a word is dynamic."""
        return tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in self.dims)

    def dynamic(self, sizes: Mapping[str, int]) -> dict[int, str]:
        """Return the dynamic axes as ``{axis: word}``."""
        return {axis: dim for axis, dim in enumerate(self.shape(sizes)) if isinstance(dim, str)}


@dataclass(frozen=True)
class Tolerance:
    """Accepted difference ``|onnx - torch| <= atol + rtol * |torch|``, element by element."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class GraphSpec:
    """One exported graph.

    Parameters
    ----------
    name : str
        Folder of the model in the repository.
    inputs, outputs : tuple of TensorSpec
    tolerance : Tolerance
    parts : tuple of str
        Folders of the checkpoint whose bytes this graph holds.
    parity_sizes : tuple of dict
        Values of the dynamic axes at which parity is measured.
    synthesis : bool
        Whether it belongs into the synthesis repository.
    opset : int
    file : str
        Path inside the model's folder.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: Tolerance
    parts: tuple[str, ...]
    parity_sizes: tuple[dict[str, int], ...]
    synthesis: bool = False
    opset: int = OPSET
    file: str = "1/model.onnx"

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


_CROP: Final = ("M", "size", "size", 3)
_LATENT: Final = ("latent_channels", "latent_height", "latent_width")
# The cell axis may be empty (a field without white cells); a Triton batch axis may not, so B starts at 1.
_CELLS: Final = tuple({"M": count} for count in (0, 1, 7, 64))
_ROWS: Final = tuple({"B": count} for count in (1, 7, 64))

SPECS: Final[dict[str, GraphSpec]] = {
    spec.name: spec
    for spec in (
        GraphSpec(
            name="segmenter",
            inputs=(TensorSpec("SEGMENTER_INPUT", "float32", (1, 3, "height", "width")),),
            outputs=(TensorSpec("SEGMENTER_MAPS", "float32", (1, "maps", "map_height", "map_width")),),
            # Scores are in 0..1, box sides are exponentials up to some 660 px: the relative part rules there. A
            # hundredth of a pixel on a 50 px red cell is 2e-4.
            tolerance=Tolerance(atol=1e-4, rtol=2e-4),
            parts=("segmenter",),
            # Input multiples of 32 as the contract pads them; one small, one oblong, one near a camera's field.
            parity_sizes=tuple({"height": h, "width": w} for h, w in ((32, 32), (96, 160), (416, 544))),
        ),
        GraphSpec(
            name="encoder",
            inputs=(TensorSpec("CROP", "uint8", _CROP),),
            outputs=(TensorSpec("LATENT", "float32", ("M", *_LATENT)),),
            # Latents have unit variance; the probes add noise of the same size, so 1e-4 is far below what matters.
            tolerance=Tolerance(atol=1e-4, rtol=1e-4),
            parts=("vae",),
            parity_sizes=_CELLS,
        ),
        GraphSpec(
            name="decoder",
            inputs=(TensorSpec("LATENT", "float32", ("M", *_LATENT)),),
            outputs=(TensorSpec("CROP_FLOAT", "float32", _CROP),),
            # A 40th of one step of 8-bit colour.
            tolerance=Tolerance(atol=1e-4, rtol=1e-4),
            parts=("vae",),
            parity_sizes=_CELLS,
            synthesis=True,
        ),
        GraphSpec(
            name="denoiser",
            inputs=(
                TensorSpec("LATENT", "float32", ("B", *_LATENT)),
                TensorSpec("PROBE", "int32", ("B", 1)),
                TensorSpec("CLASS", "int32", ("B", 1)),
            ),
            outputs=(TensorSpec("ERROR", "float32", ("B", 1)),),
            # A mean of thousands of squared residuals: rounding averages out. Errors are near 0.5 and the posterior's
            # temperature near 2e-3, so this is three thousandths of a temperature. What
            # it must not move, the decision, is checked on real cells besides.
            tolerance=Tolerance(atol=1e-6, rtol=1e-5),
            parts=("unet", "scheduler", "scoring", "conditioning"),
            parity_sizes=_ROWS,
        ),
        GraphSpec(
            name="noise_predictor",
            inputs=(
                TensorSpec("LATENT_NOISY", "float32", ("B", *_LATENT)),
                TensorSpec("TIMESTEP", "int64", ("B", 1)),
                TensorSpec("CLASS", "int32", ("B", 1)),
            ),
            outputs=(TensorSpec("NOISE", "float32", ("B", *_LATENT)),),
            # One element of unit-variance noise after some fifty layers.
            tolerance=Tolerance(atol=5e-4, rtol=1e-3),
            parts=("unet", "scheduler", "conditioning"),
            parity_sizes=_ROWS,
            synthesis=True,
        ),
    )
}
"""Every graph by name, in the order of export."""
