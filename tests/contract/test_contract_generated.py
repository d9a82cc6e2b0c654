"""Files that are written from the contract: none is out of date, and each says what Triton and the graphs need."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cytoserve_contract import __main__ as generator
from cytoserve_contract import documents
from cytoserve_contract.models import MODELS, ModelSpec
from cytoserve_contract.tensors import AXES
from cytoserve_contract.triton_config import config_text
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).resolve().parents[2]


def parsed(model: ModelSpec) -> Any:
    return text_format.Parse(config_text(model), model_config_pb2.ModelConfig())


def test_no_generated_file_is_out_of_date() -> None:
    assert [str(path.relative_to(ROOT)) for path, _ in generator.out_of_date(ROOT)] == [], "run: make contract"


def test_every_configuration_is_generated() -> None:
    committed = {path for folder in ROOT.glob("model_repository*") for path in folder.glob("*/config.pbtxt")}
    assert committed == {path for path, _ in generator.generated(ROOT) if path.name == "config.pbtxt"}


def test_an_edit_by_hand_is_noticed_and_undone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, _ in generator.generated(ROOT):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    assert generator.main([str(tmp_path), "--check"]) == 0
    config, document = tmp_path / "model_repository/scorer/config.pbtxt", tmp_path / "docs/contract.md"
    config.write_text(config.read_text().replace("count: 2", "count: 3"))
    document.write_text(document.read_text().replace("| `near_tie` | 3 |", "| `near_tie` | 4 |"))
    assert generator.main([str(tmp_path), "--check"]) == 1
    told = capsys.readouterr().out
    assert "scorer/config.pbtxt is out of date" in told
    assert "contract.md is out of date" in told
    assert generator.main([str(tmp_path)]) == 0
    assert generator.main([str(tmp_path), "--check"]) == 0


def test_the_document_shows_every_table() -> None:
    text = (ROOT / "docs/contract.md").read_text()
    assert all(f"<!-- contract: {name} -->" in text for name in documents.TABLES)


@pytest.mark.parametrize("name", MODELS)
def test_triton_reads_the_configuration(name: str) -> None:
    config = parsed(MODELS[name])
    assert config.name == name
    assert [tensor.name for tensor in config.input] == [spec.name for spec in MODELS[name].inputs]
    assert (config.max_batch_size > 0) == MODELS[name].is_batched


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.steps])
def test_an_ensemble_gives_each_step_what_an_earlier_one_made(name: str) -> None:
    model = MODELS[name]
    config = parsed(model)
    there = {tensor.name for tensor in config.input}
    for step in config.ensemble_scheduling.step:
        served = MODELS[step.model_name]
        needed = {spec.name for spec in served.inputs if not spec.optional}
        assert needed <= set(step.input_map) <= there
        assert all(step.input_map[key] == key for key in step.input_map)
        assert set(step.output_map) == {spec.name for spec in served.outputs}
        there |= set(step.output_map)
    assert {tensor.name for tensor in config.output} <= there
    made = {spec.name: spec for step in model.steps for spec in step.outputs}
    assert all(made[spec.name] == spec for spec in model.outputs)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.steps])
def test_steps_agree_about_the_tensors_that_connect_them(name: str) -> None:
    made: dict[str, tuple[str, tuple[int | str, ...]]] = {}
    for step in MODELS[name].steps:
        for spec in step.inputs:
            assert made.get(spec.name, (spec.dtype, spec.dims)) == (spec.dtype, spec.dims), spec.name
        made |= {spec.name: (spec.dtype, spec.dims) for spec in step.outputs}


def test_every_axis_is_explained() -> None:
    used = {
        dim
        for model in MODELS.values()
        for spec in (*model.inputs, *model.outputs)
        for dim in spec.dims
        if isinstance(dim, str)
    }
    assert used == set(AXES)
