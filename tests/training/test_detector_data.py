"""Labels, fingerprints and the split: nothing held out may be seen in training."""

from __future__ import annotations

import collections
import hashlib
from pathlib import Path

import imagehash
import numpy as np
import pytest
from cytoserve_training.detector_data import (
    ALTERED_FIELD,
    LabelledField,
    bccd_fields,
    bucket,
    fingerprint,
    read_voc,
    read_yolo,
    red_cell_side,
    txl_fields,
)
from cytoserve_training.detector_samples import FieldStore, SampleConfig, draw_sample
from PIL import Image, ImageEnhance


def picture(seed: int, size=(640, 480)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def test_fingerprint_survives_size_turn_light_and_zoom_but_not_another_picture():
    one = picture(0)
    base = fingerprint(one, orientations=True)
    assert base.shape == (8, 1024)
    altered = one.resize((416, 416)).transpose(Image.Transpose.ROTATE_90)
    altered = ImageEnhance.Brightness(altered).enhance(0.7)
    assert (base @ fingerprint(altered)).max() > 0.98
    zoomed = one.crop((20, 15, 620, 465)).resize((416, 416))
    assert (base @ fingerprint(zoomed)).max() > ALTERED_FIELD
    assert max((base @ fingerprint(picture(seed))).max() for seed in range(1, 30)) < ALTERED_FIELD


def test_bucket_is_the_same_everywhere():
    digest = hashlib.sha256(b"BloodImage_00000.jpg").hexdigest()
    assert bucket("BloodImage_00000.jpg") == int(digest[:12], 16) % 100
    assert len({bucket(f"{number}.jpg") for number in range(2000)}) == 100


def test_labels_are_read_in_pixels_and_empty_boxes_left_out(tmp_path: Path):
    item = (
        "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
    )
    text = item.format("WBC", 10, 20, 110, 90) + item.format("Platelets", 5, 5, 5, 9) + item.format("RBC", 0, 0, 50, 60)
    (tmp_path / "a.xml").write_text(f"<annotation>{text}</annotation>")
    assert read_voc(tmp_path / "a.xml") == ([(10, 20, 110, 90), (0, 0, 50, 60)], [0, 1])
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n2 0.1 0.1 0.0 0.1\n")
    assert read_yolo(tmp_path / "a.txt", (400, 200)) == ([(150.0, 50.0, 250.0, 150.0)], [1])


def test_red_cell_side_ignores_cut_cells_and_undoes_the_stretch():
    whole = [(10 + 60 * i, 10, 50 + 60 * i, 50) for i in range(4)]
    field = LabelledField("a", "bccd", "train", (2.0, 0.5), (*whole, (0, 100, 90, 190)), (1,) * 5)
    assert red_cell_side(field, (400, 200)) == pytest.approx(40.0)
    assert np.isnan(red_cell_side(field, (400, 200), least=5))


def test_samples_carry_their_cells_through_scaling_and_turning(tmp_path: Path):
    """A disc drawn under each box must lie under the box that the targets give back."""
    image = np.full((480, 640, 3), 230, np.uint8)
    boxes = [(60.0 + 140 * i, 60.0 + 130 * j, 160.0 + 140 * i, 160.0 + 130 * j) for i in range(4) for j in range(3)]
    y, x = np.mgrid[:480, :640]
    for b in boxes:
        image[np.hypot(x - (b[0] + b[2]) / 2, y - (b[1] + b[3]) / 2) < 48] = 60
    Image.fromarray(image).save(tmp_path / "a.png")
    store = FieldStore([LabelledField("a.png", "bccd", "train", (1.0, 1.0), tuple(boxes), (1,) * 12)], tmp_path)
    config, rng, seen = SampleConfig(), np.random.default_rng(0), 0
    for _ in range(20):
        pixels, targets = draw_sample(store, 0, config, rng)
        assert pixels.shape == (3, config.crop, config.crop)
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        middle = (pixels.min() + pixels.max()) / 2
        for row, col in zip(*np.nonzero(targets.heat[1] == 1), strict=True):
            left, top, right, bottom = targets.sides[4:8, row, col]
            px, py = 2 * col + 1, 2 * row + 1
            whole = min(px - left, py - top) > 2 and max(px + right, py + bottom) < config.crop - 2
            if whole:
                seen += 1
                assert pixels[:, py, px].mean() < middle
                assert pixels[:, int(py - top) - 1, int(px - left) - 1].mean() > middle
                assert 0.65 * 52 < np.sqrt((left + right) * (top + bottom)) < 1.55 * 52
    assert seen > 40


@pytest.mark.data
def test_no_held_out_field_is_seen_in_training(data_dir: Path):
    """The cleaning on the real files: every copy of a held-out field is dropped, by a second measure too."""
    smears = data_dir / "smears"
    bccd, prints = bccd_fields(smears)
    parts = collections.Counter(field.part for field in bccd)
    assert parts["test"] >= 80
    assert sum(parts.values()) == 292
    txl = txl_fields(smears, bccd, prints, np.zeros((1, 1024), np.float32))
    held = {field.path for field in bccd if field.part == "test"}
    assert not [field for field in txl if field.part != "dropped" and field.twin in held]
    assert sum(field.twin in held for field in txl) > 60
    # An independent hash on the unaltered copies and on everything else that is trained on.
    hashes = {}
    for field in bccd:
        if field.part == "test":
            with Image.open(smears / field.path) as image:
                hashes[field.path] = imagehash.phash(image, hash_size=16)
    table = np.array([value.hash.ravel() for value in hashes.values()])
    for field in [f for f in txl if f.part == "train"][::4]:
        with Image.open(smears / field.path) as image:
            mine = imagehash.phash(image, hash_size=16).hash.ravel()
        assert (table != mine).sum(axis=1).min() > 40, field.path
