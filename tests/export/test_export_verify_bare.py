"""``cytoserve export verify`` where only the server is installed: no onnx, no torch, no diffusers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cytoserve_export.verification import NEEDED

ROOT = Path(__file__).resolve().parents[2]

BLOCKED = f"""
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {set(NEEDED)!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Blocker())
sys.argv = ['cytoserve', *sys.argv[1:]]
from cytoserve_cli.main import main
main()
"""


def cytoserve(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, *map(str, words)]
    env = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_hashes_are_checked_without_the_extra_and_what_was_not_is_said(repository: Path) -> None:
    done = cytoserve("export", "verify", repository)
    assert done.returncode == 0, done.stderr
    assert "verified: hashes" in done.stderr
    assert 'pip install "cytoserve[export]"' in done.stderr


def test_a_changed_graph_is_found_without_the_extra(repository: Path) -> None:
    graph = repository / "encoder" / "1" / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    done = cytoserve("export", "verify", repository)
    assert done.returncode == 1
    assert "model.onnx is not the file that was exported" in done.stderr
    assert "verified" not in done.stderr


def test_parity_says_what_it_needs(repository: Path) -> None:
    done = cytoserve("export", "verify", repository, "--checkpoint", ROOT / "models" / "reference")
    assert done.returncode == 2
    assert 'pip install "cytoserve[export]"' in done.stderr
    assert "Traceback" not in done.stderr
