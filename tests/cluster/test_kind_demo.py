"""`make kind-demo` without kind: its helm command is rendered, its image target exists, and its steps run in order."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chart import CHART, ROOT, Helm

SCRIPT = ROOT / "deploy" / "kind" / "demo.sh"
RECORDER = """#!{python}
import os, socket, sys
with open({log!r}, "a") as log:
    print(os.path.basename(sys.argv[0]), *sys.argv[1:], sep="\\t", file=log)
if "port-forward" in sys.argv:
    server = socket.create_server(("127.0.0.1", int(sys.argv[-1].partition(":")[0])))
    while True:
        server.accept()[0].close()
"""


@pytest.fixture
def steps(tmp_path: Path, free_port: int) -> list[list[str]]:
    """Run the script with programs that only write down how they were called; return the calls."""
    log = tmp_path / "calls"
    for name in ("kind", "docker", "kubectl", "helm", "cytoserve"):
        path = tmp_path / name
        path.write_text(RECORDER.format(python=sys.executable, log=str(log)), encoding="utf-8")
        path.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PORT": str(free_port)}
    done = subprocess.run([str(SCRIPT)], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()]


def test_the_steps_run_in_order_and_the_call_goes_through_the_forwarded_port(steps: list[list[str]]) -> None:
    order = ["kind get", "kind create", "docker build", "kind load", "helm upgrade", "kubectl rollout", "helm test"]
    verbs = {"get", "create", "build", "load", "upgrade", "rollout", "test", "port-forward", "analyze"}
    done = [f"{words[0]} {next(word for word in words if word in verbs)}" for words in steps]
    assert done == [*order, "kubectl port-forward", "cytoserve analyze"]
    port = steps[-2][-1].partition(":")[0]
    assert f"127.0.0.1:{port}" in steps[-1]
    assert (ROOT / steps[-1][2]).is_file()


def test_the_chart_is_installed_with_the_image_that_is_built_and_loaded(helm: Helm, steps: list[list[str]]) -> None:
    by_step = {f"{words[0]} {words[1]}": words for words in steps}
    install = by_step["helm upgrade"]
    options = [str(CHART.parent.parent / word) if word.endswith(".yaml") else word for word in install[5:]]
    context = options.index("--kube-context")
    given = [word for word in options[:context] + options[context + 2 :] if word != "--create-namespace"]
    manifests = [item for item in yaml.safe_load_all(helm.run("template", "cyto", str(CHART), *given)) if item]
    deployment = next(item for item in manifests if item["kind"] == "Deployment")
    built = by_step["docker build"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == built[built.index("-t") + 1]
    assert built[built.index("-t") + 1] in by_step["kind load"]
    target = built[built.index("--target") + 1]
    assert f" AS {target}\n" in (ROOT / built[built.index("-f") + 1]).read_text(encoding="utf-8")
    waited = next(words for words in steps if "rollout" in words)
    assert f"deployment/{deployment['metadata']['name']}" in waited


def test_make_calls_the_script() -> None:
    # `make test` runs this suite: what a make inside a make says of itself must not be read as the command.
    command = ["make", "--no-print-directory", "-n", "kind-demo"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = shlex.split(lines.splitlines()[-1])
    assert words[0].startswith("CYTOSERVE=")
    assert (ROOT / words[1]).samefile(SCRIPT)
