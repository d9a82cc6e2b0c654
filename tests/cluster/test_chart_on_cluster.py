"""The chart on a real API server: installed, upgraded, taken back, scaled, removed, in a restricted namespace."""

from __future__ import annotations

from typing import Any

import pytest
from chart import RELEASE, VARIANTS, Manifest, Refused
from namespace import Namespace, until

NAME = f"{RELEASE}-cytoserve"
NOWHERE: dict[str, Any] = {"image__repository": "registry.invalid/none", "gpu__enabled": False}
KSERVE: dict[str, Any] = {"mode": "kserve", "kserve__version": "0.20"}


def deployment_of(namespace: Namespace) -> Manifest | None:
    return namespace.get("deployment", NAME) or namespace.get("deployment", f"{NAME}-predictor")


def drain_of(namespace: Namespace) -> int | None:
    """Return the preStop sleep that the pods are made with: a value that an upgrade changes in both modes."""
    found = deployment_of(namespace)
    containers = found["spec"]["template"]["spec"]["containers"] if found else []
    return next((item["lifecycle"]["preStop"]["sleep"]["seconds"] for item in containers if "lifecycle" in item), None)


def refusals(namespace: Namespace) -> list[str]:
    events = namespace.objects("events", "--field-selector", "reason=FailedCreate")
    return [item["message"] for item in events]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_installed_upgraded_taken_back_and_removed(namespace: Namespace, name: str) -> None:
    files, values = VARIANTS[name]
    manifests = namespace.helm_binary.render(*files, **values)
    namespace.need(manifests)
    namespace.install(*files, **values)
    until(lambda: drain_of(namespace) == 30)
    namespace.install(*files, verb="upgrade", **{**values, "triton__drainSeconds": 31})
    until(lambda: drain_of(namespace) == 31)
    namespace.helm("rollback", RELEASE)
    until(lambda: drain_of(namespace) == 30)
    until(lambda: namespace.objects("pods") or refusals(namespace))
    assert refusals(namespace) == []
    namespace.helm("uninstall", RELEASE, "--wait")
    kinds = sorted({item["kind"].lower() for item in manifests} - {"pod"})
    until(lambda: not namespace.objects(",".join(kinds), "--selector", f"app.kubernetes.io/instance={RELEASE}"))


@pytest.mark.parametrize("values", [{}, KSERVE], ids=["deployment", "kserve"])
def test_nothing_is_called_ready_without_a_pod(namespace: Namespace, values: dict[str, Any]) -> None:
    namespace.need(namespace.helm_binary.render(**NOWHERE, **values))
    namespace.install(**NOWHERE, **values)

    def available() -> str | None:
        found = deployment_of(namespace) or {}
        conditions = found.get("status", {}).get("conditions", [])
        return next((item["status"] for item in conditions if item["type"] == "Available"), None)

    assert until(available) == "False"
    service = namespace.get("inferenceservice", NAME) if values else None
    for item in (service or {}).get("status", {}).get("conditions", []):
        assert (item["type"], item["status"]) != ("Ready", "True")


def test_scaling_by_hand_is_a_conflict_until_it_is_forced(namespace: Namespace) -> None:
    namespace.install(**NOWHERE)
    namespace.kubectl("scale", f"deployment/{NAME}", "--replicas=3")
    with pytest.raises(Refused, match="conflict"):
        namespace.install(verb="upgrade", replicas=2, **NOWHERE)
    namespace.install(verb="upgrade", flags=("--force-conflicts",), replicas=2, **NOWHERE)
    found = namespace.get("deployment", NAME)
    assert found is not None
    assert found["spec"]["replicas"] == 2


def test_the_service_without_a_cluster_ip_stays_beside_the_other(namespace: Namespace) -> None:
    namespace.install(**NOWHERE)
    addresses = {item["metadata"]["name"]: item["spec"]["clusterIP"] for item in namespace.objects("services")}
    assert addresses.pop(f"{NAME}-headless") == "None"
    assert set(addresses) == {NAME}
    assert addresses[NAME] != "None"


def test_the_server_runs_and_answers(namespace: Namespace, image: dict[str, Any]) -> None:
    """The one path from the image to an answer: startup probe, helm's test pod, Pod Security and NetworkPolicy."""
    namespace.install("values-cpu.yaml", **image)
    namespace.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=10m")
    assert "Succeeded" in namespace.helm("test", RELEASE, "--timeout", "5m")
