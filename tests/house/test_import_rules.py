"""The table of docs/architecture.md holds: imports run one way, and what is private stays in its room."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rooms import CONFIGURATION, FOLDERS, PACKAGES, ROOT, modules, room_of

LINTER = CONFIGURATION["tool"]["importlinter"]


def test_imports_run_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_has_its_floor_and_its_row() -> None:
    """A room that the linter does not know would be free to import anything."""
    floors = next(contract for contract in LINTER["contracts"] if contract["id"] == "floors")["layers"]
    placed = {name.strip(" ()") for floor in floors for name in floor.split("|")}
    assert set(PACKAGES) | {"benchmarks"} == set(LINTER["root_packages"])
    assert set(LINTER["root_packages"]) <= placed
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [folder for folder in FOLDERS if f"\n| `{folder}/`" not in table] == []


def test_every_room_is_in_the_build_context_of_the_images() -> None:
    """What ``.dockerignore`` leaves out is not in the wheel that the images install."""
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert [folder for folder in FOLDERS if f"!{folder}" not in kept] == []


def private_imports(path: Path, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of every private module or name that a file imports from another room."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            room, *rest = name.split(".")
            ours = room.startswith("cytoserve_") or room == "benchmarks"
            private = [part.startswith("_") and not part.startswith("__") for part in rest]
            if ours and room != room_of(path) and any(private):
                yield ".".join((room, *rest[: private.index(True) + 1])), node.lineno


def test_no_module_imports_a_private_name_of_another_room() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name): line
        for path, tree in modules(*FOLDERS, "benchmarks", "model_repository", "tests/load")
        for name, line in private_imports(path, tree)
    }
    assert found == {}


def test_this_scan_finds_what_it_looks_for() -> None:
    """A test that scans must be able to fail."""
    text = "from cytoserve_files._x import y\nfrom cytoserve_files.a import _b\nimport cytoserve_files._c\n"
    fine = (
        "from __future__ import annotations\nfrom cytoserve_cli import _own\nfrom os import _exit\nfrom a._b import c\n"
    )
    path = ROOT / "cli" / "cytoserve_cli" / "main.py"
    found = [name for name, _ in private_imports(path, ast.parse(text + fine))]
    assert found == ["cytoserve_files._x", "cytoserve_files.a._b", "cytoserve_files._c"]
