"""From the shell: a checkpoint of either form becomes a repository, is verified, and a real Triton serves it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cytoserve_deploy.container.probe import Target, ask
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.warmup import ONE_PROBE, tensor
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.decisions import mean_errors
from cytoserve_export.parity import session
from tritonclient import grpc

COMMAND = Path(sys.executable).with_name("cytoserve")


def cytoserve(*arguments: str | Path) -> str:
    done = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module", params=["context", "heads"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """One that is told a class, as CytoDiffusion is, and one that answers all classes in one pass."""
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def repository(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "repository"
    cytoserve("export", "repository", checkpoint, "--to", folder)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[LocalServer]:
    with LocalServer(model_repository=repository, grpc_port=0, http_port=0, metrics_port=0) as running:
        yield running


def test_inspect_names_the_kind(context: Path) -> None:
    said = " ".join(cytoserve("export", "inspect", context).split())
    assert "AutoencoderKL" in said
    assert "one constant per class" in said


def test_what_the_command_wrote_verifies(repository: Path) -> None:
    said = cytoserve("export", "verify", repository)
    assert "verified" in said
    always = {"manifest.json", "encoder", "denoiser", "scorer", "service_info"}
    assert {path.name for path in repository.iterdir()} - {"segmenter"} == always


def test_the_scores_are_the_graphs_own_errors_and_every_row_is_counted(
    server: LocalServer, repository: Path, checkpoint: Path
) -> None:
    """With no class dropped: the mean over the budget of what ONNX Runtime answers for the same latents."""
    known = Checkpoint(checkpoint)
    geometry, budget = known.geometry, int(known.scoring["default_budget"])
    latents = np.random.default_rng(1).standard_normal((3, *geometry.latent_shape), dtype=np.float32)
    with grpc.InferenceServerClient(server.grpc_url) as client:

        def received() -> int:
            return int(client.get_inference_statistics("denoiser").model_stats[0].inference_count)

        before = received()
        inputs = [tensor("LATENT", latents), tensor("CELL_FLAGS", np.zeros(3, np.int32))]
        answer = client.infer("scorer", inputs, parameters={"alpha": "0"})
        rows = received() - before
    classes = None if geometry.all_classes else len(geometry.classes)
    graph = session(repository / "denoiser" / "1" / "model.onnx", 1)
    samples = np.arange(budget, dtype=np.int32)
    expected = mean_errors(lambda feed: graph.run(["ERROR"], feed)[0], latents, samples, classes)
    np.testing.assert_allclose(answer.as_numpy("SCORES"), expected, rtol=1e-5)
    np.testing.assert_array_equal(answer.as_numpy("LABEL"), expected.argmin(axis=1))
    np.testing.assert_array_equal(answer.as_numpy("EVALUATIONS"), budget * (classes or 1))
    assert rows == 3 * budget * (classes or 1)


def test_crops_are_scored_through_encoder_and_scorer(server: LocalServer, checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    with grpc.InferenceServerClient(server.grpc_url) as client:
        (declared,) = client.get_model_metadata("encoder").inputs
        crops = rng.integers(0, 255, (2, *declared.shape[1:]), dtype=np.uint8)
        latents = client.infer("encoder", [tensor("CROP", crops)]).as_numpy("LATENT")
        inputs = [tensor("LATENT", latents), tensor("CELL_FLAGS", np.zeros(2, np.int32))]
        answer = client.infer("scorer", inputs, parameters=ONE_PROBE)
    posterior, decisions = answer.as_numpy("POSTERIOR"), answer.as_numpy("DECISION")
    assert posterior.shape == (2, len(Checkpoint(checkpoint).geometry.classes))
    assert posterior.sum(axis=1) == pytest.approx([1, 1], abs=1e-4)
    assert (decisions == 1).all()  # random weights are calibrated for nothing: everything goes to a person


def test_the_probe_asks_what_is_there(server: LocalServer) -> None:
    assert "one empty crop answered: class" in ask(Target(server.grpc_url), "cell_analysis", 60)
