"""What both clients do the same way, without waiting for anything: ids, requests, chunks, parsed answers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cytoserve_contract.models import MODELS

from cytoserve_client import _constants as c
from cytoserve_client import _wire
from cytoserve_client._answers import cell_answers, field_analysis
from cytoserve_client.errors import CytoserveClientError
from cytoserve_client.images import EncodedImage, Source
from cytoserve_client.options import PRIORITY_LEVELS, Options
from cytoserve_client.results import CellAnswer, FieldAnalysis, ModelInfo


def new_id() -> str:
    """Return a random request id; it says nothing about sample or patient."""
    return uuid.uuid4().hex


def image_request(
    model: str, images: Sequence[EncodedImage], um_per_pixel: Sequence[float], options: Options, request_id: str
) -> Any:
    """Return the request for one field, or for a chunk of single-cell images; a scale of 0 is not given."""
    files, sizes = MODELS[model].inputs
    inputs = [
        (files, [len(images)], _wire.bytes_tensor([image.data for image in images])),
        (sizes, [len(images)], np.asarray(um_per_pixel, "<f4").tobytes()),
    ]
    return _wire.infer_request(model, inputs, request_id, options.parameters, PRIORITY_LEVELS[options.priority])


def read_field(response: Any, model: ModelInfo, image: EncodedImage, request_id: str) -> FieldAnalysis:
    """Return the checked result of one field; errors carry source and request id."""
    try:
        return field_analysis(_wire.read_tensors(_wire.SMEAR_MODEL, response), model, image)
    except CytoserveClientError as error:
        raise _located(error, image.name, request_id) from None


def read_cells(
    response: Any, model: ModelInfo, images: Sequence[EncodedImage], request_id: str
) -> list[CellAnswer | CytoserveClientError]:
    """Return the checked results of a chunk; errors carry the request id."""
    try:
        return cell_answers(_wire.read_tensors(_wire.CELL_MODEL, response), model, images, request_id)
    except CytoserveClientError as error:
        raise _located(error, None, request_id) from None


def _located(error: CytoserveClientError, source: str | None, request_id: str) -> CytoserveClientError:
    error.source = error.source or source
    error.request_id = error.request_id or request_id
    return error


@dataclass(frozen=True)
class Chunk:
    """Sources of one work item of ``classify``, with their scales."""

    sources: Sequence[Source]
    um_per_pixel: Sequence[float]


def chunks_of(sources: Sequence[Source], um_per_pixel: Sequence[float], size: int) -> list[Chunk]:
    """Cut a list of single-cell images into chunks of at most ``size``."""
    return [
        Chunk(sources[start : start + size], um_per_pixel[start : start + size])
        for start in range(0, len(sources), size)
    ]


Loaded = tuple[int, EncodedImage, float]
"""Position in the chunk, image, micrometres per pixel."""


def load_chunk(chunk: Chunk) -> tuple[list[list[Loaded]], dict[int, CytoserveClientError]]:
    """Read a chunk's images; return them in requests of bounded size, and the errors of the unreadable ones."""
    loaded: list[Loaded] = []
    errors: dict[int, CytoserveClientError] = {}
    for i, (source, scale) in enumerate(zip(chunk.sources, chunk.um_per_pixel, strict=True)):
        try:
            loaded.append((i, source.load(), scale))
        except CytoserveClientError as error:
            errors[i] = error
    return list(_bounded(loaded)), errors


def _bounded(loaded: Sequence[Loaded]) -> Iterator[list[Loaded]]:
    """Split so that no request carries more than `CHUNK_BYTES` (a single larger image travels alone)."""
    group: list[Loaded] = []
    size = 0
    for item in loaded:
        length = len(item[1].data)
        if group and size + length > c.CHUNK_BYTES:
            yield group
            group, size = [], 0
        group.append(item)
        size += length
    if group:
        yield group
