"""Smear fields for the detector: labels, near-duplicates, and a split that means something.

BCCD gives Pascal VOC boxes, TXL-PBC gives YOLO boxes on four sources, two of which repeat BCCD (as they are, or
squeezed to 416 x 416 px, turned, zoomed and recoloured) and one of which repeats PBC. A field counts as a
near-duplicate when its fingerprint (32 x 32 px of luminance, mean removed, unit length) correlates with another's
under one of the eight turns and flips of the square.

The split is by SHA-256 of the BCCD file name. TXL images follow the BCCD field they repeat; a TXL image from the
recoloured BCCD set whose field cannot be named for certain is dropped, because it might be a held-out one.
"""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from cytoserve_files import write_text
from numpy.typing import NDArray
from PIL import Image

from cytoserve_training.pictures import read_rgb

FINGERPRINT_SIDE = 32
TEST_PERCENT = 30
VALIDATION_PERCENT = 8
SAME_FIELD = 0.97
"""Correlation from which two images are the same field, at most re-encoded or resized."""
ALTERED_FIELD = 0.65
ALTERED_MARGIN = 0.12
"""An altered copy is matched when it correlates this much, and this much better than with any other field.

Seen on the 188 altered copies: every pair checked above these two numbers was a true one, while unrelated
images stay below 0.60 (450 Raabin fields against 292 BCCD fields in eight orientations).
"""
SAME_CELL = 0.90
_SIZE_OF_SOURCE = {
    (640, 480): "txl_bccd",
    (416, 416): "txl_bccd_altered",
    (575, 575): "txl_raabin",
    (360, 363): "txl_pbc",
    (366, 369): "txl_pbc",
}
_BCCD_KINDS = {"WBC": 0, "RBC": 1, "Platelets": 2}


@dataclass(frozen=True)
class LabelledField:
    """One field with its boxes.

    ``path`` is the image file, relative to the smear folder. ``source`` is ``bccd``, ``txl_bccd``,
    ``txl_bccd_altered``, ``txl_raabin`` or ``txl_pbc``; ``part`` is ``train``, ``validation``, ``test`` or ``dropped``
    (then ``reason`` says why). ``stretch`` undoes a squeeze along x and y. ``boxes`` are (x0, y0, x1, y1) in pixels of
    the file as stored, before ``stretch``; ``kinds`` are rows of ``cytoserve_contract.values.KINDS``. ``twin`` is the
    BCCD field that this one repeats, if any.
    """

    path: str
    source: str
    part: str
    stretch: tuple[float, float]
    boxes: tuple[tuple[float, float, float, float], ...]
    kinds: tuple[int, ...]
    twin: str = ""
    reason: str = ""

    def box_array(self) -> NDArray[np.float32]:
        """Return the boxes as an (N, 4) ndarray of float32."""
        return np.asarray(self.boxes, np.float32).reshape(-1, 4)

    def kind_array(self) -> NDArray[np.int64]:
        """Return the kinds as an (N,) ndarray of int64."""
        return np.asarray(self.kinds, np.int64)


