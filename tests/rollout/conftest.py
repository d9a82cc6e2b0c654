"""A cluster as the chart leaves it (fake API server over HTTP), and the command pointed at it by a kubeconfig."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

# The gRPC server of the client's tests serves here, too, and the chart's judges of objects judge here.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "client"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helm"))

pytest.importorskip("kubernetes", reason="cytoserve deploy needs kubernetes: pip install 'cytoserve[deploy]'")

from chart import Helm, session_helm
from cytoserve_cli.deploy import app
from cytoserve_deploy.rollout.cluster import Cluster
from fake_api import FakeApi, Served, reconcile
from installed import LINE, ROOT, RUNTIME, service


def documented_role() -> set[tuple[str, str]]:
    """Return what the role in docs/rollout.md allows: every test runs under it, so it is enough."""
    text = (ROOT / "docs" / "rollout.md").read_text(encoding="utf-8")
    role = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    return {(verb, plural) for rule in role["rules"] for plural in rule["resources"] for verb in rule["verbs"]}


@pytest.fixture(params=["v0.16.0"])
def api(schemas_if_any: Path | None, request: pytest.FixtureRequest) -> FakeApi:
    return FakeApi(schemas_if_any, kserve=request.param, permitted=documented_role())


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return session_helm(request, tmp_path_factory)


@pytest.fixture
def served(api: FakeApi) -> Iterator[Served]:
    with Served(api) as running:
        yield running


@pytest.fixture
def kubeconfig(served: Served, tmp_path: Path) -> str:
    return str(served.kubeconfig(tmp_path / "kubeconfig"))


@pytest.fixture
def install(api: FakeApi, served: Served) -> Callable[[str], None]:
    """Return a function that puts there what `helm install` and KServe would, in a deployment mode."""

    def make(mode: str) -> None:
        api.put("servingruntimes", RUNTIME)
        reconcile(api, api.put("inferenceservices", service(mode)))
        api.writes.clear()

    return make


@pytest.fixture
def standard(install: Callable[[str], None]) -> None:
    install("Standard")


@pytest.fixture
def cluster(kubeconfig: str) -> Cluster:
    return Cluster(kubeconfig=kubeconfig)


@pytest.fixture
def deploy(kubeconfig: str) -> Callable[..., Result]:
    """Return a function that runs ``cytoserve deploy ...`` against the fake cluster."""

    def run(command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, [command, LINE, *arguments, "--kubeconfig", kubeconfig])

    return run
