"""The objects of a roll-out: a version's InferenceService and ServingRuntime, and the Service that clients call."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from cytoserve_deploy.errors import ModeUnknown, ObjectRefused
from cytoserve_deploy.rollout import names as n
from cytoserve_deploy.rollout.cluster import Object

MODEL_SCHEMES: Final = ("pvc", "s3", "oci")
"""Schemes of the models' address, as in the chart's ``model.uri``."""
_FOREIGN_LABELS: Final = (n.MANAGER_LABEL, "helm.sh/chart")
_FOREIGN_PREFIXES: Final = ("checksum/", "meta.helm.sh/", "kubectl.kubernetes.io/", "argocd.argoproj.io/")


@dataclass(frozen=True)
class Release:
    """The new version; everything not given is as in the running one.

    ``version`` becomes part of Kubernetes names: small letters, digits, ``-``. ``model_uri`` is where the models are
    (``pvc://``, ``s3://``, ``oci://``). The server's ``image`` and ``manifest_sha256`` (the hash of the models'
    ``manifest.json`` that the entrypoint requires) stand in the ServingRuntime, which is copied for this version.
    """

    version: str
    model_uri: str | None = None
    image: str | None = None
    manifest_sha256: str | None = None

    def __post_init__(self) -> None:
        if not (self.model_uri or self.image or self.manifest_sha256):
            raise ObjectRefused("nothing new: give --model-uri, --image or --manifest-sha256")
        scheme, separator, rest = (self.model_uri or "pvc://any").partition("://")
        if scheme not in MODEL_SCHEMES or not (separator and rest):
            raise ObjectRefused(
                f"--model-uri {self.model_uri} names no model store known here: use one of "
                + ", ".join(f"{known}://" for known in MODEL_SCHEMES)
            )

    @property
    def own_runtime(self) -> bool:
        """Whether the version needs a ServingRuntime of its own."""
        return bool(self.image or self.manifest_sha256)

    @property
    def sha256(self) -> str:
        """Hash of the release's fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def require_standard(service: Object) -> None:
    """Refuse an InferenceService that KServe does not run as a plain Deployment: its annotation says so, or its status.

    Raises
    ------
    ModeUnknown
        If neither says so, or it is Knative or ModelMesh.
    """
    said = (service["metadata"].get("annotations") or {}).get(n.MODE_ANNOTATION)
    said = said or (service.get("status") or {}).get("deploymentMode")
    if said not in n.STANDARD_MODES:
        raise ModeUnknown(
            f"KServe runs InferenceService {service['metadata']['name']} in mode {said or 'unknown'}, and only "
            f"{' and '.join(n.STANDARD_MODES)} (annotation {n.MODE_ANNOTATION}) are rolled out here; "
            "docs/rollout.md says what does it elsewhere"
        )


def label(obj: Object, key: str) -> str | None:
    """Return a label's value."""
    return (obj["metadata"].get("labels") or {}).get(key)


def annotation(obj: Object, key: str) -> str | None:
    """Return an annotation's value."""
    return (obj["metadata"].get("annotations") or {}).get(key)


def annotate(obj: Object, **values: str | None) -> None:
    """Set annotations of ours (``previous=...``); None removes one."""
    held = obj["metadata"].setdefault("annotations", {}) or {}
    obj["metadata"]["annotations"] = held
    for key, value in values.items():
        full = f"{n.PREFIX}/{key.replace('_', '-')}"
        if value is None:
            held.pop(full, None)
        else:
            held[full] = value


def release_predictor(predictor: Object, release: Release, line: str) -> Object:
    """Return a predictor's specification with the release's model and runtime.

    Raises
    ------
    ObjectRefused
        If the predictor has no ``model`` to change.
    """
    made = copy.deepcopy(predictor)
    model = made.get("model")
    if not isinstance(model, dict):
        raise ObjectRefused(
            "the InferenceService has no predictor.model (the chart's has): only such ones can be rolled out here"
        )
    if release.model_uri:
        model["storageUri"] = release.model_uri
    if release.own_runtime:
        model["runtime"] = n.service_name(line, release.version)
    return made


