"""The chart's own objects on the fake cluster: what Ready means there, and what reaches the pods."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from chart import EXAMPLES, VARIANTS, Helm, Manifest
from cytoserve_deploy import errors
from cytoserve_deploy.rollout.cluster import Cluster
from cytoserve_deploy.rollout.names import UNNAMED
from cytoserve_deploy.rollout.state import read_line
from cytoserve_deploy.rollout.waiting import wait
from fake_api import KINDS, FakeApi, Refusal, come_up, reconcile
from installed import LINE
from typer.testing import Result

Deploy = Callable[..., Result]
SKIP = ("--skip-checks", "--reason", "rehearsal")
MAY_BE_MISSING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
KSERVE = {"v0.15.2": "0.15", "v0.16.0": "0.16", "v0.20.0": "0.20"}
every_kserve = pytest.mark.parametrize("api", KSERVE, indirect=True)


def helm_apply(api: FakeApi, manifests: list[Manifest]) -> None:
    """Write the objects in Helm's order, which is alphabetical for kinds that it does not know."""
    for item in sorted(manifests, key=lambda item: item["kind"]):
        if item["kind"] in KINDS.values():
            api.apply(item)


def settle(api: FakeApi) -> None:
    """Let the time pass in which Deployments report progress."""
    api.rolling.clear()


def is_ready(api: FakeApi) -> bool:
    conditions = api.read("inferenceservices", LINE)["status"]["conditions"]
    return next(item["status"] for item in conditions if item["type"] == "Ready") == "True"


def has_ready_pod(api: FakeApi) -> bool:
    pod = api.read("pods", f"{LINE}-predictor-7d-x")
    return bool(pod["status"]["conditions"] == [{"type": "Ready", "status": "True"}])


def kserve(api: FakeApi, **values: Any) -> dict[str, Any]:
    return {"mode": "kserve", "kserve__version": KSERVE[api.kserve], **values}


@every_kserve
@pytest.mark.parametrize("uri", ["", "pvc://models/0.1.0", "s3://models/0.1.0"])
def test_the_documented_install_becomes_ready(api: FakeApi, helm: Helm, uri: str) -> None:
    """Without a storage URI KServe's agent takes the readiness probe over."""
    helm_apply(api, helm.render(**kserve(api, model__uri=uri)))
    assert is_ready(api)
    assert has_ready_pod(api)


@pytest.mark.parametrize(
    "values",
    [{}, {"rollout__strategy": "spare"}, {"replicas": 2}, {"autoscaling__enabled": True}],
    ids=["one", "spare", "two", "scaled"],
)
def test_ready_is_not_said_without_a_pod(api: FakeApi, helm: Helm, values: dict[str, Any]) -> None:
    """`kubectl wait --for=condition=Ready` of docs/deploy.md reads nothing else."""
    api.becomes_ready = False
    helm_apply(api, helm.render(**kserve(api, **values)))
    assert not is_ready(api)
    come_up(api, LINE)
    assert is_ready(api)


@every_kserve
def test_an_upgrade_and_a_rollback_reach_the_pods(api: FakeApi, helm: Helm) -> None:
    """KServe 0.15 does not watch ServingRuntimes, where the image stands."""
    for tag in ("1.0.0", "2.0.0", "1.0.0"):
        helm_apply(api, helm.render(**kserve(api, image__tag=tag)))
        settle(api)
        running = api.read("pods", f"{LINE}-predictor-7d-x")["spec"]["containers"][0]["image"]
        assert running.endswith(f":{tag}")


def examples_under_kserve() -> list[str]:
    return [name for name in EXAMPLES if "kserve" in name or "h100" in name]


@pytest.mark.parametrize("name", examples_under_kserve())
def test_examples_run_in_a_restricted_namespace(api: FakeApi, helm: Helm, name: str) -> None:
    api.kserve, api.pod_security = ("v0.15.2" if "0.15" in name else "v0.20.0"), "restricted"
    helm_apply(api, helm.render(name))
    assert is_ready(api)
    assert has_ready_pod(api)


def test_model_images_are_refused_in_a_restricted_namespace_and_the_notes_say_so(
    api: FakeApi, helm: Helm, cluster: Cluster
) -> None:
    api.pod_security = "restricted"
    values = kserve(api, model__uri="oci://r.example/m:1")
    helm_apply(api, helm.render(**values))
    with pytest.raises(errors.PodsRefused, match="modelcar may escalate"):
        wait(cluster, LINE, UNNAMED, 0.1, lambda _: None, poll_s=0.05)
    assert "no security context" in helm.notes(**values)
    assert "no security context" not in helm.notes(**kserve(api, model__uri="pvc://models/0.1.0"))


def test_no_value_changes_what_a_service_may_not_change(api: FakeApi, helm: Helm) -> None:
    """An upgrade from any variant to any other: a clusterIP is fixed when the Service is made."""
    for _ in range(2):
        for files, values in VARIANTS.values():
            for item in helm.render(*files, **values):
                if item["kind"] == "Service":
                    api.apply(item)
    headless = copy.deepcopy(api.read("services", LINE))
    headless["spec"]["clusterIP"] = "None"
    with pytest.raises(Refusal, match="may not change once set"):
        api.apply(headless)


@pytest.fixture
def unprotected(standard: None, api: FakeApi, deploy: Deploy) -> FakeApi:
    """Return a cluster whose InferenceServices may miss their one pod, as made by charts before this rule."""
    live = api.read("inferenceservices", LINE)
    live["spec"]["predictor"]["deploymentStrategy"] = MAY_BE_MISSING
    reconcile(api, live)
    assert deploy("apply", "--version", "v2", "--model-uri", "pvc://models/0.2.0").exit_code == 0
    return api


def go_down(api: FakeApi, name: str) -> None:
    api.becomes_ready = False
    service = api.read("inferenceservices", name)
    reconcile(api, service)
    assert service["status"]["conditions"][-1] == {"type": "Ready", "status": "True"}, "by KServe's word it is up"


def test_what_kserve_calls_ready_without_a_pod_is_not(unprotected: FakeApi, deploy: Deploy, cluster: Cluster) -> None:
    go_down(unprotected, f"{LINE}-v2")
    assert "no ready pod" in read_line(cluster, LINE).lacks(f"{LINE}-v2")
    assert deploy("wait", "--version", "v2", "--timeout", "0.1", "--poll", "0.05").exit_code == 6
    result = deploy("promote", "--version", "v2", *SKIP)
    assert result.exit_code == 1
    assert "no ready pod" in result.output.replace("\n", " ")
    assert unprotected.read("services", f"{LINE}-live")["spec"]["selector"]["app"] == f"isvc.{LINE}-predictor"


def test_rollback_wants_a_pod_too(unprotected: FakeApi, deploy: Deploy) -> None:
    assert deploy("promote", "--version", "v2", *SKIP).exit_code == 0
    go_down(unprotected, LINE)
    result = deploy("rollback")
    assert result.exit_code == 1
    assert "no ready pod" in result.output.replace("\n", " ")


def test_a_ready_pod_without_a_ready_endpoint_does_not_take_traffic(
    unprotected: FakeApi, deploy: Deploy, cluster: Cluster
) -> None:
    endpoints = unprotected.read("endpointslices", f"{LINE}-v2-predictor-e")
    endpoints["endpoints"][0]["conditions"]["ready"] = False
    assert "no ready endpoint" in read_line(cluster, LINE).lacks(f"{LINE}-v2")
    assert deploy("promote", "--version", "v2", *SKIP).exit_code == 1
