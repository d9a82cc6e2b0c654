"""Compare a graph with its torch network: signature, then NaN, then the measured difference.

The torch side of ``denoiser`` and ``noise_predictor`` is the unmodified ``UNet2DConditionModel`` with the scheduler of
``diffusers``, not the module that was traced: so folded tables, the single context token and the error's formula are
all inside what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import torch
from cytoserve_contract.tensors import Dim
from numpy.typing import NDArray
from torch import Tensor

from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.errors import NotFiniteOutput, SignatureMismatch, ToleranceExceeded
from cytoserve_export.graphs import external_files
from cytoserve_export.networks import build
from cytoserve_export.specs import GraphSpec, Tolerance

Array = NDArray[Any]
Reference = Callable[..., Tensor]

_ORT_TYPES: Final = {
    "float32": "tensor(float)",
    "uint8": "tensor(uint8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
}


@dataclass(frozen=True)
class Difference:
    """Measured difference of one output at one size of the dynamic axes.

    ``max_rel`` is relative to the torch value, small values raised to ``atol / rtol`` first (no division by 0);
    ``used`` is the largest share of the tolerance used, and above 1 the check fails.
    """

    output: str
    sizes: dict[str, int]
    max_abs: float
    max_rel: float
    used: float


@dataclass(frozen=True)
class GraphParity:
    """Parity of one graph: the tolerance it was held to and every measured difference."""

    tolerance: Tolerance
    differences: tuple[Difference, ...]

    def summary(self) -> dict[str, Any]:
        """Return what the manifest records."""
        return {
            "atol": self.tolerance.atol,
            "rtol": self.tolerance.rtol,
            "max_abs": max((d.max_abs for d in self.differences), default=0.0),
            "max_rel": max((d.max_rel for d in self.differences), default=0.0),
            "measured": [asdict(d) for d in self.differences],
        }


def session(path: Path, threads: int) -> ort.InferenceSession:
    """Open a graph on the CPU with ``threads`` threads.

    Raises
    ------
    MissingExternalData, GraphError
        The file is not whole.
    """
    external_files(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check_signature(run: ort.InferenceSession, spec: GraphSpec, sizes: Mapping[str, int]) -> None:
    """Compare names, types and axes with the declaration.

    Raises
    ------
    SignatureMismatch
    """
    for what, declared, found in (
        ("input", spec.inputs, run.get_inputs()),
        ("output", spec.outputs, run.get_outputs()),
    ):
        names = [value.name for value in found]
        if names != [tensor.name for tensor in declared]:
            raise SignatureMismatch(f"{spec.name}: {what}s are {names}, declared are {[t.name for t in declared]}")
        for tensor, value in zip(declared, found, strict=True):
            wanted = _ORT_TYPES[tensor.dtype]
            if value.type != wanted:
                raise SignatureMismatch(f"{spec.name}: {tensor.name} is {value.type}, declared is {wanted}")
            if not _same_axes(tensor.shape(sizes), value.shape):
                raise SignatureMismatch(
                    f"{spec.name}: {tensor.name} has axes {value.shape}, declared are {tensor.shape(sizes)}"
                )


def _same_axes(declared: tuple[Dim, ...], found: list[Any]) -> bool:
    """Return whether fixed axes agree and dynamic ones are dynamic (``maps`` may be any number)."""
    if len(declared) != len(found):
        return False
    return all(
        want == have or (want == "maps" and isinstance(have, int)) for want, have in zip(declared, found, strict=True)
    )


def measure(got: Array, want: Array, tolerance: Tolerance, name: str, sizes: Mapping[str, int]) -> Difference:
    """Compare one output of ONNX Runtime (``got``) and torch (``want``); ``name`` is ``model/output``.

    Raises
    ------
    SignatureMismatch
        Another shape or type.
    NotFiniteOutput
        NaN or infinity on either side.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        raise SignatureMismatch(f"{name} at {dict(sizes)}: {got.dtype} {got.shape}, torch {want.dtype} {want.shape}")
    for side, values in (("ONNX Runtime", got), ("torch", want)):
        broken = int(np.count_nonzero(~np.isfinite(values)))
        if broken:
            raise NotFiniteOutput(f"{name} at {dict(sizes)}: {broken} of {values.size} values from {side} not finite")
    if not got.size:
        return Difference(name, dict(sizes), 0.0, 0.0, 0.0)
    reference = np.abs(want.astype(np.float64))
    gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
    floor = tolerance.atol / tolerance.rtol
    used = gap / (tolerance.atol + tolerance.rtol * reference)
    return Difference(
        name, dict(sizes), float(gap.max()), float((gap / np.maximum(reference, floor)).max()), float(used.max())
    )


