"""``cytoserve export manifest``: list a repository's files again after an edit by hand, without torch or onnx."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cytoserve_contract import manifest as manifest_check
from cytoserve_files import FileProblem, read_text, write_text

from cytoserve_export.errors import ManifestMismatch


@dataclass(frozen=True)
class Refreshed:
    """Files, relative to the repository, that the manifest names newly, anew or no longer; and how many it names."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    files: int


def refresh(folder: Path) -> Refreshed:
    """Write the section ``files`` of the manifest in ``folder`` anew; all else in it stays.

    For configurations, Python models and engines. A graph is refused: its parity and decisions in the manifest were
    measured on the exported file.

    Raises
    ------
    ManifestMismatch
        There is no manifest to keep, or a graph is missing or is not the exported one.
    """
    try:
        manifest_check.compare(folder)
    except manifest_check.RepositoryFault as error:
        raise ManifestMismatch(str(error)) from error
    path = folder / manifest_check.NAME
    manifest = json.loads(read_text(path))
    try:
        now = manifest_check.describe((n, folder / n) for n in manifest_check.tree(folder))
    except FileProblem as error:
        raise ManifestMismatch(str(error)) from error
    before = manifest["files"]
    for model, entry in manifest.get("models", {}).items():
        for name in (entry["file"], *entry.get("external_data", ())):
            if now.get(name, {}).get("sha256") != before.get(name, {}).get("sha256"):
                raise ManifestMismatch(
                    f"{folder / name} is not the graph whose parity and decisions the manifest tells; restore it, or "
                    f"export it: cytoserve export onnx CHECKPOINT --to {folder} --only {model}"
                )
    manifest["files"] = now
    write_text(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return Refreshed(
        added=tuple(sorted(set(now) - set(before))),
        changed=tuple(sorted(n for n in set(now) & set(before) if now[n]["sha256"] != before[n]["sha256"])),
        removed=tuple(sorted(set(before) - set(now))),
        files=len(now),
    )
