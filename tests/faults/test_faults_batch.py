"""A poisoned cell inside a good batch, and beside good requests that Triton may join with it."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cytoserve_client import Client, EncodedImage
from cytoserve_deploy.launch.local_server import LocalServer
from known_cells import UM_PER_PIXEL, KnownCells, plain_png
from PIL import Image
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("gives_back")]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb() -> bytes:
    """A PNG of 9 million pixels, within the limit, whose pixels are a few kilobytes of zeros."""
    header = struct.pack(">IIBBBBB", 3000, 3000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(3000 * 3 + 1) * 3000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def noise() -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(16).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


POISON = {
    "nothing": b"",
    "no image": b"poison" * 100,
    "cut off": plain_png()[:-30],
    "black": plain_png(0),
    "noise": noise(),
    "a picture of 9 million zeros": bomb(),
}
"""Those that decode are answered, the others fail alone; the neighbours get the answers they always get."""


@pytest.mark.parametrize("name", POISON)
def test_the_neighbours_of_a_poisoned_cell_get_their_own_answers(
    server: LocalServer, known: KnownCells, name: str
) -> None:
    with Client(server.grpc_url, timeout=60) as client:
        for place in (0, 5):
            images = known.images(range(8))
            images.insert(place, EncodedImage("poison", POISON[name]))
            result = client.classify(images, UM_PER_PIXEL, one_sample=False)
            assert {failure.source for failure in result.failures} <= {"poison"}
            others = [cell for cell in result.cells if cell.source != "poison"]
            assert [cell.source for cell in others] == [f"cell {number}" for number in range(8)]
            for cell in others:
                known.check_cell(cell)


def test_not_a_number_in_one_request_reaches_no_other(server: LocalServer, known: KnownCells) -> None:
    """Latents of NaN and infinity straight to the models that Triton joins into batches, beside ordinary cells."""

    def poison(value: float) -> None:
        latent = np.full((4, 24, 16, 16), value, np.float32)
        inputs = [grpc.InferInput("LATENT", list(latent.shape), "FP32"), grpc.InferInput("PROBE", [4, 1], "INT32")]
        inputs[0].set_data_from_numpy(latent)
        inputs[1].set_data_from_numpy(np.zeros((4, 1), np.int32))
        with grpc.InferenceServerClient(server.grpc_url) as triton:
            status = "StatusCode.OK"
            try:
                triton.infer("denoiser", inputs, client_timeout=30)
            except InferenceServerException as refused:
                status = str(refused.status())
            assert status in ("StatusCode.OK", "StatusCode.INVALID_ARGUMENT")

    with Client(server.grpc_url, timeout=60) as client, ThreadPoolExecutor(6) as pool:
        bad = [pool.submit(poison, value) for value in (np.nan, np.inf, -np.inf, 3e38) * 5]
        images = known.images(range(8))
        good = [pool.submit(client.classify, images, UM_PER_PIXEL, one_sample=False) for _ in range(8)]
        for job in good:
            assert known.check(job.result(60), images, allowed=()) == 8
        for other in bad:
            other.result(60)
