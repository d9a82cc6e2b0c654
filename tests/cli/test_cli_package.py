"""The command line as a whole: import weight, the table of subcommands, one exit code for one error."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cytoserve_cli import exit_codes
from cytoserve_cli.mounts import MOUNTS

HEAVY = (
    *("torch", "onnxruntime", "onnx", "scipy", "diffusers", "matplotlib", "skimage", "pandas"),
    *("grpc", "numpy", "cytoserve_client", "cytoserve_deploy"),
)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from cytoserve_cli.main import app
try:
    app({arguments!r}, standalone_mode=True)
except SystemExit as leave:
    assert leave.code in (0, 2, None), leave.code
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip().endswith("HEAVY []")


def test_help_of_a_command_imports_no_other_rooms_libraries() -> None:
    code = """
import sys
from cytoserve_cli.main import app
try:
    app(["analyze", "--help"])
except SystemExit as leave:
    assert not leave.code, leave.code
print("HEAVY", [name for name in ("torch", "onnxruntime", "scipy", "matplotlib", "kubernetes") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip().endswith("HEAVY []")


def test_the_table_of_subcommands_names_extras_that_exist() -> None:
    from importlib.metadata import metadata

    extras = set(metadata("cytoserve").get_all("Provides-Extra") or [])
    assert {mount.extra for mount in MOUNTS.values() if mount.extra} <= extras


@pytest.mark.parametrize("name", [*exit_codes.OF_ERROR, *(n for t in exit_codes.OF_ERROR_IN.values() for n in t)])
def test_every_error_of_the_table_exists(name: str) -> None:
    module, _, error = name.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), error), Exception)


def test_the_nearest_ancestor_decides_and_a_command_may_differ() -> None:
    from cytoserve_client import errors
    from cytoserve_files import NotWritable

    assert exit_codes.of_error(errors.TooSmall("x")) == exit_codes.USAGE
    assert exit_codes.of_error(errors.InvalidAnswer("x")) == exit_codes.REFUSED
    assert exit_codes.of_error(errors.InvalidAnswer("x"), "deploy") == exit_codes.USAGE
    assert exit_codes.of_error(NotWritable("x"), "export") == exit_codes.UNFORESEEN
    assert exit_codes.of_error(NotWritable("x"), "analyze") == exit_codes.USAGE
    assert exit_codes.of_error(KeyError("a fault of ours")) is None


def test_an_option_of_serve_comes_from_the_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cytoserve_cli.main", "serve"]
    environment = {**os.environ, "CYTOSERVE_MODEL_REPOSITORY": str(tmp_path / "gone")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == exit_codes.UNFORESEEN, done.stderr
    assert f"--model-repository names {tmp_path / 'gone'}, which is not a folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("given", ["option", "variable"])
def test_a_folder_of_calibrations_that_is_not_there_is_refused_before_the_start(tmp_path: Path, given: str) -> None:
    gone = str(tmp_path / "gone")
    words = ["--calibration", gone] if given == "option" else []
    environment = {**os.environ, **({} if words else {"CYTOSERVE_CALIBRATION": gone})}
    command = [sys.executable, "-m", "cytoserve_cli.main", "serve", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == exit_codes.USAGE, done.stderr
    assert "does not exist" in " ".join(done.stderr.replace("│", " ").split())
