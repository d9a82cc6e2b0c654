"""What the chart promises, one test a promise."""

from __future__ import annotations

import re
from typing import Any

import pytest
from chart import CHART, EXAMPLES, RELEASE, SERVER, VARIANTS, Helm, Manifest, pod_of
from cytoserve_deploy import entrypoint

MODES = pytest.mark.parametrize("mode", ["deployment", "kserve"])


def container(helm: Helm, *files: str, **values: Any) -> Manifest:
    return pod_of(helm.render(*files, **values))["containers"][0]


def env(item: Manifest) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in item["env"]}


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
        assert line[:3] == ["python3", "-m", "cytoserve_deploy.entrypoint"]
        entrypoint.parser().parse_args(line[3:])
    given = entrypoint.parser().parse_args(server["args"])
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {"http": given.http_port, "grpc": given.grpc_port, "metrics": given.metrics_port}


def test_further_arguments_reach_triton(helm: Helm) -> None:
    args = container(helm, triton__extraArgs=["--cuda-memory-pool-byte-size=0:1"])["args"]
    given = entrypoint.parser().parse_args(args)
    assert given.extra == ["--cuda-memory-pool-byte-size=0:1"]


@MODES
def test_startup_probe_is_a_real_inference_with_time_for_engines(helm: Helm, mode: str) -> None:
    probe = container(helm, mode=mode, probes__startup__windowSeconds=1201)["startupProbe"]
    assert "--model=cell_analysis" in probe["exec"]["command"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1201


@MODES
def test_readiness_by_http_and_liveness_over_grpc(helm: Helm, mode: str) -> None:
    server = container(helm, mode=mode)
    assert server["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    command = server["livenessProbe"]["exec"]["command"]
    assert "--model=service_info" in command
    deadline = next(int(part.split("=")[1]) for part in command if part.startswith("--deadline="))
    assert deadline < server["livenessProbe"]["timeoutSeconds"]
    other = container(helm, mode=mode, probes__liveness__kind="http")["livenessProbe"]
    assert other["httpGet"]["path"] == "/v2/health/live"


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


def test_kserve_port_order(helm: Helm) -> None:
    """The first port becomes the Service's 80, the first one not named grpc is taken as REST: metrics comes last."""
    names = [port["name"] for port in container(helm, mode="kserve")["ports"]]
    assert names == ["http", "grpc", "metrics"]


def test_kserve_is_local_to_the_cluster_unless_opened(helm: Helm) -> None:
    label = "networking.kserve.io/visibility"
    assert helm.one("InferenceService", mode="kserve")["metadata"]["labels"][label] == "cluster-local"
    opened = helm.one("InferenceService", mode="kserve", kserve__clusterLocal=False)
    assert label not in opened["metadata"]["labels"]


@pytest.mark.parametrize(
    ("mode", "uri", "path"),
    [
        ("deployment", "", "/models"),
        ("deployment", "pvc://c/p", "/models"),
        ("deployment", "s3://b/p", "/models"),
        ("deployment", "oci://r.example/m:1", "/models"),
        ("kserve", "", "/models"),
        ("kserve", "pvc://c/p", "/mnt/models"),
        ("kserve", "s3://b/p", "/mnt/models"),
        ("kserve", "oci://r.example/m:1", "/mnt/models"),
    ],
)
def test_model_stores(helm: Helm, mode: str, uri: str, path: str) -> None:
    manifests = helm.render(mode=mode, model__uri=uri)
    pod = pod_of(manifests)
    server = pod["containers"][0]
    assert f"--model-repository={path}" in server["args"]
    mounted = [mount for mount in server["volumeMounts"] if mount["mountPath"] == path]
    if mode == "kserve":
        # KServe mounts it
        assert mounted == []
        service = next(item for item in manifests if item["kind"] == "InferenceService")
        assert service["spec"]["predictor"]["model"].get("storageUri", "") == uri
        return
    assert bool(mounted) == bool(uri)
    assert all(mount["readOnly"] for mount in mounted)
    volume = next((v for v in pod["volumes"] if v["name"] == "models"), None)
    if uri.startswith("pvc:"):
        assert volume == {"name": "models", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}}
        assert mounted[0]["subPath"] == "p"
    elif uri.startswith("s3:"):
        assert pod["initContainers"][0]["args"] == [uri, "/models"]
    elif uri.startswith("oci:"):
        assert volume is not None
        assert volume["image"]["reference"] == "r.example/m:1"


def test_a_claim_without_a_path_is_mounted_whole(helm: Helm) -> None:
    mounts = container(helm, model__uri="pvc://only")["volumeMounts"]
    assert "subPath" not in next(mount for mount in mounts if mount["name"] == "models")


@MODES
def test_models_are_verified_unless_opted_out(helm: Helm, mode: str) -> None:
    assert "--skip-verification" not in container(helm, mode=mode)["args"]
    assert "--skip-verification" in container(helm, mode=mode, model__skipVerification=True)["args"]
    digest = "a" * 64
    assert f"--manifest-sha256={digest}" in container(helm, mode=mode, model__manifestSha256=digest)["args"]


@MODES
def test_engines_have_a_writable_cache_and_an_init_step_on_the_gpu(helm: Helm, mode: str) -> None:
    values = {"mode": mode, "model__uri": "pvc://c/p", "engineCache__prebuild": True}
    pod = pod_of(helm.render(**values))
    step = pod["initContainers"][-1]
    server = pod["containers"][0]
    assert step["args"][0] == "warm"
    assert step["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert step["image"] == server["image"]
    for item in (step, server):
        mount = next(m for m in item["volumeMounts"] if m["mountPath"] == "/var/cache/cytoserve")
        assert not mount.get("readOnly")
    folder = next(arg.split("=")[1] for arg in step["args"] if arg.startswith("--model-repository="))
    assert folder in [mount["mountPath"] for mount in step["volumeMounts"]]


def test_a_rollout_waits_for_engines_and_start(helm: Helm) -> None:
    spec = helm.one("Deployment", engineCache__prebuild=True)["spec"]
    assert spec["progressDeadlineSeconds"] > 1800 + 1800


@MODES
def test_rollout_suits_scarce_gpus(helm: Helm, mode: str) -> None:
    def strategy(**values: Any) -> Manifest:
        item = helm.one({"kserve": "InferenceService"}.get(mode, "Deployment"), mode=mode, **values)
        spec = item["spec"]
        return (spec["predictor"]["deploymentStrategy"] if mode == "kserve" else spec["strategy"])["rollingUpdate"]

    assert strategy() == {"maxSurge": 0, "maxUnavailable": 1}
    assert strategy(rollout__strategy="spare") == {"maxSurge": 1, "maxUnavailable": 0}


@MODES
def test_every_selector_finds_the_servers_pods_and_not_the_tester(helm: Helm, mode: str) -> None:
    manifests = helm.render(mode=mode, monitoring__podMonitor__enabled=True)
    by_kind = {item["kind"]: item for item in manifests}
    labels = (
        by_kind["InferenceService"]["spec"]["predictor"]["labels"]
        if mode == "kserve"
        else by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"]
    )
    selectors = [
        by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        by_kind["PodMonitor"]["spec"]["selector"]["matchLabels"],
    ]
    if mode == "deployment":
        selectors.append(by_kind["Service"]["spec"]["selector"])
        selectors.append(by_kind["Deployment"]["spec"]["selector"]["matchLabels"])
    for selector in selectors:
        assert selector == SERVER
        assert selector.items() <= labels.items()
        assert not selector.items() <= by_kind["Pod"]["metadata"]["labels"].items()


def test_network_policy_denies_by_default_and_opens_what_is_named(helm: Helm) -> None:
    spec = helm.one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    clients, metrics = spec["ingress"]
    assert clients["from"] == [{"podSelector": {"matchLabels": {"cyto-cytoserve-client": "true"}}}]
    assert [port["port"] for port in clients["ports"]] == ["grpc"]
    assert [port["port"] for port in metrics["ports"]] == ["metrics"]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [[53, 53]]
    assert all(rule.get("to") for rule in spec["egress"])


def test_network_policy_opens_the_model_store_and_the_trace_collector_only_where_used(helm: Helm) -> None:
    peer = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    values = {
        "model__uri": "s3://b/p",
        "networkPolicy__modelStore__to": peer,
        "tracing__enabled": True,
        "tracing__url": "http://otel:4318/v1/traces",
        "networkPolicy__tracing": peer,
        "networkPolicy__dns": [],
    }
    egress = helm.one("NetworkPolicy", **values)["spec"]["egress"]
    assert [(rule["ports"][0]["port"], rule["to"]) for rule in egress] == [(443, peer), (4318, peer)]


def test_no_way_out_in_the_air_gapped_example(helm: Helm) -> None:
    assert not helm.one("NetworkPolicy", "values-airgapped.yaml")["spec"]["egress"]
    images = {c["image"] for c in pod_of(helm.render("values-airgapped.yaml"))["containers"]}
    assert all(re.fullmatch(r"registry\.hospital\.example/\S+@sha256:[0-9a-f]{64}", image) for image in images)


def test_the_test_pod_passes_the_network_policy(helm: Helm) -> None:
    rule = helm.one("NetworkPolicy")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert rule.items() <= helm.one("Pod")["metadata"]["labels"].items()


@MODES
def test_helm_test_sends_a_cell_to_the_service(helm: Helm, mode: str) -> None:
    pod = helm.one("Pod", mode=mode)
    host = "cyto-cytoserve" + ("-predictor" if mode == "kserve" else "")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert f"--url={host}.blood.svc:8001" in pod["spec"]["containers"][0]["command"]
    assert "--model=cell_analysis" in pod["spec"]["containers"][0]["command"]


def test_plain_http_answers_health_only_unless_asked(helm: Helm) -> None:
    assert "--http-inference" not in container(helm)["args"]
    assert [port["name"] for port in helm.one("Service")["spec"]["ports"]] == ["grpc"]
    opened = {"service__http__enabled": True}
    assert "--http-inference" in container(helm, **opened)["args"]
    assert [port["name"] for port in helm.one("Service", **opened)["spec"]["ports"]] == ["grpc", "http"]
    ports = helm.one("NetworkPolicy", **opened)["spec"]["ingress"][0]["ports"]
    assert [port["port"] for port in ports] == ["grpc", "http"]


def test_grpc_is_marked_as_http2(helm: Helm) -> None:
    assert helm.one("Service")["spec"]["ports"][0]["appProtocol"] == "kubernetes.io/h2c"


@MODES
def test_mutual_tls_with_a_certificate_of_cert_manager(helm: Helm, mode: str) -> None:
    values = {
        "mode": mode,
        "tls__enabled": True,
        "tls__certManager__enabled": True,
        "tls__certManager__issuerName": "ca",
    }
    manifests = helm.render(**values)
    server = pod_of(manifests)["containers"][0]
    certificate = next(item for item in manifests if item["kind"] == "Certificate")["spec"]
    volume = next(v for v in pod_of(manifests)["volumes"] if v["name"] == "tls")
    assert volume["secret"]["secretName"] == certificate["secretName"]
    assert {"server auth", "client auth"} <= set(certificate["usages"])
    host = next(a for a in helm.one("Pod", **values)["spec"]["containers"][0]["command"] if a.startswith("--url="))
    assert {"localhost", host.removeprefix("--url=").removesuffix(":8001")} <= set(certificate["dnsNames"])
    assert "--tls-client-ca=/etc/cytoserve/tls/ca.crt" in server["args"]
    for kind in ("startupProbe", "livenessProbe"):
        assert "--tls-cert=/etc/cytoserve/tls/tls.crt" in server[kind]["exec"]["command"]


def test_tls_without_client_certificates(helm: Helm) -> None:
    server = container(helm, tls__enabled=True, tls__mutual=False, tls__existingSecret="t")
    assert not any(arg.startswith("--tls-client-ca") for arg in server["args"])
    assert not any(arg.startswith("--tls-cert") for arg in server["startupProbe"]["exec"]["command"])


def test_the_key_of_restricted_calls_comes_from_a_secret_and_stands_in_no_argument(helm: Helm) -> None:
    server = container(helm, restrictedProtocols__existingSecret="admin", restrictedProtocols__secretKey="k")
    assert env(server)[entrypoint.ENV_KEY] == {"secretKeyRef": {"name": "admin", "key": "k"}}
    assert entrypoint.ENV_KEY not in env(container(helm))
    assert not any("$(" in arg for arg in server["args"])


def test_calibration_is_mounted_read_only(helm: Helm) -> None:
    server = container(helm, calibration__configMap="cal")
    mount = next(m for m in server["volumeMounts"] if m["name"] == "calibration")
    assert mount["readOnly"] is True
    assert env(server)["CYTOSERVE_CALIBRATION"] == mount["mountPath"] == "/etc/cytoserve/calibration"
    assert "CYTOSERVE_CALIBRATION" not in env(container(helm))


@pytest.mark.parametrize("metric", ["pending", "queue-ratio"])
def test_keda_scales_on_the_denoisers_load(helm: Helm, metric: str) -> None:
    values = {"autoscaling__enabled": True, "autoscaling__keda__metric": metric}
    spec = helm.one("ScaledObject", **values)["spec"]
    query = spec["triggers"][0]["metadata"]["query"]
    assert 'model="denoiser"' in query
    assert 'namespace="blood"' in query
    assert query.startswith("sum(")
    assert spec["fallback"]["replicas"] == 2
    assert (
        spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600
    )
    assert "replicas" not in helm.one("Deployment", **values)["spec"]
    # KServe hands over a plain value, which is compared with one pod's share: hence the mean
    predictor = helm.one("InferenceService", mode="kserve", **values)["spec"]["predictor"]
    external = predictor["autoScaling"]["metrics"][0]["external"]
    assert external["metric"]["query"] == query.replace("sum(", "avg(", 1)
    assert external["target"] == {"type": "Value", "value": "4"}
    assert predictor["autoScaling"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600
    assert "ScaledObject" not in helm.kinds(mode="kserve", **values)


def test_hpa_fallback(helm: Helm) -> None:
    hpa = helm.one("HorizontalPodAutoscaler", "values-cpu.yaml")["spec"]
    assert hpa["metrics"][0]["resource"]["name"] == "cpu"
    assert hpa["scaleTargetRef"]["name"] == helm.one("Deployment", "values-cpu.yaml")["metadata"]["name"]


@MODES
def test_gateway_routes_let_inference_pass_and_nothing_that_changes_the_server(helm: Helm, mode: str) -> None:
    values = {"mode": mode, "gateway__enabled": True, "gateway__parentRefs": [{"name": "g"}]}
    route = helm.one("GRPCRoute", **values)["spec"]["rules"][0]
    methods = {match["method"].get("method") for match in route["matches"]}
    assert "ModelInfer" in methods
    assert not {m for m in methods if m and re.search("Repository|SharedMemory|Config|Statistics|Trace|Log", m)}
    assert all("service" in match["method"] for match in route["matches"])
    suffix = "-predictor" if mode == "kserve" else ""
    assert route["backendRefs"] == [{"name": f"cyto-cytoserve{suffix}", "port": 8001}]
    assert "HTTPRoute" not in helm.kinds(**values)
    http = helm.one("HTTPRoute", service__http__enabled=True, **values)["spec"]["rules"][0]["backendRefs"][0]
    assert http["port"] == (80 if mode == "kserve" else 8000)


def test_ingress_speaks_grpc(helm: Helm) -> None:
    values = {"ingress__enabled": True, "ingress__host": "c.example", "ingress__tlsSecret": "s"}
    ingress = helm.one("Ingress", **values)
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPC"
    secured = helm.one("Ingress", tls__enabled=True, tls__existingSecret="t", **values)
    assert secured["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPCS"


def test_tracing_arguments(helm: Helm) -> None:
    given = entrypoint.parser().parse_args(container(helm, tracing__enabled=True, tracing__rate=7)["args"])
    assert given.otel_url.endswith(":4318/v1/traces")
    assert (given.otel_rate, given.otel_service) == (7, "cyto-cytoserve")


def test_rules_and_dashboards_are_all_included_unchanged(helm: Helm) -> None:
    import yaml

    values = {"monitoring__rules__enabled": True, "monitoring__dashboards__enabled": True}
    manifests = helm.render(**values)
    rules = [item["spec"] for item in manifests if item["kind"] == "PrometheusRule"]
    files = sorted((CHART / "files" / "rules").glob("*.yaml"))
    assert rules == [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    boards = [item for item in manifests if item["kind"] == "ConfigMap"]
    texts = {
        path.name: path.read_text(encoding="utf-8").strip() for path in (CHART / "files/dashboards").glob("*.json")
    }
    assert {name: text.strip() for item in boards for name, text in item["data"].items()} == texts
    assert all(item["metadata"]["labels"]["grafana_dashboard"] == "1" for item in boards)


def test_monitors_scrape_the_port_that_exists(helm: Helm) -> None:
    values = {"monitoring__podMonitor__enabled": True, "monitoring__serviceMonitor__enabled": True}
    pod_monitor = helm.one("PodMonitor", **values)["spec"]["podMetricsEndpoints"][0]
    assert pod_monitor["port"] in [port["name"] for port in container(helm)["ports"]]
    service_monitor = helm.one("ServiceMonitor", **values)["spec"]
    # the alert rules look for the job cytoserve, whatever the release is called
    renamed = helm.render(fullnameOverride="triage", **values)
    label = next(item for item in renamed if item["kind"] == "PodMonitor")["spec"]["jobLabel"]
    labelled = [next(i for i in renamed if i["kind"] == "Deployment")["spec"]["template"], *renamed]
    for item in (labelled[0], next(i for i in renamed if i["kind"] == "Service")):
        assert item["metadata"]["labels"][label] == "cytoserve"
    service = helm.one("Service", **values)
    assert service_monitor["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert service_monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


def test_the_default_spreads_over_hosts(helm: Helm) -> None:
    constraint = pod_of(helm.render())["topologySpreadConstraints"][0]
    assert constraint["labelSelector"]["matchLabels"] == SERVER


def test_extra_objects_are_templates(helm: Helm) -> None:
    extra = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-x"}}
    assert helm.one("Secret", extraObjects=[extra])["metadata"]["name"] == f"{RELEASE}-x"


@pytest.mark.parametrize("mode", ["deployment", "kserve"])
def test_notes_name_the_next_commands(helm: Helm, mode: str) -> None:
    text = helm.run("install", RELEASE, str(CHART), "-n", "blood", "--dry-run=client", "--set", f"mode={mode}")
    notes = text[text.index("NOTES:") :]
    wait = "wait inferenceservice/cyto-cytoserve" if mode == "kserve" else "rollout status deployment/cyto-cytoserve"
    for part in (wait, f"helm test {RELEASE}", ".blood.svc:8001", "not a medical device"):
        assert part in notes


def test_there_are_the_five_examples() -> None:
    wanted = {"a10", "h100-mig", "cpu", "kserve-0.15", "airgapped"}
    assert {name.removeprefix("values-").removesuffix(".yaml") for name in EXAMPLES} == wanted
