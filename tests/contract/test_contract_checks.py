"""Checks against the declaration, and the package itself."""

from __future__ import annotations

import doctest
import subprocess
import sys

import numpy as np
import pytest
from cytoserve_contract import codes, tensors
from cytoserve_contract.models import SCORER
from cytoserve_contract.tensors import TensorSpec, shape_problem

LABEL, POSTERIOR, INTERVAL = (
    next(spec for spec in SCORER.outputs if spec.name == name) for name in ("LABEL", "POSTERIOR", "POSTERIOR_INTERVAL")
)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"LABEL": (3,), "POSTERIOR": (3, 8), "POSTERIOR_INTERVAL": (3, 2)}, ""),
        ({"LABEL": (0,), "POSTERIOR": (0, 8), "POSTERIOR_INTERVAL": (0, 2)}, ""),
        ({"LABEL": (3,), "POSTERIOR": (2, 8), "POSTERIOR_INTERVAL": (3, 2)}, "POSTERIOR has shape (2, 8), not (3, 8)"),
        ({"LABEL": (3,), "POSTERIOR": (3, 8), "POSTERIOR_INTERVAL": (3, 3)}, "not (3, 2)"),
        ({"LABEL": (3, 1), "POSTERIOR": (3, 8), "POSTERIOR_INTERVAL": (3, 2)}, "LABEL has 2 dimension(s), not 1"),
    ],
)
def test_tensors_that_share_an_axis_share_its_size(shapes: dict[str, tuple[int, ...]], says: str) -> None:
    found = shape_problem((LABEL, POSTERIOR, INTERVAL), shapes)
    assert says in found
    assert bool(says) == bool(found)


def test_a_size_that_is_known_beforehand_binds() -> None:
    assert shape_problem([POSTERIOR], {"POSTERIOR": (3, 7)}, {"C": 8}) == "POSTERIOR has shape (3, 7), not (3, 8)"


@pytest.mark.parametrize(("value", "fits"), [(0.0, True), (1.0, True), (np.nan, True), (-0.01, False), (np.inf, False)])
def test_a_number_outside_its_range_is_named(value: float, fits: bool) -> None:
    found = POSTERIOR.value_problem(np.array([[0.5, value]], np.float32))
    assert (found == "") is fits
    assert fits or "POSTERIOR" in found


def test_a_tensor_without_a_range_takes_any_number() -> None:
    assert TensorSpec("X", "float32", ("M",)).value_problem(np.array([-np.inf, np.nan])) == ""


def test_the_package_imports_nothing_but_the_standard_library() -> None:
    """The manifest alone needs `cytoserve_files`, which is of the standard library too."""
    code = (
        "import sys, pkgutil, importlib; before = set(sys.modules); import cytoserve_contract as c\n"
        "names = [m.name for m in pkgutil.iter_modules(c.__path__) if m.name != 'manifest']\n"
        "[importlib.import_module('cytoserve_contract.' + name) for name in names]\n"
        "print(set(sys.modules) - before)\n"
        "import cytoserve_contract.manifest; print(set(sys.modules) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    alone, with_manifest = (
        {name.split(".")[0] for name in eval(line)} - set(sys.stdlib_module_names) for line in run.stdout.splitlines()
    )
    assert alone == {"cytoserve_contract"}
    assert with_manifest == {"cytoserve_contract", "cytoserve_files"}


@pytest.mark.parametrize("module", [tensors, codes])
def test_doctests(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0
