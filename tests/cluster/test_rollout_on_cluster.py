"""`cytoserve deploy` on a real KServe, under the Role of docs/rollout.md and no other right."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, RELEASE
from cytoserve_cli.deploy import app
from namespace import Namespace, until
from typer.testing import CliRunner, Result

LINE = f"{RELEASE}-cytoserve"
ACCOUNT = "cytoserve-deploy"
NEW = ("--version", "v2", "--image", "registry.invalid/none:2")
SKIP = ("--skip-checks", "--reason", "rehearsal")
ROLLOUT = CHART.parents[1] / "docs" / "rollout.md"


def confined(namespace: Namespace, folder: Path) -> Path:
    """Return a kubeconfig of a service account that has the documented Role and nothing else."""
    role = yaml.safe_load(ROLLOUT.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0])
    role["metadata"]["namespace"] = namespace.name
    namespace.kubectl("create", "serviceaccount", ACCOUNT)
    namespace.kubectl("apply", "--filename", "-", text=json.dumps(role))
    binding = ("create", "rolebinding", ACCOUNT, f"--role={role['metadata']['name']}")
    namespace.kubectl(*binding, f"--serviceaccount={namespace.name}:{ACCOUNT}")
    whole = json.loads(namespace.kubectl("config", "view", "--minify", "--flatten", "--output", "json"))
    token = namespace.kubectl("create", "token", ACCOUNT).strip()
    whole["users"] = [{"name": whole["users"][0]["name"], "user": {"token": token}}]
    whole["contexts"][0]["context"]["namespace"] = namespace.name
    path = folder / "kubeconfig"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


@pytest.fixture
def deploy(namespace: Namespace, tmp_path: Path) -> Any:
    """Return a function that runs ``cytoserve deploy ...`` beside an installed chart whose image does not exist."""
    values: dict[str, Any] = {"mode": "kserve", "kserve__version": "0.20", "gpu__enabled": False}
    values["image__repository"] = "registry.invalid/none"
    namespace.need(namespace.helm_binary.render(**values))
    namespace.install(**values)
    until(lambda: namespace.get("service", f"{LINE}-predictor"))
    kubeconfig = confined(namespace, tmp_path)

    def run(command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, [command, LINE, *arguments, "--kubeconfig", str(kubeconfig)])

    return run


def test_the_documented_role_is_enough_and_nothing_without_a_pod_is_promoted(namespace: Namespace, deploy: Any) -> None:
    result = deploy("apply", *NEW)
    assert result.exit_code == 0, result.output
    assert json.loads(deploy("status", "--json").output)["versions"][0]["ready"] is False
    waited = deploy("wait", "--version", "v2", "--timeout", "60")
    assert waited.exit_code == 6, waited.output
    promoted = deploy("promote", "--version", "v2", *SKIP)
    assert promoted.exit_code == 1
    assert "not ready" in promoted.output
    assert deploy("rollback").exit_code == 1
    entry = namespace.get("service", f"{LINE}-live")
    assert entry is not None
    assert entry["spec"]["selector"] == {"app": f"isvc.{LINE}-predictor"}


def test_delete_leaves_nothing_after_helm_has_uninstalled_the_chart(namespace: Namespace, deploy: Any) -> None:
    assert deploy("apply", *NEW).exit_code == 0
    namespace.helm("uninstall", RELEASE, "--wait")
    result = deploy("delete", "--all", "--yes")
    assert result.exit_code == 0, result.output
    until(lambda: not namespace.objects("inferenceservices,servingruntimes,services"))


def test_a_token_is_all_that_the_kubeconfig_holds(namespace: Namespace, tmp_path: Path) -> None:
    """A control of the tests above: with the administrator's certificate they would prove nothing about the Role."""
    user = json.loads(confined(namespace, tmp_path).read_text(encoding="utf-8"))["users"][0]["user"]
    claims = json.loads(base64.urlsafe_b64decode(user["token"].split(".")[1] + "=="))
    assert set(user) == {"token"}
    assert claims["sub"] == f"system:serviceaccount:{namespace.name}:{ACCOUNT}"
