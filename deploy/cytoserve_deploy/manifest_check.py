"""Compare a model repository with the sha256 hashes of its ``manifest.json``, with the standard library alone.

The manifest is written by `cytoserve_export.manifest`, which imports the whole export; a server has no need of that.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import MissingRepository, RepositoryError

NAME: Final = "manifest.json"
SCHEMA: Final = "cytoserve.manifest/1"
SHA256: Final = re.compile(r"[0-9a-f]{64}")
CHUNK: Final = 1 << 20


class ManifestError(RepositoryError):
    """The manifest is missing, unreadable, or not the one that was expected."""


class ChangedFile(RepositoryError):
    """A file is missing, is not the one the manifest names, or is not named at all."""


@dataclass(frozen=True)
class Report:
    """What was compared.

    Attributes
    ----------
    folder : Path
        The repository.
    checked : int
        Files whose hash agreed.
    unlisted : tuple of str
        Files that the manifest does not name, relative to the folder.
    """

    folder: Path
    checked: int
    unlisted: tuple[str, ...]

    def sentence(self) -> str:
        """Return the report as one line of a log."""
        rest = f"; not named there, so not checked: {', '.join(self.unlisted)}" if self.unlisted else ""
        return f"{self.folder}: {self.checked} file(s) agree with {NAME}{rest}"


def check_repository_files(folder: Path, expected_manifest: str = "", refuse_unlisted: bool = False) -> Report:
    """Recompute every hash of the manifest in `folder`.

    Parameters
    ----------
    folder : Path
        The model repository.
    expected_manifest : str
        sha256 of the manifest itself, in hexadecimal; empty: any manifest will do.
    refuse_unlisted : bool
        Also refuse files that the manifest does not name. What Python caches and files with a leading dot do not count.

    Raises
    ------
    MissingRepository
        There is no such folder.
    ManifestError
        The manifest is missing, unreadable or another one.
    ChangedFile
        A file is missing or changed, or `refuse_unlisted` found one.
    """
    if not folder.is_dir():
        raise MissingRepository(
            f"{folder} is not a folder; mount the model repository there or give --model-repository"
        )
    files = _read(folder / NAME, expected_manifest)
    for name, entry in sorted(files.items()):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ManifestError(f"{folder / NAME} names {name!r}, which lies outside of it; restore what was exported")
        if not path.is_file():
            raise ChangedFile(f"{path} is missing, but the manifest names it; copy the whole model repository again")
        if _sha256(path) != entry["sha256"]:
            raise ChangedFile(
                f"{path} is not the file that was exported (sha256 differs from {NAME}); the server was not started. "
                "Copy the model repository again, or find out who changed it; to serve it all the same set "
                "CYTOSERVE_SKIP_VERIFICATION=true"
            )
    unlisted = tuple(sorted(_present(folder) - set(files)))
    if unlisted and refuse_unlisted:
        raise ChangedFile(
            f"{folder} holds files that {NAME} does not name: {', '.join(unlisted)}; remove them, or leave "
            "--refuse-unlisted away"
        )
    return Report(folder, len(files), unlisted)


def _read(path: Path, expected: str) -> dict[str, dict[str, Any]]:
    """Return the manifest's ``files``, its form checked."""
    remedy = "run `cytoserve export onnx`, or set CYTOSERVE_SKIP_VERIFICATION=true to serve the models unchecked"
    if not path.is_file():
        raise ManifestError(f"{path} does not exist, so the models cannot be checked; {remedy}")
    raw = path.read_bytes()
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _present(folder: Path) -> set[str]:
    """Return the files of `folder`; a claim mounted from a ConfigMap has dot-folders that are not the repository's."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = {
        name.as_posix()
        for name in names
        if "__pycache__" not in name.parts and not any(p.startswith(".") for p in name.parts)
    }
    return kept - {NAME}
