"""CytoDiffusion's configuration at a tenth of its widths, and the exact shortcut against the unmodified network."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cytoserve_export import errors, graphs
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.cost import count, denoiser_costs
from cytoserve_export.graphs import export_graph, external_files
from cytoserve_export.inspection import inspect
from cytoserve_export.networks import TracedDenoiser, build, conditioned_trunk
from cytoserve_export.parity import ErrorReference, session
from cytoserve_export.shortcut import ConstantAttention, fold
from cytoserve_export.synthetic import SIZES, error_mask, timestep_weight, unet_config, write_checkpoint
from safetensors.torch import save_file
from tiny import edit_json


@pytest.fixture(scope="session")
def tenth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tenth") / "checkpoint", "tenth", probes=3)


def test_the_published_numbers() -> None:
    mask = error_mask()
    assert mask.shape == (45, 45)
    assert [mask[22, 2], mask[22, 1], mask[36, 36], mask[37, 37]] == [1, 0, 1, 0]  # 14.1^2 * 2 is 20^2
    assert float(mask.sum()) == pytest.approx(math.pi * 20**2, rel=0.01)
    assert float(timestep_weight(torch.tensor([1000]))) == pytest.approx(1 / 0.9270553940204841)
    assert float(timestep_weight(torch.tensor([500]))) == pytest.approx(1 / 4.8429, rel=1e-4)


def test_the_layout_is_read(tenth: Path) -> None:
    checkpoint = Checkpoint(tenth)
    assert checkpoint.conditioning.kind == "context"
    assert checkpoint.conditioning.equal_tokens
    assert checkpoint.geometry.latent_shape == (4, 45, 45)
    assert checkpoint.geometry.size == 360
    assert len(checkpoint.geometry.classes) == 10
    assert checkpoint.schedule.prediction_type == "epsilon"
    assert checkpoint.autoencoder().config.scaling_factor == 0.18215


def test_folded_network_equals_the_unmodified_one(tenth: Path) -> None:
    """In double precision, 77 tokens by the unmodified network against one constant a layer."""
    checkpoint = Checkpoint(tenth)
    unet, label = checkpoint.unet().double(), torch.tensor([7])
    z, step = torch.randn(1, 4, 45, 45, dtype=torch.float64), torch.tensor([321])
    tokens = checkpoint.conditioning.reference_arguments(label)["encoder_hidden_states"]
    assert tokens is not None
    assert tokens.shape == (1, 77, 768)
    with torch.no_grad():
        want = unet(z, step, tokens.double()).sample
        trunk, table = conditioned_trunk(unet, checkpoint.conditioning, None)
        assert table is not None
        embedding = unet.time_embedding(unet.time_proj(step).double())
        got = trunk(z, embedding, table[label])
        other = trunk(z, embedding, table[label - 1])
    assert sum(isinstance(m, ConstantAttention) for m in trunk.modules()) == 16
    assert float((got - want).abs().max()) < 1e-12 * float(want.abs().max())
    assert float((other - want).abs().max()) > 1e-6


def test_tenth_size_export_answers_as_torch(tenth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the road of the full size: weights beside the graph."""
    monkeypatch.setattr(graphs, "EXTERNAL_FROM", 1)
    checkpoint, path = Checkpoint(tenth), tmp_path / "model.onnx"
    export_graph(build("denoiser", checkpoint), checkpoint.spec("denoiser"), checkpoint.geometry.sizes(), path)
    (data,) = external_files(path)
    assert path.stat().st_size < 2e6
    assert path.with_name(data).stat().st_size > 30e6
    feed = {
        "LATENT": np.random.default_rng(0).standard_normal((1, 4, 45, 45), dtype=np.float32),
        "PROBE": np.array([[2]], np.int32),
        "CLASS": np.array([[9]], np.int32),
    }
    with torch.no_grad():
        want = ErrorReference(checkpoint)(*(torch.from_numpy(value) for value in feed.values())).numpy()
    got = session(path, 1).run(["ERROR"], feed)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    whole = path.with_name(data).read_bytes()
    path.with_name(data).write_bytes(whole[:1000])
    with pytest.raises(errors.MissingExternalData, match="1000 bytes long"):
        session(path, 1)
    path.with_name(data).unlink()
    with pytest.raises(errors.MissingExternalData, match="absent: copy both"):
        session(path, 1)
    path.write_bytes(b"no graph")
    with pytest.raises(errors.GraphError, match="not a readable ONNX"):
        session(path, 1)


