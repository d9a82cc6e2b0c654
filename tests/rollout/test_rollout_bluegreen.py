"""Standard mode: a second InferenceService, and the Service that says which one answers."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from fake_api import FakeApi
from installed import LINE, service
from typer.testing import Result

Deploy = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("standard")
NEW = ("--version", "v2", "--model-uri", "pvc://models/0.2.0")
SKIP = ("--skip-checks", "--reason", "rehearsal")


def selector(api: FakeApi) -> str:
    return str(api.read("services", f"{LINE}-live")["spec"]["selector"]["app"])


@pytest.mark.parametrize("api", ["v0.15.2", "v0.16.0", "v0.20.0"], indirect=True)
def test_the_candidate_stands_beside_the_running_version_which_goes_on_answering(deploy: Deploy, api: FakeApi) -> None:
    result = deploy("apply", *NEW)
    assert result.exit_code == 0, result.output
    made = api.read("inferenceservices", f"{LINE}-v2")
    expected = service("Standard")["spec"]
    expected["predictor"]["model"]["storageUri"] = "pvc://models/0.2.0"
    assert made["spec"] == expected
    assert api.read("inferenceservices", LINE)["spec"] == service("Standard")["spec"]
    assert selector(api) == f"isvc.{LINE}-predictor"
    ports = {port["name"]: port["port"] for port in api.read("services", f"{LINE}-live")["spec"]["ports"]}
    assert ports == {"http": 80, "grpc": 8001}


def test_the_candidate_does_not_pass_for_helms(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    metadata = api.read("inferenceservices", f"{LINE}-v2")["metadata"]
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "cytoserve-deploy"
    assert metadata["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    assert not [key for key in metadata["annotations"] if key.startswith("meta.helm.sh")]


def test_applying_the_same_again_writes_nothing(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    before = list(api.writes)
    result = deploy("apply", *NEW)
    assert (result.exit_code, api.writes) == (0, before)
    assert "nothing to do" in result.output


def test_a_version_is_never_changed(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    result = deploy("apply", "--version", "v2", "--model-uri", "pvc://models/other")
    assert result.exit_code == 1
    assert "VersionTaken" in result.output
    assert api.read("inferenceservices", f"{LINE}-v2")["spec"]["predictor"]["model"]["storageUri"].endswith("0.2.0")


def test_a_change_by_hand_is_noticed(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    api.read("inferenceservices", f"{LINE}-v2")["spec"]["predictor"]["model"]["storageUri"] = "pvc://elsewhere"
    result = deploy("apply", *NEW)
    assert result.exit_code == 1
    assert "by hand" in result.output


def test_a_new_image_gets_a_runtime_of_its_own(deploy: Deploy, api: FakeApi) -> None:
    result = deploy("apply", "--version", "v3", "--image", "r.example/s:3", "--manifest-sha256", "bb")
    assert result.exit_code == 0, result.output
    assert api.read("inferenceservices", f"{LINE}-v3")["spec"]["predictor"]["model"]["runtime"] == f"{LINE}-v3"
    container = api.read("servingruntimes", f"{LINE}-v3")["spec"]["containers"][0]
    assert container["image"] == "r.example/s:3"
    assert container["args"] == ["serve", "--manifest-sha256=bb", "--grpc-port=8001", "--", "--log-info=1"]
    old = api.read("servingruntimes", LINE)["spec"]["containers"][0]
    assert old["image"].endswith(":0.1.0")


def test_a_dry_run_is_judged_by_the_server_and_keeps_nothing(deploy: Deploy, api: FakeApi) -> None:
    held = set(api.objects)
    result = deploy("apply", *NEW, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "dry run" in result.output
    assert (set(api.objects), api.writes) == (held, [])
    api.read("inferenceservices", LINE)["spec"]["predictor"]["minReplicas"] = "one"
    refused = deploy("apply", *NEW, "--dry-run")
    assert refused.exit_code == 2
    assert "minReplicas" in refused.output


def test_promotion_and_rollback_move_the_traffic_and_repeating_them_does_nothing(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    for _ in range(2):
        assert deploy("promote", "--version", "v2", *SKIP).exit_code == 0
        assert selector(api) == f"isvc.{LINE}-v2-predictor"
    for _ in range(2):
        assert deploy("rollback").exit_code == 0
        assert selector(api) == f"isvc.{LINE}-predictor"
    assert [write for write in api.writes if write[0] == "update"] == [("update", "services", f"{LINE}-live")] * 2


def test_somebody_else_writing_the_same_object_is_survived(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    api.rivals = 3
    assert deploy("promote", "--version", "v2", *SKIP).exit_code == 0
    entry = api.read("services", f"{LINE}-live")
    assert entry["spec"]["selector"]["app"] == f"isvc.{LINE}-v2-predictor"
    assert entry["metadata"]["annotations"]["rival"] == "0"


def test_somebody_who_never_stops_writing_is_told_about(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    api.rivals = 1000
    result = deploy("promote", "--version", "v2", *SKIP)
    assert result.exit_code == 1
    assert "ConflictRemains" in result.output
    assert selector(api) == f"isvc.{LINE}-predictor"


def test_what_is_not_ready_is_not_promoted(deploy: Deploy, api: FakeApi) -> None:
    api.becomes_ready = False
    deploy("apply", *NEW)
    result = deploy("promote", "--version", "v2", *SKIP)
    assert result.exit_code == 1
    assert "not ready" in result.output
    assert selector(api) == f"isvc.{LINE}-predictor"


def test_rollback_does_not_go_to_a_version_that_is_down(deploy: Deploy, api: FakeApi) -> None:
    from fake_api import set_ready

    deploy("apply", *NEW)
    deploy("promote", "--version", "v2", *SKIP)
    set_ready(api.read("inferenceservices", LINE), False)
    assert deploy("rollback").exit_code == 1
    assert selector(api) == f"isvc.{LINE}-v2-predictor"


def test_rollback_before_any_promotion_says_so(deploy: Deploy) -> None:
    result = deploy("rollback")
    assert result.exit_code == 1
    assert "nothing was promoted" in result.output


def test_skipped_checks_leave_their_reason_on_the_cluster(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    result = deploy("promote", "--version", "v2", *SKIP)
    assert "CHECKS SKIPPED" in result.output
    kept = json.loads(
        api.read("services", f"{LINE}-live")["metadata"]["annotations"]["rollout.cytoserve/checks-skipped"]
    )
    assert (kept["reason"], kept["version"]) == ("rehearsal", "v2")


@pytest.mark.parametrize("wrong", [["--skip-checks"], ["--reason", "no flag"], ["--skip-checks", "--reason", "  "], []])
def test_checks_are_not_skipped_silently(deploy: Deploy, api: FakeApi, wrong: list[str]) -> None:
    deploy("apply", *NEW)
    assert deploy("promote", "--version", "v2", *wrong).exit_code == 2
    assert selector(api) == f"isvc.{LINE}-predictor"


def test_deleting_wants_a_yes_and_never_takes_what_answers(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    assert deploy("delete", "--version", "v2").exit_code == 2
    assert ("inferenceservices", f"{LINE}-v2") in api.objects
    deploy("promote", "--version", "v2", *SKIP)
    assert deploy("delete", "--version", "v2", "--yes").exit_code == 1
    deploy("rollback")
    assert deploy("delete", "--version", "v2", "--yes").exit_code == 0
    assert ("inferenceservices", f"{LINE}-v2") not in api.objects
    again = deploy("delete", "--version", "v2", "--yes")
    assert again.exit_code == 0
    assert "gone already" in again.output


def test_delete_all_leaves_helms_object(deploy: Deploy, api: FakeApi) -> None:
    deploy("apply", *NEW)
    assert deploy("delete", "--all", "--yes").exit_code == 0
    assert {name for kind, name in api.objects if kind == "inferenceservices"} == {LINE}
    assert ("services", f"{LINE}-live") not in api.objects


def test_delete_finds_what_is_ours_after_helm_has_uninstalled_the_chart(deploy: Deploy, api: FakeApi) -> None:
    """`helm uninstall` takes the first InferenceService; the Service NAME-live and the versions are left."""
    deploy("apply", "--version", "v2", "--image", "r.example/s:2")
    deploy("apply", "--version", "v3", "--model-uri", "pvc://models/3")
    for gone in (("inferenceservices", LINE), ("servingruntimes", LINE), ("services", f"{LINE}-predictor")):
        del api.objects[gone]
    api.put("services", {"kind": "Service", "metadata": {"name": "elses", "labels": {}}, "spec": {}})
    result = deploy("delete", "--all", "--yes")
    assert result.exit_code == 0, result.output
    left = {name for kind, name in api.objects if kind in ("services", "inferenceservices", "servingruntimes")}
    assert left == {"elses"}
    again = deploy("delete", "--all", "--yes")
    assert again.exit_code == 0
    assert "nothing to do" in again.output


def test_status_tells_roles_and_why(deploy: Deploy, api: FakeApi) -> None:
    api.becomes_ready = False
    deploy("apply", *NEW)
    document = json.loads(deploy("status", "--json").output)
    rows = {row["version"]: row for row in document["versions"]}
    assert (rows["unnamed"]["role"], rows["unnamed"]["traffic"]) == ("live", 100)
    assert (rows["v2"]["role"], rows["v2"]["ready"]) == ("candidate", False)
    assert "MinimumReplicasUnavailable" in rows["v2"]["why"]
    table = deploy("status").output
    assert "candidate" in table
    assert "live" in table


@pytest.mark.parametrize("uri", ["ftp://h/m", "http://h/m", "models/0.2.0", "s3://", "://m"])
def test_a_model_store_that_the_chart_does_not_know_is_refused(deploy: Deploy, api: FakeApi, uri: str) -> None:
    result = deploy("apply", "--version", "v2", "--model-uri", uri)
    assert result.exit_code == 2
    assert f"{uri} names no model store" in " ".join(result.output.split())
    assert api.writes == []


@pytest.mark.parametrize("given", [[], ["--model-uri", ""]])
def test_a_version_of_nothing_new_is_refused(deploy: Deploy, api: FakeApi, given: list[str]) -> None:
    result = deploy("apply", "--version", "v2", *given)
    assert result.exit_code == 2
    assert "nothing new" in result.output
    assert api.writes == []


@pytest.mark.parametrize("version", ["0.2.0", "V2", "-a", "x" * 60])
def test_versions_that_cannot_be_names_are_refused(deploy: Deploy, api: FakeApi, version: str) -> None:
    assert deploy("apply", "--version", version, "--model-uri", "pvc://m").exit_code == 2
    assert api.writes == []
