"""Full shared memory, a full disk, and a model repository that changes under a running server."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest
from cytoserve_client import Client, errors
from cytoserve_deploy.errors import RepositoryError
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.model_processes import dead, model_processes
from known_cells import ROOT, UM_PER_PIXEL, KnownCells, asked
from PIL import Image
from private_mounts import ServerWithSmallDisks

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def large_field() -> bytes:
    """A field whose tensors need some ten megabytes of shared memory for each step."""
    buffer = io.BytesIO()
    with Image.open(ROOT / "examples" / "synthetic_field.png") as field:
        field.convert("RGB").resize((1920, 1440)).save(buffer, "PNG")
    return buffer.getvalue()


def right(client: Client, known: KnownCells) -> None:
    images = known.images(range(len(known.files)))
    assert known.check(client.classify(images, UM_PER_PIXEL, one_sample=False), images, allowed=()) == len(images)


def test_full_shared_memory_refuses_what_does_not_fit_and_kills_nothing(
    known: KnownCells, large_field: bytes, tmp_path: Path
) -> None:
    """A request that needs more room fails as `unavailable`; with room again it is answered, by the same processes."""
    with (
        ServerWithSmallDisks({"/dev/shm": "256m"}, tmp_path) as server,
        Client(server.url, timeout=30) as client,
    ):
        right(client, known)
        pids = model_processes(server.told["pid"])
        filler = server.fill("/dev/shm")
        for numbers in (range(1), range(16), list(range(16)) * 2):
            assert asked(client, known, list(numbers), timeout=10) in ("ok", "unavailable")
        with pytest.raises(errors.ServerUnavailable, match="shared memory") as caught:
            client.analyze(large_field, 0.05, timeout=10)
        assert caught.value.retryable
        assert client.ready()
        filler.unlink()
        right(client, known)
        assert client.analyze(large_field, 0.05).fields[0].cells
        assert model_processes(server.told["pid"]) == pids
        assert dead(pids) == []


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the server's scratch files and log that becomes a file system of 64 MB in the namespace."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_a_full_disk_costs_the_log_and_no_answer(known: KnownCells, small_disk: Path) -> None:
    with (
        ServerWithSmallDisks({str(small_disk): "64m"}, small_disk) as server,
        Client(server.url, timeout=30) as client,
    ):
        right(client, known)
        filler = server.fill(str(small_disk))
        assert shutil.disk_usage(server.inside(str(small_disk))).free < 8192
        right(client, known)
        for text in (b"no image", b""):
            with pytest.raises(errors.InvalidInput):
                client.classify(text, UM_PER_PIXEL)
        right(client, known)
        filler.unlink()
        right(client, known)
    assert server.told["pid"] not in [int(name) for name in os.listdir("/proc") if name.isdigit()]


def test_a_disk_that_is_full_at_the_start_is_told_and_leaves_nothing(small_disk: Path) -> None:
    with ServerWithSmallDisks({str(small_disk): "1m"}, small_disk) as server:
        assert "No space left" in server.told["error"], server.told


def rewritten(folder: Path) -> None:
    """Give classes other names, as an operator's edit would."""
    settings = folder / "scorer" / "1" / "scoring.json"
    settings.write_text(settings.read_text().replace("lymphocyte", "monocyte"))


def cut_off(folder: Path) -> None:
    """Cut a graph off in place, as a copy onto a full disk would."""
    graph = folder / "denoiser" / "1" / "model.onnx"
    os.truncate(graph, graph.stat().st_size // 2)


def test_a_repository_changed_under_a_running_server(known: KnownCells, tmp_path: Path) -> None:
    """What runs goes on with what it has loaded; a start in between refuses what is not in the manifest."""
    folder = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with LocalServer(model_repository=folder) as server, Client(server.grpc_url, timeout=60) as client:
        basis = client.info().model.weights_sha256
        for change in (rewritten, cut_off, lambda whole: shutil.rmtree(whole / "denoiser"), shutil.rmtree):
            change(folder)
            right(client, known)
            assert client.info().model.weights_sha256 == basis
            with pytest.raises(RepositoryError):
                LocalServer(model_repository=folder).start()
