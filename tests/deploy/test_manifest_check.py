"""Is a repository the one of its manifest: what is refused, what is told, what does not count."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cytoserve_contract import manifest as manifest_check
from cytoserve_contract.manifest import ChangedFile, ManifestError, NoRepository, check_repository_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a small repository with a manifest in the export's form."""
    folder = tmp_path / "models"
    for name, text in {"a/1/model.onnx": "graph", "a/1/scoring.json": "{}"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    write_manifest(folder)
    return folder


def write_manifest(folder: Path, **changes: Any) -> None:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    files = {
        path.relative_to(folder).as_posix(): {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths
    }
    text = json.dumps({"schema": manifest_check.SCHEMA, "files": files, **changes})
    (folder / "manifest.json").write_text(text)


@pytest.mark.parametrize("name", ["model_repository", "model_repository_synthesis"])
def test_the_committed_repositories_agree_with_their_manifests(name: str) -> None:
    found = check_repository_files(ROOT / name)
    manifest = json.loads((ROOT / name / "manifest.json").read_text())
    assert found.agreed == len(manifest["files"]) > 0
    assert {path.relative_to(ROOT / name).as_posix() for path in (ROOT / name).glob("*/config.pbtxt")} <= set(
        manifest["files"]
    )


def test_a_changed_file_is_refused(repository: Path) -> None:
    (repository / "a/1/model.onnx").write_text("grapH")
    with pytest.raises(ChangedFile, match=r"(?s)a/1/model\.onnx is not the file that was exported.*SKIP_VERIFICATION"):
        check_repository_files(repository)


def test_a_missing_file_is_refused(repository: Path) -> None:
    (repository / "a/1/scoring.json").unlink()
    with pytest.raises(ChangedFile, match=r"scoring\.json is missing"):
        check_repository_files(repository)


def test_an_unnamed_file_is_refused_or_reported(repository: Path) -> None:
    (repository / "a/1/model.py").write_text("import os")
    (repository / "a/1/.gitkeep").write_text("")
    with pytest.raises(ChangedFile, match=r"a/1/model\.py is not named in manifest\.json"):
        check_repository_files(repository)
    found = check_repository_files(repository, refuse_unlisted=False)
    assert found.unlisted == ("a/1/model.py",)
    assert "WARNING, not named there, so not checked: a/1/model.py" in found.sentence()


def test_a_link_to_a_folder_is_an_unnamed_file(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (repository / "a/1/package").symlink_to(tmp_path / "package")
    with pytest.raises(ChangedFile, match="a/1/package is not named"):
        check_repository_files(repository)


def test_every_problem_is_told_with_its_cures(repository: Path) -> None:
    (repository / "a/1/model.onnx").write_text("another")
    (repository / "a/1/scoring.json").unlink()
    (repository / "a/1/more.json").write_text("{}")
    with pytest.raises(ChangedFile) as caught:
        check_repository_files(repository)
    for words in ("model.onnx is not the file", "scoring.json is missing", "more.json is not named"):
        assert words in str(caught.value)
    assert f"cytoserve export manifest {repository}" in str(caught.value)
    assert f"{manifest_check.ENV_SKIP}=true" in str(caught.value)


def test_the_manifest_itself_can_be_pinned(repository: Path) -> None:
    digest = hashlib.sha256((repository / "manifest.json").read_bytes()).hexdigest()
    check_repository_files(repository, digest.upper())
    # whoever may write the store exchanges a model and the manifest together
    (repository / "a/1/model.onnx").write_text("another")
    write_manifest(repository)
    check_repository_files(repository)
    with pytest.raises(ManifestError, match="not the manifest that was expected"):
        check_repository_files(repository, digest)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "other/9"},
        {"files": {}},
        {"files": {"a": {"sha256": "short"}}},
        {"files": {"a": {}}},
        {"files": ["a"]},
        {"files": {"../outside": {"sha256": "0" * 64}}},
    ],
)
def test_a_manifest_of_another_form_is_refused(repository: Path, changes: dict[str, Any]) -> None:
    write_manifest(repository, **changes)
    with pytest.raises(ManifestError):
        check_repository_files(repository)


def test_no_manifest_and_no_folder_are_refused(repository: Path) -> None:
    (repository / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="cannot be read"):
        check_repository_files(repository)
    (repository / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="does not exist"):
        check_repository_files(repository)
    with pytest.raises(NoRepository, match="mount the model repository"):
        check_repository_files(repository / "nowhere")
