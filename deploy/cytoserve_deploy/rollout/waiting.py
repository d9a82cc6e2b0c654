"""Wait until a version is ready and report why it is not: KServe's conditions, then its pods and their events."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cytoserve_deploy.errors import (
    CrashLoop,
    ImagePullFailed,
    ModelNotLoaded,
    NoGpu,
    NotReadyInTime,
    PodsRefused,
    Unschedulable,
    WrongStep,
)
from cytoserve_deploy.rollout import names as n
from cytoserve_deploy.rollout.cluster import EVENT, POD, Cluster, Object
from cytoserve_deploy.rollout.state import Line, read_line, said

POLL_S: Final = 3.0
HOPELESS_RESTARTS: Final = 3
_PULL: Final = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_GPU: Final = ("nvidia.com/", "gpu", "amd.com/")


@dataclass(frozen=True)
class Cause:
    """Why a version is not ready: the error to raise, what to do, and whether waiting longer is of no use."""

    kind: type[NotReadyInTime]
    text: str
    hopeless: bool = False


def wait(
    cluster: Cluster,
    name: str,
    version: str,
    deadline_s: float,
    tell: Callable[[str], None],
    poll_s: float = POLL_S,
) -> None:
    """Wait until a version is ready; ``tell`` is called with a sentence whenever the reason changes.

    Building TensorRT engines takes minutes.

    Raises
    ------
    NotReadyInTime
        Or the one of its kinds that names the cause; at the deadline, or at once where waiting is of no use.
    """
    ends, last = time.monotonic() + deadline_s, ""
    while True:
        line = read_line(cluster, name)
        if version_is_ready(line, version):
            tell(f"version {version} of {name} is ready")
            return
        cause = find_cause(cluster, line, version)
        if cause.text != last:
            tell(cause.text)
            last = cause.text
        if cause.hopeless:
            raise cause.kind(cause.text)
        left = ends - time.monotonic()
        if left <= 0:
            raise cause.kind(f"version {version} of {name} is not ready after {deadline_s:g} s: {cause.text}")
        time.sleep(min(poll_s, left))


def version_is_ready(line: Line, version: str) -> bool:
    """Return whether a version may take traffic."""
    return not line.lacks(line.service_of(version)["metadata"]["name"])


def require_ready(line: Line, version: str) -> None:
    """Refuse a version that may not take traffic.

    Raises
    ------
    WrongStep
        Saying what it lacks.
    """
    lack = line.lacks(line.service_of(version)["metadata"]["name"])
    if lack:
        raise WrongStep(
            f"version {version} is not ready ({lack}): `cytoserve deploy wait {line.name} --version {version}`"
        )


def find_cause(cluster: Cluster, line: Line, version: str) -> Cause:
    """Return the most telling reason that a version is not ready."""
    service = line.service_of(version)
    lack = line.lacks(service["metadata"]["name"]) or said(service)
    pods = cluster.list(POD, labels=f"{n.POD_LABEL}={service['metadata']['name']}")
    for look in (_pull, _crash, _schedule):
        for pod in pods:
            cause = look(pod)
            if cause:
                return cause
    model = (service.get("status") or {}).get("modelStatus") or {}
    if model.get("transitionStatus") in ("BlockedByFailedLoad", "InvalidSpec"):
        return Cause(ModelNotLoaded, f"KServe could not provide the model: {said(service)}", hopeless=True)
    if pods:
        names = ", ".join(f"{pod['metadata']['name']} ({(pod.get('status') or {}).get('phase', '?')})" for pod in pods)
        return Cause(NotReadyInTime, f"waiting for {names}; {_latest_event(cluster, pods[0]) or lack}")
    return _refused(cluster, service) or Cause(NotReadyInTime, f"no pod yet; {lack}")


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _pull(pod: Object) -> Cause | None:
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _PULL:
            text = (
                f"{pod['metadata']['name']}: the image {container.get('image', '')} cannot be pulled "
                f"({waiting['reason']}: {waiting.get('message', '')}); check its name, the registry and "
                "imagePullSecrets"
            )
            return Cause(ImagePullFailed, text, hopeless=waiting["reason"] in ("InvalidImageName", "ErrImageNeverPull"))
    return None


def _crash(pod: Object) -> Cause | None:
    for container in _containers(pod):
        state, restarts = container.get("state") or {}, int(container.get("restartCount") or 0)
        if (state.get("waiting") or {}).get("reason") != "CrashLoopBackOff" and restarts < HOPELESS_RESTARTS:
            continue
        ended = (container.get("lastState") or {}).get("terminated") or {}
        name = container.get("name", "")
        text = (
            f"{pod['metadata']['name']}: container {name} ended {restarts} times, last with exit code "
            f"{ended.get('exitCode', '?')} ({ended.get('reason', 'no reason')}); its log says why: "
            f"kubectl -n {pod['metadata'].get('namespace', 'NAMESPACE')} logs {pod['metadata']['name']} "
            f"-c {name} --previous"
        )
        kind = ModelNotLoaded if name == "storage-initializer" else CrashLoop
        return Cause(kind, text, hopeless=restarts >= HOPELESS_RESTARTS)
    return None


def _schedule(pod: Object) -> Cause | None:
    for item in (pod.get("status") or {}).get("conditions") or []:
        if item.get("type") == "PodScheduled" and item.get("status") == "False":
            message = item.get("message", "")
            if "Insufficient" in message and any(word in message for word in _GPU):
                text = (
                    f"{pod['metadata']['name']}: no node has a free GPU ({message}); free one, add a node, or delete "
                    "an old version"
                )
                return Cause(NoGpu, text)
            return Cause(Unschedulable, f"{pod['metadata']['name']}: no node takes it ({message})")
    return None


def _latest_event(cluster: Cluster, pod: Object) -> str:
    """Return the last warning about a pod that still holds; one from before its last progress is over."""
    chosen = f"involvedObject.kind=Pod,involvedObject.name={pod['metadata']['name']}"
    reached = [
        _time(item.get("lastTransitionTime"))
        for item in (pod.get("status") or {}).get("conditions") or []
        if item.get("status") == "True"
    ]
    since = max([_time(pod["metadata"].get("creationTimestamp")), *reached])
    return _last(item for item in cluster.list(EVENT, fields=chosen) if _seen(item) >= since)


def _refused(cluster: Cluster, service: Object) -> Cause | None:
    """Return the pods' controller's message: quota and Pod Security refusals appear only there."""
    deployment = n.predictor_name(service["metadata"]["name"])
    since = _time(service["metadata"].get("creationTimestamp"))
    message = _last(
        item
        for item in cluster.list(EVENT, fields="involvedObject.kind=ReplicaSet,reason=FailedCreate")
        if str(item.get("involvedObject", {}).get("name", "")).startswith(f"{deployment}-") and _seen(item) >= since
    )
    return Cause(PodsRefused, f"the cluster refuses to create the pods: {message}") if message else None


def _last(events: Iterable[Object]) -> str:
    """Return reason and message of the newest warning, empty where there is none."""
    warnings = [item for item in events if item.get("type") == "Warning"]
    if not warnings:
        return ""
    newest = max(warnings, key=_seen)
    return f"{newest.get('reason')}: {newest.get('message')}"


def _seen(event: Object) -> datetime.datetime:
    """Return when an event was last seen; where its source wrote none of its times, when it was made."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return max(map(_time, (*times, event["metadata"].get("creationTimestamp"))))


def _time(text: str | None) -> datetime.datetime:
    """Return a time of Kubernetes' (RFC 3339, seconds or microseconds); one that is missing is long ago."""
    return datetime.datetime.fromisoformat((text or "1970-01-01T00:00:00Z").replace("Z", "+00:00"))