def check_graph(
    spec: GraphSpec, path: Path, checkpoint: Checkpoint, threads: int, step: Callable[[], None] = lambda: None
) -> GraphParity:
    """Run one graph beside its torch network at every declared size; ``step`` is called after each.

    ``threads`` are ONNX Runtime's.

    Raises
    ------
    ParityError
        One of its subclasses.
    """
    sizes = checkpoint.geometry.sizes()
    run = session(path, threads)
    check_signature(run, spec, sizes)
    reference = reference_for(spec.name, checkpoint)
    generator = np.random.default_rng(20241123)
    output = spec.outputs[0].name
    found: list[Difference] = []
    for lengths in spec.sizes_to_check(checkpoint.is_heavy):
        feed = random_inputs(spec, {**sizes, **lengths}, checkpoint, generator)
        if 0 in lengths.values():
            # No rows have one right answer, which torch's attention cannot give: none.
            want = np.zeros(tuple(int(d) for d in spec.outputs[0].shape({**sizes, **lengths})), np.float32)
        else:
            with torch.no_grad():
                want = reference(*(torch.from_numpy(value) for value in feed.values())).numpy()
        (got,) = run.run([output], feed)
        difference = measure(got, want, spec.tolerance, f"{spec.name}/{output}", lengths)
        if difference.used > 1:
            allowed = f"atol {spec.tolerance.atol:g}, rtol {spec.tolerance.rtol:g}"
            raise ToleranceExceeded(
                f"{spec.name}/{output} at {lengths}: differs by {difference.max_abs:.3g} absolute, "
                f"{difference.max_rel:.3g} relative; allowed are {allowed}"
            )
        found.append(difference)
        step()
    return GraphParity(spec.tolerance, tuple(found))


def random_inputs(
    spec: GraphSpec, bound: Mapping[str, int], checkpoint: Checkpoint, generator: np.random.Generator
) -> dict[str, Array]:
    """Return one random input per name: normal latents, uniform pixels, valid indices."""
    limits = {
        "PROBE": len(checkpoint.probes()) if spec.name == "denoiser" else 1,
        "TIMESTEP": len(checkpoint.schedule.alphas_cumprod),
        "CLASS": len(checkpoint.geometry.classes),
    }
    feed: dict[str, Array] = {}
    for tensor in spec.inputs:
        shape = tuple(int(dim) for dim in tensor.shape(bound))
        if tensor.dtype == "uint8":
            feed[tensor.name] = generator.integers(0, 256, shape, dtype=np.uint8)
        elif tensor.name in limits:
            feed[tensor.name] = generator.integers(0, limits[tensor.name], shape).astype(tensor.dtype)
        elif tensor.name == "SEGMENTER_INPUT":
            feed[tensor.name] = generator.random(shape, dtype=np.float32)
        else:
            feed[tensor.name] = generator.standard_normal(shape, dtype=np.float32)
    return feed


def reference_for(name: str, checkpoint: Checkpoint) -> Reference:
    """Return the torch side of one graph, from the unmodified network."""
    if name == "denoiser":
        return ErrorReference(checkpoint)
    if name == "noise_predictor":
        return NoiseReference(checkpoint)
    return build(name, checkpoint)


class NoiseReference:
    """Noise from the unmodified network: ``UNet2DConditionModel.forward`` and the scheduler's formulas."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.unet: Any = checkpoint.unet()
        self.conditioning = checkpoint.conditioning
        self.scheduler: Any = checkpoint.scheduler()
        self.velocity = checkpoint.schedule.prediction_type == "v_prediction"

    def predict(self, noisy: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Return the raw prediction for (B,) timesteps and (B,) classes."""
        if self.conditioning.all_classes:
            return self.predict_all(noisy, timestep)[torch.arange(len(label)), label]
        sample: Tensor = self.unet(noisy, timestep, **self.conditioning.reference_arguments(label)).sample
        return sample

    def predict_all(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Return the (B, K, C, H, W) raw predictions of a network that answers all K classes."""
        sample: Tensor = self.unet(noisy, timestep, None).sample
        return sample.unflatten(1, (self.conditioning.classes, -1))

    def __call__(self, noisy: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Return the noise; (B, 1) timesteps and classes as on the wire."""
        prediction = self.predict(noisy, timestep[:, 0], label[:, 0].long())
        if not self.velocity:
            return prediction
        alpha = self.scheduler.alphas_cumprod[timestep[:, 0]].reshape(-1, 1, 1, 1)
        noise: Tensor = alpha.sqrt() * prediction + (1 - alpha).sqrt() * noisy
        return noise


class ErrorReference(NoiseReference):
    """The contract's ERROR from the unmodified network and ``DDIMScheduler.add_noise`` and ``get_velocity``."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.bank = checkpoint.probes()

    def __call__(self, latent: Tensor, probe: Tensor, label: Tensor | None = None) -> Tensor:
        """Return (B, 1) errors, or (B, K) without classes; (B, 1) probes and classes as on the wire."""
        row = probe[:, 0].long()
        step, noise = self.bank.timestep[row], self.bank.noise[row].float()
        latent = self._turned(latent, row)
        noisy = self.scheduler.add_noise(latent, noise, step)
        if label is None:
            predicted = self.predict_all(noisy, step)
        else:
            predicted = self.predict(noisy, step, label[:, 0].long())[:, None]
        target = self.scheduler.get_velocity(latent, noise, step) if self.velocity else noise
        weighted: Tensor = (self.bank.weight[row] * self.bank.mask)[:, None] * (predicted - target[:, None]) ** 2
        return weighted.sum(dim=(2, 3, 4)) / self.bank.mask.sum()

    def _turned(self, latent: Tensor, row: Tensor) -> Tensor:
        """Turn each latent by the quarters of its probe, one after the other."""
        bank = self.bank
        if bank.turn is None or bank.turn_matrix is None or bank.turn_offset is None:
            return latent
        out = latent.clone()
        for quarter in range(1, 4):
            still = bank.turn[row] >= quarter
            mixed = torch.einsum("ij,bjhw->bihw", bank.turn_matrix, torch.rot90(out[still], 1, (2, 3)))
            out[still] = mixed + bank.turn_offset[:, None, None]
        return out
