"""What ``make demo`` runs, run: the command is taken from the Makefile itself."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from cytoserve_cli.exit_codes import UNFAMILIAR
from PIL import Image
from triton_calls import OWN_SERVER, ROOT

pytestmark = OWN_SERVER


def test_make_demo_prints_the_table_and_writes_json_and_picture(tmp_path: Path) -> None:
    told = subprocess.run(
        ["make", "-n", "-s", "demo", f"OUT={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    line, allowed = next(line for line in told.stdout.splitlines() if "analyze" in line).split(" || ")
    assert shlex.split(allowed) == ["test", "$?", "-eq", str(UNFAMILIAR)]
    command = [str(Path(sys.executable).parent / "cytoserve"), *shlex.split(line)[1:]]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == UNFAMILIAR, done.stdout + done.stderr
    assert time.monotonic() - began < 150  # the bar is 60 s; a busy machine may take longer
    assert done.stdout.startswith("UNFAMILIAR SAMPLE: ")  # at a glance: it is no picture of the model's home
    assert "SYNTHETIC" in done.stdout
    assert "Differential" in done.stdout
    result = json.loads((tmp_path / "analysis.json").read_text())
    assert result["schema"] == "cytoserve.analysis/1"
    assert result["fields"][0]["synthetic"]
    assert sum(cell["kind"] == "white_cell" for cell in result["fields"][0]["cells"]) >= 5
    with Image.open(tmp_path / "synthetic_field.overlay.png") as picture:
        assert picture.width >= 640
