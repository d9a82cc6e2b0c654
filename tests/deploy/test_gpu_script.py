"""``deploy/gpu/verify.sh`` with stand-ins for everything that needs a GPU: its commands exist, and it always reports.

What no test shows is a GPU: see docs/verification.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from cytoserve_cli import export
from cytoserve_deploy.container import entrypoint

from benchmarks.export_gpu import BENCHMARK

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "gpu" / "verify.sh"
DOC = ROOT / "docs" / "verification.md"

STAND_INS = {
    "nvidia-smi": """echo "name, driver_version, memory.total [MiB], compute_cap"
echo "NVIDIA A10, 610.43.02, 23028 MiB, 8.6\"""",
    "cytoserve": """[ "$2" != "$FAILS" ] || exit 3
[ "$2" != tensorrt ] || echo '{"tensorrt": "11.4.1", "decision": {"cells": 64, "changed": 0, "cells_are": "random"}}'
""",
    "python3": """case "$1 $2" in
"-c import json, torch"*) echo '{"torch": "2.13.0", "onnxruntime": "1.27.0", "tensorrt": "11.4.1"}' ;;
"-m benchmarks.export_gpu") printf '%s' "$TIMED" > "${@: -1}" ;;
"-m "*) ;;
*) exec "$PYTHON" "$@" ;;
esac""",
    "tritonserver": "exit 9",
    "mkdir": """case "${@: -1}" in /var/*) ;; *) exec /bin/mkdir "$@" ;; esac""",
}
TIMED = {
    "measured": [
        {"road": "TensorRT", "rows": 8, "evaluations_per_s": 900.0},
        {"road": "TensorRT", "rows": 256, "evaluations_per_s": 5400.0},
        {"road": "ONNX Runtime CUDA", "rows": 256, "evaluations_per_s": 2100.0},
    ]
}


class Node:
    """A folder of stand-ins that note their command lines."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.calls_file = folder, folder / "out", folder / "calls"
        (folder / "bin").mkdir()
        for name, body in STAND_INS.items():
            path = folder / "bin" / name
            path.write_text(f'#!/usr/bin/env bash\nprintf "%s\\0" {name} "$@" >> "$CALLS"; echo >> "$CALLS"\n{body}\n')
            path.chmod(0o755)
        (folder / "checkpoint").mkdir()

    def verify(self, *, triton: bool = True, fails: str = "") -> tuple[int, dict[str, Any]]:
        """Run the script from another folder, by relative paths; return its status and report."""
        if not triton:
            (self.folder / "bin" / "tritonserver").unlink()
        env = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "CALLS": str(self.calls_file),
            "FAILS": fails,
            "PYTHON": sys.executable,
            "TIMED": json.dumps(TIMED),
            "TRITON_SERVER_VERSION": "2.71.0",
        }
        done = subprocess.run(
            ["bash", str(SCRIPT), "checkpoint", "a10", "out"],
            cwd=self.folder, env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        report: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        assert report["line"] in done.stdout + (self.out / "report.txt").read_text()
        return done.returncode, report

    def calls(self, *first: str) -> list[list[str]]:
        """Return the arguments, after `first`, of every command line that began so."""
        lines = [line.split("\0")[:-1] for line in self.calls_file.read_text().splitlines()]
        return [line[len(first) :] for line in lines if tuple(line[: len(first)]) == first]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_every_command_of_the_script_is_understood(node: Node) -> None:
    status, _ = node.verify()
    assert status == 0
    commands: Any = typer.main.get_command(export.app)
    exports = node.calls("cytoserve", "export")
    assert {line[0] for line in exports} == {"inspect", "repository", "verify", "tensorrt"}
    for name, *arguments in exports:
        commands.commands[name].make_context(name, list(arguments))
    (timing,) = node.calls("python3", "-m", "benchmarks.export_gpu")
    assert BENCHMARK.parse(timing).profile == "a10"
    served = node.calls("python3", "-m", "cytoserve_deploy.container.entrypoint")
    given = [entrypoint.parser().parse_args(line) for line in served]
    assert [(each.command, each.model_config_name) for each in given] == [("warm", "a10")] * 3


def test_the_report_holds_what_was_found(node: Node) -> None:
    _, report = node.verify()
    assert (report["passed"], report["ended_in"]) == (True, "passed")
    assert report["cards"][0]["driver_version"] == "610.43.02"
    assert report["engine"]["decision"]["changed"] == 0
    assert report["best"]["TensorRT"] == {"rows": 256, "evaluations_per_s": 5400.0}
    assert report["line"].split(" | ")[1:] == [
        "NVIDIA A10, driver 610.43.02",
        "TensorRT 11.4.1",
        "Triton 2.71.0",
        "0 of 64 (random cells)",
        "TensorRT 5400; ONNX Runtime CUDA 2100",
        "passed |",
    ]


def test_its_line_fits_the_table_of_the_document(node: Node) -> None:
    _, report = node.verify()
    (head,) = [text for text in DOC.read_text().splitlines() if text.startswith("| date | card")]
    assert report["line"].count("|") == head.count("|")


def test_without_triton_nothing_is_said_of_it(node: Node) -> None:
    status, report = node.verify(triton=False)
    assert (status, report["triton"]) == (0, None)
    assert "no Triton here" in report["line"]
    assert not node.calls("python3", "-m", "cytoserve_deploy.container.entrypoint")


@pytest.mark.parametrize(
    ("fails", "section"), [("verify", "repository for ONNX Runtime, fp32"), ("tensorrt", "engine, fp32")]
)
def test_a_failure_is_reported_with_its_section(node: Node, fails: str, section: str) -> None:
    status, report = node.verify(fails=fails)
    assert status != 0
    assert not report["passed"]
    assert report["ended_in"].startswith(section)
    assert report["line"].endswith(f"failed: {report['ended_in']} |")
    assert report["engine"] is None
