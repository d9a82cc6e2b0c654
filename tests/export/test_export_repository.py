"""All or nothing: what a failed, interrupted or impossible export leaves behind, and what a manifest catches."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cytoserve_contract.models import DENOISER, DENOISER_BY_CLASS, ModelSpec
from cytoserve_contract.triton_config import config_text
from cytoserve_export import errors, manifest, repository
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.isolation import Job, ParityResult
from cytoserve_export.refresh import refresh
from cytoserve_export.repository import ExportRequest, export_onnx, write_side_files
from cytoserve_export.staging import install
from tiny import Exported, edit_json


def tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def copy(exported: Exported, root: Path) -> Path:
    """Copy both repositories to ``root`` and add the files others own; return the first."""
    shutil.copytree(exported.synthesis, root / exported.synthesis.name)
    target = Path(shutil.copytree(exported.target, root / "repository"))
    (target / "encoder" / "config.pbtxt").write_text("theirs")
    (target / "scorer" / "1" / "model.py").write_text("theirs")
    refresh(target)
    return target


def test_manifest_names_every_file_and_nothing_else(exported: Exported) -> None:
    for folder, name in ((exported.target, "repository"), (exported.synthesis, "model_repository_synthesis")):
        made = manifest.verify(folder)
        assert made == json.loads(json.dumps(exported.manifests[name]))
        assert {path: entry["sha256"] for path, entry in made["files"].items()} == {
            path: digest for path, digest in tree(folder).items() if path != "manifest.json"
        }
        assert {"torch", "onnx", "onnxruntime", "python"} <= set(made["tools"])
    scoring = json.loads((exported.target / "scorer/1/scoring.json").read_text())
    assert scoring == json.loads((exported.checkpoint / "scoring/scoring.json").read_text())
    service = json.loads((exported.target / "service_info/1/service.json").read_text())
    checkpoint = Checkpoint(exported.checkpoint)
    assert service["weights_sha256"] == checkpoint.weights_sha256 == made["provenance"]["weights_sha256"]
    assert (service["name"], service["version"], service["probes"]) == ("tiny", "7", 5)
    assert service["classes"] == list(checkpoint.geometry.classes)
    assert service["crop"]["size"] == checkpoint.geometry.size


def test_manifest_notices_change_and_loss(embedding_export: Exported, tmp_path: Path) -> None:
    target = copy(embedding_export, tmp_path)
    manifest.verify(target)
    path = target / "encoder/1/model.onnx"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(errors.ManifestMismatch, match="encoder"):
        manifest.verify(target)
    path.unlink()
    with pytest.raises(errors.ManifestMismatch, match="missing"):
        manifest.verify(target)
    (target / "manifest.json").unlink()
    with pytest.raises(errors.MissingFile):
        manifest.verify(target)


def refuse(job: Job, report: object) -> ParityResult:
    raise errors.ToleranceExceeded("by a test")


def interrupt(job: Job, report: object) -> ParityResult:
    raise KeyboardInterrupt


def full_disk(job: Job, report: object) -> ParityResult:
    raise OSError(errno.ENOSPC, "no space left on device")


@pytest.mark.parametrize(
    ("stop", "kind"),
    [(refuse, errors.ToleranceExceeded), (interrupt, KeyboardInterrupt), (full_disk, errors.NoSpace)],
)
def test_a_stopped_export_changes_nothing(
    stop: Any, kind: type[BaseException], embedding_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = copy(embedding_export, tmp_path)
    before = tree(tmp_path)
    monkeypatch.setattr(repository, "check_apart", stop)
    with pytest.raises(kind):
        export_onnx(ExportRequest(embedding_export.checkpoint, target, ("encoder",)))
    assert tree(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model_repository_synthesis", "repository"]
    with pytest.raises(kind):
        export_onnx(ExportRequest(embedding_export.checkpoint, tmp_path / "fresh" / "repository", ("encoder",)))
    assert list((tmp_path / "fresh").iterdir()) == []


def test_exporting_one_graph_again_keeps_the_rest(embedding_export: Exported, tmp_path: Path) -> None:
    target = copy(embedding_export, tmp_path)
    old = manifest.verify(target)
    (target / "encoder" / "config.pbtxt").write_text("theirs, edited")
    made = export_onnx(ExportRequest(embedding_export.checkpoint, target, ("encoder",)))
    assert list(made) == ["repository"]
    new = manifest.verify(target)
    # the same bytes from the same weights; what others wrote is named as it is now
    assert [name for name in new["files"] if new["files"][name] != old["files"].get(name)] == ["encoder/config.pbtxt"]
    assert set(new["files"]) == set(tree(target)) - {"manifest.json"}
    assert new["models"]["denoiser"] == old["models"]["denoiser"]
    assert old["decision"]["changed"] == 0
    assert new["decision"] is None  # no cells were given, and a new encoder voids the old check
    assert (target / "encoder/config.pbtxt").read_text() == "theirs, edited"
    assert (target / "scorer/1/model.py").read_text() == "theirs"


def test_scoring_fitted_again_needs_no_new_graph(embedding_export: Exported, tmp_path: Path) -> None:
    """What ``train reference`` does after its fit comes to what a second export would."""
    checkpoint = Path(shutil.copytree(embedding_export.checkpoint, tmp_path / "checkpoint"))
    target = copy(embedding_export, tmp_path)
    edit_json(checkpoint / "scoring" / "scoring.json", temperature=[2.0] * 5)
    write_side_files(target, Checkpoint(checkpoint))
    refresh(target)
    found = manifest.verify(target)
    export_onnx(ExportRequest(checkpoint, target))
    again = manifest.verify(target)
    assert found["files"] == again["files"]
    assert found["provenance"]["weights_sha256"] == again["provenance"]["weights_sha256"]
    assert json.loads((target / "scorer/1/scoring.json").read_text())["temperature"] == [2.0] * 5


@pytest.mark.parametrize(("kind", "other"), [("heads", DENOISER_BY_CLASS), ("embedding", DENOISER)])
def test_a_graph_is_not_put_beside_a_configuration_of_the_other_form(
    kind: str, other: ModelSpec, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made: Exported = request.getfixturevalue(f"{kind}_export")
    target = copy(made, tmp_path)
    (target / "denoiser" / "config.pbtxt").write_text(config_text(other))
    refresh(target)
    before = tree(target)
    with pytest.raises(errors.TargetError, match="cytoserve export repository"):
        export_onnx(ExportRequest(made.checkpoint, target, ("denoiser",)))
    assert tree(target) == before


def test_an_edit_by_hand_is_named_anew_but_not_a_graph(embedding_export: Exported, tmp_path: Path) -> None:
    target = copy(embedding_export, tmp_path)
    before = manifest.verify(target)
    (target / "scorer/1/model.py").write_text("theirs, edited")
    (target / "scorer/1/helper.py").write_text("new")
    (target / "encoder/config.pbtxt").unlink()
    with pytest.raises(errors.ManifestMismatch, match=r"(?s)helper\.py is not named.*cytoserve export manifest"):
        manifest.verify(target)
    done = refresh(target)
    assert (done.added, done.changed, done.removed) == (
        ("scorer/1/helper.py",),
        ("scorer/1/model.py",),
        ("encoder/config.pbtxt",),
    )
    after = manifest.verify(target)
    assert {key: value for key, value in after.items() if key != "files"} == {
        key: value for key, value in before.items() if key != "files"
    }
    (target / "denoiser/1/model.onnx").write_bytes(b"another network")
    told = (target / "manifest.json").read_bytes()
    with pytest.raises(errors.ManifestMismatch, match=r"export onnx CHECKPOINT .* --only denoiser"):
        refresh(target)
    assert (target / "manifest.json").read_bytes() == told
    with pytest.raises(errors.MixedWeights, match=r"denoiser .* is not the graph that its manifest describes"):
        export_onnx(ExportRequest(embedding_export.checkpoint, target, ("encoder",)))


def test_the_command_that_names_an_edit_loads_no_network(embedding_export: Exported, tmp_path: Path) -> None:
    target = copy(embedding_export, tmp_path)
    (target / "scorer/1/model.py").write_text("theirs, edited")
    code = "import sys; from cytoserve_cli.export import app; app(standalone_mode=False); "
    code += "print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, "manifest", str(target)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "changed scorer/1/model.py" in done.stderr
    assert done.stdout.strip() == "set()"
    manifest.verify(target)
    (target / "manifest.json").unlink()
    with pytest.raises(errors.ManifestMismatch, match="does not exist"):
        refresh(target)


def test_graphs_of_two_checkpoints_do_not_mix(embedding_export: Exported, broken: Path, tmp_path: Path) -> None:
    target = copy(embedding_export, tmp_path / "here")
    before = tree(target)
    edit_json(broken / "scheduler/scheduler_config.json", steps_offset=1)
    with pytest.raises(errors.MixedWeights, match=r"denoiser .* another scheduler"):
        export_onnx(ExportRequest(broken, target, ("encoder",)))
    assert tree(target) == before


def test_install_puts_everything_back_when_a_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []
    for name in ("one", "two"):
        staged, target = tmp_path / "aside" / name, tmp_path / name
        for path in ("a/x", "b/y", "manifest.json"):
            for root, text in ((staged, "new"), (target, "old")):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
        (target / "b" / "y").unlink()  # a file the old repository did not have
        pairs.append((staged, target))
    before = {name: tree(tmp_path / name) for name in ("one", "two")}
    real, order = os.replace, []

    def fail_late(source: Path, target: Path) -> None:
        order.append(Path(target).relative_to(tmp_path).as_posix())
        if order[-1] == "two/manifest.json" and len(order) == 6:
            raise OSError(errno.EIO, "pulled out")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_late)
    with pytest.raises(OSError, match="pulled out"):
        install(pairs)
    assert order[:6] == [f"{n}/{p}" for n in ("one", "two") for p in ("a/x", "b/y", "manifest.json")]
    assert {name: tree(tmp_path / name) for name in ("one", "two")} == before


def test_links_of_a_repository_are_followed(embedding_export: Exported, tmp_path: Path) -> None:
    """What is a link stays one, and so does the repository itself."""
    real = copy(embedding_export, tmp_path / "disk")
    store = real / "encoder" / "store"  # the manifest refuses links out of the repository
    store.mkdir()
    graph = real / "encoder" / "1" / "model.onnx"
    graph.rename(store / "encoder.onnx")
    graph.symlink_to(Path("..") / "store" / "encoder.onnx")
    refresh(real)
    (store / "encoder.onnx").chmod(0o640)
    before = (store / "encoder.onnx").stat().st_mtime_ns
    link = tmp_path / "repository"
    link.symlink_to(real)
    export_onnx(ExportRequest(embedding_export.checkpoint, link, ("encoder",)))
    refresh(link)
    assert link.is_symlink()
    assert graph.is_symlink()
    assert (store / "encoder.onnx").stat().st_mtime_ns != before
    assert (store / "encoder.onnx").stat().st_mode & 0o777 == 0o640
    manifest.verify(link)


def test_a_target_that_cannot_be_written_is_told_before_the_work(
    embedding: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("cytoserve_export.repository.export_graph", lambda *_: pytest.fail("work was done"))
    for target in (tmp_path / "file", tmp_path / "file" / "repository"):
        with pytest.raises(errors.TargetError, match="cannot write"):
            export_onnx(ExportRequest(embedding, target, ()))
    assert (tmp_path / "file").read_text() == "in the way"


def test_termination_leaves_nothing(embedding: Path, tmp_path: Path) -> None:
    """A real process, really terminated in the middle of its work."""
    command = [sys.executable, "-c", "from cytoserve_cli.export import app; app()"]
    command += ["onnx", str(embedding), "--to", str(tmp_path / "out" / "repository")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "out").glob(".repository.export-*/*/*/1/model.onnx")):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from cytoserve_cli.export import app; app()"]
    command += ["onnx", str(tmp_path / "none"), "--to", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "MissingFile" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
