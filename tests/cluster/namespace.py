"""A namespace of the cluster under test, with helm and kubectl pointed at it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest
from chart import CHART, RELEASE, Helm, Manifest, nested, to_yaml

BUILT_IN: Final = {"", "apps", "autoscaling", "networking.k8s.io", "policy"}


@dataclass
class Namespace:
    """A namespace of the cluster under test, with helm and kubectl pointed at it."""

    name: str
    kubeconfig: str
    helm_binary: Helm

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """Run kubectl in the namespace; return its output."""
        command = ["kubectl", "--kubeconfig", self.kubeconfig, "--namespace", self.name, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=900, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def get(self, kind: str, name: str) -> Manifest | None:
        """Return an object, None where there is none of that name."""
        text = self.kubectl("get", kind, name, "--ignore-not-found", "--output", "json")
        return json.loads(text) if text.strip() else None

    def objects(self, kind: str, *selectors: str) -> list[Manifest]:
        """Return the objects of a kind."""
        return list(json.loads(self.kubectl("get", kind, *selectors, "--output", "json"))["items"])

    def helm(self, verb: str, *arguments: str) -> str:
        """Run helm on the namespace; `Refused` where it fails."""
        return self.helm_binary.run(verb, *arguments, "--kubeconfig", self.kubeconfig, "--namespace", self.name)

    def install(self, *files: str, verb: str = "install", flags: tuple[str, ...] = (), **values: Any) -> str:
        """Install or upgrade the chart with values files and single values (two underscores for a dot)."""
        given = self.helm_binary.home / f"{self.name}.yaml"
        given.write_text(to_yaml(nested(values)), encoding="utf-8")
        options = [option for name in files for option in ("--values", str(CHART / name))]
        return self.helm(verb, RELEASE, str(CHART), *options, "--values", str(given), *flags)

    def need(self, manifests: list[Manifest]) -> None:
        """Skip where the cluster lacks a custom resource that is rendered."""
        groups = {item["apiVersion"].rpartition("/")[0] for item in manifests} - BUILT_IN
        served = {line.partition("/")[0] for line in self.kubectl("api-versions").split()}
        if groups - served:
            pytest.skip(f"this cluster does not serve {', '.join(sorted(groups - served))}")


def until(look: Callable[[], Any], seconds: float = 120) -> Any:
    """Return the first true answer of `look`; fail with its last answer when the time is over."""
    ends = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < ends, f"after {seconds:g} s still {found!r}"
        time.sleep(1)
