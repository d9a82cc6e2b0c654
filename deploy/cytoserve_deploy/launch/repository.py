"""Find the model repositories to serve, check them, and lay them out for one server."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from cytoserve_contract.models import SYNTHESIS_REPOSITORY
from cytoserve_contract.names import ENV_MODEL_REPOSITORY
from cytoserve_files import read_text

from cytoserve_deploy.errors import IncompleteRepository, MissingRepository

ENV_REPOSITORY: Final = ENV_MODEL_REPOSITORY


def find_repository(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the model repository: the argument, else the environment's, else the checkout's.

    Raises
    ------
    MissingRepository
        If there is none; the message says what to do.
    """
    for source, value in (("--model-repository", given), (ENV_REPOSITORY, os.environ.get(ENV_REPOSITORY))):
        if value:
            folder = Path(value).expanduser().resolve()
            if not folder.is_dir():
                raise MissingRepository(f"{source} names {folder}, which is not a folder")
            return folder
    checkout = Path(__file__).resolve().parents[3] / "model_repository"
    if checkout.is_dir():
        return checkout
    raise MissingRepository(
        "no model repository: this installation carries none; give --model-repository DIR or set "
        f"{ENV_REPOSITORY} to the folder model_repository of a CytoServe checkout or of an export"
    )


def find_synthesis_repository(repository: Path) -> Path:
    """Return the synthesis repository that lies beside `repository`.

    Raises
    ------
    MissingRepository
    """
    folder = repository.parent / SYNTHESIS_REPOSITORY
    if not folder.is_dir():
        raise MissingRepository(f"synthesis was asked for, but {folder} does not exist; run: cytoserve export onnx")
    return folder


def check_repository(repository: Path) -> list[str]:
    """Return the names of the models in `repository`; check that each has the files its configuration needs.

    Raises
    ------
    MissingRepository
        If the folder holds no model.
    IncompleteRepository
        If a model has no version folder or lacks its graph or its Python file.
    """
    names, lacking = [], []
    for folder in sorted(p for p in repository.iterdir() if (p / "config.pbtxt").is_file()):
        names.append(folder.name)
        text = read_text(folder / "config.pbtxt")
        lacking += [f"{folder.name}/{path}" for path in _needed_files(text) if not (folder / path).exists()]
    if not names:
        raise MissingRepository(f"{repository} holds no models (folders with a config.pbtxt)")
    if lacking:
        raise IncompleteRepository(
            f"{repository} lacks {', '.join(lacking)}; fill it with: cytoserve export onnx CHECKPOINT --to {repository}"
        )
    return names


def _needed_files(config: str) -> list[str]:
    """Return the paths, relative to a model's folder, that its configuration text calls for."""
    if re.search(r'^\s*backend:\s*"onnxruntime"', config, re.MULTILINE):
        return ["1/model.onnx"]
    if re.search(r'^\s*backend:\s*"python"', config, re.MULTILINE):
        return ["1/model.py"]
    return ["1"]


def lay_out(repository: Path, target: Path, instances: dict[str, int]) -> None:
    """Make the new folder `target` a repository of links to `repository`, with other counts of `instances` by model.

    The path of `target` must have no blanks: Triton's Python backend passes it to a shell unquoted, which is why the
    links are needed even where nothing changes.
    """
    target.mkdir(parents=True)
    for folder in sorted(p for p in repository.iterdir() if (p / "config.pbtxt").is_file()):
        model = target / folder.name
        model.mkdir()
        for child in folder.iterdir():
            if child.is_dir():
                _link_files(child, model / child.name)
            elif child.name != "config.pbtxt":
                (model / child.name).symlink_to(child)
        text = read_text(folder / "config.pbtxt")
        if folder.name in instances:
            text = _with_count(text, instances[folder.name])
        (model / "config.pbtxt").write_text(text, encoding="utf-8")


def _link_files(source: Path, target: Path) -> None:
    """Make `target` a real folder of links, so that what Python caches beside ``model.py`` stays out of `source`."""
    target.mkdir()
    for child in source.iterdir():
        if child.name != "__pycache__":
            (target / child.name).symlink_to(child, target_is_directory=child.is_dir())


def _with_count(config: str, count: int) -> str:
    """Return the configuration with its one ``count:`` replaced."""
    changed, hits = re.subn(r"(\bcount:\s*)\d+", rf"\g<1>{count}", config)
    if hits != 1:
        raise IncompleteRepository("the configuration has no single instance_group count to change")
    return changed
