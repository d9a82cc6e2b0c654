"""Outside authorities that judge a rendered object.

Kubernetes' schemas, those of custom resources, KServe's typed models, and the rules of Pod Security "restricted"
(Kubernetes documentation, "Pod Security Standards"; volumes of kind image are permitted from 1.33 on).
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
from kubernetes_validate import utils as kubernetes
from referencing import Registry, Resource

KUBERNETES: Final = ("1.32", "1.34", "1.36")
KSERVE_SCHEMA: Final = {"0.15": "v0.15.2", "0.16": "v0.16.0", "0.20": "v0.20.0"}


@cache
def kubernetes_validator(version: str, kind: str, api_version: str) -> jsonschema.protocols.Validator:
    """Return the strict validator (unknown keys refused) of a built-in kind."""
    full = next(known for known in kubernetes.all_versions() if kubernetes.major_minor(known) == version)
    folder = f"kubernetes-json-schema/v{full}-local-strict"
    group = api_version.replace("/", "-").replace(".k8s.io", "")
    schema = kubernetes.schema_contents(f"{folder}/{kind.lower()}-{group}.json", version)
    definitions = _definitions(folder, version)
    registry = Resource.from_contents(schema) @ (definitions @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def _definitions(folder: str, version: str) -> Resource[Any]:
    return Resource.from_contents(kubernetes.schema_contents(f"{folder}/_definitions.json", version))


@cache
def custom_validator(path: Path) -> jsonschema.protocols.Validator:
    """Return the validator of a custom resource's schema; unknown keys, which a cluster drops silently, are refused."""
    return jsonschema.Draft202012Validator(_closed(json.loads(path.read_text(encoding="utf-8"))))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a structural schema that forbids what it does not name."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: _closed(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _closed(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        result["items"] = _closed(schema["items"])
    return result


def check_typed(data: Any, kind: str, where: str = "") -> None:
    """Build the typed model `kind` of the packages kserve or kubernetes from `data`; refuse keys and types it has not.

    Their constructors run each model's own checks (required fields).
    """
    import kserve
    from kubernetes import client

    if kind.startswith(("list[", "dict(")):
        inner = kind[5:-1].split(", ", 1)[-1]
        assert isinstance(data, list if kind.startswith("list") else dict), f"{where}: not a {kind}"
        for key, item in enumerate(data) if isinstance(data, list) else data.items():
            check_typed(item, inner, f"{where}[{key}]")
        return
    model = getattr(kserve, kind, None) or getattr(client, kind, None)
    if model is None or not hasattr(model, "openapi_types"):
        primitive = {"str": str, "int": int, "bool": bool, "float": (int, float)}.get(kind, object)
        assert isinstance(data, primitive), f"{where}: {data!r} is not a {kind}"
        return
    assert isinstance(data, dict), f"{where}: {data!r} is not a {kind}"
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    unknown = set(data) - set(names)
    assert not unknown, f"{where} ({kind}) has no {sorted(unknown)}"
    model(**{names[key]: value for key, value in data.items()})
    for key, value in data.items():
        check_typed(value, model.openapi_types[names[key]], f"{where}.{key}")


@cache
def _apart() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def check_typed_apart(data: Any, kind: str) -> None:
    """Run `check_typed` in a process of its own, started once.

    kserve and tritonclient each register the messages of the inference protocol; protobuf refuses the second in one
    process, whichever it is.
    """
    _apart().submit(check_typed, data, kind, kind).result(timeout=300)


RESTRICTED_VOLUMES: Final = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def restricted_violations(pod: dict[str, Any]) -> list[str]:
    """Return what Pod Security "restricted" finds wrong with a pod specification."""
    wrong = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    context = pod.get("securityContext", {})
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= RESTRICTED_VOLUMES:
            wrong.append(f"volume {volume['name']} is of kind {kinds}")
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container.get("securityContext", {})
        name = container["name"]
        if own.get("privileged"):
            wrong.append(f"{name} is privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            wrong.append(f"{name} may escalate its privileges")
        if "ALL" not in own.get("capabilities", {}).get("drop", []):
            wrong.append(f"{name} keeps capabilities")
        if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            wrong.append(f"{name} adds capabilities")
        if not own.get("runAsNonRoot", context.get("runAsNonRoot")):
            wrong.append(f"{name} may run as root")
        if own.get("runAsUser", context.get("runAsUser")) == 0:
            wrong.append(f"{name} runs as root")
        profile = own.get("seccompProfile", context.get("seccompProfile", {})).get("type")
        if profile not in ("RuntimeDefault", "Localhost"):
            wrong.append(f"{name} has no seccomp profile")
        if any("hostPort" in port for port in container.get("ports", [])):
            wrong.append(f"{name} takes a port of the host")
    return wrong
