"""How well unfamiliar pictures are recognised: at home, at external sites, and on spoilt copies of home cells.

    python -m benchmarks.familiarity ../shared/data --out docs/results/familiarity.json

A reference of familiar pictures (:mod:`cytoserve_scoring.classifier.familiarity`) is made of ``pbc/val`` and compared
with cells that it does not know. A cell is unfamiliar at a p-value of 1 %; a sample is rejected when the sum of its
cells' log p-values is too small for cells of the site, as the client judges samples. No class score is looked at.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_client.familiarity import SAMPLE_LEVEL
from cytoserve_scoring.classifier.familiarity import Assessment, FamiliarPictures
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.crops import background_level, resample
from cytoserve_scoring.vision.image_statistics import image_statistics
from cytoserve_scoring.vision.imaging import decode_picture
from cytoserve_scoring.vision.single_cell_scale import scale_of_single_cell
from cytoserve_scoring.vision.stain import AZURE, EOSIN
from cytoserve_statistics.combined import combined_p_value
from cytoserve_statistics.shares import clopper_pearson
from cytoserve_training.sites import SITES
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks.intake import SPOILT, Pixels
from benchmarks.results import Benchmark, DataRead, Inputs, run

SEED: Final = 0
HOME_SAMPLE: Final = 50
AWAY_SAMPLE: Final = 20
SPLITS: Final = 40
"""Ways of parting a site's slides into known and new ones."""
DRAWS: Final = {"home": 20_000, "one class": 4_000, "spoilt": 400}
EACH: Final = 25
"""Cells of each class of ``pbc/test`` that are spoilt."""
SCALES: Final = {"bcisc": 0.134, "chula_wbc": 0.10, "bccd_cells": None}
"""Micrometres per pixel of the external sites; None: measured on each cell, as the service does without a scale."""
GROUPED: Final = ("bcisc", "chula_wbc")
"""External sites whose file names tell the subject or slide."""
EXTERNAL: Final = {"bcisc": "bcisc/cells", "chula_wbc": "chula_wbc/cells", "bccd_cells": "bccd_cells"}


def measured(pixels: Pixels, um_per_pixel: float | None) -> NDArray[np.float32]:
    """Return the image statistics of a single-cell picture, as the service would measure them."""
    scale = um_per_pixel or scale_of_single_cell(pixels).um_per_pixel
    center = (pixels.shape[1] / 2, pixels.shape[0] / 2)
    crop, _ = resample(pixels, center, scale)
    return image_statistics(pixels, center, scale, crop, background_level(pixels))


def statistics_of(files: Sequence[Path], um_per_pixel: float | None) -> NDArray[np.float32]:
    """Return the (M, S) image statistics of M files."""
    return np.stack([measured(decode_picture(file.read_bytes()).pixels, um_per_pixel) for file in files])


def is_rejected(found: Assessment, cells: NDArray[np.intp]) -> bool:
    """Return whether some of the assessed cells, taken as one sample, are not of the site."""
    p_value = combined_p_value(found.p_value_of_kind[cells].tolist(), found.cells_of_kind[cells].tolist())
    return p_value < SAMPLE_LEVEL


def rejected(found: Assessment, of: NDArray[np.intp], size: int, draws: int) -> dict[str, Any]:
    """Return the share of samples drawn from some of the assessed cells that are rejected."""
    rng = np.random.default_rng(SEED)
    count = sum(is_rejected(found, rng.choice(of, size)) for _ in range(draws))
    return {"rejected": count, "of": draws}


def share(count: int, total: int) -> dict[str, Any]:
    """Return a share with its exact 95 % interval; the value of nothing is null."""
    low, high = clopper_pearson(count, total) if total else (0.0, 1.0)
    value = round(count / total, 4) if total else None
    return {"count": count, "of": total, "value": value, "interval": [round(low, 4), round(high, 4)]}


def unfamiliar(found: Assessment) -> dict[str, Any]:
    """Return the share of the assessed cells that are unfamiliar."""
    return share(int(found.unfamiliar.sum()), len(found.unfamiliar))


def stained(azure: float, eosin: float) -> Callable[[Pixels], Pixels]:
    """Return a change of the strength of the two dyes, in optical density."""
    frame = np.stack([np.asarray(dye) / np.linalg.norm(dye) for dye in (AZURE, EOSIN, np.cross(AZURE, EOSIN))], axis=1)
    change = frame @ np.diag([azure, eosin, 1.0]) @ np.linalg.inv(frame)

    def apply(pixels: Pixels) -> Pixels:
        lamp = background_level(pixels)
        density = -np.log(np.clip(pixels.astype(np.float64), 1, 255) / lamp)
        return np.rint(np.clip(lamp * np.exp(-(density @ change.T)), 0, 255)).astype(np.uint8)

    return apply


