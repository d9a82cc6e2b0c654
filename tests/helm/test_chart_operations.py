"""What the chart promises to those who run it: calibration, scaling, metrics, traces, notes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from chart import CHART, EXAMPLES, MODES, RELEASE, SERVER, Helm, container, env, pod_of
from cytoserve_deploy.container import entrypoint
from cytoserve_deploy.launch.options import CONTAINER
from cytoserve_deploy.launch.triton_arguments import triton_arguments


def all_rules() -> list[dict[str, Any]]:
    paths = sorted((CHART / "files" / "rules").glob("*.yaml"))
    groups = [group for path in paths for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


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


def test_tracing_arguments(helm: Helm) -> None:
    given = entrypoint.parser().parse_args(container(helm, tracing__enabled=True, tracing__rate=7)["args"])
    assert given.otel_url.endswith(":4318/v1/traces")
    assert (given.otel_rate, given.otel_service) == (7, "cyto-cytoserve")


def test_rules_and_dashboards_are_all_included_unchanged(helm: Helm) -> None:
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


@MODES
def test_the_metric_of_the_slow_alert_is_exported(helm: Helm, mode: str) -> None:
    """CytoServeSlow reads the 0.99 quantile; Triton exports it only when it is told to."""
    rules = {rule.get("record"): rule for rule in all_rules()}
    slow = next(rule for rule in all_rules() if rule.get("alert") == "CytoServeSlow")
    source = rules["cytoserve:latency_p99:seconds"]["expr"]
    assert "cytoserve:latency_p99:seconds" in slow["expr"]
    assert "nv_inference_request_summary_us{" in source
    quantile = re.search(r'quantile="([\d.]+)"', source)
    assert quantile is not None

    def arguments(**values: Any) -> list[str]:
        given = entrypoint.parser().parse_args(container(helm, mode=mode, **values)["args"])
        return triton_arguments(replace(CONTAINER, latency_quantiles=given.latency_quantiles), ["/models"])

    told = arguments()
    assert "--metrics-config=summary_latencies=true" in told
    quantiles = next(item for item in told if "summary_quantiles" in item).rpartition("=")[2]
    assert quantile[1] in [pair.split(":")[0] for pair in quantiles.split(",")]
    assert not any("summary" in item for item in arguments(triton__latencyQuantiles=False))


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
