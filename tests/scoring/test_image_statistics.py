"""Image statistics: what they see, what they do not, and that no picture breaks them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES, IMAGE_STATISTICS, cause_in_words
from cytoserve_scoring.vision.crops import background_level, cut_crop, gain_of, normalised, resample
from cytoserve_scoring.vision.image_statistics import image_statistics
from PIL import Image
from scipy import ndimage

UM = 0.18
DYE = np.array([1.2, 2.0, 0.5])


def picture(strength: float = 1.0, lamp: float = 240.0, side: int = 160) -> np.ndarray:
    """A round nucleus in a pale cell among red cells, by Beer-Lambert."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius = np.hypot(x, y) * UM
    density = 0.7 / (1 + np.exp((radius - 4) / 0.3)) + 0.15 / (1 + np.exp((radius - 7) / 0.3))
    density = density + 0.12 / (1 + np.exp((np.hypot(x - 60, y - 50) * UM - 3.5) / 0.3))
    return np.rint(lamp * np.exp(-strength * density[..., None] * DYE)).astype(np.uint8)


def measured(field: np.ndarray, center: tuple[float, float] | None = None, um: float = UM) -> dict[str, float]:
    middle = center or (field.shape[1] / 2, field.shape[0] / 2)
    crop, _ = resample(field, middle, um)
    found = image_statistics(field, middle, um, crop, background_level(field))
    return dict(zip(IMAGE_STATISTIC_NAMES, found.tolist(), strict=True))


def test_the_crop_that_is_measured_is_the_crop_that_is_classified() -> None:
    field = picture()
    crop, beyond = resample(field, (80.0, 80.0), UM)
    assert (normalised(crop, beyond, gain_of(background_level(field))) == cut_crop(field, (80.0, 80.0), UM)).all()


def test_a_dimmer_lamp_is_seen_as_a_lamp_and_not_as_a_stain() -> None:
    bright, dim = measured(picture(lamp=240)), measured(picture(lamp=216))
    for name in IMAGE_STATISTIC_NAMES:
        if name.startswith("lamp"):
            assert dim[name] - bright[name] == pytest.approx(np.log(0.9), abs=0.01)
        elif name.startswith(("nucleus", "cytoplasm", "surroundings")):
            assert dim[name] == pytest.approx(bright[name], abs=0.02)


def test_a_stronger_stain_is_seen_in_proportion() -> None:
    plain, strong = measured(picture()), measured(picture(strength=1.3))
    for name in ("nucleus_red", "nucleus_green", "nucleus_blue", "cytoplasm_green"):
        assert strong[name] == pytest.approx(1.3 * plain[name], rel=0.03)
    assert strong["saturation"] > plain["saturation"]


def test_focus_noise_and_compression_are_seen() -> None:
    field = np.random.default_rng(0).normal(picture(), 1.5).clip(0, 255).astype(np.uint8)
    plain = measured(field)
    blurred = measured(ndimage.gaussian_filter(field, (1.5, 1.5, 0)))
    noisy = measured(np.random.default_rng(1).normal(field, 6).clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(field).save(buffer, "JPEG", quality=15)
    compressed = measured(np.asarray(Image.open(buffer)))
    assert blurred["sharpness"] < plain["sharpness"] - 0.2
    assert blurred["detail_fine"] < plain["detail_fine"] - 0.5
    assert noisy["noise"] > plain["noise"] + 0.5
    assert noisy["colour_noise_blue"] > plain["colour_noise_blue"] + 0.5
    assert compressed["compression_blocks"] > plain["compression_blocks"] + 0.2


def test_a_cell_measures_the_same_wherever_it_lies_in_a_field() -> None:
    cell = np.random.default_rng(0).normal(picture(), 2).clip(0, 255).astype(np.uint8)
    alone = measured(cell)
    field = np.full((640, 800, 3), 240, np.uint8)
    # by whole blocks of 8, as a camera's file has them
    field[160:320, 320:480] = cell
    there = measured(field, (400.0, 240.0))
    for name, value in alone.items():
        assert there[name] == pytest.approx(value, abs=0.05), name


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize("shape", [(32, 32), (33, 470), (96, 96), (700, 700)])
def test_every_statistic_of_a_uniform_picture_is_a_number(level: int, shape: tuple[int, int]) -> None:
    field = np.full((*shape, 3), level, np.uint8)
    for um in (0.02, 0.25, 0.6):
        for center in ((shape[1] / 2, shape[0] / 2), (0.0, 0.0), (float(shape[1]), 1.0)):
            assert all(np.isfinite(value) for value in measured(field, center, um).values())


def test_each_cause_has_a_sentence_for_either_side() -> None:
    sentences = {cause_in_words(f"{s.name}{side}") for s in IMAGE_STATISTICS for side in "+-"}
    assert len(sentences) == 2 * len(IMAGE_STATISTICS)
    assert cause_in_words("nucleus_red+") == "nuclei absorb more red light than in this site's calibration"
