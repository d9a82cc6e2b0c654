"""Knative mode: the newest revision gets a share; the fake follows KServe's own rules for revisions and traffic."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_api import FakeApi
from installed import LINE
from typer.testing import Result

Deploy = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("knative")
NEW = ("--version", "v2", "--model-uri", "pvc://models/0.2.0")
SKIP = ("--skip-checks", "--reason", "rehearsal")
OLD_REVISION, NEW_REVISION = f"{LINE}-predictor-00001", f"{LINE}-predictor-00002"


def traffic(api: FakeApi) -> dict[str, int]:
    part = api.read("inferenceservices", LINE)["status"]["components"]["predictor"]
    return {item["revisionName"]: item["percent"] for item in part["traffic"] if item["percent"]}


def predictor(api: FakeApi) -> dict[str, Any]:
    return api.read("inferenceservices", LINE)["spec"]["predictor"]


@pytest.mark.parametrize("api", ["v0.15.2", "v0.16.0", "v0.20.0"], indirect=True)
def test_an_unchecked_candidate_gets_no_traffic_but_an_address(deploy: Deploy, api: FakeApi) -> None:
    result = deploy("apply", *NEW)
    assert result.exit_code == 0, result.output
    assert traffic(api) == {OLD_REVISION: 100}
    held = api.read("inferenceservices", LINE)
    assert held["status"]["components"]["predictor"]["latestCreatedRevision"] == NEW_REVISION
    assert held["metadata"]["annotations"]["serving.kserve.io/enable-tag-routing"] == "true"
    assert predictor(api)["model"]["storageUri"] == "pvc://models/0.2.0"


def test_a_canary_grows_and_becomes_everything(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    assert deploy("promote", "--version", "v2", "--percent", "10", *SKIP).exit_code == 0
    assert traffic(api) == {OLD_REVISION: 90, NEW_REVISION: 10}
    for _ in range(2):
        assert deploy("promote", "--version", "v2", *SKIP).exit_code == 0
        assert traffic(api) == {NEW_REVISION: 100}
    assert "canaryTrafficPercent" not in predictor(api)
    assert len(api.writes) == 3


def test_a_canary_is_taken_back(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW, "--canary-percent", "20")
    assert traffic(api) == {OLD_REVISION: 80, NEW_REVISION: 20}
    for _ in range(2):
        assert deploy("rollback").exit_code == 0
        assert traffic(api) == {OLD_REVISION: 100}
    assert len(api.writes) == 2


def test_a_promoted_version_is_taken_back(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    deploy("promote", "--version", "v2", *SKIP)
    assert deploy("rollback").exit_code == 0
    assert traffic(api) == {OLD_REVISION: 100}
    assert deploy("promote", "--version", "v2", *SKIP).exit_code == 1
    again = deploy("apply", *NEW)
    assert again.exit_code == 1
    assert "another name" in again.output


def test_after_a_rollback_the_next_version_is_made_from_what_ran_well(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", "--version", "bad", "--image", "r.example/broken:1")
    deploy("rollback")
    assert deploy("apply", *NEW).exit_code == 0
    assert predictor(api)["model"]["runtime"] == LINE
    assert predictor(api)["model"]["storageUri"] == "pvc://models/0.2.0"
    assert traffic(api) == {OLD_REVISION: 100}


def test_without_a_rolled_out_revision_nothing_is_applied(deploy: Deploy, api: FakeApi) -> None:
    part = api.read("inferenceservices", LINE)["status"]["components"]["predictor"]
    del part["latestRolledoutRevision"]
    result = deploy("apply", *NEW)
    assert result.exit_code == 1
    assert "all traffic" in result.output
    assert api.writes == []


def test_a_status_about_the_revision_before_is_not_taken_for_ready(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    part = api.read("inferenceservices", LINE)["status"]["components"]["predictor"]
    part["latestCreatedRevision"] = part["latestReadyRevision"] = OLD_REVISION
    result = deploy("wait", "--version", "v2", "--timeout", "0.2", "--poll", "0.05")
    assert result.exit_code == 6
    assert deploy("promote", "--version", "v2", *SKIP).exit_code == 1


@pytest.mark.parametrize("percent", ["-1", "101"])
def test_what_is_no_percentage_is_refused(deploy: Deploy, api: FakeApi, percent: str) -> None:
    assert deploy("apply", *NEW, "--canary-percent", percent).exit_code == 2
    assert api.writes == []


def test_rivals_and_status(deploy: Deploy, api: FakeApi) -> None:
    api.rivals = 2
    assert deploy("apply", *NEW, "--canary-percent", "30").exit_code == 0
    rows = {row["role"]: row for row in json.loads(deploy("status", "--json").output)["versions"]}
    assert (rows["live"]["revision"], rows["live"]["traffic"], rows["live"]["version"]) == (OLD_REVISION, 70, "unnamed")
    assert (rows["candidate"]["revision"], rows["candidate"]["traffic"]) == (NEW_REVISION, 30)


def test_delete_leaves_the_charts_object_to_helm(deploy: Deploy, api: FakeApi) -> None:
    assert deploy("delete", "--all", "--yes").exit_code == 1
    assert ("inferenceservices", LINE) in api.objects
