"""Run an engine beside ONNX Runtime on the same rows and compare: scores, and the class of every cell.

**Not run here** (no GPU). Tensors live in torch's CUDA memory; the engine is handed their addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_files import read_bytes
from numpy.typing import NDArray

from cytoserve_export.decisions import Feed, mean_errors
from cytoserve_export.errors import DecisionChanged, EngineBuildFailed
from cytoserve_export.parity import session


class EngineRun:
    """A deserialised denoiser engine: its input tensors -> ERROR, of ``answers`` columns.

    A ``version_compatible`` engine carries host code, which must be allowed. The tensors are on ``device``; ``cpu`` is
    for the tests' fake only.
    """

    def __init__(
        self, trt: Any, engine: Path, *, answers: int = 1, version_compatible: bool = False, device: str = "cuda"
    ) -> None:
        self.device, self.answers = device, answers
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        if version_compatible:
            self.runtime.engine_host_code_allowed = True
        self.engine = self.runtime.deserialize_cuda_engine(read_bytes(engine))
        if self.engine is None:
            raise EngineBuildFailed(f"TensorRT could not load {engine}; build it again on this machine")
        self.context = self.engine.create_execution_context()

    def __call__(self, feed: Feed) -> NDArray[np.float32]:
        """Return the (B, A) errors for the denoiser's input tensors of B rows, A classes answered at once."""
        held = {name: torch.from_numpy(np.ascontiguousarray(value)).to(self.device) for name, value in feed.items()}
        rows = len(feed["LATENT"])
        held["ERROR"] = torch.empty((rows, self.answers), dtype=torch.float32, device=self.device)
        for name in feed:
            if not self.context.set_input_shape(name, tuple(held[name].shape)):
                raise EngineBuildFailed(f"the engine refuses {name} of shape {tuple(held[name].shape)}")
        for name, tensor in held.items():
            self.context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.Stream() if self.device == "cuda" else None
        if not self.context.execute_async_v3(0 if stream is None else stream.cuda_stream):
            raise EngineBuildFailed("the engine did not run; see TensorRT's log above")
        if stream is not None:
            stream.synchronize()
        answer: NDArray[np.float32] = held["ERROR"].cpu().numpy()
        return answer


def check_engine_decisions(
    engine: Callable[[Feed], NDArray[np.float32]],
    graph: Path,
    latents: NDArray[np.float32],
    probes: int,
    classes: int | None,
) -> dict[str, Any]:
    """Decide every latent by the engine and by ONNX Runtime on the CPU; return the comparison.

    ``classes`` is None where the denoiser answers all of them at once.

    Raises
    ------
    DecisionChanged
        More than 0.5 % of the cells got another class.
    """
    run = session(graph, 1)

    def exact(feed: Feed) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = run.run(["ERROR"], feed)[0]
        return answer

    samples = np.arange(probes, dtype=np.int32)
    tables = np.stack([mean_errors(evaluate, latents, samples, classes) for evaluate in (exact, engine)])
    changed = int((tables[0].argmin(1) != tables[1].argmin(1)).sum())
    found = {
        "cells": len(latents),
        "probes": probes,
        "changed": changed,
        "max_score_difference": float(np.abs(tables[0] - tables[1]).max()),
    }
    if not np.isfinite(tables).all() or changed > 0.005 * len(latents):
        raise DecisionChanged(f"{changed} of {len(latents)} cells change class by the engine; do not serve it: {found}")
    return found
