"""Limits of the service and the physical scales of its pictures, named once."""

from __future__ import annotations

from typing import Final

from cytoserve_contract.tensors import REFERENCE_SIZES

CROP_SIZE: Final = REFERENCE_SIZES["size"]
"""Side of a cell crop, pixels."""

CROP_UM_PER_PIXEL: Final = 0.25
"""Physical scale of a cell crop, micrometres per pixel (so a crop spans 24 um)."""

SEGMENTER_UM_PER_PIXEL: Final = 0.15
"""Physical scale of the segmenter's input, micrometres per pixel (a red cell of 7.5 um is 50 px)."""

MIN_UM_PER_PIXEL: Final = 0.02
MAX_UM_PER_PIXEL: Final = 0.6
"""Range of plausible scales: a red cell of 375 px down to one of 12 px."""

MAX_SEGMENTER_PIXELS: Final = 6_000_000
"""Largest segmenter input (24 million took 7.5 GiB). Larger fields come in coarser, see `scale.segmenter_geometry`."""

COARSEST: Final = 0.68
"""How much coarser: the segmenter was trained on 0.7 to 1.45 times its scale."""

IMAGE_FORMATS: Final = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")
"""Formats of image files that the service reads, by Pillow's names."""

MAX_FILE_BYTES: Final = 40 * 1024 * 1024
"""Largest encoded image accepted, bytes."""

MAX_PIXELS: Final = 50_000_000
"""Largest image accepted, pixels, read from the header before anything is decoded."""

MAX_AREA_UM2: Final = int(MAX_SEGMENTER_PIXELS / COARSEST**2 * SEGMENTER_UM_PER_PIXEL**2)
"""Largest area of the film in one field, square micrometres: 0.292 mm2, such as 540 x 540 um. It binds before
`MAX_PIXELS` where a pixel is wider than 0.076 um."""

MIN_SIDE: Final = 32
"""Shortest side accepted, pixels."""

MAX_CELLS: Final = 512
"""Most single-cell images in one request, and most scored cells of a field."""

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""gRPC message size, sending and receiving. gRPC's own default for receiving is 4 MiB."""

SERVICE_LIMITS: Final[dict[str, tuple[int, str]]] = {
    "max_file_bytes": (MAX_FILE_BYTES, "bytes of an encoded image"),
    "max_pixels": (MAX_PIXELS, "pixels of an image, read from its header"),
    "max_area_um2": (MAX_AREA_UM2, "square micrometres of film in one field: the segmenter sees it in one piece"),
    "min_side": (MIN_SIDE, "pixels of the shorter side, at least"),
    "max_cells": (MAX_CELLS, "images in one request of `cell_analysis`"),
}
"""What ``service_info`` tells under ``limits``: value and meaning."""
