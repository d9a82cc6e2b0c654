"""Each bad value is refused, and the message names the key."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from chart import CHART, MODES, Helm, Refused

TLS = {"tls__enabled": True, "tls__existingSecret": "t"}
ROUTE = {"gateway__enabled": True, "gateway__parentRefs": [{"name": "g"}]}
KSERVE = {"mode": "kserve"}

BY_SCHEMA: list[tuple[dict[str, Any], str]] = [
    ({"mode": "vm"}, r"/mode'.*'deployment', 'kserve'"),
    ({"replica": 2}, r"'replica' not allowed"),
    ({"gpu__name": "x"}, r"/gpu': additional properties 'name' not allowed"),
    ({"replicas": 0}, "/replicas'.*1"),
    ({"image__tag": "latest"}, "/image/tag'"),
    ({"image__digest": "sha256:abc"}, "/image/digest'.*pattern"),
    ({"model__uri": "http://example.org/m"}, "/model/uri'.*pattern"),
    ({"model__uri": "pvc://"}, "/model/uri'"),
    ({"model__manifestSha256": "abc"}, "/model/manifestSha256'"),
    ({"gpu__resourceName": "gpu"}, "/gpu/resourceName'"),
    ({"gpu__count": 0}, "/gpu/count'"),
    ({"shm__sizeLimit": "much"}, "/shm/sizeLimit'"),
    ({"resources__limits__memory": 8}, "/resources/limits/memory'.*want string"),
    ({"triton__rateLimit": "on"}, "/triton/rateLimit'.*'off', 'execution_count'"),
    ({"triton__drainSeconds": 0}, "/triton/drainSeconds'"),
    ({"triton__extraArgs": ["model-control-mode=poll"]}, "/triton/extraArgs/0'"),
    ({"kserve__version": "0.14"}, "/kserve/version'.*'0.15'"),
    ({"kserve__version": 0.16}, "/kserve/version'"),
    ({"rollout__strategy": "recreate"}, "/rollout/strategy'.*'in-place', 'spare'"),
    ({"probes__liveness__kind": "tcp"}, "/probes/liveness/kind'.*'grpc', 'http'"),
    ({"networkPolicy__clients": [{}]}, "/networkPolicy/clients/0'"),
    ({"networkPolicy__clients": [{"pods": {}}]}, "'pods' not allowed"),
    ({"tracing__url": "otel:4317"}, "/tracing/url'"),
    ({"fullnameOverride": "x" * 41}, "/fullnameOverride'"),
    ({"fullnameOverride": "a.b"}, "/fullnameOverride'"),
    ({"fullnameOverride": "7a"}, "/fullnameOverride'"),
    ({"nameOverride": "a.b"}, "/nameOverride'"),
    ({"service__headless": True}, "'headless' not allowed"),
    ({"calibration__files": {"a.txt": "{}"}}, "/calibration/files'"),
    ({"calibration__files": {"../a.json": "{}"}}, "/calibration/files'"),
    ({"calibration__files": {".a.json": "{}"}}, "/calibration/files'"),
    ({"calibration__files": {"a.json": ""}}, "/calibration/files/a.json'"),
    ({"calibration__files": {f"{n}.json": "{}" for n in range(101)}}, "/calibration/files'"),
    ({"autoscaling__keda__threshold": 4}, "/autoscaling/keda/threshold'.*want string"),
]

BY_RULE: list[tuple[dict[str, Any], str]] = [
    ({"shm__sizeLimit": "6Gi"}, r"shm.sizeLimit \(6Gi\).*raise the memory limit"),
    ({"resources__requests__memory": "16Gi"}, "lower the request or raise the limit"),
    ({"resources__limits__cpu": "1500m"}, "resources.requests.cpu is more than resources.limits.cpu"),
    ({"release": "7cytoserve"}, "7cytoserve cannot name a Service"),
    ({"calibration__configMap": "a", "calibration__existingClaim": "b"}, "choose one"),
    ({"calibration__files": {"a.json": '{"site": "nor'}}, "a.json is no JSON object"),
    ({"calibration__files": {"a.json": '{"a": "' + "x" * 1_000_000 + '"}'}}, "use calibration.existingClaim"),
    ({"tls__enabled": True}, "needs a certificate: name tls.existingSecret"),
    ({**TLS, "tls__certManager__enabled": True, "tls__certManager__issuerName": "i"}, "choose one"),
    ({"tls__certManager__enabled": True}, "set tls.enabled=true"),
    ({"tls__enabled": True, "tls__certManager__enabled": True}, "needs tls.certManager.issuerName"),
    ({**TLS, **ROUTE}, "tls.mutual asks for a client certificate"),
    ({**TLS, "service__http__enabled": True}, "turn one of them off"),
    ({"gateway__enabled": True}, "gateway.enabled needs gateway.parentRefs"),
    ({"ingress__enabled": True}, "ingress.enabled needs ingress.host"),
    ({"ingress__enabled": True, "ingress__host": "h.example"}, "ingress.enabled needs ingress.tlsSecret"),
    (
        {"autoscaling__enabled": True, "autoscaling__minReplicas": 9},
        "minReplicas is more than autoscaling.maxReplicas",
    ),
    ({"autoscaling__enabled": True, "autoscaling__kind": "hpa"}, "does not tell the load of a GPU"),
    ({**KSERVE, "monitoring__serviceMonitor__enabled": True}, "use monitoring.podMonitor"),
    (
        {**KSERVE, "autoscaling__enabled": True, "autoscaling__kind": "hpa", "autoscaling__hpa__podsMetric": "m"},
        "knows cpu and memory only",
    ),
    ({**KSERVE, "kserve__version": "0.15", "autoscaling__keda__authenticationRef": "a"}, "KServe 0.15 has no field"),
    ({**KSERVE, **TLS, "kserve__clusterLocal": False}, "needs kserve.clusterLocal=true"),
    ({**KSERVE, "model__uri": "s3://b/p", "engineCache__prebuild": True}, "engineCache.prebuild cannot see the models"),
]


@pytest.mark.parametrize(("values", "message"), BY_SCHEMA)
def test_the_schema_refuses(helm: Helm, values: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match="values don't meet the specifications of the schema") as caught:
        helm.render(**values)
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(("values", "message"), BY_RULE)
def test_what_does_not_go_together_is_refused(helm: Helm, values: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match="cytoserve/templates") as caught:
        helm.render(**values)
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("limit", ["2", "2.0", "2000m", "2.5", ""])
def test_cpu_limits_from_the_request_on_are_taken(helm: Helm, limit: str) -> None:
    assert helm.render(resources__limits__cpu=limit)


@pytest.mark.parametrize("limit", ["1.999", "1999m", "0.5"])
def test_cpu_limits_below_the_request_are_refused(helm: Helm, limit: str) -> None:
    with pytest.raises(Refused, match="lower the request"):
        helm.render(resources__limits__cpu=limit)


@MODES
@pytest.mark.parametrize("release", ["blood.cytoserve", "7cytoserve"])
def test_names_that_the_api_server_would_refuse_halfway_are_refused_before(helm: Helm, mode: str, release: str) -> None:
    with pytest.raises(Refused, match="cannot name a Service or an InferenceService"):
        helm.render(release=release, mode=mode)
    assert helm.render(release=release, mode=mode, fullnameOverride="blood-7")


def _rules() -> list[str]:
    return re.findall(r"\{\{- fail ", (CHART / "templates" / "_validate.tpl").read_text(encoding="utf-8"))


@pytest.mark.parametrize("other", [{"calibration__configMap": "a"}, {"calibration__existingClaim": "a"}])
def test_calibrations_come_from_one_place(helm: Helm, other: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="more than one is set, choose one"):
        helm.render(**other, calibration__files={"a.json": "{}"})


def test_a_calibration_in_the_values_is_an_object(helm: Helm) -> None:
    with pytest.raises(Refused, match=r"north\.json is no JSON object; give the text of a file"):
        helm.render(calibration__files={"north.json": "[]"})


def test_every_rule_has_a_case() -> None:
    assert len(BY_RULE) == len(_rules())


def test_the_schema_knows_exactly_the_values_and_is_closed() -> None:
    """At every level: each key of values.yaml has a rule, each rule a key, and unknown keys are refused."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def compare(value: Any, rule: dict[str, Any], where: str) -> None:
        if "properties" not in rule or not isinstance(value, dict):
            return
        assert set(value) == set(rule["properties"]) - {"global"}, where
        assert rule["additionalProperties"] is False, where
        for key, inner in value.items():
            compare(inner, rule["properties"][key], f"{where}.{key}")

    compare(values, schema, "values")


def test_an_old_kubernetes_is_refused(helm: Helm) -> None:
    with pytest.raises(Refused, match="kubeVersion"):
        helm.run("template", "c", str(CHART), "--kube-version", "1.29.0")
