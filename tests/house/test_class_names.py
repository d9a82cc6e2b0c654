"""No two classes of one name in the house: a name that stands twice is read wrongly half of the time."""

from __future__ import annotations

import ast
from collections import defaultdict

from rooms import FOLDERS, ROOT, modules

TRITONS = {"TritonPythonModel"}
"""The name by which Triton's Python backend finds a model in its ``model.py``."""

WIRE_ERRORS = {"scoring/cytoserve_scoring/errors.py", "client/cytoserve_client/errors.py"}
"""An error that the server raises and the client raises again is one thing, with one code, on two sides."""


def test_no_two_classes_have_one_name() -> None:
    places = defaultdict(list)
    for path, tree in modules(*FOLDERS, "benchmarks", "model_repository"):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.relative_to(ROOT).as_posix())
    twice = {name: files for name, files in places.items() if len(files) > 1 and name not in TRITONS}
    apart = {name: files for name, files in twice.items() if set(files) != WIRE_ERRORS}
    assert apart == {}
