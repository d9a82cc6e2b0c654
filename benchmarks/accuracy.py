"""Accuracy of the served classifier on labelled single cells: the whole way, over gRPC, through the real Triton.

    python -m benchmarks.accuracy ../shared/data/pbc/test --um-per-pixel 0.18 --out docs/results/pbc_test.json

The folder holds one folder per class. All figures are those of ``cytoserve validate``
(`cytoserve_validation.report.build`); this keeps the ones that the documents quote. Classes without a folder stay
candidates: the label is the best of all classes of the model.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_statistics.resampling import SEED
from cytoserve_validation import answers, labelled
from cytoserve_validation.labelled import LabelledCells
from cytoserve_validation.report import MeasuredSet as Validated
from cytoserve_validation.report import build
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.familiarity import GROUPED, unlearned_files
from benchmarks.results import Benchmark, DataRead, Inputs, now, run, served_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--um-per-pixel", type=float)
    parser.add_argument("--budget", type=int)
    parser.add_argument("--unlearned", choices=GROUPED, help="only cells of this site that no weight was trained on")


def chosen(args: argparse.Namespace) -> LabelledCells:
    """Return the cells to measure: all of the folder, or without those that trained the weights.

    Raises
    ------
    SystemExit
        The folder holds none of the site's cells.
    """
    cells = labelled.scan(args.folder)
    if args.unlearned is None:
        return cells
    kept = {file.resolve() for file in unlearned_files(args.folder.parents[1], args.unlearned).files}
    pairs = [pair for pair in zip(cells.files, cells.truth, strict=True) if pair[0].resolve() in kept]
    if not pairs:
        raise SystemExit(f"{args.folder} holds no held-out cell of {args.unlearned}")
    return replace(cells, files=tuple(file for file, _ in pairs), truth=tuple(name for _, name in pairs))


def inputs(args: argparse.Namespace) -> Inputs:
    """Return weights, cells, and the seed of the bootstrap intervals."""
    cells = DataRead.of(args.folder, chosen(args).files)
    return Inputs(served_weights(), (cells,), {"bootstrap": SEED})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Classify every cell on a local server of its own and return the figures."""
    cells = chosen(args)
    columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        LocalServer() as server,
        Client(server.grpc_url, timeout=300, cells_per_request=16, max_in_flight=2) as client,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("cells", total=len(cells.files))
        began = time.monotonic()
        analysis = client.classify(
            list(cells.files),
            args.um_per_pixel,
            budget=args.budget,
            one_sample=False,
            on_progress=lambda done, _: progress.update(task, completed=done),
        )
        seconds = time.monotonic() - began
    if analysis.failures:
        raise SystemExit(f"{len(analysis.failures)} cells failed, first: {analysis.failures[0]}")
    return {
        "data": args.folder.name,
        "um_per_pixel": args.um_per_pixel,
        **figures(validated(analysis, cells, args)),
        "cells_per_second": round(len(cells.files) / seconds, 2),
    }


def validated(analysis: Any, cells: LabelledCells, args: argparse.Namespace) -> dict[str, Any]:
    """Return the document that ``cytoserve validate`` would write of these answers."""
    answered, _ = answers.of_labelled(analysis, cells)
    hashes = labelled.file_hashes(cells.files)
    source = Validated(
        args.folder.name, labelled.data_sha256(cells.names, hashes), now(), args.um_per_pixel, args.budget
    )
    return build(answered, analysis.model, source)


def figures(document: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that the documents quote, from a ``validation.json``."""
    overall = document["overall"]
    headline, acceptance = overall["headline"], overall["acceptance"]
    among = document["restricted"] or headline
    present = {name: row for name, row in overall["per_class"].items() if row["cells"]}
    return {
        "cells": overall["cells"],
        "failures": len(document["data"]["failed"]),
        "accuracy": rounded(headline["accuracy"]),
        "accuracy_interval": ends(headline["accuracy"]),
        "balanced_accuracy": rounded(headline["balanced_accuracy"]),
        "balanced_accuracy_interval": ends(headline["balanced_accuracy"]),
        "classes_present": list(present),
        "accuracy_among_present": rounded(among["accuracy"]),
        "accuracy_among_present_interval": ends(among["accuracy"]),
        "balanced_among_present": rounded(among["balanced_accuracy"]),
        "balanced_among_present_interval": ends(among["balanced_accuracy"]),
        "expected_calibration_error": rounded(headline["calibration_error"]),
        "set_coverage_95": sets(overall["sets"]),
        "reasons": acceptance["reasons"],
        "recall": {
            name: {"n": row["cells"], "recall": rounded(row["sensitivity"]), "interval": ends(row["sensitivity"])}
            for name, row in present.items()
        },
        "accepted": acceptance["accepted"],
        "accepted_share": rounded(headline["accepted"]),
        "wrong_among_accepted": acceptance["wrong"],
        "error_among_accepted_interval": ends(headline["error_among_accepted"]),
        "evaluations_per_cell": overall["evaluations"]["mean"],
        "confusion": {
            name: {label: count for label, count in row.items() if count} for name, row in overall["confusion"].items()
        },
        "model": document["model"],
    }


def rounded(figure: dict[str, Any]) -> float | None:
    """Return a figure to four digits."""
    return None if figure["value"] is None else round(figure["value"], 4)


def ends(figure: dict[str, Any]) -> list[float] | None:
    """Return the ends of a figure's 95 % interval; None where there is nothing to measure it on."""
    return None if figure["value"] is None else [round(figure["low"], 4), round(figure["high"], 4)]


def sets(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return coverage by class, mean size and share of empty 95 % prediction sets."""
    if found is None:
        return None
    total = sum(found["sizes"].values())
    return {
        "by_class": {name: round(row["coverage"]["value"], 4) for name, row in sorted(found["per_class"].items())},
        "mean_size": round(sum(int(size) * count for size, count in found["sizes"].items()) / total, 3),
        "empty": round(found["sizes"]["0"] / total, 4),
    }


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
