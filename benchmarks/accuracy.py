"""Accuracy of the served classifier on labelled single cells: the whole way, over gRPC, through the real Triton.

    python -m benchmarks.accuracy ../shared/data/pbc/test --um-per-pixel 0.18 --out docs/results/pbc_test.json

The folder holds one folder a class. Classes the folder lacks stay in the race (argmax over all of the model's).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_client import CellsAnalysis, Client
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_files import write_text
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.outputs import output_path

from .statistics import balanced_accuracy, balanced_accuracy_interval, clopper_pearson, expected_calibration_error


def labelled_files(folder: Path, each: int | None = None) -> list[Path]:
    """Return the files of a folder with one folder a class; at most ``each`` of a class, the first by name."""
    return [file for home in sorted(folder.iterdir()) if home.is_dir() for file in sorted(home.iterdir())[:each]]


def classify(url: str, files: list[Path], um_per_pixel: float | None, budget: int | None) -> CellsAnalysis:
    """Send all files through ``cell_analysis`` with a progress bar."""
    columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Client(url, timeout=300, cells_per_request=16, max_in_flight=2) as client, Progress(*columns) as progress:
        task = progress.add_task("cells", total=len(files))
        return client.classify(
            files, um_per_pixel, budget=budget, on_progress=lambda done, _: progress.update(task, completed=done)
        )


def best_of(scores: dict[str, float] | None, names: list[str]) -> str | None:
    """Return the class of ``names`` with the lowest error, or None where the cell was not scored."""
    asked = {name: scores[name] for name in names if name in scores} if scores else {}
    return min(asked, key=lambda name: asked[name]) if asked else None


def covered(analysis: CellsAnalysis, truth: list[str]) -> dict[str, Any] | None:
    """Return the share of 95 % prediction sets that hold the truth, by class, and their mean size."""
    sets = [cell.prediction_set(0.05) for cell in analysis.cells]
    if any(found is None for found in sets):
        return None
    hit = np.array([name in (found or ()) for found, name in zip(sets, truth, strict=True)])
    names = np.array(truth)
    return {
        "by_class": {name: round(float(hit[names == name].mean()), 4) for name in sorted(set(truth))},
        "mean_size": round(float(np.mean([len(found or ()) for found in sets])), 3),
        "empty": round(float(np.mean([not found for found in sets])), 4),
    }


def summarise(analysis: CellsAnalysis, truth: list[str]) -> dict[str, Any]:
    """Return accuracy, recalls, confusion and acceptance, each with its 95 % interval."""
    classes = list(analysis.model.classes)
    labels = np.array([classes.index(name) for name in truth])
    guess = np.array([classes.index(cell.label) if cell.label else -1 for cell in analysis.cells])
    right = guess == labels
    accepted = np.array([cell.decision == "accept" for cell in analysis.cells])
    recalls = {
        classes[c]: {
            "n": int((labels == c).sum()),
            "recall": round(float(right[labels == c].mean()), 4),
            "interval": [round(x, 4) for x in clopper_pearson(int(right[labels == c].sum()), int((labels == c).sum()))],
        }
        for c in np.unique(labels)
    }
    present = [classes[c] for c in np.unique(labels)]
    among = np.array([best_of(cell.scores, present) == name for cell, name in zip(analysis.cells, truth, strict=True)])
    confidence = np.array([max(cell.probability.values()) if cell.probability else 0.0 for cell in analysis.cells])
    wrong_accepted, taken = int((~right & accepted).sum()), int(accepted.sum())
    return {
        "cells": len(labels),
        "failures": len(analysis.failures),
        "accuracy": round(float(right.mean()), 4),
        "accuracy_interval": [round(x, 4) for x in clopper_pearson(int(right.sum()), len(right))],
        "balanced_accuracy": round(balanced_accuracy(guess, labels), 4),
        "balanced_accuracy_interval": [round(x, 4) for x in balanced_accuracy_interval(guess, labels)],
        "classes_present": present,
        "accuracy_among_present": round(float(among.mean()), 4),
        "accuracy_among_present_interval": [round(x, 4) for x in clopper_pearson(int(among.sum()), len(among))],
        "expected_calibration_error": round(expected_calibration_error(confidence, right), 4),
        "set_coverage_95": covered(analysis, truth),
        "reasons": dict(Counter(reason for cell in analysis.cells for reason in cell.reasons).most_common()),
        "recall": recalls,
        "accepted": taken,
        "accepted_share": round(taken / len(right), 4),
        "wrong_among_accepted": wrong_accepted,
        "error_among_accepted_interval": [round(x, 4) for x in clopper_pearson(wrong_accepted, taken)]
        if taken
        else None,
        "evaluations_per_cell": float(np.mean([cell.evaluations or 0 for cell in analysis.cells])),
        "confusion": {
            classes[c]: {classes[g]: int(((labels == c) & (guess == g)).sum()) for g in np.unique(guess[labels == c])}
            for c in np.unique(labels)
        },
        "model": analysis.model.model_dump(),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--um-per-pixel", type=float)
    parser.add_argument("--budget", type=int)
    parser.add_argument("--limit", type=int, help="at most so many cells of each class, in the order of their names")
    parser.add_argument("--url", help="a running server; without it one is started")
    parser.add_argument("--out", type=output_path)
    args = parser.parse_args()
    files = labelled_files(args.folder, args.limit)
    truth = [file.parent.name for file in files]
    began = time.monotonic()
    if args.url:
        analysis = classify(args.url, files, args.um_per_pixel, args.budget)
    else:
        with LocalServer() as server:
            began = time.monotonic()
            analysis = classify(server.grpc_url, files, args.um_per_pixel, args.budget)
    seconds = time.monotonic() - began
    if analysis.failures:
        raise SystemExit(f"{len(analysis.failures)} cells failed, first: {analysis.failures[0]}")
    result = {"data": args.folder.name, "um_per_pixel": args.um_per_pixel, **summarise(analysis, truth)}
    result["cells_per_second"] = round(len(files) / seconds, 2)
    print(json.dumps({k: v for k, v in result.items() if k not in ("confusion", "model")}, indent=1))
    if args.out:
        write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
