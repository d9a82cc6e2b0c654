"""Denoiser evaluations per second on a GPU by batch size: torch compiled in bf16, ONNX Runtime CUDA, a TensorRT engine.

``python -m benchmarks.export_gpu CHECKPOINT --profile GPU [--onnx FILE] [--engine FILE] [--out FILE]``

**Not run by the authors** (no GPU). The share of peak is operations counted by ``cytoserve_export.cost`` over the data
sheet's dense bf16 peak, whatever the precision. Rows are random: speed only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.cost import denoiser_costs
from cytoserve_export.devices import PROFILES
from cytoserve_export.networks import TracedDenoiser
from cytoserve_export.precision import cast_denoiser
from cytoserve_scoring.classifier.engine import denoiser_inputs

from benchmarks.results import Benchmark, Inputs, run

BATCHES = (1, 8, 32, 64, 128, 256)
SECONDS = 3.0
SEED = 0


def rate(run: Callable[[], object], rows: int) -> dict[str, float]:
    """Return evaluations per second after a warm-up, for :data:`SECONDS` at least."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        run()
        calls += 1
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {"evaluations_per_s": rows * calls / seconds, "ms_a_call": 1e3 * seconds / calls}


def rows_of(checkpoint: Checkpoint, count: int) -> dict[str, Any]:
    """Return random inputs of ``count`` rows by name."""
    rng, geometry = np.random.default_rng(SEED), checkpoint.geometry
    latents = rng.standard_normal((count, *geometry.latent_shape), dtype=np.float32)
    samples = rng.integers(0, checkpoint.scoring["probes"], count).astype(np.int32)
    told = geometry.told_classes
    labels = None if told is None else rng.integers(0, told, count).astype(np.int32)
    return denoiser_inputs(latents, samples, labels)


def torch_road(checkpoint: Checkpoint) -> Callable[[dict[str, Any]], Callable[[], object]]:
    """Return the compiled bf16 denoiser, CUDA graphs included (torch's mode ``max-autotune``)."""
    module = TracedDenoiser(checkpoint.unet(), checkpoint.conditioning, checkpoint.schedule, checkpoint.probes()).eval()
    network: Any = cast_denoiser(module, "bf16")
    network = network.cuda().to(memory_format=torch.channels_last)
    compiled = torch.compile(network, mode="max-autotune")

    def bind(feed: dict[str, Any]) -> Callable[[], object]:
        rows = [torch.from_numpy(value).cuda() for value in feed.values()]

        def run() -> object:
            with torch.no_grad():
                return compiled(*rows)

        return run

    return bind


def onnx_road(path: Path) -> Callable[[dict[str, Any]], Callable[[], object]]:
    """Return ONNX Runtime's CUDA provider, inputs and output kept on the device."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CUDAExecutionProvider"])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise SystemExit("onnxruntime has no CUDA provider here: install onnxruntime-gpu in its place")

    def bind(feed: dict[str, Any]) -> Callable[[], object]:
        binding = session.io_binding()
        for name, value in feed.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
        binding.bind_output("ERROR", "cuda")
        return lambda: session.run_with_iobinding(binding)

    return bind


def engine_road(path: Path, answers: int) -> Callable[[dict[str, Any]], Callable[[], object]]:
    """Return the engine, its copies to and from the device included."""
    import tensorrt  # type: ignore[import-not-found]
    from cytoserve_export.tensorrt_parity import EngineRun

    engine = EngineRun(tensorrt, path, answers=answers)
    return lambda feed: lambda: engine(feed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--profile", choices=[name for name, p in PROFILES.items() if p.is_gpu], required=True)
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--engine", type=Path)


def inputs(args: argparse.Namespace) -> Inputs:
    """Return the checkpoint's weights and the seed of the random rows."""
    checkpoint = Checkpoint(args.checkpoint)
    name = checkpoint.index.get("name", args.checkpoint.name)
    return Inputs({"name": name, "sha256": checkpoint.weights_sha256}, seeds={"rows": SEED})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time every runtime at every batch size; print each row as it is measured."""
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA GPU: run this on the GPU node")
    checkpoint, profile = Checkpoint(args.checkpoint), PROFILES[args.profile]
    costs = denoiser_costs(checkpoint.unet_config, checkpoint.conditioning, checkpoint.geometry.latent_shape)
    flops, peak = costs.folded.flops, 1e12 * float(profile.bf16_tflops or 0)
    roads = {"torch bf16, compiled": lambda: torch_road(checkpoint)}
    if args.onnx:
        roads["ONNX Runtime CUDA"] = lambda: onnx_road(args.onnx)
    if args.engine:
        roads["TensorRT"] = lambda: engine_road(args.engine, checkpoint.geometry.sizes()["answers"])
    found: list[dict[str, Any]] = []
    for name, make in roads.items():
        bind = make()
        for count in BATCHES:
            torch.cuda.reset_peak_memory_stats()
            timed = rate(bind(rows_of(checkpoint, count)), count)
            free, total = torch.cuda.mem_get_info()
            entry = {"road": name, "rows": count, **timed, "gib": (total - free) / 2**30}
            entry["share_of_peak"] = timed["evaluations_per_s"] * flops / peak
            found.append(entry)
            print(entry, flush=True)
    return {"gpu": torch.cuda.get_device_name(0), "profile": profile.name, "flops": flops, "measured": found}


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
