"""Names that Kubernetes, KServe and this package use.

KServe's are from its source, v0.15.2 to v0.20.0: ``pkg/constants/constants.go``,
``reconcilers/service/service_reconciler.go``.
"""

from __future__ import annotations

import re
from typing import Final

from cytoserve_deploy.errors import ObjectRefused

GROUP: Final = "serving.kserve.io"

MODE_ANNOTATION: Final = f"{GROUP}/deploymentMode"
STANDARD_MODES: Final = ("Standard", "RawDeployment")
"""Values of that annotation, or of ``status.deploymentMode``, for plain Deployments; 0.15 knows the second only."""
POD_LABEL: Final = f"{GROUP}/inferenceservice"
ENDPOINTS_LABEL: Final = "kubernetes.io/service-name"
"""On an EndpointSlice: the Service that it belongs to."""
CONTAINER: Final = "kserve-container"

PREFIX: Final = "rollout.cytoserve"
LINE_LABEL: Final = f"{PREFIX}/line"
"""On everything made here: the InferenceService's name that `cytoserve deploy` is called with."""
VERSION_LABEL: Final = f"{PREFIX}/version"
CONTENT_ANNOTATION: Final = f"{PREFIX}/content-sha256"
"""Hash of the release: applying the same again changes nothing, and other content needs another version."""
PREVIOUS_ANNOTATION: Final = f"{PREFIX}/previous"
TAKEN_BACK_ANNOTATION: Final = f"{PREFIX}/taken-back"

MANAGER: Final = "cytoserve-deploy"
MANAGER_LABEL: Final = "app.kubernetes.io/managed-by"
UNNAMED: Final = "unnamed"
"""Version of an InferenceService that was not made here, such as the chart's."""

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST: Final = 63


def entry_name(line: str) -> str:
    """Return the Service that clients call in Standard mode; its selector decides which version answers."""
    return f"{line}-live"


def predictor_name(service: str) -> str:
    """Return KServe's name for Deployment and Service of an InferenceService's predictor."""
    return f"{service}-predictor"


def owner_of_predictor(predictor: str) -> str:
    """Return the InferenceService that a Deployment or Service made by KServe belongs to."""
    return predictor.removesuffix("-predictor")


def predictor_selector(service: str) -> dict[str, str]:
    """Return the labels by which KServe's own Service finds the predictor's pods in Standard mode."""
    return {"app": f"isvc.{predictor_name(service)}"}


def service_name(line: str, version: str) -> str:
    """Return the InferenceService's name of a version in Standard mode.

    Raises
    ------
    ObjectRefused
        If line or version cannot be part of a name, or the names that KServe derives would be too long.
    """
    for what, text in (("name", line), ("version", version)):
        if not _LABEL.fullmatch(text):
            raise ObjectRefused(
                f"{what} {text!r} cannot be part of a Kubernetes name: use small letters, digits and '-', such as 0-2-0"
            )
    name = f"{line}-{version}"
    if len(predictor_name(name)) > _LONGEST:
        raise ObjectRefused(f"{predictor_name(name)} is longer than {_LONGEST} characters: choose a shorter version")
    return name
