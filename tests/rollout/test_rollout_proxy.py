"""An API server on this machine (``kubectl proxy``, kind) is not asked for through the environment's proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cytoserve_deploy.rollout.cluster import INFERENCE_SERVICE, Cluster
from egress import PROXIED, LoggingProxy, logging_proxy
from installed import LINE


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoggingProxy]:
    with logging_proxy() as running:
        for name in PROXIED:
            monkeypatch.setenv(name, running.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield running


@pytest.mark.usefixtures("standard")
def test_loopback_is_asked_directly(proxy: LoggingProxy, kubeconfig: str) -> None:
    assert Cluster(kubeconfig=kubeconfig).get(INFERENCE_SERVICE, LINE)
    assert proxy.lines == []


def changed(kubeconfig: str, to: Path, **cluster: str) -> str:
    settings = yaml.safe_load(Path(kubeconfig).read_text())
    settings["clusters"][0]["cluster"].update(cluster)
    to.write_text(yaml.safe_dump(settings))
    return str(to)


def test_a_proxy_of_the_kubeconfig_and_another_machines_proxy_stay(
    proxy: LoggingProxy, kubeconfig: str, tmp_path: Path
) -> None:
    named = changed(kubeconfig, tmp_path / "named", **{"proxy-url": "http://127.0.0.1:1"})
    assert Cluster(kubeconfig=named).api.configuration.proxy == "http://127.0.0.1:1"
    elsewhere = changed(kubeconfig, tmp_path / "elsewhere", server="https://cluster.example:6443")
    assert Cluster(kubeconfig=elsewhere).api.configuration.proxy == proxy.url