def bucket(name: str) -> int:
    """Return a number in 0..99 from the SHA-256 of a file name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) % 100


def read_voc(path: Path) -> tuple[list[tuple[float, float, float, float]], list[int]]:
    """Read boxes and kinds of one Pascal VOC file; boxes without area are left out."""
    boxes, kinds = [], []
    for item in ElementTree.parse(path).getroot().iter("object"):
        corner = [float(item.findtext(f"bndbox/{key}", "nan")) for key in ("xmin", "ymin", "xmax", "ymax")]
        if corner[2] - corner[0] >= 2 and corner[3] - corner[1] >= 2:
            boxes.append((corner[0], corner[1], corner[2], corner[3]))
            kinds.append(_BCCD_KINDS[item.findtext("name", "")])
    return boxes, kinds


def read_yolo(path: Path, size: tuple[int, int]) -> tuple[list[tuple[float, float, float, float]], list[int]]:
    """Read boxes (pixels) and kinds of one YOLO file of an image of ``size`` (width, height)."""
    boxes, kinds = [], []
    for line in path.read_text().splitlines():
        if not line.strip():
            continue
        kind, x, y, w, h = (float(value) for value in line.split()[:5])
        box = ((x - w / 2) * size[0], (y - h / 2) * size[1], (x + w / 2) * size[0], (y + h / 2) * size[1])
        if box[2] - box[0] >= 2 and box[3] - box[1] >= 2:
            boxes.append(box)
            kinds.append(int(kind))
    return boxes, kinds


def fingerprint(image: Image.Image, orientations: bool = False) -> NDArray[np.float32]:
    """Return the unit-length luminance fingerprint(s) of an image.

    Returns
    -------
    (1024,) ndarray of float32, or (8, 1024) with ``orientations``: rotations by 90 degrees, then the same flipped.
    """
    grey = np.asarray(image.convert("L").resize((FINGERPRINT_SIDE,) * 2, Image.Resampling.BOX), np.float32)
    views = [np.rot90(base, turn) for base in (grey, grey[:, ::-1]) for turn in range(4)] if orientations else [grey]
    flat = np.stack([view.ravel() for view in views])
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return np.ascontiguousarray(flat if orientations else flat[0])


def _pbc_centre(image: Image.Image) -> Image.Image:
    """Return the region that ``shared/data/pbc`` keeps of an original: its central 288 px."""
    left, top = (image.width - 288) / 2, (image.height - 288) / 2
    return image.crop((round(left), round(top), round(left) + 288, round(top) + 288))


def _groups(pairs: Iterable[tuple[int, int]], count: int) -> list[int]:
    """Return for each of ``count`` items the smallest index of its connected group."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            item = parent[item]
        return item

    for a, b in pairs:
        ra, rb = root(a), root(b)
        parent[max(ra, rb)] = min(ra, rb)
    return [root(item) for item in range(count)]


def bccd_fields(smears: Path) -> tuple[list[LabelledField], NDArray[np.float32]]:
    """Read all BCCD fields, split by the hash of the first name of each near-duplicate group.

    Returns
    -------
    fields : list of LabelledField
    prints : (N, 1024) ndarray of float32, their fingerprints
    """
    paths = sorted((smears / "bccd/images").glob("*.jpg"))
    prints = np.stack([fingerprint(read_rgb(path), orientations=True) for path in paths])
    like = np.einsum("ad,bkd->abk", prints[:, 0], prints).max(axis=2)
    first, second = np.where(np.triu(like > ALTERED_FIELD, 1))
    leaders = _groups(zip(first.tolist(), second.tolist(), strict=True), len(paths))
    fields = []
    for path, leader in zip(paths, leaders, strict=True):
        boxes, kinds = read_voc(smears / "bccd/annotations" / f"{path.stem}.xml")
        place = bucket(paths[leader].name)
        part = "test" if place < TEST_PERCENT else "train"
        part = "validation" if TEST_PERCENT <= place < TEST_PERCENT + VALIDATION_PERCENT else part
        name = str(path.relative_to(smears))
        fields.append(LabelledField(name, "bccd", part, (1.0, 1.0), tuple(boxes), tuple(kinds)))
    return fields, prints[:, 0]


def pbc_prints(pbc: Path) -> NDArray[np.float32]:
    """Return the (M, 1024) fingerprints of every image of ``pbc/val`` and ``pbc/test``."""
    paths = sorted(path for part in ("val", "test") for path in (pbc / part).glob("*/*.webp"))
    return np.stack([fingerprint(read_rgb(path)) for path in paths])


def _place_bccd_copy(
    image: Image.Image, fields: Sequence[LabelledField], prints: NDArray[np.float32], altered: bool
) -> tuple[str, str, tuple[float, float], str]:
    """Return (part, twin, stretch, reason) of a TXL image that comes from BCCD."""
    like = np.einsum("ad,kd->ak", prints, fingerprint(image, orientations=True))
    best = like.max(axis=1)
    order = np.argsort(-best)
    winner = fields[order[0]]
    sure = best[order[0]] >= SAME_FIELD
    if altered:
        sure = best[order[0]] >= ALTERED_FIELD and best[order[0]] - best[order[1]] >= ALTERED_MARGIN
        # The near-duplicate groups of BCCD share a part, so losing to a twin in the same part does no harm.
        sure = sure or (best[order[0]] >= SAME_FIELD and winner.part == fields[order[1]].part)
    if not sure:
        return "dropped", "", (1.0, 1.0), "cannot be matched to a BCCD field for certain"
    stretch = (1.0, 1.0)
    if altered:
        turned = int(like[order[0]].argmax()) % 2 == 1
        stretch = (480 / 416, 640 / 416) if turned else (640 / 416, 480 / 416)
    if winner.part == "test":
        return "dropped", winner.path, stretch, "repeats a held-out BCCD field"
    if winner.part == "validation" and altered:
        return "dropped", winner.path, stretch, "altered copy of a validation field"
    return winner.part, winner.path, stretch, ""


