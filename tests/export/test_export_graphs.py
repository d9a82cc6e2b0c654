"""The graphs against a reference written here: NumPy for everything round the network, diffusers for the network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from cytoserve_export.graphs import widen
from cytoserve_export.specs import MAX_IR_VERSION, SPECS
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tiny import Exported

Array = NDArray[Any]


def run(exported: Exported, name: str, **feed: Array) -> Array:
    session = ort.InferenceSession(str(exported.graph(name)))
    answer: Array = session.run(None, feed)[0]
    return answer


def errors_under(exported: Exported, latent: Array, probe: Array, label: Array) -> Array:
    """Return the (B,) errors under (B, 1) classes, whether the denoiser is told them or answers all."""
    if json.loads((exported.checkpoint / "scoring" / "scoring.json").read_text())["all_classes"]:
        return run(exported, "denoiser", LATENT=latent, PROBE=probe)[np.arange(len(label)), label[:, 0]]
    answer = run(exported, "denoiser", LATENT=latent, PROBE=probe, CLASS=label)
    assert answer.shape == (len(label), 1)
    return answer[:, 0]


def cumulative_alphas(exported: Exported) -> Array:
    """The schedules' closed forms: Nichol and Dhariwal 2021 (cosine), Rombach et al. 2022 (scaled linear)."""
    config = json.loads((exported.checkpoint / "scheduler" / "scheduler_config.json").read_text())
    steps = 1000
    if config["beta_schedule"] == "squaredcos_cap_v2":

        def level(t: float) -> float:
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = np.array([min(1 - level((i + 1) / steps) / level(i / steps), 0.999) for i in range(steps)])
    else:
        betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), steps) ** 2
    return np.cumprod(1 - betas)


def network(exported: Exported) -> Callable[[Array, int, int], Array]:
    """Return (z, timestep, class) -> prediction of one latent, by the unmodified network, told the long way."""
    unet = UNet2DConditionModel.from_pretrained(exported.checkpoint / "unet", torch_dtype=torch.float32).eval()
    classes = len(json.loads((exported.checkpoint / "classes.json").read_text())["classes"])

    def predict(z: Array, timestep: int, label: int) -> Array:
        sample = torch.from_numpy(z.astype(np.float32))[None]
        one_hot = [1.0 if k == label else 0.0 for k in range(classes)]
        with torch.no_grad():
            if unet.config.out_channels > unet.config.in_channels:
                out = unet(sample, timestep, None).sample.reshape(classes, *z.shape)[label][None]
            elif unet.config.class_embed_type == "projection":
                out = unet(sample, timestep, None, class_labels=torch.tensor([one_hot])).sample
            else:
                token = one_hot + [0.0] * (unet.config.cross_attention_dim - classes)
                out = unet(sample, timestep, torch.tensor([[token] * 77])).sample
        return out[0].double().numpy()

    return predict


def turned(latent: Array, bank: dict[str, Any], probe: int) -> Array:
    """Return a latent in the quarter turn of its probe: grid and channels, one quarter after the other."""
    for _ in range(int(bank["turn"][probe]) if "turn" in bank else 0):
        latent = np.einsum("ij,jhw->ihw", bank["turn_matrix"], np.rot90(latent, 1, (1, 2)))
        latent = latent + np.asarray(bank["turn_offset"])[:, None, None]
    return latent


def test_error_is_the_contracts_formula(exported: Exported) -> None:
    bank = load_file(exported.checkpoint / "scoring" / "probes.safetensors")
    alphas, predict = cumulative_alphas(exported), network(exported)
    velocity = exported.manifests["repository"]["provenance"]["prediction_type"] == "v_prediction"
    generator = np.random.default_rng(0)
    shape = bank["noise"].shape[1:]
    latent = generator.standard_normal((6, *shape)).astype(np.float32)
    probe = np.array([[4], [0], [1], [1], [2], [3]], np.int32)
    label = np.array([[0], [1], [2], [0], [1], [2]], np.int32)
    got = errors_under(exported, latent, probe, label)
    for row in range(6):
        p = int(probe[row, 0])
        t, noise = int(bank["timestep"][p]), bank["noise"][p].astype(np.float64)
        signal, spread = math.sqrt(alphas[t]), math.sqrt(1 - alphas[t])
        seen = turned(latent[row], bank, p)
        prediction = predict(signal * seen + spread * noise, t, int(label[row, 0]))
        target = signal * noise - spread * seen if velocity else noise
        squares = bank["weight"][p] * bank["mask"] * (prediction - target) ** 2
        assert got[row] == pytest.approx(squares.sum() / bank["mask"].sum(), rel=2e-5)


def test_class_and_probe_each_change_the_error(exported: Exported) -> None:
    shape = load_file(exported.checkpoint / "scoring" / "probes.safetensors")["noise"].shape[1:]
    latent = np.zeros((4, *shape), np.float32)
    probe = np.array([[0], [0], [1], [0]], np.int32)
    label = np.array([[0], [1], [0], [0]], np.int32)
    error = errors_under(exported, latent, probe, label)
    assert error[0] == pytest.approx(error[3], rel=1e-6)
    assert abs(error[0] - error[1]) > 1e-5 * error[0]
    assert abs(error[0] - error[2]) > 1e-5 * error[0]


