"""What the chart promises of models: where they come from, how they are checked, engines, roll-out."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from chart import CHART, EXAMPLES, MODES, Helm, Manifest, container, pod_of
from cytoserve_deploy.container import entrypoint


@pytest.mark.parametrize(
    ("mode", "uri", "path"),
    [
        ("deployment", "", "/models"),
        ("deployment", "pvc://c/p", "/models"),
        ("deployment", "s3://b/p", "/models"),
        ("deployment", "oci://r.example/m:1", "/models"),
        ("kserve", "", "/models"),
        ("kserve", "pvc://c/p", "/mnt/models"),
        ("kserve", "s3://b/p", "/mnt/models"),
        ("kserve", "oci://r.example/m:1", "/mnt/models"),
    ],
)
def test_model_stores(helm: Helm, mode: str, uri: str, path: str) -> None:
    manifests = helm.render(mode=mode, model__uri=uri)
    pod = pod_of(manifests)
    server = pod["containers"][0]
    assert f"--model-repository={path}" in server["args"]
    mounted = [mount for mount in server["volumeMounts"] if mount["mountPath"] == path]
    if mode == "kserve":
        # KServe mounts it
        assert mounted == []
        service = next(item for item in manifests if item["kind"] == "InferenceService")
        assert service["spec"]["predictor"]["model"].get("storageUri", "") == uri
        return
    assert bool(mounted) == bool(uri)
    assert all(mount["readOnly"] for mount in mounted)
    volume = next((v for v in pod["volumes"] if v["name"] == "models"), None)
    if uri.startswith("pvc:"):
        assert volume == {"name": "models", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}}
        assert mounted[0]["subPath"] == "p"
    elif uri.startswith("s3:"):
        assert pod["initContainers"][0]["args"] == [uri, "/models"]
    elif uri.startswith("oci:"):
        assert volume is not None
        assert volume["image"]["reference"] == "r.example/m:1"


def test_a_claim_without_a_path_is_mounted_whole(helm: Helm) -> None:
    mounts = container(helm, model__uri="pvc://only")["volumeMounts"]
    assert "subPath" not in next(mount for mount in mounts if mount["name"] == "models")


@MODES
def test_models_are_verified_unless_opted_out(helm: Helm, mode: str) -> None:
    args = container(helm, mode=mode)["args"]
    assert not {"--skip-verification", "--allow-unlisted"} & set(args)
    given = entrypoint.parser().parse_args(args)
    assert (given.skip_verification, given.allow_unlisted) == (False, False), "strict by default"
    assert "--skip-verification" in container(helm, mode=mode, model__skipVerification=True)["args"]
    assert "--allow-unlisted" in container(helm, mode=mode, model__refuseUnlisted=False)["args"]
    digest = "a" * 64
    assert f"--manifest-sha256={digest}" in container(helm, mode=mode, model__manifestSha256=digest)["args"]


def test_engines_are_built_from_verified_models_only(helm: Helm) -> None:
    """The init step starts the same server on the same models, so it refuses what the server would."""
    values = {"engineCache__prebuild": True, "model__refuseUnlisted": False, "model__manifestSha256": "b" * 64}
    step = pod_of(helm.render(**values))["initContainers"][-1]
    assert {"--allow-unlisted", f"--manifest-sha256={'b' * 64}"} <= set(step["args"])


@pytest.mark.parametrize(("value", "words"), [("skipVerification", "hashes are not checked"), ("refuseUnlisted", "")])
def test_notes_warn_of_an_opt_out(helm: Helm, value: str, words: str) -> None:
    assert "WARNING" not in helm.notes()
    told = helm.notes(**{f"model__{value}": value == "skipVerification"})
    assert f"WARNING: model.{value} is o" in told
    assert words in told


@MODES
def test_engines_have_a_writable_cache_and_an_init_step_on_the_gpu(helm: Helm, mode: str) -> None:
    values = {"mode": mode, "model__uri": "pvc://c/p", "engineCache__prebuild": True}
    pod = pod_of(helm.render(**values))
    step = pod["initContainers"][-1]
    server = pod["containers"][0]
    assert step["args"][0] == "warm"
    assert step["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert step["image"] == server["image"]
    for item in (step, server):
        mount = next(m for m in item["volumeMounts"] if m["mountPath"] == "/var/cache/cytoserve")
        assert not mount.get("readOnly")
    folder = next(arg.split("=")[1] for arg in step["args"] if arg.startswith("--model-repository="))
    assert folder in [mount["mountPath"] for mount in step["volumeMounts"]]


def test_a_rollout_waits_for_engines_and_start(helm: Helm) -> None:
    spec = helm.one("Deployment", engineCache__prebuild=True)["spec"]
    assert spec["progressDeadlineSeconds"] > 1800 + 1800


@MODES
def test_rollout_suits_scarce_gpus(helm: Helm, mode: str) -> None:
    def strategy(**values: Any) -> Manifest:
        item = helm.one({"kserve": "InferenceService"}.get(mode, "Deployment"), mode=mode, **values)
        spec = item["spec"]
        return spec["predictor"]["deploymentStrategy"] if mode == "kserve" else spec["strategy"]

    one_by_one = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    first_start = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert strategy() == {"type": "Recreate"}, "one replica that may be missing counts as available without a pod"
    assert strategy(replicas=2) == one_by_one
    assert strategy(rollout__strategy="spare") == strategy(replicas=2, rollout__strategy="spare") == first_start
    keda = {"autoscaling__enabled": True}
    assert strategy(**keda) == first_start, "all of its pods at once would be too many"
    assert strategy(autoscaling__minReplicas=2, **keda) == one_by_one


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_examples_claim_of_engines_is_that_of_one_release(helm: Helm, name: str) -> None:
    """ONNX Runtime asks that old engines go when the model, ONNX Runtime or TensorRT changes."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    for volume in pod_of(helm.render(name))["volumes"]:
        if volume["name"] == "cache" and "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"].endswith(f"-{chart['appVersion']}")