def candidate_service(template: Object, line: str, release: Release) -> Object:
    """Return the second InferenceService of a blue/green roll-out, made from the running one."""
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": _metadata(template, line, release),
        "spec": {
            **copy.deepcopy(template["spec"]),
            "predictor": release_predictor(template["spec"]["predictor"], release, line),
        },
    }


def candidate_runtime(runtime: Object, line: str, release: Release) -> Object:
    """Return the ServingRuntime of a version with another image or another pinned manifest.

    Raises
    ------
    ObjectRefused
        If the runtime has no container ``kserve-container``.
    """
    spec = copy.deepcopy(runtime["spec"])
    container = next((item for item in spec.get("containers", []) if item.get("name") == n.CONTAINER), None)
    if container is None:
        raise ObjectRefused(f"ServingRuntime {runtime['metadata']['name']} has no container {n.CONTAINER}")
    if release.image:
        container["image"] = release.image
    if release.manifest_sha256:
        flag = "--manifest-sha256="
        kept = [text for text in container.get("args", []) if not str(text).startswith(flag)]
        # Right after the subcommand: what follows a bare "--" is handed to Triton.
        container["args"] = [*kept[:1], flag + release.manifest_sha256, *kept[1:]]
    return {
        "apiVersion": runtime["apiVersion"],
        "kind": runtime["kind"],
        "metadata": _metadata(runtime, line, release),
        "spec": spec,
    }


def entry_service(line: str, active: str, kserve_service: Object) -> Object:
    """Return the Service that clients call, with the ports of KServe's own Service, pointing to one version."""
    ports = [
        {key: port[key] for key in ("name", "port", "targetPort", "protocol", "appProtocol") if port.get(key)}
        for port in kserve_service["spec"].get("ports", [])
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": n.entry_name(line),
            "labels": {n.LINE_LABEL: line, n.MANAGER_LABEL: n.MANAGER},
            "annotations": {},
        },
        "spec": {"type": "ClusterIP", "selector": n.predictor_selector(active), "ports": ports},
    }


def active_of(entry: Object) -> str | None:
    """Return the InferenceService that an entry Service points to."""
    app = str((entry["spec"].get("selector") or {}).get("app", ""))
    return n.owner_of_predictor(app.removeprefix("isvc.")) or None


def contains(held: Any, wanted: Any) -> bool:
    """Return whether an object holds everything that is wanted; what the server added besides does not count."""
    if isinstance(wanted, dict):
        return isinstance(held, dict) and all(key in held and contains(held[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return (
            isinstance(held, list)
            and len(held) == len(wanted)
            and all(contains(one, other) for one, other in zip(held, wanted, strict=True))
        )
    return bool(held == wanted)


def condition(service: Object, kind: str) -> Object:
    """Return one of the status conditions, {} where KServe has not written it."""
    found = (service.get("status") or {}).get("conditions") or []
    return next((item for item in found if item.get("type") == kind), {})


def is_ready(service: Object) -> bool:
    """Return whether KServe calls the InferenceService ready; that says nothing of a pod (`Line.lacks`)."""
    return condition(service, "Ready").get("status") == "True"


def _metadata(template: Object, line: str, release: Release) -> Object:
    """Return name, labels and annotations of a version's object made from another one."""
    held = template["metadata"]
    labels = {k: v for k, v in (held.get("labels") or {}).items() if k not in _FOREIGN_LABELS}
    foreign = (*_FOREIGN_PREFIXES, f"{n.PREFIX}/")
    annotations = {k: v for k, v in (held.get("annotations") or {}).items() if not k.startswith(foreign)}
    return {
        "name": n.service_name(line, release.version),
        "labels": {**labels, n.MANAGER_LABEL: n.MANAGER, n.LINE_LABEL: line, n.VERSION_LABEL: release.version},
        "annotations": {**annotations, n.CONTENT_ANNOTATION: release.sha256},
    }
