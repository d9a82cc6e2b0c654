"""What ``service_info`` answers: the exported description, the limits in force, the versions that run."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cytoserve_contract.limits import SERVICE_LIMITS

from cytoserve_scoring.serving.site import CALIBRATION_ENV, procedure_sha256
from cytoserve_scoring.serving.sites import Sites

PACKAGES = ("cytoserve", "numpy", "scipy", "pillow", "onnxruntime")


def describe(service: Mapping[str, Any], scoring_file: Path) -> dict[str, Any]:
    """Return the content of ``INFO``.

    Parameters
    ----------
    service : mapping
        Content of ``service.json``, kept as it is.
    scoring_file : Path
        ``<repository>/scorer/<version>/scoring.json``. Where there is none (a repository without a scorer) the
        defaults below are null, and there is no site.

    Returns
    -------
    dict : `service` with ``sites`` (what each calibration says, the home site first), the scorer's ``default_alpha``
        (null where no class is dropped) and ``procedure_sha256`` (what a site's calibration is bound to besides the
        weights), the home site's ``default_budget`` (most probes of a cell) and ``calibrated_budgets`` (null where all
        are), ``limits`` and ``server`` added. ``server.triton`` is null where the environment does not name the
        version; the server's own metadata does.

    Raises
    ------
    CytoserveError
        The scorer's file or a site's calibration is not usable; the scorer does not start with them either.
    """
    return {
        **service,
        **_defaults(scoring_file, os.environ.get(CALIBRATION_ENV)),
        "limits": {name: value for name, (value, _) in SERVICE_LIMITS.items()},
        "server": {
            "triton": os.environ.get("NVIDIA_TRITON_SERVER_VERSION"),
            "python": platform.python_version(),
            "packages": {name: version for name in PACKAGES if (version := _version(name))},
        },
    }


def _defaults(scoring_file: Path, folder: str | None) -> dict[str, Any]:
    """Return the sites and the defaults of a request, from settings loaded as the scorer loads its own."""
    if not scoring_file.is_file():
        unknown = ("default_budget", "default_alpha", "calibrated_budgets", "procedure_sha256")
        return {**dict.fromkeys(unknown), "sites": []}
    sites = Sites.load(scoring_file, folder)
    config = sites.home.engine.config
    return {
        "procedure_sha256": procedure_sha256(json.loads(scoring_file.read_text(encoding="utf-8"))),
        "default_budget": config.default_budget,
        "default_alpha": None if config.racing is None else config.racing.default_alpha,
        "calibrated_budgets": None if config.calibrated is None else list(config.calibrated),
        "sites": [one.to_json() for one in sites],
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
