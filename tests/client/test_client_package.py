"""The package as a whole: exports, import weight, documentation that is drawn by hand."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import cytoserve_client
import pytest
from cytoserve_cli.mounts import MOUNTS
from cytoserve_client import errors

HEAVY = ("torch", "onnxruntime", "onnx", "scipy", "diffusers", "matplotlib", "skimage", "cytoserve_deploy", "pandas")


def test_all_agrees_with_the_exports() -> None:
    exported = {
        name
        for name, value in vars(cytoserve_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(cytoserve_client.__all__) == exported
    assert len(cytoserve_client.__all__) == len(set(cytoserve_client.__all__))


def test_every_error_is_exported_and_stands_in_the_drawn_tree() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.CytoserveClientError)
    ]
    assert len(kinds) > 15
    tree = errors.__doc__ or ""
    for kind in kinds:
        assert kind.__name__ in cytoserve_client.__all__
        assert kind.__name__ in tree
        if kind is not errors.CytoserveClientError:
            assert kind.default_code in tree.split(kind.__name__)[1].split("\n")[0]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["analyze", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from cytoserve_cli.main import app
try:
    app({arguments!r}, standalone_mode=True)
except SystemExit as leave:
    assert not leave.code, leave.code
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip().endswith("HEAVY []")


def test_the_client_imports_nothing_of_the_other_rooms() -> None:
    code = "import sys, cytoserve_client; print([m for m in sys.modules if m.startswith('cytoserve_')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    below = ("cytoserve_client", "cytoserve_contract", "cytoserve_files")
    foreign = [name for name in eval(run.stdout) if not name.startswith(below)]
    assert foreign == []


def test_the_package_of_files_imports_nothing_but_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import cytoserve_files; print(set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    foreign = {name.split(".")[0] for name in eval(run.stdout)} - set(sys.stdlib_module_names)
    assert foreign == {"cytoserve_files"}


def test_the_table_of_subcommands_names_extras_that_exist() -> None:
    from importlib.metadata import metadata

    extras = set(metadata("cytoserve").get_all("Provides-Extra") or [])
    assert {mount.extra for mount in MOUNTS.values()} <= extras


def test_doctests() -> None:
    attempted = 0
    for module in pkgutil.walk_packages(cytoserve_client.__path__, "cytoserve_client."):
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0, module.name
        attempted += result.attempted
    assert attempted > 0
