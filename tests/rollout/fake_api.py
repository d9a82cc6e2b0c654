"""A Kubernetes API server in small, over real HTTP on loopback, and KServe's part in it.

It stores objects; judges InferenceServices and ServingRuntimes by KServe's schemas (where they are not at hand, by the
typed models of the package ``kserve``) and Services by Kubernetes' own; counts resourceVersions and refuses stale ones
(409); knows permissions (403), tokens (401) and kinds that are not installed (404); honours ``dryRun``,
``fieldValidation``, label and field selectors. After a write KServe's controller runs, by the rules of its source
(v0.20.0: ``reconcilers/service/service_reconciler.go``).

A pod and its endpoint follow, as on a real cluster (``tests/helm/kserve_rules.py``): a Deployment is Available without
a pod where its strategy allows that, a pod whose probe KServe's agent cannot read never gets ready, Pod Security
"restricted" refuses KServe's model containers, KServe 0.15 overlooks a changed ServingRuntime, and a Service's
clusterIP cannot be changed.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import kubernetes_validate
import yaml
from authorities import check_typed_apart, restricted_violations
from kserve_rules import admitted, agent_refusal, is_available

Object = dict[str, Any]
TOKEN = "test-token"
NAMESPACE = "blood"
KINDS = {"inferenceservices": "InferenceService", "servingruntimes": "ServingRuntime", "services": "Service"}
VERSIONS = {"inferenceservices": "v1beta1", "servingruntimes": "v1alpha1", "endpointslices": "v1"}


@cache
def validator(path: Path) -> jsonschema.protocols.Validator:
    """Return the schema's validator; keys that it does not name are refused, as by ``fieldValidation: Strict``."""
    return jsonschema.Draft202012Validator(_closed(json.loads(path.read_text(encoding="utf-8"))))


