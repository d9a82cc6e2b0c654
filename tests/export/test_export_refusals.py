"""What the export refuses, before it builds anything: each with its own error and a sentence that helps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cytoserve_export import errors
from cytoserve_export.checkpoint import DETECTOR_WEIGHTS, WEIGHTS, Checkpoint, read_weights
from cytoserve_export.conditioning import Conditioning
from cytoserve_export.networks import build
from cytoserve_export.repository import select
from cytoserve_export.staging import require_space
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny import edit_json, write_json

Damage = Callable[[Path], object]


def spoil(folder: Path, part: str, value: float, name: str = WEIGHTS) -> None:
    path = folder / part / name
    tensors = load_file(path)
    first = max(tensors, key=lambda key: tensors[key].numel())
    tensors[first].view(-1)[3] = value
    save_file(tensors, path)


def only_pickle(folder: Path) -> None:
    path = folder / "unet" / WEIGHTS
    torch.save(load_file(path), path.with_name("diffusion_pytorch_model.bin"))
    path.unlink()


def renamed_pickle(folder: Path, old_format: bool) -> None:
    path = folder / "unet" / WEIGHTS
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=not old_format)


def probes(folder: Path, **changes: torch.Tensor) -> None:
    path = folder / "scoring" / "probes.safetensors"
    save_file({**load_file(path), **changes}, path)


CASES: dict[str, tuple[type[errors.CheckpointError], str, Damage]] = {
    "no unet config": (errors.MissingFile, "config.json", lambda f: (f / "unet" / "config.json").unlink()),
    "no vae": (errors.MissingFile, "vae", lambda f: shutil.rmtree(f / "vae")),
    "no weights": (errors.MissingFile, WEIGHTS, lambda f: (f / "unet" / WEIGHTS).unlink()),
    "no probes": (errors.MissingFile, "probes", lambda f: (f / "scoring" / "probes.safetensors").unlink()),
    "no segmenter weights": (errors.MissingFile, "model", lambda f: (f / "segmenter" / DETECTOR_WEIGHTS).unlink()),
    "broken json": (errors.MalformedFile, "JSON", lambda f: (f / "classes.json").write_text("{")),
    "json list": (errors.MalformedFile, "object", lambda f: (f / "classes.json").write_text("[]")),
    "no crop size": (errors.MalformedFile, "size", lambda f: write_json(f / "preprocessing.json", {"circular": True})),
    "no patch": (errors.MalformedFile, "patch", lambda f: drop(f / "vae" / "config.json", "patch")),
    "broken weights": (errors.MalformedFile, "safetensors", lambda f: (f / "unet" / WEIGHTS).write_bytes(b"a" * 64)),
    "pickle": (errors.PickledWeights, "safetensors", only_pickle),
    "renamed zip": (errors.PickledWeights, "pickle", lambda f: renamed_pickle(f, False)),
    "renamed pickle": (errors.PickledWeights, "pickle", lambda f: renamed_pickle(f, True)),
    "nan": (errors.NanWeights, "unet", lambda f: spoil(f, "unet", float("nan"))),
    "inf": (errors.NanWeights, "vae", lambda f: spoil(f, "vae", float("inf"))),
    "nan segmenter": (errors.NanWeights, "segmenter", lambda f: spoil(f, "segmenter", float("nan"), DETECTOR_WEIGHTS)),
    "nan noise": (errors.NanWeights, "noise", lambda f: probes(f, noise=torch.full((5, 6, 4, 4), torch.nan).half())),
    "half a turning": (
        errors.InconsistentCheckpoint,
        "turn_matrix",
        lambda f: probes(f, turn=torch.zeros(5, dtype=torch.int64)),
    ),
    "five quarters": (
        errors.InconsistentCheckpoint,
        "quarters",
        lambda f: probes(
            f, turn=torch.full((5,), 5), turn_matrix=torch.eye(6).contiguous(), turn_offset=torch.zeros(6)
        ),
    ),
    "other unet": (
        errors.UnsupportedArchitecture,
        "UNet2DModel",
        lambda f: edit_json(f / "unet" / "config.json", _class_name="UNet2DModel"),
    ),
    "other block": (
        errors.UnsupportedArchitecture,
        "SkipDownBlock2D",
        lambda f: edit_json(f / "unet" / "config.json", down_block_types=["DownBlock2D", "SkipDownBlock2D"]),
    ),
    "no conditioning": (
        errors.UnsupportedArchitecture,
        "knows no class",
        lambda f: edit_json(f / "unet" / "config.json", class_embed_type=None),
    ),
    "all classes, and told one besides": (
        errors.UnsupportedArchitecture,
        "takes a class besides",
        lambda f: edit_json(f / "unet" / "config.json", out_channels=18),
    ),
    "says that it answers all classes": (
        errors.InconsistentCheckpoint,
        "all_classes must be false",
        lambda f: edit_json(f / "scoring" / "scoring.json", all_classes=True),
    ),
    "text embedding": (
        errors.UnsupportedArchitecture,
        "addition_embed_type",
        lambda f: edit_json(f / "unet" / "config.json", addition_embed_type="text"),
    ),
    "other vae": (
        errors.UnsupportedArchitecture,
        "VQModel",
        lambda f: edit_json(f / "vae" / "config.json", _class_name="VQModel"),
    ),
    "other widths": (
        errors.UnsupportedArchitecture,
        "does not fit",
        lambda f: edit_json(f / "unet" / "config.json", block_out_channels=[16, 32]),
    ),
    "sample prediction": (
        errors.UnsupportedArchitecture,
        "prediction_type",
        lambda f: edit_json(f / "scheduler" / "scheduler_config.json", prediction_type="sample"),
    ),
    "too many classes": (errors.WrongClassCount, "4 classes", lambda f: rename_classes(f, ["a", "b", "c", "d"])),
    "one name twice": (errors.WrongClassCount, "different", lambda f: rename_classes(f, ["a", "a", "b"])),
    "other names": (
        errors.WrongClassCount,
        "scoring.json",
        lambda f: write_json(f / "classes.json", {"classes": ["a", "b", "c"]}),
    ),
    "other latent": (
        errors.InconsistentCheckpoint,
        "latent_shape",
        lambda f: edit_json(f / "scoring" / "scoring.json", latent_shape=[6, 4, 5]),
    ),
    "fewer probes": (
        errors.InconsistentCheckpoint,
        "5 probes",
        lambda f: edit_json(f / "scoring" / "scoring.json", probes=4),
    ),
    "probe out of schedule": (
        errors.InconsistentCheckpoint,
        "schedule",
        lambda f: probes(f, timestep=torch.tensor([0, 1, 2, 3, 1000])),
    ),
    "weight per probe": (errors.InconsistentCheckpoint, "weight", lambda f: probes(f, weight=torch.ones(5, 1, 1, 1))),
    "empty mask": (errors.InconsistentCheckpoint, "mask", lambda f: probes(f, mask=torch.zeros(4, 4))),
    "channels": (
        errors.InconsistentCheckpoint,
        "channels",
        lambda f: edit_json(f / "vae" / "config.json", latent_channels=7),
    ),
}


def drop(path: Path, key: str) -> None:
    write_json(path, {name: value for name, value in json.loads(path.read_text()).items() if name != key})


def rename_classes(folder: Path, names: list[str]) -> None:
    write_json(folder / "classes.json", {"classes": names})
    edit_json(folder / "scoring" / "scoring.json", classes=names)


def build_all(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    for name in select((), checkpoint):
        build(name, checkpoint)


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, broken: Path) -> None:
    build_all(broken)  # whole, it is accepted
    kind, words, damage = CASES[case]
    damage(broken)
    with pytest.raises(kind, match=words) as caught:
        build_all(broken)
    assert type(caught.value) is kind


def test_a_pickle_is_never_opened(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed_pickle(broken, old_format=False)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))
    with pytest.raises(errors.PickledWeights):
        read_weights(broken / "unet" / WEIGHTS)


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingFile, match=r"model_index\.json"):
        Checkpoint(tmp_path / "nothing")


def test_unknown_graph(embedding: Path) -> None:
    with pytest.raises(errors.UnknownModel, match="known are"):
        select(("encoder", "upscaler"), Checkpoint(embedding))


def test_checkpoint_without_segmenter(context: Path) -> None:
    checkpoint = Checkpoint(context)
    assert select((), checkpoint) == ("encoder", "decoder", "denoiser", "noise_predictor")
    with pytest.raises(errors.MissingFile, match="segmenter"):
        select(("segmenter",), checkpoint)


def test_no_space_is_seen_before_work(embedding: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 2**20))
    with pytest.raises(errors.NoSpace, match="MiB"):
        require_space(tmp_path / "not" / "yet", ("denoiser",), Checkpoint(embedding))


def test_seventy_seven_equal_tokens_are_one(context: Path) -> None:
    """The premise of exporting one token, on the unmodified network in double precision."""
    checkpoint = Checkpoint(context)
    unet: UNet2DConditionModel = checkpoint.unet().double()
    z, labels = torch.randn(3, 4, 15, 15, dtype=torch.float64), torch.tensor([0, 3, 1])
    many = checkpoint.conditioning.reference_arguments(labels)["encoder_hidden_states"]
    one = checkpoint.conditioning.token(labels)
    assert many is not None
    assert one is not None
    assert many.shape == (3, 77, 12)
    with torch.no_grad():
        a, b = unet(z, 400, many.double()).sample, unet(z, 400, one.double()).sample
        other = unet(z, 400, one.double().roll(1, 0)).sample
    assert (a - b).abs().max() < 1e-12
    assert (a - other).abs().max() > 1e-6


def test_embedding_network_with_cross_attention_gets_a_zero_context() -> None:
    config = {
        "_class_name": "UNet2DConditionModel",
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"],
        "mid_block_type": None,
        "cross_attention_dim": 5,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 2,
    }
    conditioning = Conditioning.read(config, 2)
    token = conditioning.token(torch.tensor([0, 1]))
    assert conditioning.kind == "class_embedding"
    assert token is not None
    assert token.shape == (2, 1, 5)
    assert not token.any()
