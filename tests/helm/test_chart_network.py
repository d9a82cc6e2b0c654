"""What the chart promises of who reaches whom, and how: policies, protocols, TLS, routes."""

from __future__ import annotations

import re
from typing import Any

from chart import MODES, SERVER, Helm, Manifest, container, env, pod_of
from cytoserve_deploy.container import entrypoint


def balanced(helm: Helm, **values: Any) -> Manifest:
    return service(helm, "cyto-cytoserve", **values)


def headless(helm: Helm, **values: Any) -> Manifest:
    return service(helm, "cyto-cytoserve-headless", **values)


def service(helm: Helm, name: str, **values: Any) -> Manifest:
    found = [item for item in helm.render(**values) if item["kind"] == "Service"]
    return next(item for item in found if item["metadata"]["name"] == name)


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
        selectors += [item["spec"]["selector"] for item in manifests if item["kind"] == "Service"]
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


@MODES
def test_the_test_pod_runs_where_the_server_does_or_where_it_is_told(helm: Helm, mode: str) -> None:
    """On a cluster whose nodes are all tainted it would stay pending."""
    taint = {"key": "dedicated", "operator": "Equal", "value": "blood", "effect": "NoSchedule"}
    values: dict[str, Any] = {"mode": mode, "tolerations": [taint], "nodeSelector": {"pool": "blood"}}
    server, tester = pod_of(helm.render(**values)), helm.one("Pod", **values)["spec"]
    for key in ("tolerations", "nodeSelector"):
        assert tester[key] == server[key]
    assert len(tester["tolerations"]) == 2
    own = helm.one("Pod", test__tolerations=[taint], test__nodeSelector={"pool": "any"}, **values)["spec"]
    assert (own["tolerations"], own["nodeSelector"]) == ([taint], {"pool": "any"})


def test_plain_http_answers_health_only_unless_asked(helm: Helm) -> None:
    assert "--http-inference" not in container(helm)["args"]
    assert [port["name"] for port in balanced(helm)["spec"]["ports"]] == ["grpc"]
    opened = {"service__http__enabled": True}
    assert "--http-inference" in container(helm, **opened)["args"]
    assert [port["name"] for port in balanced(helm, **opened)["spec"]["ports"]] == ["grpc", "http"]
    ports = helm.one("NetworkPolicy", **opened)["spec"]["ingress"][0]["ports"]
    assert [port["port"] for port in ports] == ["grpc", "http"]


def test_grpc_is_marked_as_http2(helm: Helm) -> None:
    for service in (balanced(helm), headless(helm)):
        assert service["spec"]["ports"][0]["appProtocol"] == "kubernetes.io/h2c"


def test_clients_that_balance_themselves_find_the_pods_in_a_service_of_its_own(helm: Helm) -> None:
    """From the start: a clusterIP cannot be changed. A certificate names it, and a ServiceMonitor passes it over."""
    assert headless(helm)["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in balanced(helm)["spec"]
    values = {"tls__enabled": True, "tls__certManager__enabled": True, "tls__certManager__issuerName": "ca",
              "monitoring__serviceMonitor__enabled": True}  # fmt: skip
    assert "cyto-cytoserve-headless.blood.svc" in helm.one("Certificate", **values)["spec"]["dnsNames"]
    scraped = helm.one("ServiceMonitor", **values)["spec"]["selector"]["matchLabels"].items()
    assert not scraped <= headless(helm, **values)["metadata"]["labels"].items()
    assert "Service" not in helm.kinds(mode="kserve"), "KServe makes its own"


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


def test_routes_and_certificate_follow_the_service_that_a_roll_out_points(helm: Helm) -> None:
    """After the first `cytoserve deploy apply` clients call NAME-live, or a promotion would not reach them."""
    values = {
        "mode": "kserve",
        "gateway__enabled": True,
        "gateway__parentRefs": [{"name": "public"}],
        "ingress__enabled": True,
        "ingress__host": "cells.example.org",
        "ingress__tlsSecret": "cells-tls",
    }
    for given, expected in (("", "cyto-cytoserve-predictor"), ("cyto-cytoserve-live", "cyto-cytoserve-live")):
        by_kind = {item["kind"]: item for item in helm.render(kserve__serviceName=given, **values)}
        assert by_kind["GRPCRoute"]["spec"]["rules"][0]["backendRefs"][0]["name"] == expected
        path = by_kind["Ingress"]["spec"]["rules"][0]["http"]["paths"][0]
        assert path["backend"]["service"]["name"] == expected
        assert expected in str(by_kind["Pod"]["spec"]), "helm test calls it, too"
