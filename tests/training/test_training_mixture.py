"""What the denoiser is shown besides PBC: other sites, other stains, faults of scanners, and strangers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cytoserve_contract.limits import CROP_SIZE
from cytoserve_scoring.constants import WHITE_LEVEL
from cytoserve_scoring.vision.crops import background_gain, cut_crop
from cytoserve_training.cells import CLASSES, cut, join, read_cells
from cytoserve_training.scanner_faults import NO_FAULTS, blemished, compressed
from cytoserve_training.sites import CHULA_HELD_OUT, SITES, load_site
from cytoserve_training.stains import Stains, field_stain, read_stains, restain
from cytoserve_training.strangers import empty_windows, make_strangers
from PIL import Image
from scipy import ndimage

FAULTS = ("motion", "pixelation", "vignette", "spots", "jpeg")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc_image(densities: list[tuple[float, float, float]], size: int = 240) -> np.ndarray:
    """A white field with one disc per optical density (R, G, B), the discs beside each other."""
    y, x = np.mgrid[:size, :size]
    image = np.full((size, size, 3), WHITE_LEVEL)
    for at, density in enumerate(densities):
        inside = (y - size / 2) ** 2 + (x - size * (at + 0.5) / len(densities)) ** 2 < (size / 5) ** 2
        image[inside] = WHITE_LEVEL * np.exp(-np.array(density))
    return np.rint(image).astype(np.uint8)


@pytest.mark.parametrize("um_per_pixel", [0.10, 0.134])
def test_a_cell_of_another_scale_is_stored_so_that_it_is_cut_as_serving_cuts_it(tmp_path: Path, um_per_pixel: float):
    rng = np.random.default_rng(1)
    image = np.clip(200 + 500 * ndimage.gaussian_filter(rng.normal(0, 1, (288, 288, 3)), (8, 8, 0)), 0, 255)
    (tmp_path / "monocyte").mkdir()
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "monocyte" / "a.png")
    cells = read_cells([tmp_path / "monocyte" / "a.png"], um_per_pixel)
    trained = cut(cells.images, cells.gains)[0].numpy()
    served = cut_crop(image.astype(np.uint8), (144, 144), um_per_pixel).astype(np.float32)
    assert cells.labels.tolist() == [CLASSES.index("monocyte")]
    # the corners of a small picture lie beyond it: serving draws them white, and the model never sees them
    inside = np.hypot(*(np.mgrid[:CROP_SIZE, :CROP_SIZE] - 47.5)) < 46
    difference = np.abs(trained - served)[inside]
    assert difference.mean() < 1.0
    assert np.percentile(difference, 99) < 4


def test_sites_share_no_cell_between_training_and_choosing(data_dir: Path):
    for name in set(SITES) - {"pbc"}:
        train, val = (SITES[name].files(data_dir, part) for part in ("train", "val"))
        assert train
        assert val
        assert not {file.name for file in train} & {file.name for file in val}
        assert {file.parent.name for file in train} == {file.parent.name for file in val}
    slides = [
        {file.name.split("_")[0] for file in SITES["chula_wbc"].files(data_dir, part)} for part in ("train", "val")
    ]
    assert slides[1] == set(CHULA_HELD_OUT)
    assert not slides[0] & slides[1]


def test_the_cells_of_a_site_come_at_the_scale_of_pbc(data_dir: Path):
    cells = load_site(data_dir, "bcisc", "val", per_class=1)
    assert cells.images.shape == (5, 160, 160, 3)
    assert sorted(CLASSES[label] for label in cells.labels.tolist()) == [name.split("/")[0] for name in cells.names]


def test_a_site_without_cells_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no cells of bcisc"):
        load_site(tmp_path, "bcisc", "train")
    with pytest.raises(FileNotFoundError, match="no field below"):
        read_stains(tmp_path)


def test_sets_are_joined_in_order(tmp_path: Path):
    for name in ("basophil", "platelet"):
        (tmp_path / name).mkdir()
        Image.fromarray(disc_image([(1, 1, 1)], 160)).save(tmp_path / name / "a.png")
    one, two = (read_cells([tmp_path / name / "a.png"]) for name in ("platelet", "basophil"))
    both = join([one, two])
    assert both.names == ("platelet/a.png", "basophil/a.png")
    assert both.labels.tolist() == [CLASSES.index("platelet"), CLASSES.index("basophil")]


def test_a_fields_stain_is_that_of_its_nuclei_and_red_cells():
    nucleus, red_cell = (1.1, 1.8, 0.5), (0.15, 0.4, 0.25)
    found = field_stain(disc_image([nucleus, red_cell, red_cell]))
    assert found is not None
    np.testing.assert_allclose(found, [nucleus, red_cell], atol=0.03)
    assert field_stain(disc_image([red_cell, red_cell])) is None, "no nucleus"
    assert field_stain(np.full((100, 100, 3), 240, np.uint8)) is None, "nothing at all"


def test_restaining_takes_nuclei_and_red_cells_to_the_foreign_densities():
    nucleus, red_cell = np.array([1.22, 2.04, 0.45]), np.array([0.19, 0.27, 0.16])
    image = np.full((CROP_SIZE, CROP_SIZE, 3), WHITE_LEVEL)
    image[30:66, 30:66] = WHITE_LEVEL * np.exp(-nucleus)
    image[:20] = WHITE_LEVEL * np.exp(-red_cell)
    target = torch.tensor([[[0.5, 0.7, 0.1], [0.1, 0.2, 0.05]]])
    out = restain(torch.from_numpy(image).float().permute(2, 0, 1)[None], target)[0]
    density = -torch.log(out / WHITE_LEVEL)
    torch.testing.assert_close(density[:, 48, 48], target[0, 0], atol=2e-2, rtol=0)
    torch.testing.assert_close(density[:, 5, 5], target[0, 1], atol=2e-2, rtol=0)
    assert torch.allclose(out[:, 90, 90], torch.tensor(float(WHITE_LEVEL)), atol=0.5), "empty background stays empty"


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_changes_the_crops_it_strikes_and_no_others(fault: str):
    crops = torch.from_numpy(disc_image([(1.2, 2.0, 0.5)], CROP_SIZE)).float().permute(2, 0, 1).repeat(40, 1, 1, 1)
    faults = replace(NO_FAULTS, **{fault: 0.5})
    first = compressed(blemished(crops, faults, generator(3)), faults, generator(4))
    again = compressed(blemished(crops, faults, generator(3)), faults, generator(4))
    assert torch.equal(first, again)
    struck = (first != crops).flatten(1).any(1)
    assert 8 <= int(struck.sum()) <= 32
    assert torch.isfinite(first).all()
    assert (first >= 0).all()
    unharmed = compressed(blemished(crops, NO_FAULTS, generator(3)), NO_FAULTS, generator(4))
    assert torch.equal(unharmed, crops)


def test_strangers_are_of_every_kind_and_no_cell_of_the_batch():
    levels = torch.linspace(20, 220, 16)
    cells = levels[:, None, None, None].expand(16, CROP_SIZE, CROP_SIZE, 3).clone()
    cells[:, 40:56, 40:56] = 5
    labels = torch.arange(16) % 4
    empty = torch.full((2, CROP_SIZE, CROP_SIZE, 3), 255.0)
    made = make_strangers(cells, labels, empty, generator(1))
    assert made.shape == cells.shape
    windows = (made == 255).flatten(1).all(1)
    assert int(windows.sum()) == 4
    centre = made[:, 44:52, 44:52].flatten(1).mean(1)
    shuffled = ~windows & (centre != 5)
    assert int(shuffled.sum()) >= 2, "the middle of a shuffled cell is elsewhere"
    assert not (made == cells).flatten(1).all(1).all()
    without = make_strangers(cells, labels, empty[:0], generator(1))
    assert not (without == 255).flatten(1).all(1).any()


def test_windows_without_a_cell_keep_clear_of_every_box(tmp_path: Path):
    for folder in ("images", "labels"):
        (tmp_path / "chula_wbc" / "fields" / folder).mkdir(parents=True)
    field = np.full((600, 960, 3), 230, np.uint8)
    field[250:350, 430:530] = 40
    for name in ("B-30_1", "B-42_1"):
        Image.fromarray(field).save(tmp_path / f"chula_wbc/fields/images/{name}.png")
        (tmp_path / f"chula_wbc/fields/labels/{name}.txt").write_text("0 0.5 0.5 0.105 0.167\n")
    images, gains = empty_windows(tmp_path, tries=200)
    assert len(images) == len(gains) == 1, "no window of a slide that is kept from training"
    assert int(images.min()) == 230
    assert np.allclose(gains[0], background_gain(field))
    assert len(empty_windows(tmp_path / "nowhere")[0]) == 0


def test_stains_are_counted():
    assert len(Stains(torch.zeros(5, 2, 3))) == 5
