"""One small inference through whatever answers, on a generated picture, before the server is called ready."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cytoserve_deploy.errors import WarmUpFailed
from cytoserve_deploy.launch.channel import triton_client

BACKGROUND = (235, 232, 236)
CYTOPLASM = (200, 185, 215)
NUCLEUS = (95, 60, 140)

ONE_PROBE: Final = {"budget": 1}
"""Parameters of a request that only has to load and allocate everything: one probe a class."""


def cell_png(size: int = 160) -> bytes:
    """Return a PNG of one drawn cell (two discs on a pale ground), `size` pixels square."""
    image = Image.new("RGB", (size, size), BACKGROUND)
    draw = ImageDraw.Draw(image)
    centre = size / 2
    for radius, colour in ((0.33 * size, CYTOPLASM), (0.22 * size, NUCLEUS)):
        draw.ellipse((centre - radius, centre - radius, centre + radius, centre + radius), fill=colour)
    return png(np.asarray(image))


def field_png(width: int = 320, height: int = 256) -> bytes:
    """Return a PNG of an empty field."""
    return png(np.full((height, width, 3), BACKGROUND, np.uint8))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an (H, W, 3) array of uint8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tensor(name: str, values: NDArray[Any]) -> Any:
    """Return a request's input that holds these values."""
    from tritonclient import grpc
    from tritonclient.utils import np_to_triton_dtype

    made = grpc.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def picture_inputs(picture: bytes, um_per_pixel: float) -> list[Any]:
    """Return the inputs of an ensemble for one image file."""
    file = np.array([picture], dtype=np.object_)
    return [tensor("IMAGE", file), tensor("UM_PER_PIXEL", np.array([um_per_pixel], np.float32))]


def warm_up(grpc_url: str, timeout_s: float) -> None:
    """Send one drawn cell through each lane for cells and one empty field through ``smear_analysis``.

    A repository of a CytoDiffusion checkpoint holds none of them: there one empty crop goes through ``encoder`` and
    ``scorer``. Each request has `timeout_s` seconds.

    Raises
    ------
    WarmUpFailed
        If one is refused or does not answer in time.
    """
    from tritonclient.utils import InferenceServerException

    requests = (
        ("cell_analysis", cell_png(), 0.18),
        ("stat_cell_analysis", cell_png(), 0.18),
        ("smear_analysis", field_png(), 0.15),
    )
    with triton_client(grpc_url) as client:
        model = "scorer"
        try:
            if scores_latents_only(client):
                score_empty_crop(client, timeout_s)
                return
            for model, picture, um_per_pixel in requests:
                client.infer(
                    model, picture_inputs(picture, um_per_pixel), parameters=ONE_PROBE, client_timeout=timeout_s
                )
        except InferenceServerException as error:
            raise WarmUpFailed(f"a first inference through {model} failed: {error.message()}") from error


def scores_latents_only(client: Any) -> bool:
    """Return whether a loaded server has no ensemble, but the chain that a CytoDiffusion repository holds.

    The repository's index is not used: a site may have restricted it.
    """
    return not client.is_model_ready("cell_analysis") and all(map(client.is_model_ready, ("encoder", "scorer")))


def score_empty_crop(client: Any, timeout_s: float) -> Any:
    """Send one crop of background to ``encoder`` and its latent to ``scorer``; return the scorer's answer.

    The crop's size is read from the encoder's configuration; each request has `timeout_s` seconds.

    Raises
    ------
    tritonclient.utils.InferenceServerException
        If either fails.
    """
    (declared,) = client.get_model_metadata("encoder", client_timeout=timeout_s).inputs
    crop = tensor("CROP", np.full([1, *declared.shape[1:]], BACKGROUND, np.uint8))
    latents = client.infer("encoder", [crop], client_timeout=timeout_s).as_numpy("LATENT")
    inputs = [tensor("LATENT", latents), tensor("CELL_FLAGS", np.zeros(1, np.int32))]
    return client.infer("scorer", inputs, parameters=ONE_PROBE, client_timeout=timeout_s)
