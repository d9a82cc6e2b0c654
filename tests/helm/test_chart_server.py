"""What the chart promises of the server's container and of KServe's objects, one test a promise."""

from __future__ import annotations

from typing import Any

import pytest
from chart import EXAMPLES, MODES, VARIANTS, Helm, container, env, pod_of
from cytoserve_contract import telemetry
from cytoserve_deploy.container import entrypoint


def test_both_modes_run_the_same_container(helm: Helm) -> None:
    one, other = container(helm), container(helm, mode="kserve")
    assert one.pop("name") == "server"
    assert other.pop("name") == "kserve-container"
    assert one == other


@pytest.mark.parametrize("name", VARIANTS)
def test_the_entrypoint_understands_every_command(helm: Helm, name: str) -> None:
    """What the chart writes is parsed by the program that the image runs."""
    files, values = VARIANTS[name]
    manifests = helm.render(*files, **values)
    pod = pod_of(manifests)
    tester = next(item for item in manifests if item["kind"] == "Pod")["spec"]["containers"][0]
    server = pod["containers"][0]
    probes = [server[kind]["exec"] for kind in ("startupProbe", "livenessProbe") if "exec" in server[kind]]
    lines = [server["command"] + server["args"], tester["command"], *(probe["command"] for probe in probes)]
    lines += [item["command"] + item["args"] for item in pod.get("initContainers", []) if "command" in item]
    for line in lines:
        assert line[:3] == ["python3", "-m", "cytoserve_deploy.container.entrypoint"]
        entrypoint.parser().parse_args(line[3:])
    given = entrypoint.parser().parse_args(server["args"])
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {"http": given.http_port, "grpc": given.grpc_port, "metrics": given.metrics_port}


def test_further_arguments_reach_triton(helm: Helm) -> None:
    args = container(helm, triton__extraArgs=["--cuda-memory-pool-byte-size=0:1"])["args"]
    given = entrypoint.parser().parse_args(args)
    assert given.extra == ["--cuda-memory-pool-byte-size=0:1"]


@pytest.mark.parametrize("name", VARIANTS)
def test_no_container_of_the_chart_sends_telemetry(helm: Helm, name: str) -> None:
    files, values = VARIANTS[name]
    manifests = helm.render(*files, **values)
    pod = pod_of(manifests)
    tester = next(item for item in manifests if item["kind"] == "Pod")["spec"]
    for item in [*pod["containers"], *pod.get("initContainers", []), *tester["containers"]]:
        assert telemetry.VARIABLES.items() <= env(item).items(), item["name"]


@MODES
def test_a_variable_of_the_operator_stands_once_and_rules(helm: Helm, mode: str) -> None:
    own = [{"name": "ORT_DISABLE_TELEMETRY", "value": "0"}]
    names = [(entry["name"], entry.get("value")) for entry in container(helm, mode=mode, extraEnv=own)["env"]]
    assert [value for name, value in names if name == "ORT_DISABLE_TELEMETRY"] == ["0"]
    assert ("HF_HUB_OFFLINE", "1") in names


