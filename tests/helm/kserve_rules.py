"""What KServe and the Deployment controller make of the chart's objects, by their sources and as a real cluster showed.

KServe v0.15.2 and v0.20.0: ``pkg/webhook/admission/pod/agent_injector.go`` and ``storage_initializer_injector.go``,
``pkg/utils/storage.go`` (model containers), ``reconcilers/hpa/hpa_reconciler.go``,
``reconcilers/keda/keda_reconciler.go``. Kubernetes: ``pkg/controller/deployment/util/deployment_util.go``.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Final

Object = dict[str, Any]
AGENT_PORT: Final = 9081
DEFAULT_CPU: Final = 80
"""Percent: KServe's and the API server's default of an HPA."""
OWN_FIELDS: Final = {
    "annotations", "autoScaling", "canaryTrafficPercent", "deploymentStrategy", "labels", "maxReplicas", "minReplicas",
    "model", "scaleMetric", "scaleTarget", "timeout",
}  # fmt: skip
"""Of a predictor, not of its pods."""


def admitted(service: Object, runtime: Object) -> Object:
    """Return the pod that KServe joins from its two objects and its webhook completes.

    It adds an agent where there is no storage URI, a downloader for ``s3://``, and for ``oci://`` two containers that
    never have a security context.
    """
    predictor = service["spec"]["predictor"]
    uri = predictor["model"].get("storageUri", "")
    fields = {key: value for key, value in predictor.items() if key not in OWN_FIELDS}
    parts = {"containers": runtime["spec"]["containers"], "volumes": runtime["spec"].get("volumes", [])}
    pod = copy.deepcopy({**fields, **parts})
    server = pod["containers"][0]
    context = {"securityContext": copy.deepcopy(server.get("securityContext", {}))}
    before = pod.get("initContainers", [])
    if not uri:
        probe = server.get("readinessProbe", {})
        handed_over = "httpGet" in probe or "tcpSocket" in probe
        env = [{"name": "SERVING_READINESS_PROBE", "value": json.dumps(probe)}] if handed_over else []
        pod["containers"].append({"name": "agent", "env": env, "ports": [{"containerPort": AGENT_PORT}], **context})
    elif uri.startswith("oci://"):
        image = uri.removeprefix("oci://")
        pod["containers"].append({"name": "modelcar", "image": image})
        pod.update(initContainers=[{"name": "modelcar-init", "image": image}, *before], shareProcessNamespace=True)
    elif not uri.startswith("pvc://"):
        pod["initContainers"] = [*before, {"name": "storage-initializer", **context}]
    return pod


def agent_refusal(pod: Object) -> str:
    """Return what KServe's agent ends with, empty where it starts: its probe knows ports by number only."""
    for agent in (item for item in pod["containers"] if item["name"] == "agent"):
        for probe in (json.loads(item["value"]) for item in agent["env"]):
            port = (probe.get("httpGet") or probe["tcpSocket"])["port"]
            if not isinstance(port, int):
                return f"Agent failed to parse readiness probe: port {port!r} is not a number"
    return ""


def is_available(strategy: Object | None, replicas: int, ready: int) -> bool:
    """Return whether a Deployment with that many ready pods has the condition Available."""
    held = strategy or {"type": "RollingUpdate"}
    if held["type"] == "Recreate":
        return ready >= replicas
    rolling = held.get("rollingUpdate") or {}
    surge = _pods(rolling.get("maxSurge", "25%"), replicas, up=True)
    missing = _pods(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if surge == missing == 0:
        missing = 1
    return ready >= replicas - missing


def _pods(given: int | str, replicas: int, up: bool) -> int:
    if isinstance(given, int):
        return given
    share = int(given.removesuffix("%")) * replicas
    return -(-share // 100) if up else share // 100


def hpa_target(service: Object) -> int:
    """Return the percent of CPU that KServe 0.20's HPA aims at: beside ``autoScaling``, ``scaleTarget`` is ignored."""
    predictor = service["spec"]["predictor"]
    if "autoScaling" not in predictor:
        return int(predictor.get("scaleTarget", DEFAULT_CPU))
    resources = [item["resource"] for item in predictor["autoScaling"].get("metrics", []) if "resource" in item]
    targets = [item["target"].get("averageUtilization", DEFAULT_CPU) for item in resources if item["name"] == "cpu"]
    return int(targets[0]) if targets else DEFAULT_CPU


def scaled_object(service: Object) -> Object:
    """Return the specification of the ScaledObject that KServe makes; what it does not read is not in it.

    Its triggers have no ``metricType``, which KEDA then takes for ``AverageValue``.
    """
    predictor = service["spec"]["predictor"]
    triggers = []
    for given in (item["external"] for item in predictor["autoScaling"]["metrics"]):
        metric, reference = given["metric"], given.get("authenticationRef")
        metadata = {"serverAddress": metric["serverAddress"], "query": metric["query"],
                    "threshold": given["target"]["value"]}  # fmt: skip
        trigger: Object = {"type": metric["backend"], "metadata": metadata}
        if reference:
            metadata["authModes"] = reference["authModes"]
            trigger["authenticationRef"] = reference["authenticationRef"]
        triggers.append(trigger)
    made: Object = {"minReplicaCount": predictor["minReplicas"], "maxReplicaCount": predictor["maxReplicas"],
                    "triggers": triggers}  # fmt: skip
    window = predictor["autoScaling"].get("behavior", {}).get("scaleDown", {}).get("stabilizationWindowSeconds")
    if window is not None:
        behaviour = {"scaleDown": {"stabilizationWindowSeconds": window}}
        made["advanced"] = {"horizontalPodAutoscalerConfig": {"behavior": behaviour}}
    return made