def hue(degrees: float) -> Callable[[Pixels], Pixels]:
    """Return a turn of the hue."""

    def apply(pixels: Pixels) -> Pixels:
        turned = np.array(Image.fromarray(pixels).convert("HSV")).astype(np.int64)
        turned[..., 0] = (turned[..., 0] + round(degrees * 256 / 360)) % 256
        return np.asarray(Image.fromarray(turned.astype(np.uint8), "HSV").convert("RGB"))

    return apply


def lit(*gains: float) -> Callable[[Pixels], Pixels]:
    """Return another lamp: a gain for each channel."""
    return lambda pixels: np.rint(np.clip(pixels * np.array(gains), 0, 255)).astype(np.uint8)


def gamma(power: float) -> Callable[[Pixels], Pixels]:
    """Return another tone curve."""
    return lambda pixels: np.rint(255 * (pixels / 255.0) ** power).astype(np.uint8)


def jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    """Return a compression."""

    def apply(pixels: Pixels) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer).convert("RGB"))

    return apply


def blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    """Return a defocus, standard deviation in pixels."""
    return lambda pixels: np.asarray(ndimage.gaussian_filter(pixels, (sigma, sigma, 0)))


def noisy(deviation: float) -> Callable[[Pixels], Pixels]:
    """Return added noise, standard deviation in grey levels."""
    return lambda pixels: np.rint(np.clip(np.random.default_rng(SEED).normal(pixels, deviation), 0, 255)).astype(
        np.uint8
    )


SRGB_TO_P3: Final = np.array(
    [[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]]
)  # fmt: skip
"""Linear light of sRGB in Display P3, both with white D65 (CSS Color Module Level 4, section 18)."""


def wide_gamut(pixels: Pixels) -> Pixels:
    """Return the numbers of a Display P3 file whose profile is ignored."""
    linear = np.where(pixels <= 0.04045 * 255, pixels / 255 / 12.92, ((pixels / 255 + 0.055) / 1.055) ** 2.4)
    light = np.clip(linear @ SRGB_TO_P3.T, 0, 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * coded).astype(np.uint8)


def ways() -> dict[str, tuple[float, Callable[[Pixels], Pixels]]]:
    """Return every way of spoiling a picture: factor of the scale that is given, change of the pixels."""
    found: dict[str, tuple[float, Callable[[Pixels], Pixels]]] = {"as they are": (1.0, lambda pixels: pixels)}
    for percent in (-30, -20, -10, 10, 20, 30):
        factor = 1 + percent / 100
        found[f"both dyes {percent:+d} %"] = (1.0, stained(factor, factor))
        found[f"azure {percent:+d} %"] = (1.0, stained(factor, 1.0))
        found[f"eosin {percent:+d} %"] = (1.0, stained(1.0, factor))
    found |= {f"hue {degrees:+d} degrees": (1.0, hue(degrees)) for degrees in (-10, -5, 5, 10)}
    found |= {f"gamma {power:g}": (1.0, gamma(power)) for power in (0.8, 0.9, 1.1, 1.25)}
    found |= {"lamp 10 % dimmer": (1.0, lit(0.9, 0.9, 0.9)), "lamp 5 % less blue": (1.0, lit(1, 1, 0.95))}
    found |= {f"JPEG quality {quality}": (1.0, jpeg(quality)) for quality in (90, 75, 50, 20)}
    found |= {f"blur {sigma:g} px": (1.0, blurred(sigma)) for sigma in (0.5, 1.0, 2.0)}
    found |= {f"noise of {level:g} grey levels": (1.0, noisy(level)) for level in (2.0, 5.0, 10.0)}
    found |= {f"scale {p:+d} %": (1 + p / 100, lambda pixels: pixels) for p in (-30, -20, -10, -5, 5, 10, 20, 30)}
    found["Display P3 read as sRGB"] = (1.0, wide_gamut)
    channels = ("greyscale in RGB", "channels swapped (BGR)", "inverted", "YCbCr read as RGB")
    return found | {name: (1.0, SPOILT[name][1]) for name in channels}


def at_home(familiar: FamiliarPictures, cells: DataRead) -> dict[str, Any]:
    """Return how often cells and samples of the site itself are called unfamiliar."""
    found = familiar.assess(statistics_of(cells.files, PBC_UM_PER_PIXEL))
    labels = np.array([file.parent.name for file in cells.files])
    return {
        "cells": unfamiliar(found),
        "samples": rejected(found, np.arange(len(labels)), HOME_SAMPLE, DRAWS["home"]),
        "samples_of_one_class": {
            str(name): rejected(found, np.flatnonzero(labels == name), HOME_SAMPLE, DRAWS["one class"])
            for name in np.unique(labels)
        },
    }


def group_of(site: str, file: Path) -> str:
    """Return the subject or slide of a file, as the name tells; else its class."""
    if site == "bcisc":
        return file.stem.split("_")[1].split("-")[0]
    return file.stem.split("_")[0] if site == "chula_wbc" else file.parent.name


