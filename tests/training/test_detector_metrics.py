"""Detection figures against pycocotools, and by hand."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from cytoserve_training.detector_metrics import FieldMatch, average_precision, f1_score, interval, match
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def random_fields(seed, fields=25):
    """Return per field (labels, boxes, scores): most cells found a little off, some missed, some invented."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(fields):
        corner = rng.uniform(0, 400, (rng.integers(1, 15), 2))
        labels = np.concatenate([corner, corner + rng.uniform(30, 70, corner.shape)], 1)
        found = labels[rng.random(len(labels)) < 0.85] + rng.normal(0, 6, 4)
        twice = found[rng.random(len(found)) < 0.3] + rng.normal(0, 5, 4)
        wild = rng.uniform(0, 400, (rng.integers(0, 6), 2))
        boxes = np.concatenate([found, twice, np.concatenate([wild, wild + 50], 1)])
        out.append((labels.astype(np.float32), boxes.astype(np.float32), rng.random(len(boxes)).astype(np.float32)))
    return out


def coco_average_precision(fields):
    """Return AP at IoU 0.5 by pycocotools, with 1001 recall points so that its sampling does not show."""
    images = [{"id": i + 1} for i in range(len(fields))]
    truth, guesses = [], []
    for i, (labels, boxes, scores) in enumerate(fields, start=1):
        for b in labels.astype(float):
            size = [b[2] - b[0], b[3] - b[1]]
            box = [b[0], b[1], *size]
            truth.append(
                {"id": len(truth) + 1, "image_id": i, "category_id": 1, "bbox": box, "area": size[0] * size[1]}
            )
            truth[-1]["iscrowd"] = 0
        for b, score in zip(boxes.astype(float), scores, strict=True):
            box = [b[0], b[1], b[2] - b[0], b[3] - b[1]]
            guesses.append({"image_id": i, "category_id": 1, "bbox": box, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1}]}
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(guesses), "bbox")
        run.params.iouThrs, run.params.recThrs = np.array([0.5]), np.linspace(0, 1, 1001)
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    return float(run.eval["precision"][0, :, 0, 0, -1].mean())


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_agrees_with_pycocotools(seed):
    fields = random_fields(seed)
    ours = average_precision([match(boxes, scores, labels) for labels, boxes, scores in fields])
    assert ours == pytest.approx(coco_average_precision(fields), abs=2e-3)
    assert 0.2 < ours < 0.98


def test_average_precision_by_hand():
    # Hits at ranks 1, 3, 4 of 4 labelled: the envelope is 1, 3/4, 3/4.
    item = FieldMatch(np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([True, False, True, True]), 4)
    assert average_precision([item]) == pytest.approx((1 + 0.75 + 0.75) / 4)
    assert f1_score([item], 0.65) == pytest.approx(2 * 2 / (3 + 4))
    assert average_precision([FieldMatch(np.zeros(0, np.float32), np.zeros(0, bool), 3)]) == 0.0
    assert np.isnan(average_precision([FieldMatch(np.ones(1, np.float32), np.zeros(1, bool), 0)]))


def test_each_labelled_cell_is_matched_once():
    labels = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 1, 30, 11], [5, 5, 25, 9]], np.float32)
    found = match(boxes, np.array([0.5, 0.9, 0.3, 0.8], np.float32), labels)
    assert found.hit.tolist() == [True, False, False, True]
    assert found.labelled == 2


def test_bootstrap_interval_covers_the_mean_of_known_data():
    values = np.random.default_rng(1).normal(5.0, 1.0, 200)
    value, low, high = interval(lambda rows: float(values[rows].mean()), 200, rounds=2000)
    half = 1.96 * values.std() / np.sqrt(200)
    assert value == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
