"""One list of variables, everywhere where a process begins: launcher, entrypoint, image, compose file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from cytoserve_contract import telemetry
from cytoserve_deploy.container import entrypoint
from cytoserve_deploy.launch import layout as launch
from cytoserve_deploy.launch import runtime
from cytoserve_deploy.launch.options import CONTAINER

DOCKER = Path(__file__).resolve().parents[2] / "deploy" / "docker"


def test_what_the_operator_set_stays_and_what_is_empty_does_not() -> None:
    base = {"ORT_DISABLE_TELEMETRY": "0", "HF_HUB_OFFLINE": "", "OTHER": ""}
    assert telemetry.without_telemetry(base) == {**telemetry.VARIABLES, "ORT_DISABLE_TELEMETRY": "0", "OTHER": ""}
    assert base["HF_HUB_OFFLINE"] == "", "the argument is left alone"


def test_the_local_servers_environment() -> None:
    env = launch.environment(launch.ServerOptions(), runtime.find_runtime(), {})
    assert telemetry.VARIABLES.items() <= env.items()


def test_the_containers_environment(tmp_path: Path) -> None:
    """A native ``tritonserver`` on the path, as in NVIDIA's container."""
    server = tmp_path / "tritonserver"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    command, env = entrypoint.assemble(CONTAINER, ["/models"], {"PATH": str(tmp_path)})
    assert command[0] == str(server)
    assert telemetry.VARIABLES.items() <= env.items()


@pytest.mark.parametrize("target", ["cpu", "server"])
def test_the_images_environment(target: str) -> None:
    text = (DOCKER / "Dockerfile").read_text().split(f" AS {target}\n")[1].split("\nFROM ")[0]
    words = [
        word
        for line in re.findall(r"^ENV ((?:.*\\\n)*.*)$", text, re.M)
        for word in shlex.split(line.replace("\\\n", ""))
    ]
    assert telemetry.VARIABLES.items() <= dict(word.split("=", 1) for word in words).items()


def test_the_compose_files_environment() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for name in ("server-gpu", "server-cpu"):
        assert services[name]["environment"] == dict(telemetry.VARIABLES)


def test_the_gpu_scripts_environment() -> None:
    text = (DOCKER.parent / "gpu" / "verify.sh").read_text()
    assert re.findall(r"for variable in (.*); do", text)[0].split() == list(telemetry.VARIABLES)
