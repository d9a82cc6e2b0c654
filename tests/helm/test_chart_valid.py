"""Every variant of the chart is valid in the eyes of Kubernetes, KServe, the operators, and Pod Security."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from authorities import (
    KSERVE_SCHEMA,
    KUBERNETES,
    check_typed_apart,
    custom_validator,
    kubernetes_validator,
    restricted_violations,
)
from chart import CHART, EXAMPLES, RELEASE, VARIANTS, Helm, Manifest, pod_of

variants = pytest.mark.parametrize("name", VARIANTS)


def objects(helm: Helm, name: str) -> list[Manifest]:
    files, values = VARIANTS[name]
    return helm.render(*files, **values)


def group_of(item: Manifest) -> str:
    return item["apiVersion"].rpartition("/")[0]


CUSTOM = ("serving.kserve.io", "keda.sh", "gateway.networking.k8s.io", "monitoring.coreos.com", "cert-manager.io")


PLAIN = {
    "defaults",
    "values-cpu.yaml",
    "deployment-oci",
    "deployment-hpa-pods",
    "kserve",
    "kserve-pvc",
    "kserve-hpa",
    "kserve-keda-auth",
    "kserve-sites",
}
"""Variants that render no custom resource but KServe's own, which `test_kserve_schemas` validates."""


def is_custom(item: Manifest) -> bool:
    return group_of(item) in CUSTOM


@pytest.mark.parametrize("name", ["defaults", *EXAMPLES])
def test_lint(helm: Helm, name: str) -> None:
    options = [] if name == "defaults" else ["--values", str(CHART / name)]
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART), *options)


@variants
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_schemas(helm: Helm, name: str, version: str) -> None:
    built_in = [item for item in objects(helm, name) if not is_custom(item)]
    assert built_in
    for item in built_in:
        kubernetes_validator(version, item["kind"], item["apiVersion"]).validate(item)


def test_kubernetes_schemas_refuse_what_is_wrong(helm: Helm) -> None:
    """The judge can say no: an unknown key deep inside, and a wrong type."""
    for wrong in ({"shm": {}}, {"containers": [{"name": "a", "image": 3}]}):
        deployment = yaml.safe_load(yaml.safe_dump(helm.one("Deployment")))
        deployment["spec"]["template"]["spec"].update(wrong)
        assert not kubernetes_validator("1.34", "Deployment", "apps/v1").is_valid(deployment)


@variants
def test_schemas_of_custom_resources(helm: Helm, schemas: Path, name: str) -> None:
    custom = [item for item in objects(helm, name) if is_custom(item) and group_of(item) != "serving.kserve.io"]
    assert bool(custom) == (name not in PLAIN), "with nothing to validate this test says nothing: see PLAIN"
    for item in custom:
        group, _, version = item["apiVersion"].rpartition("/")
        custom_validator(schemas / group / f"{item['kind']}_{version}.json").validate(item)


def kserve_objects(helm: Helm, name: str) -> list[Manifest]:
    found = [item for item in objects(helm, name) if group_of(item) == "serving.kserve.io"]
    return sorted(found, key=lambda item: item["kind"], reverse=True)


IN_KSERVE = [
    name
    for name, (files, values) in VARIANTS.items()
    if values.get("mode") == "kserve" or any("kserve" in f or "h100" in f for f in files)
]


@pytest.mark.parametrize("name", IN_KSERVE)
def test_kserve_schemas(helm: Helm, schemas: Path, name: str) -> None:
    """Valid for the version the values name and, because upgrades happen, for every later one there is a schema of."""
    found = kserve_objects(helm, name)
    assert [item["kind"] for item in found] == ["ServingRuntime", "InferenceService"]
    mode = found[1]["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
    for version, tag in KSERVE_SCHEMA.items():
        if mode == "Standard" and version == "0.15":
            continue
        for item in found:
            short = item["apiVersion"].rpartition("/")[2]
            custom_validator(schemas / "serving.kserve.io" / f"{item['kind']}_{short}_{tag}.json").validate(item)


def test_the_fields_of_kserve_0_16_are_not_valid_in_0_15(helm: Helm, schemas: Path) -> None:
    """Why the version is a value; and the closed schema refuses unknown keys."""
    item = helm.one("InferenceService", mode="kserve", autoscaling__enabled=True)
    path = schemas / "serving.kserve.io" / "InferenceService_v1beta1_v0.15.2.json"
    errors = [error.message for error in custom_validator(path).iter_errors(item)]
    assert any("'behavior' was unexpected" in text for text in errors)


def need_kserve() -> None:
    """Skip where the package is missing, without importing it into this process (see `check_typed_apart`)."""
    if find_spec("kserve") is None:
        pytest.skip("pip install 'cytoserve[deploy]'")


@pytest.mark.parametrize("name", IN_KSERVE)
def test_kserve_typed_models(helm: Helm, name: str) -> None:
    need_kserve()
    runtime, service = kserve_objects(helm, name)
    check_typed_apart(runtime, "V1alpha1ServingRuntime")
    check_typed_apart(service, "V1beta1InferenceService")


def test_typed_models_refuse_what_is_wrong() -> None:
    need_kserve()
    with pytest.raises(AssertionError, match="initContainers"):
        check_typed_apart({"spec": {"supportedModelFormats": [], "initContainers": []}}, "V1alpha1ServingRuntime")


@variants
def test_pod_security_restricted(helm: Helm, name: str) -> None:
    manifests = objects(helm, name)
    tester = next(item for item in manifests if item["kind"] == "Pod")
    for pod in (pod_of(manifests), tester["spec"]):
        assert restricted_violations(pod) == []
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsUser"] == 1000
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_pod_security_rules_find_violations() -> None:
    bad: Any = {
        "hostPID": True,
        "containers": [{"name": "a", "securityContext": {"privileged": True}}],
        "volumes": [{"name": "h", "hostPath": {"path": "/"}}],
    }
    text = "; ".join(restricted_violations(bad))
    for word in ("hostPID", "hostPath", "privileged", "escalate", "capabilities", "root", "seccomp"):
        assert word in text


@variants
def test_objects_are_labelled_and_in_the_namespace(helm: Helm, name: str) -> None:
    seen = set()
    for item in objects(helm, name):
        meta = item["metadata"]
        assert meta["namespace"] == "blood"
        assert meta["labels"]["app.kubernetes.io/instance"] == RELEASE
        assert (item["kind"], meta["name"]) not in seen
        seen.add((item["kind"], meta["name"]))


@variants
def test_every_mount_has_a_volume_and_the_reverse(helm: Helm, name: str) -> None:
    pod = pod_of(objects(helm, name))
    mounted = {
        mount["name"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]
        for mount in container["volumeMounts"]
    }
    assert mounted == {volume["name"] for volume in pod["volumes"]}
