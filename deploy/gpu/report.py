"""Gather what ``verify.sh`` found on a GPU node into one ``report.json``, and the line it gives docs/verification.md.

``python deploy/gpu/report.py OUT PROFILE PRECISION STATUS STEP``: the folder of ``verify.sh``, its arguments, its exit
status, and the section it ended in. What a section did not get to write is missing from the report.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cytoserve_files import write_text


def read(path: Path) -> Any:
    """Return a JSON file's content; None where it is missing or was cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def cards(path: Path) -> list[dict[str, str]]:
    """Return a row of what nvidia-smi wrote as CSV for every card."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key.strip(): value.strip() for key, value in row.items()} for row in csv.DictReader(file)]


def gather(out: Path, profile: str, precision: str, status: int, step: str) -> dict[str, Any]:
    """Return the report."""
    timed = (read(out / "gpu.json") or {}).get("measured") or []
    best: dict[str, Any] = {}
    for entry in timed:
        if entry["evaluations_per_s"] > best.get(entry["road"], {"evaluations_per_s": 0})["evaluations_per_s"]:
            best[entry["road"]] = {key: entry[key] for key in ("rows", "evaluations_per_s")}
    report = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "passed": status == 0,
        "ended_in": step,
        "profile": profile,
        "precision": precision,
        "cards": cards(out / "machine.csv"),
        "versions": read(out / "versions.json"),
        "engine": read(out / "engine.json"),
        "triton": read(out / "triton.json"),
        "best": best,
    }
    return {**report, "line": line(report)}


def line(report: Mapping[str, Any]) -> str:
    """Return the row of the table "On a GPU node" of docs/verification.md."""
    card = (report["cards"] or [{}])[0]
    decision = (report["engine"] or {}).get("decision")
    changed = "-"
    if decision:
        changed = f"{decision['changed']} of {decision['cells']} ({decision['cells_are']} cells)"
    fastest = "; ".join(f"{road} {found['evaluations_per_s']:.0f}" for road, found in report["best"].items())
    loaded = (report["triton"] or {}).get("version")
    cells = (
        report["date"],
        f"{card.get('name', 'no card')}, driver {card.get('driver_version', '-')}",
        f"TensorRT {(report['versions'] or {}).get('tensorrt', '-')}",
        f"Triton {loaded}" if loaded else "no Triton here",
        changed,
        fastest or "-",
        "passed" if report["passed"] else f"failed: {report['ended_in']}",
    )
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    """Write ``report.json`` and print its line."""
    out, profile, precision, status, step = arguments
    report = gather(Path(out), profile, precision, int(status), step)
    write_text(Path(out) / "report.json", json.dumps(report, indent=1) + "\n")
    print(report["line"])


if __name__ == "__main__":
    main(sys.argv[1:])
