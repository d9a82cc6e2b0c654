"""Is a model repository the one its manifest describes? With the standard library alone, for servers to ask."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

MANIFEST: Final = "manifest.json"
IGNORED: Final = ("__pycache__",)
"""Folders that Python makes beside a ``model.py`` it runs."""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def tree(folder: Path) -> list[str]:
    """Return the files below ``folder``, sorted, with ``/``; the manifest itself and caches are left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(p.as_posix() for p in paths if p.as_posix() != MANIFEST and not set(p.parts) & set(IGNORED))


def problems(folder: Path) -> list[str]:
    """Return what is wrong with the repository ``folder``, one sentence each; empty when its manifest holds.

    A manifest with ``"complete": true`` (``cytoserve export repository``) names every file, so another one is a
    problem too. One without (``cytoserve export onnx``) names what the export wrote.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return [f"{path} is missing: export the repository again, or serve it unverified"]
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{path} is not a manifest ({error!r}): export the repository again"]
    found = []
    for name, (digest, size) in sorted(files.items()):
        file = folder / name
        if not file.is_file():
            found.append(f"{file} is missing; export again")
        elif file.stat().st_size != size or sha256(file) != digest:
            found.append(f"{file} is not the file the manifest names; export again")
    if manifest.get("complete"):
        found += [f"{folder / name} is not in the manifest; remove it" for name in tree(folder) if name not in files]
    return found
