"""The five lines at the top of docs/rollout.md: run on the fake cluster as they stand, as far as no server is asked."""

from __future__ import annotations

import re
import shlex

import pytest
from cytoserve_cli.deploy import app
from fake_api import FakeApi
from installed import LINE, ROOT
from typer.main import get_command
from typer.testing import CliRunner


def lines() -> list[list[str]]:
    text = (ROOT / "docs" / "rollout.md").read_text(encoding="utf-8").split("```console\n")[1].split("```")[0]
    given = [shlex.split(line.removeprefix("$ ").removesuffix("&")) for line in text.splitlines()]
    return [["cc" if word == "..." else word for word in words] for words in given]


@pytest.mark.usefixtures("standard")
def test_the_first_lines_bring_a_version_up(api: FakeApi, kubeconfig: str) -> None:
    apply, wait = (words[2:] for words in lines() if words[2] in ("apply", "wait"))
    for words in (apply, wait):
        result = CliRunner().invoke(app, [*words, "--kubeconfig", kubeconfig])
        assert result.exit_code == 0, result.output
    forwarded = [words[words.index("port-forward") + 1] for words in lines() if words[0] == "kubectl"]
    predictors = {f"deploy/{name}" for kind, name in api.objects if kind == "services" and name.endswith("-predictor")}
    assert set(forwarded) == predictors, "KServe's Deployments and Services have one name"
    assert api.read("inferenceservices", LINE)


def test_the_options_of_every_line_are_known() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    checked = [words for words in lines() if words[0] == "cytoserve"]
    assert [words[2] for words in checked] == ["apply", "wait", "promote"]
    for words in checked:
        commands[words[2]].make_context(words[2], words[3:])


def test_every_sub_command_is_described() -> None:
    text = (ROOT / "docs" / "rollout.md").read_text(encoding="utf-8")
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"`(cytoserve deploy )?{name}\b", text), name
