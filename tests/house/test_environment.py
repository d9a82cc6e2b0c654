"""The suite as a stranger runs it: its variables are the tests' own, and what was skipped is said in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import os, subprocess, sys

def test_what_a_command_under_test_inherits():
    listed = subprocess.run([sys.executable, "-c", "import os; print(*os.environ)"], capture_output=True, text=True)
    names = listed.stdout.split()
    assert [n for n in names if n.startswith("CYTOSERVE_")] == ["CYTOSERVE_TEST_IMAGE"], names

def test_real_images(data_dir):
    assert data_dir.name == "images"
"""


def run_probe(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run two tests under the suite's own conftest with these variables set, in a process of their own."""
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "test_probe.py").write_text(PROBE)
    kept = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("CYTOSERVE_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(
        command, env={**kept, **variables}, capture_output=True, text=True, timeout=120, cwd=folder, check=False
    )


def test_variables_of_the_product_never_reach_the_commands_under_test(tmp_path: Path) -> None:
    """As the README tells a stranger: CYTOSERVE_DATA names the real images, and the suite is green."""
    images = tmp_path / "images"
    images.mkdir()
    probe = tmp_path / "probe"
    probe.mkdir()
    done = run_probe(
        probe,
        CYTOSERVE_DATA=str(images),
        CYTOSERVE_URL="192.0.2.1:1",
        CYTOSERVE_CALIBRATION="/nowhere",
        CYTOSERVE_TEST_IMAGE="0",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.parametrize(("variables", "code"), [({}, 0), ({"CI": "true"}, 1)])
def test_missing_images_are_one_line_here_and_a_failure_in_ci(
    tmp_path: Path, variables: dict[str, str], code: int
) -> None:
    done = run_probe(tmp_path, CYTOSERVE_DATA=str(tmp_path / "missing"), CYTOSERVE_TEST_IMAGE="0", **variables)
    assert done.returncode == code, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("Not tested here")]
    assert told == (
        []
        if code
        else [
            "Not tested here (1 skipped): 1 because: no real images; set CYTOSERVE_DATA to a folder laid out as "
            "docs/segmenter.md describes"
        ]
    )
