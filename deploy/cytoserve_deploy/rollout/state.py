"""The state of a roll-out, read from the cluster's objects; it is stored nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cytoserve_deploy.errors import NotDeployed
from cytoserve_deploy.rollout import names as n
from cytoserve_deploy.rollout.cluster import ENDPOINTS, INFERENCE_SERVICE, POD, SERVICE, Cluster, Object
from cytoserve_deploy.rollout.objects import active_of, annotation, condition, is_ready, label, require_standard


@dataclass(frozen=True)
class Version:
    """One version of a line.

    ``version`` is its name (``unnamed`` where it was not made here), ``service`` its InferenceService, ``role`` one of
    ``live``, ``candidate``, ``previous`` and ``taken back``, ``traffic`` the percent of the requests. ``why`` is
    KServe's message where it is not ready.
    """

    version: str
    service: str
    role: str
    traffic: int
    ready: bool
    model_uri: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Line:
    """An InferenceService and its versions.

    ``services`` are the InferenceServices by name, ``entry`` the Service that clients call; ``with_pod`` and
    ``with_endpoint`` name the InferenceServices that have a ready pod, and a Service with a ready endpoint.
    """

    name: str
    services: dict[str, Object]
    entry: Object | None
    with_pod: frozenset[str] = frozenset()
    with_endpoint: frozenset[str] = frozenset()

    @property
    def live(self) -> str | None:
        """The InferenceService that answers clients; before the first roll-out the one named like the line."""
        if self.entry is not None:
            return active_of(self.entry)
        return self.name if self.name in self.services else None

    @property
    def previous(self) -> str | None:
        """The InferenceService that answered before the last promotion."""
        return annotation(self.entry, n.PREVIOUS_ANNOTATION) if self.entry else None

    def service_of(self, version: str) -> Object:
        """Return the InferenceService of a version.

        Raises
        ------
        NotDeployed
            Listing the versions that are there.
        """
        for service in self.services.values():
            if version_of(service) == version:
                return service
        known = ", ".join(version_of(service) for service in self.services.values()) or "none"
        raise NotDeployed(f"{self.name} has no version {version}; there: {known}. `cytoserve deploy apply` makes one")

    def lacks(self, name: str) -> str:
        """Return what an InferenceService lacks to take traffic; empty where nothing does.

        KServe's Ready is the Deployment's Available, which holds while at most ``maxUnavailable`` pods are missing: one
        replica that may be unavailable is Available without a pod.
        """
        if not is_ready(self.services[name]):
            return said(self.services[name])
        missing = "pod" if name not in self.with_pod else "endpoint" if name not in self.with_endpoint else ""
        return f"KServe calls it Ready, but it has no ready {missing}" if missing else ""

    @property
    def versions(self) -> list[Version]:
        """The versions, live one first."""
        rows = [self._row(service) for service in self.services.values()]
        return sorted(rows, key=lambda row: (row.role != "live", row.version))

    def _row(self, service: Object) -> Version:
        name = service["metadata"]["name"]
        role = "live" if name == self.live else "previous" if name == self.previous else "candidate"
        if role == "candidate" and self.entry and annotation(self.entry, n.TAKEN_BACK_ANNOTATION) == name:
            role = "taken back"
        return Version(
            version=version_of(service),
            service=name,
            role=role,
            traffic=100 if role == "live" else 0,
            ready=not self.lacks(name),
            model_uri=_uri(service["spec"]["predictor"]),
            why=self.lacks(name),
        )


def version_of(service: Object) -> str:
    """Return the version's name of an InferenceService."""
    return label(service, n.VERSION_LABEL) or n.UNNAMED


def read_line(cluster: Cluster, name: str) -> Line:
    """Read a line from the cluster.

    Raises
    ------
    NotDeployed
        If there is no InferenceService of that name and none made from it.
    """
    services = {
        item["metadata"]["name"]: item for item in cluster.list(INFERENCE_SERVICE, labels=f"{n.LINE_LABEL}={name}")
    }
    first = cluster.get(INFERENCE_SERVICE, name)
    if first is not None:
        services = {name: first, **services}
    if not services:
        raise NotDeployed(
            f"no InferenceService {name} in namespace {cluster.namespace}: install the chart with mode=kserve first "
            "(docs/deploy.md), or name the right one; `cytoserve deploy delete NAME --all` removes what a roll-out left"
        )
    require_standard(next(iter(services.values())))
    entry = cluster.get(SERVICE, n.entry_name(name))
    return Line(name, services, entry, _with_pod(cluster), _with_endpoint(cluster))


def _with_pod(cluster: Cluster) -> frozenset[str]:
    """Return the InferenceServices of the namespace that have a ready pod; one that is being deleted does not count."""
    pods = cluster.list(POD, labels=n.POD_LABEL)
    return frozenset(
        str(label(pod, n.POD_LABEL))
        for pod in pods
        if condition(pod, "Ready").get("status") == "True" and not pod["metadata"].get("deletionTimestamp")
    )


def _with_endpoint(cluster: Cluster) -> frozenset[str]:
    """Return the InferenceServices whose own Service has a ready endpoint; a condition not given counts as true."""
    return frozenset(
        n.owner_of_predictor(str(label(item, n.ENDPOINTS_LABEL)))
        for item in cluster.list(ENDPOINTS, labels=n.ENDPOINTS_LABEL)
        if any((one.get("conditions") or {}).get("ready", True) for one in item.get("endpoints") or [])
    )


def said(service: Object) -> str:
    """Return in one line what KServe says about an InferenceService that is not ready."""
    model = (service.get("status") or {}).get("modelStatus") or {}
    failure: dict[str, Any] = model.get("lastFailureInfo") or {}
    parts = [f"{failure['reason']}: {failure.get('message', '')}".strip(": ")] if failure.get("reason") else []
    for kind in ("PredictorReady", "IngressReady", "Ready"):
        found = condition(service, kind)
        if found.get("status") not in (None, "True"):
            text = ": ".join(part for part in (found.get("reason"), found.get("message")) if part)
            parts.append(f"{kind} is {found['status']}" + (f" ({text})" if text else ""))
            break
    return "; ".join(parts) or "KServe has not looked at it yet"


def _uri(predictor: Object) -> str | None:
    return (predictor.get("model") or {}).get("storageUri")