def away(familiar: FamiliarPictures, site: str, files: Sequence[Path]) -> dict[str, Any]:
    """Return how often cells and samples of another site are called unfamiliar."""
    statistics = statistics_of(files, SCALES[site])
    found = familiar.assess(statistics)
    groups = np.array([group_of(site, file) for file in files])
    samples = [np.flatnonzero(groups == group)[:AWAY_SAMPLE] for group in np.unique(groups)]
    labels = [file.parent.name for file in files]
    half = np.arange(len(files)) % 2 == 0
    its_own = FamiliarPictures.fit(statistics[half], [label for label, mine in zip(labels, half, strict=True) if mine])
    return {
        "cells": unfamiliar(found),
        "samples": {"rejected": sum(is_rejected(found, one) for one in samples), "of": len(samples)},
        "median_distance": round(float(np.median(found.distance)), 1),
        "usual_cause": Counter(found.cause).most_common(1)[0][0],
        "with_its_own_reference": unfamiliar(its_own.assess(statistics[~half])),
        "new_slides": None if site not in GROUPED else new_slides(statistics, labels, groups),
    }


def new_slides(statistics: NDArray[np.float32], labels: Sequence[str], groups: NDArray[np.str_]) -> dict[str, Any]:
    """Return how often cells and samples of new slides are called unfamiliar by a reference of other slides of theirs.

    Half of the slides make the reference, drawn `SPLITS` times. This is what a site sees that calibrates with a few
    slides.
    """
    rng, slides, label = np.random.default_rng(SEED), np.unique(groups), np.asarray(labels)
    unknown = cells = rejections = samples = 0
    for _ in range(SPLITS):
        known = np.isin(groups, rng.permutation(slides)[: len(slides) // 2])
        found = FamiliarPictures.fit(statistics[known], label[known].tolist()).assess(statistics[~known])
        each = [np.flatnonzero(groups[~known] == slide)[:AWAY_SAMPLE] for slide in np.unique(groups[~known])]
        unknown, cells = unknown + int(found.unfamiliar.sum()), cells + len(found.unfamiliar)
        rejections, samples = rejections + sum(is_rejected(found, one) for one in each), samples + len(each)
    return {
        "slides": len(slides),
        "splits": SPLITS,
        "cells": {"count": unknown, "of": cells, "value": round(unknown / cells, 4)},
        "samples": {"rejected": rejections, "of": samples},
    }


def spoilt(familiar: FamiliarPictures, files: Sequence[Path]) -> dict[str, Any]:
    """Return, by way of spoiling, how often cells and samples of 50 are called unfamiliar."""
    pixels = [decode_picture(file.read_bytes()).pixels for file in files]
    out = {}
    for name, (factor, change) in ways().items():
        changed = [measured(np.ascontiguousarray(change(one)), PBC_UM_PER_PIXEL * factor) for one in pixels]
        found = familiar.assess(np.stack(changed))
        out[name] = {
            "cells": unfamiliar(found),
            "samples": rejected(found, np.arange(len(changed)), HOME_SAMPLE, DRAWS["spoilt"]),
            "usual_cause": Counter(found.cause).most_common(1)[0][0],
        }
    return out


def site_files(data: Path, site: str) -> DataRead:
    """Return the cells of an external site."""
    folder = data / EXTERNAL[site]
    return DataRead.of(folder, sorted(file for file in folder.rglob("*") if file.is_file()))


def unlearned_files(data: Path, site: str) -> DataRead:
    """Return the cells of an external site that are from slides or subjects that no weight was trained on."""
    cells = site_files(data, site)
    learned = set(SITES[site].files(data, "train")) if site in SITES else set()
    return DataRead.of(cells.root, (file for file in cells.files if file not in learned))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this measurement."""
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))


def inputs(args: argparse.Namespace) -> Inputs:
    """Return the cells; no weights are used."""
    home = (DataRead.by_class(args.data / "pbc" / part) for part in ("val", "test"))
    return Inputs(None, (*home, *(site_files(args.data, site) for site in EXTERNAL)), {"samples": SEED})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Make the reference and compare everything with it."""
    known, test = (DataRead.by_class(args.data / "pbc" / part) for part in ("val", "test"))
    labels = [file.parent.name for file in known.files]
    familiar = FamiliarPictures.fit(statistics_of(known.files, PBC_UM_PER_PIXEL), labels)
    return {
        "reference": {"data": known.name, "cells": familiar.cells, "level": familiar.level},
        "sample_level": SAMPLE_LEVEL,
        "home": {"data": test.name, "cells_of_a_sample": HOME_SAMPLE, **at_home(familiar, test)},
        "external": {site: away(familiar, site, site_files(args.data, site).files) for site in EXTERNAL},
        "cells_of_an_external_sample": AWAY_SAMPLE,
        "spoilt": spoilt(familiar, DataRead.by_class(args.data / "pbc" / "test", EACH).files),
    }


BENCHMARK = Benchmark(__doc__, add_arguments, inputs, measure)

if __name__ == "__main__":
    run(BENCHMARK)
