"""What each precision of the denoiser costs on real cells: error of the score, decisions changed, processor time.

``python -m benchmarks.export_precision CHECKPOINT REPOSITORY CELLS [--per-class N] [--budget N] [--out FILE]``, with
REPOSITORY the exported single-precision one. Times are processor seconds of one thread, so other work on the machine
matters little. bf16 is scored by torch: ONNX Runtime has no bf16 convolution on CPUs, which is tried and written down.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.decisions import CheckCells, read_cells
from cytoserve_export.graphs import export_graph
from cytoserve_export.networks import TracedDenoiser
from cytoserve_export.parity import session
from cytoserve_export.precision import cast_denoiser, offered, quantise, spec_for
from cytoserve_export.precision_check import Scored, calibration, compare_scored, latents_of, score
from cytoserve_scoring.classifier.engine import ScoringEngine, denoiser_inputs
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_statistics.shares import clopper_pearson
from numpy.typing import NDArray

from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights


def by_torch(latents: NDArray[np.float32], denoiser: TracedDenoiser, checkpoint: Checkpoint, budget: int) -> Scored:
    """Score by the torch module itself, for a precision that ONNX Runtime cannot run here."""
    spent = 0.0

    def evaluate(latent: Any, probe: Any, label: Any) -> NDArray[np.float32]:
        nonlocal spent
        start = time.process_time()
        with torch.no_grad():
            rows = (torch.from_numpy(value) for value in denoiser_inputs(latent, probe, label).values())
            answer: NDArray[np.float32] = denoiser(*rows).numpy()
        spent += time.process_time() - start
        return answer if label is None else answer[:, 0]

    engine = ScoringEngine(ScoringConfig.from_json(checkpoint.scoring))
    found = engine.score(latents, np.zeros(len(latents), np.int32), evaluate, budget)
    return Scored(found.scores, found.label, found.decision, spent / max(1, int(found.evaluations.sum())))


def compare(
    checkpoint: Checkpoint, repository: Path, cells: CheckCells, budget: int, scratch: Path
) -> list[dict[str, Any]]:
    """Return one entry a precision."""
    encoder, exact_graph = repository / "encoder/1/model.onnx", repository / "denoiser/1/model.onnx"
    latents = latents_of(read_cells(cells, checkpoint)[0], encoder, 1)
    exact = score(latents, exact_graph, checkpoint, budget, 1)
    found = [_entry(compare_scored("fp32", exact, exact, budget), exact_graph, "ONNX Runtime, CPU")]
    print(found[-1], flush=True)
    for precision in ("int8", "fp16", "bf16"):
        path = scratch / precision / "model.onnx"
        if precision == "int8":
            quantise(exact_graph, path, calibration(cells, checkpoint, encoder, 1))
        else:
            module = TracedDenoiser(
                checkpoint.unet(), checkpoint.conditioning, checkpoint.schedule, checkpoint.probes()
            )
            cast = cast_denoiser(module.eval(), precision)
            export_graph(cast, spec_for(precision, checkpoint), checkpoint.geometry.sizes(), path)
        note = "ONNX Runtime, CPU"
        try:
            session(path, 1)
            scored = score(latents, path, checkpoint, budget, 1)
        except Exception as error:  # the runtime's own refusal, which is the finding
            note = f"torch, CPU; ONNX Runtime refuses: {str(error).splitlines()[0][:160]}"
            scored = by_torch(latents, cast, checkpoint, budget)
        found.append(_entry(compare_scored(precision, exact, scored, budget), path, note))
        print(found[-1], flush=True)
    return found


def _entry(measured: Any, path: Path, note: str) -> dict[str, Any]:
    interval = clopper_pearson(measured.decisions_changed, measured.cells)
    entry = {**asdict(measured), "offered": offered(measured.decisions_changed, measured.cells)}
    return {**entry, "interval": list(interval), "bytes": path.stat().st_size, "run_by": note}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("repository", type=Path)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--per-class", type=int, default=32)
    parser.add_argument("--budget", type=int, default=4)


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights and cells."""
    return Inputs(served_weights(args.repository), (DataRead.by_class(args.cells, args.per_class),))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Score the cells in every precision."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        cells = CheckCells(args.cells, args.per_class)
        return {"rows": compare(Checkpoint(args.checkpoint), args.repository, cells, args.budget, Path(scratch))}


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