def test_shortcut_is_refused_where_tokens_differ(context: Path, tmp_path: Path) -> None:
    """A checkpoint with tokens of its own: differing ones are all carried, and folding is refused."""
    folder = tmp_path / "checkpoint"
    folder.symlink_to(context)
    checkpoint = Checkpoint(folder)
    tokens = torch.randn(4, 5, 12)
    told = checkpoint.conditioning.with_tokens(tokens)
    assert not told.equal_tokens
    unet = checkpoint.unet()
    with pytest.raises(errors.ShortcutRefused, match="differ from each other"):
        conditioned_trunk(unet, told, True)
    bank, label = checkpoint.probes(), torch.tensor([[2]], dtype=torch.int32)
    denoiser = TracedDenoiser(unet, told, checkpoint.schedule, bank)
    assert denoiser.tables.context is not None
    assert denoiser.tables.context.shape == (4, 5, 12)
    same = checkpoint.conditioning.with_tokens(tokens[:, :1].expand(-1, 5, -1))
    folded = TracedDenoiser(unet, same, checkpoint.schedule, bank, True)
    plain = TracedDenoiser(unet, same, checkpoint.schedule, bank, False)
    with torch.no_grad():
        z, row = torch.randn(1, 4, 15, 15), torch.zeros(1, 1, dtype=torch.int32)
        torch.testing.assert_close(folded(z, row, label), plain(z, row, label), rtol=1e-5, atol=0)
        assert not torch.allclose(denoiser(z, row, label), plain(z, row, label), rtol=1e-4)


def test_own_tokens_are_read_and_must_fit(context: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(context, tmp_path / "checkpoint"))
    before = Checkpoint(folder).weights_sha256
    (folder / "conditioning").mkdir()
    file = folder / "conditioning" / "context.safetensors"
    save_file({"context": torch.randn(4, 6, 12)}, file)
    checkpoint = Checkpoint(folder)
    assert not checkpoint.conditioning.equal_tokens
    assert checkpoint.weights_sha256 != before
    save_file({"context": torch.randn(4, 6, 13)}, file)
    with pytest.raises(errors.InconsistentCheckpoint, match="by cross-attention"):
        Checkpoint(folder)
    save_file({"tokens": torch.randn(4, 6, 12)}, file)
    with pytest.raises(errors.MalformedFile, match="called context"):
        Checkpoint(folder)


def test_unusual_attention_is_refused(context: Path) -> None:
    checkpoint = Checkpoint(context)
    trunk, _ = conditioned_trunk(checkpoint.unet(), checkpoint.conditioning, False)
    block = trunk.down_blocks[0].attentions[0].transformer_blocks[0]
    block.attn2.norm_q = torch.nn.LayerNorm(4)
    with pytest.raises(errors.ShortcutRefused, match="norm_q"):
        fold(trunk, checkpoint.conditioning)


def test_costs_of_one_convolution_are_the_textbooks(tenth: Path) -> None:
    """The full network, counted on shapes alone: 860 million weights; and the shortcut's saving by hand."""
    checkpoint = Checkpoint(tenth)
    full = denoiser_costs(
        {**checkpoint.unet_config, **unet_config(SIZES["full"])}, checkpoint.conditioning, (4, 45, 45)
    )
    tokens, width = 77, 768
    assert full.unmodified.parameters == pytest.approx(859.5e6, rel=0.01)
    # One layer of 320 channels at 45 x 45: queries and outputs of every pixel, keys and values of 77 tokens, products.
    pixels, inner = 45 * 45, 320
    one = 2 * (2 * pixels * inner**2 + 2 * tokens * width * inner + 2 * pixels * tokens * inner)
    assert full.unmodified.flops - full.folded.flops > 5 * one  # five such layers, and eleven others
    assert 0.03 < 1 - full.folded.flops / full.unmodified.flops < 0.08


def test_inspect_tells_and_refuses(tenth: Path, broken: Path) -> None:
    found = inspect(tenth)
    assert found["refused"] == []
    assert found["shortcut"]
    assert (found["evaluations_per_cell"], found["latent_shape"]) == (30, [4, 45, 45])
    assert found["flops_per_cell"] == 30 * found["cost"]["folded"]["flops"]
    assert json.loads(json.dumps(found)) == found
    edit_json(broken / "unet" / "config.json", block_out_channels=[16, 32])
    edit_json(broken / "vae" / "config.json", _class_name="VQModel")
    refused = inspect(broken)["refused"]
    assert [told.split(":")[0] for told in refused] == ["UnsupportedArchitecture", "UnsupportedArchitecture"]
    (broken / "classes.json").unlink()
    assert inspect(broken)["refused"][0].startswith("MissingFile")


def test_costs_are_plain_values(embedding: Path) -> None:
    checkpoint = Checkpoint(embedding)
    costs = denoiser_costs(checkpoint.unet_config, checkpoint.conditioning, checkpoint.geometry.latent_shape)
    assert costs.folded == costs.unmodified
    convolution = torch.nn.Conv2d(6, 16, 3, padding=1, device="meta")
    found = count(convolution, lambda: convolution(torch.zeros(1, 6, 4, 4, device="meta")))
    assert found.flops == 2 * 6 * 16 * 9 * 16  # a 3 x 3 convolution from 6 to 16 channels on 4 x 4 pixels
    assert all(isinstance(value, int) for value in dataclasses.astuple(costs.folded))