def _closed(schema: Object) -> Object:
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: _closed(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _closed(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        result["items"] = _closed(schema["items"])
    return result


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, reason: str, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        details = {"name": name} if name else {}
        self.body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                     "message": message, "details": details}  # fmt: skip


@dataclass
class FakeApi:
    """The server; tests fill it by `put` and change its mood by its fields."""

    schemas: Path | None
    kserve: str = "v0.16.0"
    installed: bool = True
    permitted: set[tuple[str, str]] | None = None
    """(verb, plural) that the caller's role allows; None: all."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    token: str = TOKEN
    rivals: int = 0
    """How many of the next updates find that somebody else changed the object just before."""
    becomes_ready: bool = True
    """Whether pods start and answer."""
    pod_security: str = "privileged"
    """Level that the namespace enforces."""
    quota: str = ""
    """Why the quota refuses new pods; empty: it does not."""
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    writes: list[tuple[str, str, str]] = field(default_factory=list)
    rolling: set[str] = field(default_factory=set)
    """InferenceServices whose Deployment still reports progress, upon which KServe looks at them again."""
    lock: Any = field(default_factory=threading.RLock)
    clock: int = 100

    def put(self, plural: str, obj: Object) -> Object:
        """Store an object as it is."""
        self.clock += 1
        held = copy.deepcopy(obj)
        held["metadata"].update(resourceVersion=str(self.clock), namespace=NAMESPACE)
        held["metadata"].setdefault("uid", f"uid-{self.clock}")
        self.objects[plural, held["metadata"]["name"]] = held
        return held

    def read(self, plural: str, name: str) -> Object:
        """Return what is stored."""
        return self.objects[plural, name]

    def apply(self, obj: Object) -> None:
        """Write an object as Helm does: nothing is sent where it is as rendered before."""
        plural = next(plural for plural, kind in KINDS.items() if kind == obj["kind"])
        held = self.objects.get((plural, obj["metadata"]["name"]))
        new = copy.deepcopy(obj)
        if held is None:
            self._write("create", plural, None, new, {"fieldValidation": "Strict"}, dry=False)
        elif _rendered(held) != _rendered(new):
            new["metadata"].update(resourceVersion=held["metadata"]["resourceVersion"])
            self._write("update", plural, held, new, {"fieldValidation": "Strict"}, dry=False)

    def answer(self, method: str, target: str, token: str, body: bytes) -> tuple[int, Any]:
        """Return status and content for one request; content that is text is sent as such."""
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = parts.path.strip("/").split("/")
        with self.lock:
            try:
                if token != f"Bearer {self.token}":
                    raise Refusal(401, "Unauthorized", "Unauthorized")
                custom = path[0] == "apis"
                absent = custom and path[1] == "serving.kserve.io" and not self.installed
                if custom and (absent or path[2] != VERSIONS.get(path[5])):
                    return 404, "404 page not found\n"
                plural, name = (path[5:] if custom else path[4:])[0], (path[6:] if custom else path[5:])
                verb = _verb(method, bool(name))
                allowed = self.permitted is None or (verb, plural) in self.permitted
                if not allowed or (verb, plural) in self.forbidden:
                    raise Refusal(403, "Forbidden", f'{plural} is forbidden: User "nurse" cannot {verb} it')
                content = self._do(verb, plural, name[0] if name else "", query, body)
                return (201 if verb == "create" else 200), content
            except Refusal as refusal:
                return refusal.code, refusal.body

    def _do(self, verb: str, plural: str, name: str, query: dict[str, str], body: bytes) -> Any:
        if verb == "list":
            items = [item for (kind, _), item in self.objects.items() if kind == plural and _fits(item, query)]
            return {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}
        held = self.objects.get((plural, name))
        if verb in ("get", "update", "delete") and held is None:
            raise Refusal(404, "NotFound", f'{plural} "{name}" not found', name)
        if verb == "get":
            return held
        dry = query.get("dryRun") == "All"
        if verb == "delete":
            if not dry:
                del self.objects[plural, name]
                self.writes.append((verb, plural, name))
                if plural == "inferenceservices":
                    withdraw(self, name)
                    self.objects.pop(("services", f"{name}-predictor"), None)
            return {"kind": "Status", "status": "Success"}
        return self._write(verb, plural, held, json.loads(body), query, dry)

    def _write(self, verb: str, plural: str, held: Object | None, new: Object, query: dict[str, str], dry: bool) -> Any:
        name = new["metadata"]["name"]
        self._judge(plural, new, query)
        if verb == "create":
            if (plural, name) in self.objects:
                raise Refusal(409, "AlreadyExists", f'{plural} "{name}" already exists', name)
        else:
            assert held is not None
            if self.rivals:
                self.rivals -= 1
                held["metadata"].setdefault("annotations", {})["rival"] = str(self.rivals)
                held = self.put(plural, held)
            if new["metadata"].get("resourceVersion") != held["metadata"]["resourceVersion"]:
                raise Refusal(409, "Conflict", "the object has been modified; please apply your changes", name)
            if plural == "inferenceservices":
                new["status"] = held.get("status", {})
            if plural == "services" and new["spec"].get("clusterIP") != held["spec"].get("clusterIP"):
                raise Refusal(422, "Invalid", "spec.clusterIPs[0]: Invalid value: may not change once set", name)
        if dry:
            return new
        self.writes.append((verb, plural, name))
        stored = self.put(plural, new)
        if plural == "inferenceservices":
            self.rolling.add(name)
            reconcile(self, stored)
        if plural == "servingruntimes":
            watched = verb == "create" or not self.kserve.startswith("v0.15")
            for service in [item for (kind, _), item in self.objects.items() if kind == "inferenceservices"]:
                uses = service["spec"]["predictor"]["model"]["runtime"] == name
                if uses and (watched or service["metadata"]["name"] in self.rolling):
                    reconcile(self, service)
        return stored

    def _judge(self, plural: str, new: Object, query: dict[str, str]) -> None:
        assert query.get("fieldValidation") == "Strict", "unknown fields would be dropped in silence"
        if plural == "services":
            try:
                kubernetes_validate.validate(new, "1.34", strict=True)
            except kubernetes_validate.ValidationError as error:
                raise Refusal(422, "Invalid", f"Service is invalid: {error.message}") from error
            return
        if self.schemas is None:
            try:
                check_typed_apart(new["spec"], f"{VERSIONS[plural].capitalize()}{KINDS[plural]}Spec")
            except (AssertionError, ValueError) as error:
                raise Refusal(422, "Invalid", f"{KINDS[plural]} is invalid: {error}") from error
            return
        file = self.schemas / "serving.kserve.io" / f"{KINDS[plural]}_{VERSIONS[plural]}_{self.kserve}.json"
        problem = jsonschema.exceptions.best_match(validator(file).iter_errors(new))
        if problem is not None:
            where = ".".join(map(str, problem.path))
            raise Refusal(422, "Invalid", f"{KINDS[plural]} is invalid: {where}: {problem.message}")


def _rendered(obj: Object) -> Object:
    return {"spec": obj["spec"], **{key: obj["metadata"].get(key) for key in ("labels", "annotations")}}


def _verb(method: str, named: bool) -> str:
    if method == "GET":
        return "get" if named else "list"
    return {"POST": "create", "PUT": "update", "DELETE": "delete"}[method]


def _fits(item: Object, query: dict[str, str]) -> bool:
    labels = item["metadata"].get("labels") or {}
    for pair in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = pair.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    for pair in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = pair.partition("=")
        place: Any = item
        for part in key.split("."):
            place = (place or {}).get(part)
        if place != value:
            return False
    return True


def reconcile(api: FakeApi, service: Object) -> None:
    """Do what KServe does: make the Service, roll the pods, call it ready while its Deployment is Available."""
    name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
    if ("services", f"{name}-predictor") not in api.objects:
        api.put("services", kserve_service(name))
    runtime = api.objects.get(("servingruntimes", predictor["model"]["runtime"]))
    replicas = int(predictor["minReplicas"])
    up = runtime is not None and _roll(api, name, admitted(service, runtime))
    set_ready(service, is_available(predictor.get("deploymentStrategy"), replicas, replicas * up))


def _roll(api: FakeApi, name: str, pod: Object) -> bool:
    """Replace a version's pod by one of a new template; return whether it is ready."""
    withdraw(api, name)
    wrong = restricted_violations(pod) if api.pod_security == "restricted" else []
    refusal = api.quota or (f'violates PodSecurity "restricted:latest": {"; ".join(wrong)}' if wrong else "")
    if refusal:
        owner = {"kind": "ReplicaSet", "name": f"{name}-predictor-7d"}
        api.put("events", {"metadata": {"name": f"{name}.refused"}, "type": "Warning", "reason": "FailedCreate",
                           "involvedObject": owner, "message": refusal})  # fmt: skip
        return False
    ready = api.becomes_ready and not agent_refusal(pod)
    labels = {"app": f"isvc.{name}-predictor", "serving.kserve.io/inferenceservice": name}
    status = {"phase": "Running" if ready else "Pending", "conditions": [{"type": "Ready", "status": str(ready)}]}
    api.put("pods", {"metadata": {"name": f"{name}-predictor-7d-x", "labels": labels}, "spec": pod, "status": status})
    slice_labels = {"kubernetes.io/service-name": f"{name}-predictor"}
    endpoints = [{"addresses": ["10.1.0.1"], "conditions": {"ready": ready}}]
    api.put("endpointslices", {"metadata": {"name": f"{name}-predictor-e", "labels": slice_labels},
                               "addressType": "IPv4", "endpoints": endpoints})  # fmt: skip
    return ready


def withdraw(api: FakeApi, name: str) -> None:
    """Take a version's pod and endpoint away."""
    for kind, suffix in (("pods", "predictor-7d-x"), ("endpointslices", "predictor-e")):
        api.objects.pop((kind, f"{name}-{suffix}"), None)


def come_up(api: FakeApi, name: str) -> None:
    """Let a version's pod start now."""
    api.becomes_ready = True
    with api.lock:
        service = api.read("inferenceservices", name)
        reconcile(api, service)


def set_ready(service: Object, ready: bool, reason: str = "MinimumReplicasUnavailable") -> None:
    """Write the conditions of an InferenceService."""
    state = {"status": "True"} if ready else {"status": "False", "reason": reason, "message": "no pod is available"}
    conditions = [{"type": kind, **state} for kind in ("PredictorReady", "Ready")]
    service.setdefault("status", {})["conditions"] = conditions


def kserve_service(name: str) -> Object:
    """Return KServe's own Service of a predictor: the container's first port on 80, the others on their numbers."""
    ports = [
        {"name": "http", "port": 80, "targetPort": 8000, "protocol": "TCP"},
        {"name": "grpc", "port": 8001, "targetPort": 8001, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
    ]
    spec = {"selector": {"app": f"isvc.{name}-predictor"}, "ports": ports, "type": "ClusterIP", "clusterIP": "10.0.0.1"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{name}-predictor"}, "spec": spec}


class Served:
    """Serves a `FakeApi` on a free loopback port; a context manager."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api.answer))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Served:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads here."""
        whole = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return path


def _handler(answer: Callable[[str, str, str, bytes], tuple[int, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _go(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, content = answer(self.command, self.path, self.headers.get("Authorization", ""), body)
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _go

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
