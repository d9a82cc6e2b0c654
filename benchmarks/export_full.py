"""Time and peak memory of exporting a full CytoDiffusion denoiser (860 million parameters, random weights) to ONNX.

    python -m benchmarks.export_full SCRATCH --parity --out docs/results/export_full.json

SCRATCH is a folder with about 9 GB free; it is removed afterwards.
"""

from __future__ import annotations

import argparse
import gc
import resource
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.graphs import export_graph, external_files
from cytoserve_export.networks import build
from cytoserve_export.parity import ErrorReference, session
from cytoserve_export.synthetic import write_checkpoint

from benchmarks.results import Benchmark, Inputs, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--size", choices=("full", "tenth"), default="full")
    parser.add_argument("--parity", action="store_true", help="one evaluation by torch and by ONNX Runtime")


def inputs(args: argparse.Namespace) -> Inputs:
    """Return nothing: the weights are random."""
    return Inputs(None, seeds={"weights": 0, "row": 0})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the stages and return what each took."""
    torch.set_num_threads(1)
    stages: dict[str, Any] = {}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.monotonic(), time.process_time()
        answer = work()
        stages[name] = {
            "wall_s": round(time.monotonic() - wall, 1),
            "cpu_s": round(time.process_time() - cpu, 1),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        return answer

    folder, path = args.scratch / "checkpoint", args.scratch / "denoiser" / "model.onnx"
    try:
        if not (folder / "model_index.json").is_file():
            stage("make the checkpoint", lambda: write_checkpoint(folder, args.size, with_vae=False))
        checkpoint = Checkpoint(folder)
        module = stage("read the weights", lambda: build("denoiser", checkpoint))
        parameters = sum(p.numel() for p in module.parameters())
        spec, sizes = checkpoint.spec("denoiser"), checkpoint.geometry.sizes()
        stage("trace, write and check", partial(export_graph, module, spec, sizes, path))
        del module
        gc.collect()
        if args.parity:
            stages["parity"] = _parity(checkpoint, path, stage)
        files = {name: (path.parent / name).stat().st_size for name in (path.name, *external_files(path))}
        return {"size": args.size, "parameters_after_folding": parameters, "bytes": files, "stages": stages}
    finally:
        shutil.rmtree(args.scratch, ignore_errors=True)


def _parity(checkpoint: Checkpoint, path: Path, stage: Callable[[str, Callable[[], Any]], Any]) -> dict[str, float]:
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((1, *checkpoint.geometry.latent_shape), dtype=np.float32)
    row = np.ones((1, 1), np.int32)
    with torch.no_grad():
        reference = ErrorReference(checkpoint)
        args = (torch.from_numpy(latent), torch.from_numpy(row), torch.from_numpy(row))
        want = float(stage("one evaluation, torch", partial(reference, *args)))
    del reference
    gc.collect()
    run = stage("open in ONNX Runtime", lambda: session(path, 1))
    feed = {"LATENT": latent, "PROBE": row, "CLASS": row}
    got = float(stage("one evaluation, ONNX Runtime", lambda: run.run(None, feed))[0][0, 0])
    return {"torch": want, "onnx": got, "relative": abs(got - want) / abs(want)}


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
