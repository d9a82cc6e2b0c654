"""A real cluster, named by KUBECONFIG and asked for by CYTOSERVE_TEST_CLUSTER=1: nothing is installed anywhere unasked.

``make test-cluster`` sets the variable. CYTOSERVE_TEST_CLUSTER_IMAGE=REPOSITORY:TAG names a ``cpu`` image that the
nodes have, for the test that runs the server. The API server needs its controllers; nodes may be feigned. Everything
happens in namespaces of its own, deleted at the end, which enforce Pod Security "restricted".
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helm"))

from chart import Helm, session_helm
from namespace import Namespace

SWITCH: Final = "CYTOSERVE_TEST_CLUSTER"
IMAGE: Final = "CYTOSERVE_TEST_CLUSTER_IMAGE"


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return session_helm(request, tmp_path_factory)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    if os.environ.get(SWITCH) != "1":
        pytest.skip(f"no cluster was asked for: KUBECONFIG=... {SWITCH}=1, or `make test-cluster`")
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl")
    path = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    if not Path(path).is_file():
        pytest.skip(f"no kubeconfig at {path}")
    return path


@pytest.fixture
def namespace(kubeconfig: str, helm: Helm) -> Iterator[Namespace]:
    made = Namespace(f"cytoserve-test-{secrets.token_hex(4)}", kubeconfig, helm)
    made.kubectl("create", "namespace", made.name)
    made.kubectl("label", "namespace", made.name, "pod-security.kubernetes.io/enforce=restricted")
    try:
        yield made
    finally:
        made.kubectl("delete", "namespace", made.name, "--wait=false")


@pytest.fixture
def image() -> dict[str, Any]:
    """Return the values that name a cpu image which the nodes have."""
    given = os.environ.get(IMAGE)
    if not given:
        pytest.skip(f"no cpu image was named: {IMAGE}=REPOSITORY:TAG")
    repository, _, tag = given.rpartition(":")
    return {"image__repository": repository, "image__tag": tag, "autoscaling__enabled": False}
