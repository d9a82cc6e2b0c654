"""No room writes or reads the user's files in another way than `cytoserve_files`, and pipes are refused everywhere."""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cytoserve_cli.train import app as training
from cytoserve_client import TLS
from cytoserve_client.errors import ConfigurationError
from cytoserve_contract import manifest as manifest_check
from cytoserve_deploy import errors
from cytoserve_deploy.container.probe import ProbeFailed, Target, ask
from cytoserve_deploy.launch import layout as launch
from cytoserve_files import NotRegularFile
from cytoserve_scoring.serving import site
from cytoserve_scoring.serving.sites import Sites
from typer.testing import CliRunner

from benchmarks.results import output_path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    *("client", "scoring", "statistics", "networks", "reports", "validation", "export", "training", "deploy", "cli"),
    "benchmarks",
)
FORBIDDEN = frozenset({"write_text", "write_bytes", "savez", "savez_compressed", "savefig"})
OWN_FOLDERS = {
    # A private scratch folder that the local server made itself.
    ("deploy/cytoserve_deploy/launch/repository.py", "write_text"),
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield (name, call) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            yield name, node


def opened_for_writing(name: str, call: ast.Call) -> bool:
    """Return whether a call opens a file to write it anew (appending to a log keeps what is there)."""
    if name not in ("open", "fdopen"):
        return False
    values = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return any(mode[:1] in ("w", "x") and len(mode) <= 3 for mode in modes)


def into_memory(call: ast.Call) -> bool:
    """Return whether the first argument is an open file or a buffer, not a path."""
    first = call.args[0] if call.args else None
    return isinstance(first, ast.Name) and first.id in ("file", "buffer")


def test_every_output_goes_through_the_one_implementation() -> None:
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for function, call in calls(path):
                method = isinstance(call.func, ast.Attribute)
                wrong = (method and function in FORBIDDEN and not into_memory(call)) or opened_for_writing(
                    function, call
                )
                if wrong and (name, function) not in OWN_FOLDERS:
                    found.append(f"{name}:{call.lineno} {function}")
    assert found == []


def test_this_scan_finds_what_it_looks_for(tmp_path: Path) -> None:
    """A test that scans must be able to fail."""
    bad = tmp_path / "bad.py"
    bad.write_text("p.write_text('x')\nopen(p, 'w')\np.open(mode='wb')\nopen(p, 'a')\nnp.savez(file, a=1)\n")
    found = [(n, opened_for_writing(n, c) or (n in FORBIDDEN and not into_memory(c))) for n, c in calls(bad)]
    assert sorted(found) == [("open", False), ("open", True), ("open", True), ("savez", False), ("write_text", True)]


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def as_calibration(path: Path) -> Any:
    return site.read(pipe(path / "site.json"), "ab" * 32)


def as_scoring(path: Path) -> Any:
    return Sites.load(pipe(path / "scoring.json"), None)


def as_manifest(path: Path) -> Any:
    return manifest_check.compare(pipe(path / "manifest.json").parent)


def as_a_file_of_a_repository(path: Path) -> Any:
    digest = "ab" * 32
    manifest = f'{{"schema": "{manifest_check.SCHEMA}", "files": {{"a": {{"sha256": "{digest}"}}}}}}'
    (path / "manifest.json").write_text(manifest)
    pipe(path / "a")
    return manifest_check.check_repository_files(path)


def as_a_file_that_no_manifest_names(path: Path) -> Any:
    (path / "a").write_text("x")
    described = manifest_check.describe([("a", path / "a")])["a"]["sha256"]
    manifest = f'{{"schema": "{manifest_check.SCHEMA}", "files": {{"a": {{"sha256": "{described}"}}}}}}'
    (path / "manifest.json").write_text(manifest)
    assert manifest_check.check_repository_files(path).agreed == 1
    pipe(path / "b")
    return manifest_check.check_repository_files(path)


def as_certificate(path: Path) -> Any:
    return TLS(root_certificates=pipe(path / "ca.pem")).material()


def as_certificate_of_the_probe(path: Path) -> Any:
    return ask(Target("127.0.0.1:1", tls_ca=str(pipe(path / "ca.pem"))), "service_info", 5.0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("use", "kind", "words"),
    [
        (as_calibration, site.CalibrationRefused, "named pipe"),
        (as_scoring, NotRegularFile, "named pipe"),
        (as_manifest, manifest_check.ManifestError, "named pipe"),
        (as_a_file_of_a_repository, manifest_check.ChangedFile, "no file"),
        (as_a_file_that_no_manifest_names, manifest_check.ChangedFile, "not named"),
        (as_certificate, ConfigurationError, "named pipe"),
        (as_certificate_of_the_probe, ProbeFailed, "named pipe"),
    ],
)
def test_a_named_pipe_is_refused_at_once(
    tmp_path: Path, use: Callable[[Path], Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        use(tmp_path)


def test_the_log_of_the_local_server_must_be_a_file(tmp_path: Path) -> None:
    for path, words in ((pipe(tmp_path / "pipe"), "no file"), (tmp_path, "is a folder")):
        with pytest.raises(errors.BadLogFile, match=words):
            launch.check_log(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.BadLogFile, match="ot a directory"):
        launch.check_log(tmp_path / "file" / "log")
    launch.check_log(tmp_path / "new" / "log")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("autoencoder", "--out"),
        ("denoiser", "--out"),
        ("pack", "--out"),
        ("synthetic-field", "--out"),
        ("synthetic-cells", "--out"),
        ("segmenter", "--out"),
    ],
)
def test_training_knows_before_its_work_that_its_result_cannot_be_written(
    tmp_path: Path, command: str, option: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    words = [command, option, str(tmp_path / "file" / "x")]
    words += ["--run", str(tmp_path / "run")] if command in ("pack", "segmenter") else []
    result = CliRunner(env={"COLUMNS": "300"}).invoke(training, words)
    assert result.exit_code == 2, result.output
    assert "cannot write" in result.output
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_measurement_knows_before_its_work_that_its_result_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder"):
        output_path(str(tmp_path))
    assert output_path(str(tmp_path / "new" / "out.json")) == tmp_path / "new" / "out.json"
