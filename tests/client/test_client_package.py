"""The package as a whole: exports, import weight, documentation that is drawn by hand."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import cytoserve_client
from cytoserve_client import errors


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


def test_the_client_imports_nothing_of_the_other_rooms() -> None:
    code = "import sys, cytoserve_client; print([m for m in sys.modules if m.startswith('cytoserve_')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    rooms = {name.split(".")[0] for name in eval(run.stdout)}
    assert rooms <= {"cytoserve_client", "cytoserve_contract", "cytoserve_files", "cytoserve_statistics"}


def test_the_import_is_light() -> None:
    code = "import sys, time; a = time.process_time(); import cytoserve_client; print(time.process_time() - a); "
    code += "print({name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    seconds, loaded = run.stdout.splitlines()
    assert not set(eval(loaded)) & {"scipy", "pandas", "torch", "rich", "matplotlib", "onnxruntime", "jinja2"}
    assert float(seconds) < 1  # of the processor; 0.3 here, and a busy machine adds to it


def test_doctests() -> None:
    attempted = 0
    for module in pkgutil.walk_packages(cytoserve_client.__path__, "cytoserve_client."):
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0, module.name
        attempted += result.attempted
    assert attempted > 0
