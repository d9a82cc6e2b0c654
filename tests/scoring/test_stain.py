"""Normalisation of the nuclear hue: what it moves, what it leaves, and that training and serving do the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cytoserve_contract.limits import CROP_SIZE
from cytoserve_scoring.constants import WHITE_LEVEL
from cytoserve_scoring.vision.crops import background_gain
from cytoserve_scoring.vision.stain import AZURE, EOSIN, normalise_stain, nuclear_disc, stain_map
from cytoserve_training.augment import normalise_stain as normalise_stain_in_training
from numpy.typing import NDArray


def unit(vector: NDArray[Any]) -> NDArray[Any]:
    return vector / np.linalg.norm(vector)


def film(azure: tuple[float, float, float], strength: float = 1.0) -> NDArray[np.float32]:
    """A nucleus of the given dye in the middle of a crop, a band of red cells at its edge, empty elsewhere."""
    density = np.zeros((CROP_SIZE, CROP_SIZE, 3))
    offset = np.arange(CROP_SIZE) - (CROP_SIZE - 1) / 2
    density[offset[:, None] ** 2 + offset[None] ** 2 < 14**2] = np.array(azure) * strength
    density[:10] = EOSIN
    return (WHITE_LEVEL * np.exp(-density)).astype(np.float32)


def density_of(crop: NDArray[Any], where: tuple[slice | int, ...]) -> NDArray[Any]:
    return -np.log(crop[where] / WHITE_LEVEL)


@pytest.mark.parametrize("azure", [(1.3, 1.9, 0.2), (1.0, 2.0, 0.5), (0.8, 1.3, 0.05), AZURE])
def test_another_laboratorys_blue_becomes_the_reference_blue(azure: tuple[float, float, float]) -> None:
    normal = normalise_stain(film(azure))
    found = density_of(normal, (48, 48))
    assert unit(found) @ unit(np.array(AZURE)) == pytest.approx(1.0, abs=1e-5)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(azure), rel=1e-4), "strength stays: only hue moves"


def test_red_cells_and_background_stay() -> None:
    before = film((1.3, 1.9, 0.1))
    after = normalise_stain(before)
    assert np.allclose(after[:10], before[:10], atol=0.01)
    assert np.allclose(after[-1], WHITE_LEVEL, atol=0.01)


def test_reference_stain_is_unchanged() -> None:
    assert np.allclose(stain_map(np.array(AZURE)), np.eye(3), atol=1e-6)


def test_a_crop_without_anything_nuclear_is_unchanged() -> None:
    pale = film((0.2, 0.3, 0.1))
    assert np.allclose(normalise_stain(pale), pale, atol=0.01)


@pytest.mark.parametrize("dye", [(2.0, 0.1, 0.1), (0.1, 0.1, 3.0), (0.1, 3.0, 0.1), (1.5, 2.13, 1.26)])
def test_a_colour_that_no_stain_has_is_not_made_to_look_like_one(dye: tuple[float, float, float]) -> None:
    """The map is bounded: a green or red blob stays visibly off, and noise is amplified by less than three."""
    normal = normalise_stain(film(dye))
    assert unit(density_of(normal, (48, 48))) @ unit(np.array(AZURE)) < 0.995
    assert np.linalg.norm(stain_map(np.array(dye)), 2) < 3.0


def test_training_and_serving_make_the_same_change() -> None:
    random = np.random.default_rng(3)
    crops = np.stack([film(tuple(random.uniform(0.1, 2.4, 3)), s) for s in (0.2, 0.5, 0.8, 1.0)])
    crops = np.clip(crops + random.normal(0, 6, crops.shape), 0, 255).astype(np.float32)
    served = np.stack([normalise_stain(crop) for crop in crops])
    trained = normalise_stain_in_training(torch.from_numpy(crops).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert np.abs(served - trained).max() < 0.05


def test_the_nuclear_disc_is_centred() -> None:
    disc = nuclear_disc()
    assert np.array_equal(disc, disc[::-1])
    assert np.array_equal(disc, disc.T)


def test_white_balance_looks_at_the_background_even_where_nuclei_are_brighter_in_blue() -> None:
    """A yellowish background beside nuclei that reflect more blue than it (seen in BCCD) becomes neutral."""
    field = np.full((200, 200, 3), (230, 225, 190), np.uint8)
    field[40:160, 40:160] = (120, 70, 240)
    gain = background_gain(field)
    assert np.allclose(gain * (230, 225, 190), WHITE_LEVEL, atol=0.5)
