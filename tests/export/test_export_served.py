"""From the shell: a CytoDiffusion checkpoint becomes a repository, is verified, and a real Triton serves it."""

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
from tritonclient import grpc

COMMAND = Path(sys.executable).with_name("cytoserve")


def cytoserve(*arguments: str | Path) -> str:
    done = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def repository(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cytodiffusion") / "repository"
    cytoserve("export", "repository", context, "--to", folder)
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
    assert {path.name for path in repository.iterdir()} == {
        "manifest.json",
        "encoder",
        "denoiser",
        "scorer",
        "service_info",
    }


def test_crops_are_scored_through_encoder_and_scorer(server: LocalServer) -> None:
    rng = np.random.default_rng(0)
    with grpc.InferenceServerClient(server.grpc_url) as client:
        (declared,) = client.get_model_metadata("encoder").inputs
        crops = rng.integers(0, 255, (2, *declared.shape[1:]), dtype=np.uint8)
        latents = client.infer("encoder", [tensor("CROP", crops)]).as_numpy("LATENT")
        inputs = [tensor("LATENT", latents), tensor("CELL_FLAGS", np.zeros(2, np.int32))]
        answer = client.infer("scorer", inputs, parameters=ONE_PROBE)
    posterior, decisions = answer.as_numpy("POSTERIOR"), answer.as_numpy("DECISION")
    assert posterior.shape == (2, 4)
    assert posterior.sum(axis=1) == pytest.approx([1, 1], abs=1e-4)
    assert (decisions == 1).all()  # random weights are calibrated for nothing: everything goes to a person


def test_the_probe_asks_what_is_there(server: LocalServer) -> None:
    assert "one empty crop answered: class" in ask(Target(server.grpc_url), "cell_analysis", 60)
