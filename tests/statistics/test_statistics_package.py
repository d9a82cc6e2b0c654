"""The room as a whole: what it imports, and its examples."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import cytoserve_statistics


def test_it_imports_no_other_room_and_scipy_only_when_asked() -> None:
    names = [module.name for module in pkgutil.iter_modules(cytoserve_statistics.__path__, "cytoserve_statistics.")]
    assert len(names) > 3
    code = f"import sys, {', '.join(names)}; print([m.split('.')[0] for m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(eval(run.stdout))
    assert {name for name in loaded if name.startswith("cytoserve_")} == {"cytoserve_statistics"}
    assert "scipy" not in loaded


def test_doctests() -> None:
    found = [
        doctest.testmod(importlib.import_module(module.name))
        for module in pkgutil.iter_modules(cytoserve_statistics.__path__, "cytoserve_statistics.")
    ]
    assert sum(result.attempted for result in found) > 3
    assert sum(result.failed for result in found) == 0