@MODES
def test_startup_probe_is_a_real_inference_with_time_for_engines(helm: Helm, mode: str) -> None:
    probe = container(helm, mode=mode, probes__startup__windowSeconds=1201)["startupProbe"]
    assert "--model=cell_analysis" in probe["exec"]["command"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1201


@MODES
def test_readiness_by_http_and_liveness_over_grpc(helm: Helm, mode: str) -> None:
    server = container(helm, mode=mode)
    assert server["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8000}
    command = server["livenessProbe"]["exec"]["command"]
    assert "--model=service_info" in command
    deadline = next(int(part.split("=")[1]) for part in command if part.startswith("--deadline="))
    assert deadline < server["livenessProbe"]["timeoutSeconds"]
    other = container(helm, mode=mode, probes__liveness__kind="http")["livenessProbe"]
    assert other["httpGet"] == {"path": "/v2/health/live", "port": 8000}
    assert {"name": "http", "containerPort": 8000, "protocol": "TCP"} in server["ports"]


@MODES
@pytest.mark.parametrize(("drain", "timeout"), [(30, 60), (300, 10), (5, 900)])
def test_grace_is_longer_than_draining_and_tritons_own_timeout(helm: Helm, mode: str, drain: int, timeout: int) -> None:
    pod = pod_of(helm.render(mode=mode, triton__drainSeconds=drain, triton__exitTimeoutSeconds=timeout))
    server = pod["containers"][0]
    assert server["lifecycle"]["preStop"]["sleep"]["seconds"] == drain
    assert f"--exit-timeout={timeout}" in server["args"]
    assert pod["terminationGracePeriodSeconds"] > drain + timeout


@MODES
def test_shared_memory_is_a_sized_memory_volume(helm: Helm, mode: str) -> None:
    pod = pod_of(helm.render(mode=mode, shm__sizeLimit="2Gi"))
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in pod["volumes"]
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm")
    assert not mount.get("readOnly")


@MODES
def test_gpu_resource_is_a_value(helm: Helm, mode: str) -> None:
    values = {"mode": mode, "gpu__resourceName": "nvidia.com/mig-2g.20gb", "gpu__count": 2}
    pod = pod_of(helm.render(**values))
    for part in ("requests", "limits"):
        assert pod["containers"][0]["resources"][part]["nvidia.com/mig-2g.20gb"] == "2"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    bare = pod_of(helm.render(mode=mode, gpu__enabled=False))
    assert "nvidia" not in str(bare)


def node_labels(resource: str, product: str) -> dict[str, str]:
    """Return the labels that NVIDIA's GPU feature discovery gives a node which offers `resource`.

    A resource of its own per kind of slice is the MIG strategy "mixed": each kind has a label of its own, and
    `nvidia.com/gpu.product` names the whole card. Under "single" the slices are `nvidia.com/gpu`.
    """
    kind = resource.removeprefix("nvidia.com/")
    whole, _, slice_name = product.partition("-MIG-")
    if not kind.startswith("mig-"):
        return {"nvidia.com/gpu.product": product}
    assert kind == f"mig-{slice_name}"
    return {"nvidia.com/gpu.product": whole, f"nvidia.com/{kind}.product": product}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_node_that_offers_the_examples_gpu_carries_the_labels_it_asks_for(helm: Helm, name: str) -> None:
    pod = pod_of(helm.render(name))
    wanted = pod.get("nodeSelector", {})
    limits = pod["containers"][0]["resources"]["limits"]
    for resource in (each for each in limits if each.startswith("nvidia.com/")):
        product = next((value for key, value in wanted.items() if key.endswith(".product")), "")
        if product:
            assert wanted.items() <= node_labels(resource, product).items()


def test_kserve_gets_resources_it_cannot_default(helm: Helm) -> None:
    manifests = helm.render(mode="kserve")
    service = next(item for item in manifests if item["kind"] == "InferenceService")
    assert service["spec"]["predictor"]["model"]["resources"] == pod_of(manifests)["containers"][0]["resources"]


def test_kserve_uses_its_own_runtime_and_the_right_mode_name(helm: Helm) -> None:
    for version, name in {"0.15": "RawDeployment", "0.16": "Standard", "0.20": "Standard"}.items():
        service = helm.one("InferenceService", mode="kserve", kserve__version=version)
        runtime = helm.one("ServingRuntime", mode="kserve", kserve__version=version)
        assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == name
        assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
        assert runtime["metadata"]["name"] != "kserve-tritonserver"


def test_kserve_does_not_scale_by_cpu_unasked(helm: Helm) -> None:
    service = helm.one("InferenceService", mode="kserve", replicas=3)
    assert service["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "none"
    assert service["spec"]["predictor"]["minReplicas"] == service["spec"]["predictor"]["maxReplicas"] == 3


def test_kserve_is_told_of_a_changed_runtime(helm: Helm) -> None:
    """Every change of the ServingRuntime changes the InferenceService, which all versions of KServe watch."""

    def checksum(**values: Any) -> str:
        return str(helm.one("InferenceService", mode="kserve", **values)["metadata"]["annotations"]["checksum/runtime"])

    told = [checksum(), checksum(image__tag="0.9.9"), checksum(extraEnv=[{"name": "A", "value": "b"}])]
    told += [checksum(shm__sizeLimit="2Gi"), checksum(triton__logVerbose=1)]
    assert len(set(told)) == len(told)
    assert checksum(podAnnotations={"a": "b"}) == told[0], "not a part of the runtime"


def test_kserve_port_order(helm: Helm) -> None:
    """The first port becomes the Service's 80, the first one not named grpc is taken as REST: metrics comes last."""
    names = [port["name"] for port in container(helm, mode="kserve")["ports"]]
    assert names == ["http", "grpc", "metrics"]


def test_kserve_is_local_to_the_cluster_unless_opened(helm: Helm) -> None:
    label = "networking.kserve.io/visibility"
    assert helm.one("InferenceService", mode="kserve")["metadata"]["labels"][label] == "cluster-local"
    opened = helm.one("InferenceService", mode="kserve", kserve__clusterLocal=False)
    assert label not in opened["metadata"]["labels"]
