"""What is accepted of faulty pictures: wrong scale, blur, wrong channels, an eyepiece's rim through the cell.

    python -m benchmarks.intake ../shared/data/pbc/val --out docs/results/intake.json

The same real cells go through the server as they are and spoilt in each way, with the calibration of their own site.
A spoilt cell should be refused, referred, or at least accepted no more wrongly than the guarantee at home allows.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_statistics.shares import clopper_pearson
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks.results import on_first_cells, run

Pixels = NDArray[np.uint8]

BLUR_PX = 4.0


def blurred(pixels: Pixels) -> Pixels:
    """Defocus: a Gaussian of `BLUR_PX`."""
    return ndimage.gaussian_filter(pixels, (BLUR_PX, BLUR_PX, 0))


def ycbcr(pixels: Pixels) -> Pixels:
    """The three channels of YCbCr, taken for RGB."""
    return np.asarray(Image.fromarray(pixels).convert("YCbCr"))


def grey(pixels: Pixels) -> Pixels:
    """Greyscale in three equal channels."""
    return np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)


def rim(pixels: Pixels) -> Pixels:
    """A round black eyepiece whose rim goes through the middle of the cell."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    outside = np.hypot(x - width, y - height / 2) > width / 2
    return np.where(outside[..., None], np.uint8(0), pixels)


SPOILT: dict[str, tuple[float, Callable[[Pixels], Pixels]]] = {
    "as they are": (PBC_UM_PER_PIXEL, lambda pixels: pixels),
    "0.10 um per pixel given for 0.18": (0.10, lambda pixels: pixels),
    "0.25 um per pixel given for 0.18": (0.25, lambda pixels: pixels),
    f"blurred by {BLUR_PX:g} px": (PBC_UM_PER_PIXEL, blurred),
    "a rim through the cell": (PBC_UM_PER_PIXEL, rim),
    "greyscale in RGB": (PBC_UM_PER_PIXEL, grey),
    "channels swapped (BGR)": (PBC_UM_PER_PIXEL, lambda pixels: pixels[..., ::-1]),
    "inverted": (PBC_UM_PER_PIXEL, lambda pixels: np.uint8(255) - pixels),
    "YCbCr read as RGB": (PBC_UM_PER_PIXEL, ycbcr),
}
"""Name -> (scale given, what is done to the pixels)."""


def png(pixels: Pixels) -> bytes:
    """Return pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def outcomes(files: list[Path]) -> dict[str, Any]:
    """Return, by way of spoiling, how many cells were refused, accepted, and accepted with a wrong label."""
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    out: dict[str, Any] = {}
    with LocalServer() as server, Client(server.grpc_url, timeout=300, cells_per_request=16) as client:
        for name, (scale, spoil) in SPOILT.items():
            answer = client.classify([png(spoil(one)) for one in pixels], scale, one_sample=False)
            truth = {f"bytes[{index}]": file.parent.name for index, file in enumerate(files)}
            taken = [cell for cell in answer.cells if cell.decision == "accept"]
            wrong = sum(cell.label != truth[cell.source] for cell in taken)
            out[name] = {
                "cells": len(files),
                "refused": dict(Counter(failure.error for failure in answer.failures)),
                "accepted": len(taken),
                "wrong_among_accepted": wrong,
                "accepted_and_wrong_interval": [round(x, 4) for x in clopper_pearson(wrong, len(files))],
                "reasons": dict(Counter(reason for cell in answer.cells for reason in cell.reasons).most_common()),
            }
        model = answer.model
    return {"weights_sha256": model.weights_sha256, "ways": out}


BENCHMARK = on_first_cells(__doc__, lambda files, args: outcomes(files), each=12)

if __name__ == "__main__":
    run(BENCHMARK)
