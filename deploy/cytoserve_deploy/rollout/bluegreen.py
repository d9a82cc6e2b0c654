"""A second InferenceService, and a Service whose selector says which one answers (Standard or RawDeployment mode).

KServe's canary does not exist in this mode (``canaryTrafficPercent`` works in Knative mode alone; ``spec.canary`` of
v0.20.0 creates pods but splits no traffic). Clients call ``NAME-live``; KServe's own Services stay as they are,
because KServe would undo any change of them. The version before stays up after a promotion, so that going back is
one write; it keeps its GPU until `delete`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cytoserve_deploy.errors import NotDeployed, ObjectRefused, VersionTaken, WrongStep
from cytoserve_deploy.rollout import names as n
from cytoserve_deploy.rollout.cluster import INFERENCE_SERVICE, SERVICE, SERVING_RUNTIME, Cluster, Object
from cytoserve_deploy.rollout.objects import (
    Release,
    active_of,
    annotate,
    annotation,
    candidate_runtime,
    candidate_service,
    contains,
    entry_service,
    label,
)
from cytoserve_deploy.rollout.state import Line, version_of
from cytoserve_deploy.rollout.waiting import require_ready


@dataclass(frozen=True)
class Outcome:
    """Result of a step: whether it changed anything, and one sentence for people."""

    changed: bool
    text: str


def apply(cluster: Cluster, line: Line, release: Release) -> Outcome:
    """Create the candidate beside the running version; clients go on with that one.

    Raises
    ------
    VersionTaken
        If the version is there with other content. Versions are not changed: their name stands in reports.
    """
    name = n.service_name(line.name, release.version)
    template = line.services.get(line.live or "")
    if template is None:
        raise NotDeployed(f"the live InferenceService {line.live} of {line.name} is gone; `cytoserve deploy rollback`")
    wanted = candidate_service(template if line.live != name else line.services[name], line.name, release)
    held = line.services.get(name)
    if held is not None:
        return _same_or_taken(cluster, held, wanted, release)
    ensure_runtime(cluster, template, line.name, release)
    cluster.create(INFERENCE_SERVICE, wanted)
    if not cluster.dry_run:
        ensure_entry(cluster, line.name, template["metadata"]["name"])
    return Outcome(True, f"created InferenceService {name}; {version_of(template)} goes on answering")


def _same_or_taken(cluster: Cluster, held: Object, wanted: Object, release: Release) -> Outcome:
    name = held["metadata"]["name"]
    if annotation(held, n.CONTENT_ANNOTATION) != release.sha256:
        raise VersionTaken(
            f"version {release.version} is there with other content: choose another name, or delete it first "
            f"(`cytoserve deploy delete NAME --version {release.version} --yes`)"
        )
    if not contains(held["spec"]["predictor"].get("model"), wanted["spec"]["predictor"].get("model")):
        raise VersionTaken(f"InferenceService {name} was changed by hand since; delete it and apply again")
    if release.own_runtime and cluster.get(SERVING_RUNTIME, name) is None:
        raise VersionTaken(f"the ServingRuntime {name} of this version is gone; delete the version and apply it again")
    return Outcome(False, f"InferenceService {name} is there already, with this content")


def ensure_runtime(cluster: Cluster, template: Object, line: str, release: Release) -> None:
    """Create the version's own ServingRuntime where it needs one.

    Raises
    ------
    ObjectRefused
        If the running version names no namespaced runtime that could be copied.
    """
    if not release.own_runtime or cluster.get(SERVING_RUNTIME, n.service_name(line, release.version)) is not None:
        return
    used = template["spec"]["predictor"].get("model", {}).get("runtime")
    runtime = cluster.get(SERVING_RUNTIME, used) if used else None
    if runtime is None:
        raise ObjectRefused(
            f"--image and --manifest-sha256 change the ServingRuntime, and {used or 'none'} is not in namespace "
            f"{cluster.namespace}: the chart's mode=kserve brings one"
        )
    cluster.create(SERVING_RUNTIME, candidate_runtime(runtime, line, release))


def ensure_entry(cluster: Cluster, line: str, active: str) -> None:
    """Create the Service that clients call, unless it is there."""
    if cluster.get(SERVICE, n.entry_name(line)) is None:
        cluster.create(SERVICE, entry_service(line, active, _kserve_service(cluster, active)))


def promote(cluster: Cluster, line: Line, version: str, record: dict[str, str | None]) -> Outcome:
    """Let the version answer, and remember which one did before; ``record`` are annotations about the checks.

    Raises
    ------
    WrongStep
        If it is not ready: KServe's condition, a pod and an endpoint.
    """
    name = line.service_of(version)["metadata"]["name"]
    if line.entry is not None and line.live == name:
        return Outcome(False, f"version {version} answers already")
    require_ready(line, version)
    if line.entry is None:
        ensure_entry(cluster, line.name, line.live or name)
        if cluster.dry_run:
            return Outcome(True, f"Service {n.entry_name(line.name)} would be created and point to {name}")

    def switch(entry: Object) -> bool:
        before = active_of(entry)
        if before == name:
            return False
        entry["spec"]["selector"] = n.predictor_selector(name)
        annotate(entry, previous=before, taken_back=None, **record)
        return True

    _, changed = cluster.change(SERVICE, n.entry_name(line.name), switch)
    return Outcome(changed, f"{n.entry_name(line.name)} points to {name}; the version before stays up for a rollback")


def rollback(cluster: Cluster, line: Line) -> Outcome:
    """Let the version before answer again.

    Raises
    ------
    WrongStep
        If nothing was promoted, or the version before is gone or not ready.
    """
    if line.entry is None:
        raise WrongStep(f"nothing was promoted for {line.name} yet, so there is nothing to go back to")
    previous, taken_back = line.previous, annotation(line.entry, n.TAKEN_BACK_ANNOTATION)
    if previous is None:
        if taken_back:
            return Outcome(False, f"{taken_back} was taken back already; {line.live} answers")
        raise WrongStep(f"no version before {line.live} is known; a candidate that never answered is just deleted")
    lack = line.lacks(previous) if previous in line.services else "it is gone"
    if lack:
        raise WrongStep(f"{previous} cannot take the traffic back ({lack}). Apply it again, or wait until it is ready")

    def switch(entry: Object) -> bool:
        if annotation(entry, n.PREVIOUS_ANNOTATION) != previous:
            return False
        annotate(entry, previous=None, taken_back=active_of(entry), checks=None, checks_skipped=None)
        entry["spec"]["selector"] = n.predictor_selector(previous)
        return True

    _, changed = cluster.change(SERVICE, n.entry_name(line.name), switch)
    return Outcome(changed, f"{n.entry_name(line.name)} points to {previous} again")


def delete_version(cluster: Cluster, line: Line, version: str) -> Outcome:
    """Delete a version that does not answer, with the ServingRuntime made for it.

    Raises
    ------
    WrongStep
        If it answers clients, or was not made here.
    """
    try:
        service = line.service_of(version)
    except NotDeployed:
        return Outcome(False, f"version {version} of {line.name} is gone already")
    name = service["metadata"]["name"]
    if name == line.live:
        raise WrongStep(f"version {version} answers clients; promote another one first, or delete with --all")
    if version_of(service) == n.UNNAMED:
        raise WrongStep(f"{name} was not made by cytoserve deploy; `helm uninstall` or kubectl removes it")
    cluster.delete(INFERENCE_SERVICE, name)
    cluster.delete(SERVING_RUNTIME, name)
    if line.previous == name:

        def forget(entry: Object) -> bool:
            if annotation(entry, n.PREVIOUS_ANNOTATION) != name:
                return False
            annotate(entry, previous=None)
            return True

        cluster.change(SERVICE, n.entry_name(line.name), forget)
    return Outcome(True, f"deleted version {version} of {line.name}")


def delete_all(cluster: Cluster, name: str) -> Outcome:
    """Delete everything that was made here for a line, found by its label; what the chart made is Helm's to remove.

    Also works after ``helm uninstall``, when the line's own InferenceService is gone and ``NAME-live`` is left.
    """
    gone = []
    for kind in (SERVICE, INFERENCE_SERVICE, SERVING_RUNTIME):
        for found in cluster.list(kind, labels=f"{n.LINE_LABEL}={name}"):
            if label(found, n.MANAGER_LABEL) == n.MANAGER or found["metadata"]["name"] == n.entry_name(name):
                cluster.delete(kind, found["metadata"]["name"])
                gone.append(f"{kind.plural[:-1]} {found['metadata']['name']}")
    kept = "; the chart's own InferenceService stays" if cluster.get(INFERENCE_SERVICE, name) else ""
    if not gone:
        return Outcome(False, f"nothing in namespace {cluster.namespace} was made for {name} by cytoserve deploy{kept}")
    return Outcome(True, f"deleted {', '.join(gone)}{kept}")


def _kserve_service(cluster: Cluster, service: str) -> Object:
    found = cluster.get(SERVICE, n.predictor_name(service))
    if found is None:
        raise WrongStep(f"KServe has not made the Service {n.predictor_name(service)} yet; wait and try again")
    return found
