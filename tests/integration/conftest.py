"""The connection to the session's Triton, and a small repository to start another one on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_calls import ROOT, Answer, Ask, answers, files, sign, tensor
from tritonclient import grpc


@pytest.fixture(scope="session")
def own_server(request: pytest.FixtureRequest) -> None:
    """Skip where ``--triton-url`` names a server: a test that starts one of its own tells nothing about that."""
    if request.config.getoption("--triton-url"):
        pytest.skip("starts a local server of its own; not a test of the one that --triton-url names")


@pytest.fixture(scope="session")
def connection(triton_url: str) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(triton_url) as client:
        yield client


@pytest.fixture(scope="session")
def ask(connection: grpc.InferenceServerClient) -> Ask:
    """Return a function that sends images to an ensemble and returns its outputs."""

    def call(model: str, images: list[bytes], um_per_pixel: Any = 0.18, **parameters: Any) -> Answer:
        scale = np.asarray(um_per_pixel, np.float32).reshape(-1)
        inputs = [tensor("IMAGE", files(images)), tensor("UM_PER_PIXEL", scale)]
        return answers(connection.infer(model, inputs, parameters=parameters or None, client_timeout=120))

    return call


@pytest.fixture
def small_repository(tmp_path: Path) -> Path:
    """Return a repository of one quick model, the real ``service_info``, at a path with a blank in it."""
    folder = tmp_path / "with blank" / "models"
    shutil.copytree(
        ROOT / "model_repository" / "service_info",
        folder / "service_info",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (folder / "service_info" / "1" / "service.json").write_text('{"name": "small", "classes": ["a"]}')
    sign(folder)
    return folder
