"""The check of a model repository against its ``manifest.json``, for servers and the export.

This is the only place that reads the manifest's ``files``: the container's entrypoint and the local server compare
before they start Triton, the export lists and verifies with the same functions. A manifest names every file of its
repository but itself, names with a leading dot (``.gitkeep``, a mounted ConfigMap's folders) and what Python caches.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cytoserve_files import open_regular, read_bytes

from cytoserve_contract import names

NAME: Final = "manifest.json"
SCHEMA: Final = names.MANIFEST
CACHE: Final = "__pycache__"
SHA256: Final = re.compile(r"[0-9a-f]{64}")
CHUNK: Final = 1 << 20
ENV_SKIP: Final = names.ENV_SKIP_VERIFICATION
"""Opt-out of the entrypoint and of the local server; both log it."""


class RepositoryFault(RuntimeError):
    """Base of the errors of this check; deploy and export give it their own names."""


class NoRepository(RepositoryFault):
    """There is no such folder."""


class ManifestError(RepositoryFault):
    """The manifest is missing, unreadable, or not the one that was expected."""


class ChangedFile(RepositoryFault):
    """A file is missing, is not the one the manifest names, or is not named at all."""


@dataclass(frozen=True)
class Comparison:
    """A repository compared with its manifest."""

    folder: Path
    agreed: int
    """Files whose hash is the manifest's."""
    broken: tuple[str, ...]
    """One sentence for each file that is missing or another one."""
    unlisted: tuple[str, ...]
    """Files that the manifest does not name, relative to the folder."""
    caches: tuple[str, ...]
    """What lies in folders ``__pycache__``: Python runs it in place of a ``model.py`` of the same date and size."""

    def problems(self, caches: bool = False) -> list[str]:
        """Return what is wrong, one sentence each; `caches`: what Python caches is wrong too."""
        extra = self.unlisted + (self.caches if caches else ())
        return [*self.broken, *(f"{self.folder / name} is not named in {NAME}" for name in extra)]

    def sentence(self) -> str:
        """Return what was compared as one line of a log."""
        extra = (*self.unlisted, *self.caches)
        rest = f"; WARNING, not named there, so not checked: {', '.join(extra)}" if extra else ""
        return f"{self.folder}: {self.agreed} file(s) agree with {NAME}{rest}"


def check_repository_files(
    folder: Path, expected_manifest: str = "", refuse_unlisted: bool = True, refuse_caches: bool = False
) -> Comparison:
    """Recompute every hash of the manifest in `folder`; refuse the repository if it is not what the manifest says.

    Parameters
    ----------
    expected_manifest : str
        sha256 of the manifest itself, in hexadecimal; empty: any manifest will do.
    refuse_unlisted : bool
        Also refuse files that the manifest does not name.
    refuse_caches : bool
        Also refuse what Python caches, for servers that run the models where they lie.

    Raises
    ------
    NoRepository, ManifestError, ChangedFile
    """
    found = compare(folder, expected_manifest)
    wrong = found.problems(refuse_caches) if refuse_unlisted else list(found.broken)
    if wrong:
        raise ChangedFile(
            "\n".join(wrong) + "\nThe server was not started. Copy the model repository again, or find out who changed "
            f"it; after an edit of your own run: cytoserve export manifest {folder}; to serve it all the same set "
            f"{ENV_SKIP}=true"
        )
    return found


def compare(folder: Path, expected_manifest: str = "") -> Comparison:
    """Return how the files below `folder` compare with its manifest.

    Raises
    ------
    NoRepository, ManifestError
        See `check_repository_files`.
    """
    if not folder.is_dir():
        raise NoRepository(f"{folder} is not a folder; mount the model repository there or give --model-repository")
    files = _read(folder / NAME, expected_manifest)
    broken = []
    for name, entry in sorted(files.items()):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ManifestError(f"{folder / NAME} names {name!r}, which lies outside of it; restore what was exported")
        if not path.is_file():
            kind = "no file" if path.exists() else "missing"
            broken.append(f"{path} is {kind}, but {NAME} names it")
        elif path.stat().st_size != entry.get("bytes", path.stat().st_size) or sha256(path) != entry["sha256"]:
            broken.append(f"{path} is not the file that was exported (its sha256 is not the one in {NAME})")
    extra = [name for name in tree(folder, caches=True) if name not in files]
    return Comparison(
        folder,
        len(files) - len(broken),
        tuple(broken),
        unlisted=tuple(name for name in extra if CACHE not in name.split("/")),
        caches=tuple(name for name in extra if CACHE in name.split("/")),
    )


def tree(folder: Path, caches: bool = False) -> list[str]:
    """Return what a manifest of `folder` has to name: its files, sorted, relative, with ``/``.

    A link to a folder counts as a file, because its content cannot be told apart from what was exported; so does
    a named pipe, which no manifest can name.
    """
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(
        name.as_posix()
        for name in names
        if name.as_posix() != NAME
        and not any(part.startswith(".") for part in name.parts)
        and (caches or CACHE not in name.parts)
    )


def describe(paths: Iterable[tuple[str, Path]]) -> dict[str, dict[str, Any]]:
    """Return a manifest's ``files`` for pairs of (name in the repository, where the file lies now)."""
    return {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in sorted(paths)}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read(path: Path, expected: str) -> dict[str, dict[str, Any]]:
    """Return the manifest's ``files``, its form checked."""
    remedy = f"run `cytoserve export onnx`, or set {ENV_SKIP}=true to serve the models unchecked"
    if not path.exists():
        raise ManifestError(f"{path} does not exist, so the models cannot be checked; {remedy}")
    try:
        raw = read_bytes(path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read ({error}), so the models cannot be checked; {remedy}") from None
    if expected and hashlib.sha256(raw).hexdigest() != expected.lower():
        raise ManifestError(
            f"{path} is not the manifest that was expected (its sha256 is another); mount the release that was named"
        )
    try:
        manifest = json.loads(raw)
        if manifest["schema"] != SCHEMA:
            raise ManifestError(
                f"{path}: schema {manifest['schema']!r}, not {SCHEMA!r}; use the image of the same release"
            )
        files: dict[str, dict[str, Any]] = manifest["files"]
        if not files or not all(SHA256.fullmatch(entry["sha256"]) for entry in files.values()):
            raise ValueError("no files, or a hash that is none")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path} cannot be read as a manifest ({error}); {remedy}") from None
    return files