def txl_fields(
    smears: Path, bccd: Sequence[LabelledField], prints: NDArray[np.float32], pbc: NDArray[np.float32]
) -> list[LabelledField]:
    """Read all TXL fields and say which may be trained on.

    Parameters
    ----------
    bccd, prints
        What `bccd_fields` returned.
    pbc : (M, 1024) ndarray of float32
        Fingerprints of the PBC images that must not be seen.
    """
    fields = []
    for path in sorted(smears.glob("txl/*/images/*.jpg")):
        image = read_rgb(path)
        source = _SIZE_OF_SOURCE[image.size]
        boxes, kinds = read_yolo(path.parent.parent / "labels" / f"{path.stem}.txt", image.size)
        twin, reason, stretch = "", "", (1.0, 1.0)
        part = "validation" if bucket(path.name) < 5 else "train"
        if source in ("txl_bccd", "txl_bccd_altered"):
            part, twin, stretch, reason = _place_bccd_copy(image, bccd, prints, source == "txl_bccd_altered")
        elif (prints @ fingerprint(image, orientations=True).T).max() > ALTERED_FIELD:
            part, reason = "dropped", "looks like a BCCD field"
        elif source == "txl_pbc":
            mine = fingerprint(_pbc_centre(image), orientations=True)
            if (pbc @ mine.T).max() > SAME_CELL:
                part, reason = "dropped", "repeats an image of pbc/val or pbc/test"
        name = str(path.relative_to(smears))
        fields.append(LabelledField(name, source, part, stretch, tuple(boxes), tuple(kinds), twin, reason))
    return fields


def clean_and_split(data: Path, cache: Path | None = None) -> list[LabelledField]:
    """Return every field of ``data/smears`` with its part; deterministic.

    Parameters
    ----------
    data : Path
        The shared data folder (holds ``smears`` and ``pbc``).
    cache : Path, optional
        JSON file that is read when it exists and written when it does not.
    """
    if cache is not None and cache.exists():
        return [_from_json(entry) for entry in json.loads(cache.read_text())]
    bccd, prints = bccd_fields(data / "smears")
    fields = bccd + txl_fields(data / "smears", bccd, prints, pbc_prints(data / "pbc"))
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_text(cache, json.dumps([asdict(field) for field in fields]))
    return fields


def _from_json(entry: dict[str, object]) -> LabelledField:
    values = dict(entry)
    values["boxes"] = tuple(tuple(box) for box in values["boxes"])  # type: ignore[attr-defined]
    values["kinds"] = tuple(values["kinds"])  # type: ignore[arg-type]
    values["stretch"] = tuple(values["stretch"])  # type: ignore[arg-type]
    return LabelledField(**values)  # type: ignore[arg-type]


def red_cell_side(field: LabelledField, size: tuple[int, int], least: int = 4) -> float:
    """Return the median side, ``sqrt(width * height)``, of red-cell boxes off the edge, in unstretched pixels.

    ``size`` is (width, height) of the image as stored. With fewer than ``least`` such boxes the answer is NaN.
    """
    boxes = field.box_array()[field.kind_array() == 1]
    inside = (boxes[:, 0] > 3) & (boxes[:, 1] > 3) & (boxes[:, 2] < size[0] - 3) & (boxes[:, 3] < size[1] - 3)
    boxes = boxes[inside]
    if len(boxes) < least:
        return float("nan")
    width = (boxes[:, 2] - boxes[:, 0]) * field.stretch[0]
    height = (boxes[:, 3] - boxes[:, 1]) * field.stretch[1]
    return float(np.median(np.sqrt(width * height)))
