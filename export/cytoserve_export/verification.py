"""``cytoserve export verify``: hashes everywhere, graphs and parity where the extra ``export`` is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cytoserve_contract import manifest as manifest_check

from cytoserve_export.errors import ManifestMismatch
from cytoserve_export.files import read_json

NEEDED: Final = ("onnx", "torch", "diffusers", "safetensors", "onnxruntime", "onnxscript")
"""What reading a graph again needs; the extra ``export`` brings it."""


def verify_as_installed(folder: Path) -> tuple[dict[str, Any], str | None]:
    """Recompute what the manifest of ``folder`` says, as far as this installation can, and return it.

    Hashes always: they cover every byte of every graph. Signatures and opsets are read from the graphs again where the
    extra ``export`` is installed.

    Returns
    -------
    (dict, str or None) : the manifest, and the package for want of which the graphs were not read.

    Raises
    ------
    MissingFile, ManifestMismatch
        See `verify`.
    """
    read: Callable[[Path], dict[str, Any]]
    try:
        from cytoserve_export.whole_repository import verify_repository as read
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in NEEDED:
            raise
        return verify(folder), missing
    return read(folder), None


def verify(folder: Path) -> dict[str, Any]:
    """Recompute every hash of the manifest in ``folder`` and return the manifest.

    Raises
    ------
    MissingFile
        There is no manifest.
    ManifestMismatch
        It is not a manifest of this version, a file is gone or another one, or there is one that it does not name.
    """
    manifest = read_json(folder / manifest_check.NAME)
    try:
        found = manifest_check.compare(folder).problems()
    except manifest_check.RepositoryFault as error:
        raise ManifestMismatch(str(error)) from error
    if found:
        cure = f"export again or, after an edit of your own, run: cytoserve export manifest {folder}"
        raise ManifestMismatch("\n".join([*found, cure]))
    return manifest
