"""What ``service_info`` answers: the exported description, the limits in force, the versions that run."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from . import constants, site

PACKAGES = ("cytoserve", "numpy", "scipy", "pillow", "onnxruntime")


def describe(service: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``INFO``.

    Parameters
    ----------
    service : mapping
        Content of ``service.json``, kept as it is.

    Returns
    -------
    dict : `service` with ``calibration`` (the site's, or null), ``limits`` and ``server`` added. ``server.triton`` is
        null where the environment does not tell the version; the server's own metadata does.
    """
    return {
        **service,
        "calibration": site.describe(os.environ.get(site.CALIBRATION_ENV)),
        "limits": {
            "max_file_bytes": constants.MAX_FILE_BYTES,
            "max_pixels": constants.MAX_PIXELS,
            "min_side": constants.MIN_SIDE,
            "max_cells": constants.MAX_CELLS,
        },
        "server": {
            "triton": os.environ.get("NVIDIA_TRITON_SERVER_VERSION"),
            "python": platform.python_version(),
            "packages": {name: version for name in PACKAGES if (version := _version(name))},
        },
    }


def _version(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
