"""What the chart promises to those who run it: calibration, scaling, metrics, traces, notes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from chart import CHART, EXAMPLES, MODES, RELEASE, ROOT, SERVER, Helm, container, env, pod_of
from cytoserve_deploy.container import entrypoint
from cytoserve_deploy.launch.options import CONTAINER
from cytoserve_deploy.launch.triton_arguments import triton_arguments
from kserve_rules import hpa_target, scaled_object
from server_side import Applied, Conflict

KEDA_DEFAULT_METRIC = "AverageValue"
"""Of a trigger without ``metricType`` (kedacore/keda, ``ScaleTriggers``)."""


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


FILES = {"ward-7.json": '{"site": "ward 7, \\"A\\""}', "north.json": '{"site": "north"}'}


@MODES
def test_several_calibrations_may_stand_in_the_values(helm: Helm, mode: str) -> None:
    """One object with all of them, byte for byte: their hashes are checked at start."""
    made = helm.render(mode=mode, calibration__files=FILES)
    (held,) = (item for item in made if item["kind"] == "ConfigMap")
    assert held["data"] == FILES
    pod = pod_of(made)
    (volume,) = (item for item in pod["volumes"] if item["name"] == "calibration")
    assert volume["configMap"]["name"] == held["metadata"]["name"] == "cyto-cytoserve-calibration"
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "calibration")
    assert mount["readOnly"] is True
    assert env(pod["containers"][0])["CYTOSERVE_CALIBRATION"] == mount["mountPath"]


@MODES
def test_a_changed_calibration_in_the_values_replaces_the_pods(helm: Helm, mode: str) -> None:
    def annotations(**values: Any) -> dict[str, str]:
        made = {item["kind"]: item for item in helm.render(mode=mode, podAnnotations={"a": "b"}, **values)}
        if mode == "kserve":
            return made["InferenceService"]["spec"]["predictor"]["annotations"]
        return made["Deployment"]["spec"]["template"]["metadata"]["annotations"]

    first = annotations(calibration__files=FILES)
    assert first == annotations(calibration__files=dict(reversed(FILES.items())))
    assert first["a"] == "b"
    changed = annotations(calibration__files={**FILES, "north.json": '{"site": "north", "x": 1}'})
    assert changed["checksum/calibration"] != first["checksum/calibration"]
    # Of an object that is not the chart's it knows nothing: the notes say to restart.
    assert "checksum/calibration" not in annotations(calibration__configMap="sites")


@MODES
def test_the_notes_say_how_a_changed_calibration_comes_into_force(helm: Helm, mode: str) -> None:
    restart = "kubectl --namespace blood rollout restart deployment/cyto-cytoserve\n"
    if mode == "kserve":  # which owns the Deployment, and takes back what others write into it
        restart = (
            'helm upgrade cyto CHART --namespace blood --reuse-values --set-string podAnnotations.restarted="$(date'
        )
    assert restart in helm.notes(mode=mode, calibration__configMap="sites")
    assert restart in helm.notes(mode=mode, calibration__existingClaim="sites")
    assert restart not in helm.notes(mode=mode, calibration__files=FILES)
    assert "cytoserve info" in helm.notes(mode=mode)


@pytest.mark.parametrize("metric", ["pending", "queue-ratio"])
def test_keda_scales_on_all_steps_but_the_denoiser(helm: Helm, metric: str) -> None:
    values = {"autoscaling__enabled": True, "autoscaling__keda__metric": metric}
    spec = helm.one("ScaledObject", **values)["spec"]
    query = spec["triggers"][0]["metadata"]["query"]
    assert 'model!="denoiser"' in query
    assert 'namespace="blood"' in query
    assert query.startswith("sum(")
    assert spec["fallback"]["replicas"] == 2
    assert (
        spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600
    )
    assert "ScaledObject" not in helm.kinds(mode="kserve", **values)


@pytest.mark.parametrize("version", ["0.15", "0.16", "0.20"])
@pytest.mark.parametrize("metric", ["pending", "queue-ratio"])
def test_keda_scales_alike_in_both_modes(helm: Helm, version: str, metric: str) -> None:
    """KServe names no type of metric, so KEDA divides by the number of pods: the query must be the sum over them."""
    values = {"autoscaling__enabled": True, "autoscaling__keda__metric": metric}
    own = helm.one("ScaledObject", **values)["spec"]
    made = scaled_object(helm.one("InferenceService", mode="kserve", kserve__version=version, **values))
    assert (made["minReplicaCount"], made["maxReplicaCount"]) == (own["minReplicaCount"], own["maxReplicaCount"])
    assert own["triggers"][0]["metricType"] == KEDA_DEFAULT_METRIC
    for key in ("query", "threshold", "serverAddress"):
        assert made["triggers"][0]["metadata"][key] == own["triggers"][0]["metadata"][key]
    if version != "0.15":
        behaviour = "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleDown", "stabilizationWindowSeconds"
        assert _at(made, *behaviour) == _at(own, *behaviour) == 600


def _at(item: Any, *path: str) -> Any:
    for key in path:
        item = item[key]
    return item


@pytest.mark.parametrize("version", ["0.15", "0.20"])
def test_kserve_is_given_only_scaling_fields_that_arrive(helm: Helm, version: str) -> None:
    """Each value under ``autoScaling`` stands again in the object that KServe makes of it, or names its kind."""
    values = {"mode": "kserve", "kserve__version": version, "autoscaling__enabled": True}
    service = helm.one("InferenceService", **values)

    def leaves(item: Any) -> list[Any]:
        if isinstance(item, dict):
            return [leaf for value in item.values() for leaf in leaves(value)]
        return [leaf for value in item for leaf in leaves(value)] if isinstance(item, list) else [item]

    given = leaves(service["spec"]["predictor"]["autoScaling"])
    assert set(given) - set(leaves(scaled_object(service))) == {"External", "Value"}


@pytest.mark.parametrize("version", ["0.15", "0.16", "0.20"])
def test_kserves_hpa_aims_where_it_was_told(helm: Helm, version: str) -> None:
    values = {"gpu__enabled": False, "autoscaling__enabled": True, "autoscaling__kind": "hpa"}
    service = helm.one("InferenceService", mode="kserve", kserve__version=version, **values)
    own = helm.one("HorizontalPodAutoscaler", **values)["spec"]["metrics"][0]["resource"]["target"]
    assert hpa_target(service) == own["averageUtilization"] == 70


@pytest.mark.parametrize("kind", ["keda", "hpa"])
def test_helm_4_upgrades_what_an_autoscaler_has_scaled(helm: Helm, kind: str) -> None:
    """It applies server-side, where a field that another manager owns is a conflict: the scaler has the replicas."""
    values = {"gpu__enabled": False, "autoscaling__enabled": True, "autoscaling__kind": kind}
    held = Applied()
    held.apply(helm.one("Deployment", **values))
    held.set("spec.replicas", 4, "kube-controller-manager")
    held.apply(helm.one("Deployment", image__tag="0.2.0", **values))
    assert held.values["spec", "replicas"] == 4


def test_helm_4_wants_force_conflicts_after_scaling_by_hand(helm: Helm) -> None:
    """So docs/deploy.md says; an upgrade and a rollback fail without it."""
    held = Applied()
    held.apply(helm.one("Deployment"))
    held.set("spec.replicas", 3, "kubectl")
    for replicas in (2, 1):
        with pytest.raises(Conflict, match=r"kubectl.*spec\.replicas"):
            held.apply(helm.one("Deployment", replicas=replicas))
    held.apply(helm.one("Deployment", replicas=2), force_conflicts=True)
    assert held.values["spec", "replicas"] == 2
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert "helm upgrade cyto helm/cytoserve -n blood --values MINE.yaml --force-conflicts" in text


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
    services = [item for item in helm.render(**values) if item["kind"] == "Service"]
    wanted = service_monitor["selector"]["matchLabels"].items()
    (service,) = (item for item in services if wanted <= item["metadata"]["labels"].items())
    assert service_monitor["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]


def test_the_default_spreads_over_hosts(helm: Helm) -> None:
    constraint = pod_of(helm.render())["topologySpreadConstraints"][0]
    assert constraint["labelSelector"]["matchLabels"] == SERVER


def test_extra_objects_are_templates(helm: Helm) -> None:
    extra = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-x"}}
    assert helm.one("Secret", extraObjects=[extra])["metadata"]["name"] == f"{RELEASE}-x"


@pytest.mark.parametrize("mode", ["deployment", "kserve"])
def test_notes_name_the_next_commands(helm: Helm, mode: str) -> None:
    notes = helm.notes(mode=mode)
    wait = "wait inferenceservice/cyto-cytoserve" if mode == "kserve" else "rollout status deployment/cyto-cytoserve"
    for part in (wait, f"helm test {RELEASE}", ".blood.svc:8001", "not a medical device"):
        assert part in notes


def test_there_are_the_five_examples() -> None:
    wanted = {"a10", "h100-mig", "cpu", "kserve-0.15", "airgapped"}
    assert {name.removeprefix("values-").removesuffix(".yaml") for name in EXAMPLES} == wanted
