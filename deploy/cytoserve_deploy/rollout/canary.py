"""Knative (Serverless) mode: one InferenceService, whose newest revision gets a share of the traffic.

KServe's rules (``reconcilers/knative/ksvc_reconciler.go``): with ``canaryTrafficPercent`` the newest revision gets that
share and the last one that had everything the rest; without it the newest gets all. At 0 after a full promotion KServe
goes back to the revision before. A first revision that never had everything cannot be protected: without a rolled-out
one KServe sends all traffic to the newest, whatever the percentage says, so that is refused here.
"""

from __future__ import annotations

import json

from cytoserve_deploy.errors import ObjectRefused, VersionTaken, WrongStep
from cytoserve_deploy.rollout import names as n
from cytoserve_deploy.rollout.bluegreen import Outcome, ensure_runtime
from cytoserve_deploy.rollout.cluster import INFERENCE_SERVICE, Cluster, Object
from cytoserve_deploy.rollout.objects import Release, annotate, annotation, predictor_status, release_predictor
from cytoserve_deploy.rollout.state import Line, version_of


def apply(cluster: Cluster, line: Line, release: Release, percent: int) -> Outcome:
    """Make the candidate the newest revision, with `percent` of the traffic.

    Raises
    ------
    WrongStep
        If no revision was rolled out yet, or another candidate is under way.
    VersionTaken
        If the version is there with other content.
    """
    check_percent(percent)
    held = line.services[line.name]
    if version_of(held) == release.version:
        if annotation(held, n.CONTENT_ANNOTATION) != release.sha256:
            raise VersionTaken(f"version {release.version} is there with other content: choose another name")
        if annotation(held, n.TAKEN_BACK_ANNOTATION):
            raise WrongStep(f"version {release.version} was taken back; apply it under another name")
        return Outcome(False, f"version {release.version} is the newest revision already")
    if not predictor_status(held).get("latestRolledoutRevision"):
        raise WrongStep(
            f"{line.name} has no rolled-out revision yet, and KServe would send a candidate all traffic: wait"
        )
    n.service_name(line.name, release.version)  # the name's rules hold here, too
    ensure_runtime(cluster, {"spec": {"predictor": _stable(held)["predictor"]}}, line.name, release)

    def edit(service: Object) -> bool:
        if version_of(service) == release.version:
            return False
        stable = _stable(service)
        annotate(
            service,
            stable=json.dumps(stable, sort_keys=True),
            content_sha256=release.sha256,
            revision_before=predictor_status(service).get("latestCreatedRevision"),
            taken_back=None,
            checks=None,
            checks_skipped=None,
        )
        service["metadata"]["annotations"][n.TAG_ANNOTATION] = "true"
        service["metadata"].setdefault("labels", {}).update({n.LINE_LABEL: line.name, n.VERSION_LABEL: release.version})
        predictor = release_predictor(stable["predictor"], release, line.name)
        service["spec"]["predictor"] = {**predictor, "canaryTrafficPercent": percent}
        return True

    _, changed = cluster.change(INFERENCE_SERVICE, line.name, edit)
    return Outcome(
        changed, f"version {release.version} is the newest revision of {line.name}, with {percent} % of the traffic"
    )


def _stable(service: Object) -> Object:
    """Return version and predictor of what holds the traffic: remembered while a canary is there."""
    remembered = annotation(service, n.STABLE_ANNOTATION)
    if service["spec"]["predictor"].get("canaryTrafficPercent") is not None and remembered:
        return dict(json.loads(remembered))
    return {"version": version_of(service), "predictor": service["spec"]["predictor"]}


def promote(cluster: Cluster, line: Line, version: str, percent: int, record: dict[str, str | None]) -> Outcome:
    """Give the newest revision `percent` of the traffic; 100 ends the roll-out.

    Raises
    ------
    WrongStep
        If the version is not the newest revision, was taken back, or is not ready.
    """
    check_percent(percent)
    held = line.services[line.name]
    status = predictor_status(held)
    if version_of(held) != version:
        raise WrongStep(f"the newest revision of {line.name} is version {version_of(held)}, not {version}")
    if annotation(held, n.TAKEN_BACK_ANNOTATION):
        raise WrongStep(f"version {version} was taken back; apply it under another name")
    if not is_newest_ready(held):
        raise WrongStep(f"version {version} is not ready: `cytoserve deploy wait {line.name} --version {version}`")
    wanted = None if percent == 100 else percent

    def edit(service: Object) -> bool:
        if version_of(service) != version:
            raise WrongStep(f"somebody applied version {version_of(service)} in the meantime; nothing was promoted")
        if service["spec"]["predictor"].get("canaryTrafficPercent") == wanted:
            return False
        if wanted is None:
            service["spec"]["predictor"].pop("canaryTrafficPercent", None)
        else:
            service["spec"]["predictor"]["canaryTrafficPercent"] = wanted
        annotate(service, **record)
        return True

    _, changed = cluster.change(INFERENCE_SERVICE, line.name, edit)
    return Outcome(
        changed, f"revision {status.get('latestReadyRevision')} (version {version}) gets {percent} % of the traffic"
    )


def rollback(cluster: Cluster, line: Line) -> Outcome:
    """Send all traffic to the revision before.

    Raises
    ------
    WrongStep
        If there is none.
    """
    held = line.services[line.name]
    status = predictor_status(held)
    newest, rolled = status.get("latestCreatedRevision"), status.get("latestRolledoutRevision")
    target = rolled if rolled != newest else status.get("previousRolledoutRevision")
    predictor = held["spec"]["predictor"]
    if annotation(held, n.TAKEN_BACK_ANNOTATION) and predictor.get("canaryTrafficPercent") == 0:
        return Outcome(False, f"version {version_of(held)} was taken back already")
    if not target:
        raise WrongStep(f"KServe knows no revision of {line.name} before {newest}; there is nothing to go back to")

    def edit(service: Object) -> bool:
        if service["spec"]["predictor"].get("canaryTrafficPercent") == 0 and annotation(
            service, n.TAKEN_BACK_ANNOTATION
        ):
            return False
        service["spec"]["predictor"]["canaryTrafficPercent"] = 0
        annotate(service, taken_back=version_of(service))
        return True

    _, changed = cluster.change(INFERENCE_SERVICE, line.name, edit)
    return Outcome(changed, f"all traffic goes to revision {target}")


def is_newest_ready(service: Object) -> bool:
    """Return whether the revision that was applied last is ready; a status about the one before does not count."""
    status = predictor_status(service)
    newest = status.get("latestCreatedRevision")
    fresh = newest != annotation(service, n.BEFORE_ANNOTATION)
    return bool(newest) and fresh and status.get("latestReadyRevision") == newest


def check_percent(percent: int) -> None:
    """Refuse what is no percentage.

    Raises
    ------
    ObjectRefused
    """
    if not 0 <= percent <= 100:
        raise ObjectRefused(f"a share of the traffic lies between 0 and 100 %, not {percent}")
