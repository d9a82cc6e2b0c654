"""Tiny random checkpoints, made once, and what the export makes of them, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from cytoserve_export.decisions import CheckCells
from cytoserve_export.repository import ExportRequest, export_onnx
from tiny import Exported, cell_images, context_checkpoint, embedding_checkpoint, heads_checkpoint


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedding_checkpoint(tmp_path_factory.mktemp("embedding") / "tiny")


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heads_checkpoint(tmp_path_factory.mktemp("heads") / "tiny")


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return context_checkpoint(tmp_path_factory.mktemp("context") / "tiny")


def _export(checkpoint: Path, root: Path, classes: tuple[str, ...], only: tuple[str, ...] = ()) -> Exported:
    cells = cell_images(root / "cells", classes, 3)
    stages: list[str] = []
    request = ExportRequest(checkpoint, root / "repository", only, CheckCells(cells, per_class=3, um_per_pixel=1.0))
    made = export_onnx(request, lambda stage, done, total: stages.append(stage))
    return Exported(checkpoint, root / "repository", root / "model_repository_synthesis", made, stages)


@pytest.fixture(scope="session")
def embedding_export(embedding: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(embedding, tmp_path_factory.mktemp("a"), ("red", "green", "blue"))


@pytest.fixture(scope="session")
def heads_export(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(heads, tmp_path_factory.mktemp("c"), ("red", "green", "blue"))


@pytest.fixture(scope="session")
def context_export(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    # Its noise predictor would take seconds to trace and share every line with the other's.
    only = ("encoder", "decoder", "denoiser")
    return _export(context, tmp_path_factory.mktemp("b"), ("red", "green", "blue", "grey"), only)


@pytest.fixture(params=["heads", "embedding", "context"])
def exported(request: pytest.FixtureRequest) -> Exported:
    """Each kind of checkpoint in turn."""
    found: Exported = request.getfixturevalue(f"{request.param}_export")
    return found


@pytest.fixture
def broken(embedding: Path, tmp_path: Path) -> Path:
    """A copy of the embedding checkpoint to damage."""
    return Path(shutil.copytree(embedding, tmp_path / "tiny"))
