"""The room as a whole: its exports, and what it may import."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import cytoserve_reports


def test_all_agrees_with_the_exports() -> None:
    exported = {name for name, value in vars(cytoserve_reports).items() if inspect.isclass(value) or callable(value)}
    assert set(cytoserve_reports.__all__) == {name for name in exported if not name.startswith("_")}


def test_it_imports_the_client_and_no_room_above_it() -> None:
    names = [module.name for module in pkgutil.iter_modules(cytoserve_reports.__path__, "cytoserve_reports.")]
    code = f"import sys, {', '.join(names)}; print([m.split('.')[0] for m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    rooms = {name.removeprefix("cytoserve_") for name in eval(run.stdout) if name.startswith("cytoserve_")}
    assert {"client", "reports", "statistics"} <= rooms <= {"client", "contract", "files", "reports", "statistics"}