@pytest.mark.parametrize("kind", ["heads", "embedding"])
def test_noise_predictor_answers_noise(kind: str, request: pytest.FixtureRequest) -> None:
    made: Exported = request.getfixturevalue(f"{kind}_export")
    alphas, predict = cumulative_alphas(made), network(made)
    z = np.random.default_rng(1).standard_normal((2, 6, 4, 4)).astype(np.float32)
    steps, label = np.array([[999], [3]], np.int64), np.array([[1], [0]], np.int32)
    got = run(made, "noise_predictor", LATENT_NOISY=z, TIMESTEP=steps, CLASS=label)
    for row, (t, k) in enumerate(((999, 1), (3, 0))):
        noise = math.sqrt(alphas[t]) * predict(z[row], t, k) + math.sqrt(1 - alphas[t]) * z[row]
        np.testing.assert_allclose(got[row], noise, atol=2e-5, rtol=1e-4)


def test_pca_encoder_and_decoder(embedding_export: Exported) -> None:
    weights = load_file(embedding_export.checkpoint / "vae" / "diffusion_pytorch_model.safetensors")
    crop = np.random.default_rng(2).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    image = (crop / 127.5 - 1.0) * weights["window"][:, :, None]
    latent = run(embedding_export, "encoder", CROP=crop)
    picture = run(embedding_export, "decoder", LATENT=latent)
    for row in range(3):
        for y, x in ((0, 0), (1, 2), (3, 1)):
            patch = image[row, 6 * y : 6 * y + 6, 6 * x : 6 * x + 6].transpose(2, 0, 1).reshape(-1)
            code = weights["components"] @ (patch - weights["mean"])
            np.testing.assert_allclose(latent[row, :, y, x], code, atol=2e-5)
            back = (weights["inverse"] @ code + weights["mean"]).reshape(3, 6, 6).transpose(1, 2, 0)
            window = weights["window"][6 * y : 6 * y + 6, 6 * x : 6 * x + 6, None]
            want = np.clip(back * window, -1, 1) * 0.5 + 0.5
            np.testing.assert_allclose(picture[row, 6 * y : 6 * y + 6, 6 * x : 6 * x + 6], want, atol=2e-5)
    assert picture.std() > 0.05


def test_kl_encoder_and_decoder(context_export: Exported) -> None:
    vae = AutoencoderKL.from_pretrained(context_export.checkpoint / "vae", torch_dtype=torch.float32).eval()
    crop = np.random.default_rng(2).integers(0, 256, (2, 30, 30, 3), dtype=np.uint8)
    latent = run(context_export, "encoder", CROP=crop)
    picture = run(context_export, "decoder", LATENT=latent)
    with torch.no_grad():
        image = torch.from_numpy(crop).permute(0, 3, 1, 2) / 127.5 - 1
        mean = vae.encode(image).latent_dist.mean * 0.18215
        back = vae.decode(mean / 0.18215).sample.permute(0, 2, 3, 1)
    np.testing.assert_allclose(latent, mean.numpy(), atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(picture, (back.numpy() * 0.5 + 0.5).clip(0, 1), atol=2e-5, rtol=1e-4)


def test_no_cells_give_no_rows(exported: Exported) -> None:
    size = json.loads((exported.checkpoint / "preprocessing.json").read_text())["size"]
    latent = run(exported, "encoder", CROP=np.zeros((0, size, size, 3), np.uint8))
    assert latent.shape[0] == 0
    assert run(exported, "decoder", LATENT=latent).shape == (0, size, size, 3)


def test_files_are_plain_onnx_without_paths(exported: Exported) -> None:
    for name in exported.manifests["repository"]["models"]:
        raw = exported.graph(name).read_bytes()
        model = onnx.load_from_string(raw)
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        assert [(item.domain, item.version) for item in model.opset_import] == [("", SPECS[name].opset)]
        assert model.ir_version <= MAX_IR_VERSION
        for trace in (b"site-packages", b".py", str(exported.target.parent).encode()):
            assert trace not in raw


def test_half_storage_is_exact_and_undone_by_widen(embedding_export: Exported) -> None:
    model = onnx.load(embedding_export.graph("denoiser"))
    stored = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    wide = widen(model)
    floats = {t.name: onnx.numpy_helper.to_array(t) for t in wide.graph.initializer}
    weights = load_file(embedding_export.checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    big = [value for value in weights.values() if value.ndim == 4 and value.size >= 256]
    assert len(stored) >= len(big)
    for value in big:
        assert any(f.dtype == np.float32 and np.array_equal(f, value.astype(np.float32)) for f in floats.values())
    assert not any(t.name.endswith("_fp16") for t in wide.graph.initializer)
    onnx.checker.check_model(wide)
    feed = {
        "LATENT": np.ones((2, 6, 4, 4), np.float32),
        "PROBE": np.array([[0], [3]], np.int32),
        "CLASS": np.array([[2], [1]], np.int32),
    }
    (plain,) = ort.InferenceSession(wide.SerializeToString()).run(None, feed)
    np.testing.assert_array_equal(plain, run(embedding_export, "denoiser", **feed))
