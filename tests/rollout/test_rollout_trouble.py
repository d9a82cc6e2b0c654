"""What the cluster refuses, and why a version is not ready: each with its own error and a sentence that helps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cytoserve_deploy import errors
from cytoserve_deploy.rollout.cluster import Cluster
from cytoserve_deploy.rollout.waiting import wait
from fake_api import FakeApi, Served, come_up, withdraw
from installed import LINE
from typer.testing import Result

Deploy = Callable[..., Result]
NEW = ("--version", "v2", "--model-uri", "pvc://models/0.2.0")
POD = f"{LINE}-v2-predictor-7d-x"


@pytest.mark.usefixtures("standard")
@pytest.mark.parametrize(
    ("verb", "plural"), [("create", "inferenceservices"), ("list", "inferenceservices"), ("create", "services")]
)
def test_a_missing_permission_is_named(deploy: Deploy, api: FakeApi, verb: str, plural: str) -> None:
    api.forbidden.add((verb, plural))
    result = deploy("apply", *NEW)
    assert result.exit_code == 7
    assert "PermissionDenied" in result.output
    assert f"verbs: ['{verb}']" in result.output.replace("\n", " ")


@pytest.mark.usefixtures("standard")
@pytest.mark.parametrize(
    ("verb", "plural", "command"),
    [
        ("update", "services", ("promote", "--version", "v2", "--skip-checks", "--reason", "rehearsal")),
        ("delete", "services", ("delete", "--all", "--yes")),
        ("get", "services", ("status",)),
        ("list", "pods", ("wait", "--version", "v2", "--timeout", "1")),
    ],
)
def test_later_steps_name_their_permission_too(
    deploy: Deploy, api: FakeApi, verb: str, plural: str, command: tuple[str, ...]
) -> None:
    api.becomes_ready = plural != "pods"
    assert deploy("apply", *NEW).exit_code == 0
    api.forbidden.add((verb, plural))
    result = deploy(*command)
    assert result.exit_code == 7
    assert f"verbs: ['{verb}']" in result.output


@pytest.mark.usefixtures("standard")
def test_without_kserve_the_user_hears_what_to_install(deploy: Deploy, api: FakeApi) -> None:
    api.installed = False
    result = deploy("apply", *NEW)
    assert result.exit_code == 1
    assert "KServeMissing" in result.output


def test_without_the_inference_service_the_chart_is_named(deploy: Deploy) -> None:
    result = deploy("status")
    assert result.exit_code == 1
    assert "NotDeployed" in result.output
    assert "mode=kserve" in result.output


@pytest.mark.usefixtures("standard")
def test_refused_credentials(deploy: Deploy, api: FakeApi) -> None:
    api.token = "another"
    assert deploy("status").exit_code == 7


@pytest.mark.usefixtures("standard")
def test_the_module_runs_as_a_program(kubeconfig: str) -> None:
    command = [sys.executable, "-m", "cytoserve_cli.main", "deploy", "status", LINE, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "KUBECONFIG": kubeconfig}, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["versions"][0]["role"] == "live"


def test_an_api_server_that_is_away(deploy: Deploy, served: Served) -> None:
    served._server.server_close()
    served._server.shutdown()
    result = deploy("status")
    assert result.exit_code == 5
    assert "ClusterUnreachable" in result.output


def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.ClusterUnreachable, match="kubeconfig"):
        Cluster(kubeconfig=str(tmp_path / "none"))


@pytest.mark.parametrize("mode", ["ModelMesh", "Knative", "Serverless"])
def test_a_deployment_mode_without_plain_deployments_is_refused(
    deploy: Deploy, install: Callable[[str], None], api: FakeApi, mode: str
) -> None:
    install(mode)
    result = deploy("apply", *NEW)
    assert result.exit_code == 1
    assert "ModeUnknown" in result.output
    assert api.writes == []


def pod(**status: Any) -> dict[str, Any]:
    labels = {"serving.kserve.io/inferenceservice": f"{LINE}-v2"}
    metadata = {"name": POD, "labels": labels}
    spec = {"containers": [{"name": "kserve-container"}]}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Pending", **status}}


def container(name: str = "kserve-container", restarts: int = 0, **state: Any) -> dict[str, Any]:
    return {"name": name, "image": "r.example/server:2", "imageID": "", "ready": False, "restartCount": restarts,
            "state": state, "lastState": {"terminated": {"exitCode": 78, "reason": "Error"}}}  # fmt: skip


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def unscheduled(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(conditions=[condition])


CAUSES = {
    "gpu": (unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), errors.NoGpu, "Insufficient"),
    "mig": (unscheduled("0/1 nodes: 1 Insufficient nvidia.com/mig-1g.10gb."), errors.NoGpu, "delete an old version"),
    "taint": (unscheduled("0/3 nodes: 3 node(s) had untolerated taint"), errors.Unschedulable, "untolerated taint"),
    "pull": (pod(containerStatuses=[container(**waiting("ImagePullBackOff", "denied"))]), errors.ImagePullFailed,
             "r.example/server:2"),
    "crash": (pod(containerStatuses=[container(restarts=1, **waiting("CrashLoopBackOff"))]), errors.CrashLoop,
              "logs " + POD),
    "download": (pod(initContainerStatuses=[container("storage-initializer", 1, **waiting("CrashLoopBackOff"))]),
                 errors.ModelNotLoaded, "storage-initializer"),
    "starting": (pod(containerStatuses=[container(running={"startedAt": "2026-01-01T00:00:00Z"})]),
                 errors.NotReadyInTime, POD),
}  # fmt: skip


@pytest.fixture
def unready(standard: None, api: FakeApi, deploy: Deploy) -> FakeApi:
    """Return a cluster whose candidate v2 does not come up."""
    api.becomes_ready = False
    assert deploy("apply", *NEW).exit_code == 0
    return api


@pytest.mark.parametrize("case", CAUSES)
def test_waiting_tells_the_cause_and_ends_with_its_error(unready: FakeApi, cluster: Cluster, case: str) -> None:
    stuck, kind, words = CAUSES[case]
    unready.put("pods", stuck)
    told: list[str] = []
    with pytest.raises(errors.NotReadyInTime) as caught:
        wait(cluster, LINE, "v2", 0.15, told.append, poll_s=0.05)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert len(told) == 1


@pytest.mark.parametrize(
    "status", [container(restarts=3, **waiting("CrashLoopBackOff")), container(**waiting("InvalidImageName"))]
)
def test_what_cannot_get_better_is_not_waited_for(unready: FakeApi, cluster: Cluster, status: dict[str, Any]) -> None:
    unready.put("pods", pod(containerStatuses=[status]))
    with pytest.raises((errors.CrashLoop, errors.ImagePullFailed)):
        wait(cluster, LINE, "v2", 3600, lambda _: None, poll_s=3600)


def event(kind: str, name: str, reason: str, message: str, at: str = "2026-01-01T10:00:00Z") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{name}.{reason}"}, "type": "Warning",
            "reason": reason, "involvedObject": {"kind": kind, "name": name}, "message": message,
            "lastTimestamp": at}  # fmt: skip


def test_pods_that_the_cluster_refuses_to_create(unready: FakeApi, cluster: Cluster) -> None:
    unready.quota = "exceeded quota: gpus"
    come_up(unready, f"{LINE}-v2")
    with pytest.raises(errors.PodsRefused, match="exceeded quota"):
        wait(cluster, LINE, "v2", 0.1, lambda _: None, poll_s=0.05)


def test_a_pods_events_are_told(unready: FakeApi, cluster: Cluster) -> None:
    unready.put("pods", pod())
    unready.put("events", event("Pod", POD, "FailedMount", 'secret "cytoserve-tls" not found'))
    told: list[str] = []
    with pytest.raises(errors.NotReadyInTime):
        wait(cluster, LINE, "v2", 0.1, told.append, poll_s=0.05)
    assert 'FailedMount: secret "cytoserve-tls" not found' in told[0]


def test_an_event_from_before_the_pods_last_progress_is_not_repeated(unready: FakeApi, cluster: Cluster) -> None:
    """The pod found a node at last; what the scheduler said before does not hold any more."""
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T10:05:00Z"}
    unready.put("pods", pod(conditions=[scheduled]))
    unready.put("events", event("Pod", POD, "FailedScheduling", "3 Insufficient nvidia.com/gpu"))
    told: list[str] = []
    with pytest.raises(errors.NotReadyInTime) as caught:
        wait(cluster, LINE, "v2", 0.1, told.append, poll_s=0.05)
    assert "FailedScheduling" not in str(caught.value) + told[0]
    unready.put("events", event("Pod", POD, "FailedMount", "no such secret", at="2026-01-01T10:06:00Z"))
    with pytest.raises(errors.NotReadyInTime, match="FailedMount: no such secret"):
        wait(cluster, LINE, "v2", 0.1, told.append, poll_s=0.05)


def test_a_refusal_from_before_the_version_was_applied_is_not_repeated(unready: FakeApi, cluster: Cluster) -> None:
    withdraw(unready, f"{LINE}-v2")
    unready.read("inferenceservices", f"{LINE}-v2")["metadata"]["creationTimestamp"] = "2026-01-02T10:00:00Z"
    unready.put("events", event("ReplicaSet", f"{LINE}-v2-predictor-5c", "FailedCreate", "exceeded quota: gpus"))
    with pytest.raises(errors.NotReadyInTime) as caught:
        wait(cluster, LINE, "v2", 0.1, lambda _: None, poll_s=0.05)
    assert type(caught.value) is errors.NotReadyInTime


def test_a_model_that_kserve_cannot_load(unready: FakeApi, cluster: Cluster) -> None:
    held = unready.read("inferenceservices", f"{LINE}-v2")
    failure = {"reason": "ModelLoadFailed", "message": "no such bucket"}
    held["status"]["modelStatus"] = {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": failure}
    with pytest.raises(errors.ModelNotLoaded, match="no such bucket"):
        wait(cluster, LINE, "v2", 3600, lambda _: None, poll_s=3600)


def test_waiting_ends_when_it_becomes_ready(unready: FakeApi, deploy: Deploy) -> None:
    import threading

    threading.Timer(0.3, lambda: come_up(unready, f"{LINE}-v2")).start()
    result = deploy("wait", "--version", "v2", "--timeout", "60", "--poll", "0.05")
    assert result.exit_code == 0
    assert "is ready" in result.output
