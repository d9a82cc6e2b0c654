"""Parity in a process of its own: a fresh interpreter, nothing left over from tracing, and its memory is given back."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cytoserve_export import errors
from cytoserve_export.decisions import CheckCells
from cytoserve_export.errors import ExportError, ParityProcessDied
from cytoserve_export.progress import Report
from cytoserve_export.specs import SPECS


@dataclass(frozen=True)
class Job:
    """What the process is to check: ONNX files by model name, and the decisions on ``cells`` where there are some."""

    checkpoint: Path
    graphs: dict[str, Path]
    cells: CheckCells | None
    encoder: Path | None
    denoiser: Path | None
    threads: int


@dataclass(frozen=True)
class ParityResult:
    """Parity per model and the decision check, as plain JSON values; ``decision`` is None where it was left out."""

    parity: dict[str, dict[str, Any]]
    decision: dict[str, Any] | None


def check_apart(job: Job, report: Report) -> ParityResult:
    """Run the checks of ``job`` in a spawned process, passing its progress on.

    Raises
    ------
    ParityProcessDied
        The process ended without an answer.
    ExportError
        What the process raised, in its own class.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, job), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            try:
                kind, value = ours.recv()
            except EOFError:
                process.join()
                raise ParityProcessDied(
                    f"the parity process ended with code {process.exitcode} and no answer; "
                    "-9 usually means that memory ran out: free some, or check fewer models with --only"
                ) from None
            if kind == "progress":
                report(*value)
            elif kind == "error":
                name, text = value
                raise getattr(errors, name)(text)
            else:
                return ParityResult(**value)
    finally:
        process.join(timeout=2)
        if process.is_alive():
            process.terminate()
            process.join()
        ours.close()


def _child(pipe: Connection, job: Job) -> None:
    last = 0.0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > 0.2:
            last = time.monotonic()
            pipe.send(("progress", (stage, done, total)))

    try:
        pipe.send(("done", asdict(_check(job, report))))
    except ExportError as error:
        pipe.send(("error", (type(error).__name__, str(error))))
    except KeyboardInterrupt:
        pass  # the parent was interrupted too and says so
    except Exception as error:  # whatever it is, the parent must hear it rather than guess
        pipe.send(("error", ("ParityError", f"the check itself failed: {type(error).__name__}: {error}")))
    finally:
        pipe.close()


def _check(job: Job, report: Report) -> ParityResult:
    import torch

    from cytoserve_export.checkpoint import Checkpoint
    from cytoserve_export.decisions import check_decisions
    from cytoserve_export.parity import check_graph

    torch.set_num_threads(job.threads)
    checkpoint = Checkpoint(job.checkpoint)
    parity = {}
    total = sum(len(SPECS[name].sizes_to_check(checkpoint.is_heavy)) for name in job.graphs)
    done = 0
    for name, path in job.graphs.items():

        def step(name: str = name) -> None:
            nonlocal done
            done += 1
            report(f"parity, {name}", done, total)

        parity[name] = check_graph(checkpoint.spec(name), path, checkpoint, job.threads, step).summary()
    if job.cells is None or job.encoder is None or job.denoiser is None:
        return ParityResult(parity, None)
    decided = check_decisions(job.cells, checkpoint, job.encoder, job.denoiser, job.threads, report)
    return ParityResult(parity, asdict(decided))
