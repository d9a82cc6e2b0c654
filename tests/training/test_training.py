"""The training room against outside truths: SciPy, diffusers' own scheduler, and the serving code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cytoserve_contract.limits import CROP_SIZE
from cytoserve_networks.autoencoder import PatchPCAAutoencoder, circular_window
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL, WHITE_LEVEL
from cytoserve_scoring.vision.crops import background_gain, cut_crop
from cytoserve_training.augment import Augmentation, augment, change_stain, gaussian_blur, occlude
from cytoserve_training.cells import CLASSES, CellSet, cut
from cytoserve_training.checkpoint import PackConfig, part_cells
from cytoserve_training.denoiser import (
    TRAIN_TIMESTEPS,
    ClassMargin,
    DenoiserConfig,
    build_scheduler,
    build_unet,
    class_errors_of,
    diffuse,
    predict_all,
    take_trunk,
)
from cytoserve_training.denoiser_train import Probes, class_errors
from cytoserve_training.probes import BankConfig, bit_reversed_order, build_bank
from cytoserve_training.synthesis import METADATA_KEY, FieldConfig, SyntheticField, red_cell, single_cells, write_field
from diffusers import UNet2DConditionModel
from PIL import Image
from scipy import ndimage

TINY = DenoiserConfig(channels=(16, 16), latent_channels=4, grid=8)


def smooth_image(seed: int, size: int = 160) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (size, size, 3)), (4, 4, 0))
    return np.clip(200 + 180 * noise, 0, 255).astype(np.uint8)


def test_training_and_serving_cut_the_same_crop():
    image = smooth_image(0)
    served = cut_crop(image, (80.0, 80.0), PBC_UM_PER_PIXEL)
    gains = torch.from_numpy(background_gain(image))[None]
    trained = cut(torch.from_numpy(image)[None], gains)[0].numpy()
    difference = np.abs(trained - served)
    assert served.shape == trained.shape == (CROP_SIZE, CROP_SIZE, 3)
    # Serving prefilters with a Gaussian of 0.19 px and rounds to whole grey levels; training does neither.
    assert difference.max() < 2.0
    assert difference.mean() < 0.4


def test_white_balance_undoes_a_tint():
    image = smooth_image(1)
    tinted = np.clip(image * np.array([1.0, 0.93, 0.85]), 0, 255).astype(np.uint8)
    plain, corrected = (cut_crop(i, (80.0, 80.0), 0.18).astype(float) for i in (image, tinted))
    assert np.abs(plain - corrected).mean() < 2.0
    assert np.abs(image.astype(float) - tinted).mean() > 10


def test_a_quarter_turn_of_the_image_is_a_quarter_turn_of_the_crop():
    image = torch.from_numpy(smooth_image(2))[None]
    ones = torch.ones(1, 3)
    turned = cut(torch.rot90(image, 1, (1, 2)), ones)
    np.testing.assert_allclose(turned.numpy(), torch.rot90(cut(image, ones), 1, (1, 2)).numpy(), atol=1e-2)


def test_augmentation_is_seeded_and_changes_the_crop():
    image, ones = torch.from_numpy(smooth_image(3))[None].repeat(2, 1, 1, 1), torch.ones(2, 3)
    one, two = (cut(image, ones, Augmentation(), torch.Generator().manual_seed(s)) for s in (5, 5))
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def test_the_autoencoder_whitens_and_is_the_best_linear_reconstruction():
    crops = torch.stack([torch.from_numpy(cut_crop(smooth_image(i), (80, 80), 0.18)) for i in range(24)])
    model = PatchPCAAutoencoder(latent_channels=12)
    share = model.fit(crops)
    inside = model.patch_mask().bool()
    latents = model.encode(crops)[:, :, inside]
    flat = latents.permute(0, 2, 1).reshape(-1, 12)
    covariance = torch.cov(flat.T)
    np.testing.assert_allclose(covariance.numpy(), np.eye(12), atol=2e-3)
    patches = torch.nn.functional.unfold(model.windowed(crops), 6, stride=6).transpose(1, 2)[:, inside.flatten()]
    values = np.linalg.svd((patches - patches.mean((0, 1))).reshape(-1, 108).double().numpy(), compute_uv=False) ** 2
    np.testing.assert_allclose(share, values / values.sum(), atol=1e-8)


def test_the_autoencoder_survives_saving(tmp_path):
    model = PatchPCAAutoencoder(latent_channels=4)
    crops = torch.from_numpy(smooth_image(4, 96))[None].repeat(8, 1, 1, 1)
    crops[1:] = torch.randint(0, 255, crops[1:].shape, dtype=torch.uint8)
    model.fit(crops)
    model.save(tmp_path)
    assert torch.equal(PatchPCAAutoencoder.load(tmp_path).encode(crops), model.encode(crops))


def test_what_stands_in_the_corners_does_not_count():
    model = PatchPCAAutoencoder(latent_channels=4)
    crop = torch.from_numpy(smooth_image(5, 96))[None]
    model.fit(crop.repeat(4, 1, 1, 1) + torch.randint(0, 9, (4, 96, 96, 3), dtype=torch.uint8))
    other = crop.clone()
    other[:, circular_window(96) == 0] = 0
    assert torch.equal(model.encode(crop), model.encode(other))


def test_the_noise_schedule_is_diffusers_own():
    scheduler = build_scheduler()
    z, noise = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8)
    timestep = torch.tensor([0, 1, 500, 800, 999])
    noisy, v = diffuse(z, noise, timestep, scheduler.alphas_cumprod)
    torch.testing.assert_close(noisy, scheduler.add_noise(z, noise, timestep))
    torch.testing.assert_close(v, scheduler.get_velocity(z, noise, timestep))


def test_an_error_is_the_weighted_mean_over_the_mask():
    prediction, target = torch.randn(3, 2, 4, 8, 8), torch.randn(3, 4, 8, 8)
    weight, mask = torch.tensor([0.5, 1.0, 1.0, 1.5]), (torch.rand(8, 8) > 0.4).float()
    found = class_errors_of(prediction, target, weight, mask)
    assert found.shape == (3, 2)
    for k in range(2):
        squares = ((prediction[:, k] - target) ** 2).numpy()[:, :, mask.numpy() > 0].mean(2)
        np.testing.assert_allclose(found[:, k].numpy(), np.average(squares, axis=1, weights=weight.numpy()), rtol=1e-5)


def test_the_margin_is_cross_entropy_over_errors_scaled_by_band():
    margin = ClassMargin(bands=2, scale=50.0)
    with torch.no_grad():
        margin.log_scale[1] = np.log(10.0)
    errors, labels = torch.tensor([[0.40, 0.42, 0.50], [0.40, 0.42, 0.50]]), torch.tensor([1, 1])
    expected = []
    for scale, row in zip((50.0, 10.0), errors.numpy().astype(float), strict=True):
        expected.append(-np.log(np.exp(-scale * row[1]) / np.exp(-scale * row).sum()))
    found = margin(errors, torch.tensor([100, 900]), labels)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_strangers_are_best_where_no_class_leads():
    margin = ClassMargin()
    level = margin.nobody(torch.full((1, 8), 0.4), torch.tensor([500])).item()
    led = margin.nobody(torch.tensor([[0.3, *[0.4] * 7]]), torch.tensor([500])).item()
    assert level == pytest.approx(np.log(8), rel=1e-6)
    assert led > level


def test_a_trunk_taken_from_a_network_that_is_told_a_class_predicts_as_it_did():
    """Where the class made no difference before, every head answers what the one output answered."""
    torch.manual_seed(0)
    shape = {"sample_size": 8, "in_channels": 4, "block_out_channels": (16, 16), "layers_per_block": 1}
    told = UNet2DConditionModel(
        **shape,
        out_channels=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        mid_block_type=None,
        norm_num_groups=16,
        cross_attention_dim=8,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=8,
        resnet_time_scale_shift="scale_shift",
    ).eval()
    with torch.no_grad():
        told.class_embedding.linear_1.weight.zero_()
    unet = build_unet(TINY).eval()
    take_trunk(unet, told)
    noisy, timestep = torch.randn(3, 4, 8, 8), torch.tensor([10, 400, 900])
    with torch.no_grad():
        every = predict_all(unet, noisy, timestep, 8)
        one = told(noisy, timestep, None, class_labels=torch.eye(8)[[1, 5, 2]]).sample
    torch.testing.assert_close(every, one[:, None].expand_as(every), atol=1e-5, rtol=1e-4)


def test_class_errors_agree_with_one_row_at_a_time():
    torch.manual_seed(0)
    unet = build_unet(TINY).eval()
    latents, probes = torch.randn(2, 4, 8, 8), Probes.even(3, 0, (4, 8, 8))
    weight, mask, alphas = torch.ones(4), torch.ones(8, 8), build_scheduler().alphas_cumprod
    errors = class_errors(unet, latents, probes, weight, mask, alphas)
    noisy, target = diffuse(latents[1:], probes.noise[2:], probes.timestep[2:], alphas)
    with torch.no_grad():
        alone = class_errors_of(predict_all(unet, noisy, probes.timestep[2:], 8), target, weight, mask)[0, 5]
    assert errors.shape == (2, 3, 8)
    assert errors[1, 2, 5].item() == pytest.approx(alone.item(), rel=0.02)  # bf16 against fp32


@pytest.mark.parametrize("count", [1, 2, 5, 16, 24])
def test_every_prefix_of_the_bank_is_spread(count):
    order = bit_reversed_order(count)
    assert sorted(order) == list(range(count))
    bank = build_bank(BankConfig(probes=16), (4, 8, 8))
    assert bank.timestep[:4].sort().values.diff().min() > 0.1 * TRAIN_TIMESTEPS
    assert torch.equal(bank.noise, bank.noise.half().float())


def test_validation_cells_are_parted_by_name_not_by_order():
    names = tuple(f"{CLASSES[i % 8]}/{i}.png" for i in range(80))
    labels = torch.arange(80) % 8
    cells = CellSet(torch.zeros(80, 1), torch.zeros(80, 3), labels, names)
    order = torch.randperm(80)
    shuffled = CellSet(cells.images, cells.gains, labels[order], tuple(names[i] for i in order.tolist()))
    config = PackConfig(racing_per_class=3, calibrating=40)
    parts = [part_cells(which, config) for which in (cells, shuffled)]
    told = [
        [{which.names[i] for i in rows} for rows in part] for which, part in zip((cells, shuffled), parts, strict=True)
    ]
    assert told[0] == told[1]
    assert not told[0][0] & told[0][1]
    assert [len(rows) for rows in told[0]] == [24, 40]


def test_stain_jitter_leaves_the_empty_background_white_and_keeps_order_of_density():
    field = torch.full((6, 3, 8, 8), WHITE_LEVEL)
    field[:, :, :4] = torch.tensor([71.0, 28.0, 158.0])[None, :, None, None]
    ranges = Augmentation(strong=1.0)
    out = change_stain(field, ranges, torch.ones(6), torch.Generator().manual_seed(0))
    torch.testing.assert_close(out[:, :, 4:], field[:, :, 4:])
    assert (out[:, :, :4].mean((1, 2, 3)) < WHITE_LEVEL - 20).all()
    assert out[:, :, 0, 0].std(0).min() > 5  # six laboratories


def test_each_crop_is_blurred_by_its_own_gaussian():
    crops = torch.rand(2, 3, 40, 40) * 255
    out = gaussian_blur(crops, torch.tensor([0.0, 1.2]))
    torch.testing.assert_close(out[0], crops[0])
    expected = ndimage.gaussian_filter(crops[1].numpy(), (0, 1.2, 1.2), mode="nearest", radius=(0, 4, 4))
    np.testing.assert_allclose(out[1].numpy(), expected, atol=1e-3)


def test_occlusion_keeps_the_centre_and_whitens_only_outside_a_box():
    crops = torch.zeros(64, 3, 96, 96)
    out = occlude(crops, 1.0, torch.Generator().manual_seed(1))
    assert (out[:, :, 24:72, 24:72] == 0).all()
    assert set(out.unique().tolist()) == {0.0, WHITE_LEVEL}
    assert (occlude(crops, 0.0, torch.Generator().manual_seed(1)) == 0).all()


def test_augmented_crops_stay_in_range():
    crops = augment(torch.rand(16, 3, 32, 32) * 255, Augmentation(strong=1.0), torch.Generator().manual_seed(3))
    assert crops.min() >= 0
    assert crops.max() <= 255
    assert torch.isfinite(crops).all()


def test_a_synthetic_field_says_so_in_its_file(tmp_path):
    path = tmp_path / "field.png"
    write_field(np.zeros((8, 8, 3), np.uint8), path, FieldConfig(seed=3), "ab" * 32)
    with Image.open(path) as image:
        told = json.loads(image.text[METADATA_KEY])
    assert told["seed"] == 3
    assert told["weights_sha256"] == "ab" * 32


def test_cells_are_cut_about_their_places_and_never_over_the_edge():
    pixels = np.zeros((400, 500, 3), np.uint8)
    pixels[200, 300] = 255
    field = SyntheticField(pixels, (("monocyte", 300.0, 200.0), ("platelet", 79.0, 200.0), ("platelet", 300.0, 330.0)))
    ((name, window),) = single_cells(field, 160)
    assert name == "monocyte"
    assert window.shape == (160, 160, 3)
    assert window[80, 80].tolist() == [255, 255, 255]


def test_a_rendered_red_cell_has_its_diameter_and_a_pale_centre():
    colour, opacity = red_cell(50.0, np.random.default_rng(0))
    assert np.sqrt((opacity > 0.5).sum() * 4 / np.pi) == pytest.approx(50, rel=0.08)
    middle = colour.shape[0] // 2
    assert colour[middle, middle, 1] > colour[middle, middle + 18, 1]
