"""Every command of docs/deploy.md names what is there: helm renders it, or its files, targets and objects exist."""

from __future__ import annotations

import re
import shlex
from typing import Any, Final

import pytest
import yaml
from chart import CHART, ROOT, Helm, Manifest

DOCUMENT: Final = ROOT / "docs" / "deploy.md"
STAND_INS: Final = {
    "MINE.yaml": str(CHART / "values-a10.yaml"),
    "helm/cytoserve": str(CHART),
    "cytoserve": str(CHART),
    "cytoserve/values-airgapped.yaml": str(CHART / "values-airgapped.yaml"),
    "image.digest=sha256:...": f"image.digest=sha256:{'0' * 64}",
    "model.manifestSha256=...": f"model.manifestSha256={'0' * 64}",
}
RENDERED_BY: Final = {"install": "template", "upgrade": "template"}
ONLY_OF_THE_CLUSTER: Final = {"--create-namespace", "--force-conflicts"}


def commands() -> list[list[str]]:
    """Return the words of each command in the document's consoles; a line that goes on is joined."""
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ ")]
    found: list[list[str]] = []
    for line in words:
        found.append([])
        for word in line:
            if word in ("&&", "&"):
                found.append([])
            elif found[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
                found[-1].append(word)
    return [command for command in found if command]


def of(program: str, *parts: str) -> list[Any]:
    chosen = [words for words in commands() if words[0] == program and (not parts or words[1] in parts)]
    return [pytest.param(words, id=" ".join(words[:4])) for words in chosen]


def objects_of(helm: Helm, words: list[str]) -> list[Manifest]:
    given = [STAND_INS.get(word, word) for word in words[2:] if word not in ONLY_OF_THE_CLUSTER]
    return [item for item in yaml.safe_load_all(helm.run("template", *given)) if item]


def named(manifests: list[Manifest]) -> set[str]:
    return {f"{item['kind']}/{item['metadata']['name']}".lower() for item in manifests}


def test_every_command_is_of_a_kind_that_is_checked_here() -> None:
    kinds = {(words[0], words[1] if words[0] in ("helm", "docker") else "") for words in commands()}
    assert kinds <= {
        *(("helm", verb) for verb in ("install", "upgrade", "rollback", "test", "package")),
        *(("docker", verb) for verb in ("build", "push", "save", "load", "tag", "compose")),
        ("kubectl", ""), ("tar", ""), ("sha256sum", ""),
    }  # fmt: skip


@pytest.mark.parametrize("words", of("helm", "install", "upgrade"))
def test_helm_renders_what_is_installed(helm: Helm, words: list[str]) -> None:
    manifests = objects_of(helm, words)
    assert {"NetworkPolicy", "ServiceAccount"} <= {item["kind"] for item in manifests}
    assert {item["metadata"]["namespace"] for item in manifests} == {"blood"}


@pytest.mark.parametrize("words", of("helm"))
def test_helm_knows_every_option(helm: Helm, words: list[str]) -> None:
    known = helm.run(words[1], "--help")
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(^|\s){re.escape(option)}\b", known, re.MULTILINE), option


def test_the_objects_that_kubectl_is_asked_about_are_rendered(helm: Helm) -> None:
    rendered = {name for install in of("helm", "install") for name in named(objects_of(helm, install.values[0]))}
    asked = [
        word for words in of("kubectl") for word in words.values[0] if re.match(r"(deployment|inferenceservice)/", word)
    ]
    assert len(asked) == 2
    assert set(asked) <= rendered


def test_the_secrets_and_files_of_the_air_gapped_example_are_those_that_are_made(helm: Helm) -> None:
    made = {
        (words[words.index("create") + 1], words[words.index("create") + (3 if "secret" in words else 2)])
        for words in (item.values[0] for item in of("kubectl"))
        if "create" in words and "namespace" not in words[: words.index("create") + 2][-1]
    }
    pod = helm.one("Deployment", "values-airgapped.yaml")["spec"]["template"]["spec"]
    volumes = {"secret": "secretName", "configMap": "name"}
    used = {
        (kind.lower(), volume[kind][key])
        for volume in pod["volumes"]
        for kind, key in volumes.items()
        if kind in volume
    }
    used |= {
        ("secret", entry["valueFrom"]["secretKeyRef"]["name"])
        for entry in pod["containers"][0]["env"]
        if "secretKeyRef" in entry.get("valueFrom", {})
    }
    assert made == used


@pytest.mark.parametrize("words", of("docker", "build", "compose"))
def test_docker_is_given_files_and_targets_that_exist(words: list[str]) -> None:
    file = ROOT / words[words.index("-f") + 1]
    text = file.read_text(encoding="utf-8")
    if "--target" in words:
        assert re.search(rf"^FROM .* AS {words[words.index('--target') + 1]}$", text, re.MULTILINE)
    else:
        profiles = [part.get("profiles", []) for part in yaml.safe_load(text)["services"].values()]
        assert [words[words.index("--profile") + 1]] in profiles


def test_what_is_hashed_is_there_or_was_made_before() -> None:
    made = {"server.tar", "cytoserve-0.1.0.tgz"}
    assert yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["version"] == "0.1.0"
    for words in of("sha256sum"):
        for name in words.values[0][1:]:
            assert name in made or (ROOT / name).is_file(), name


def test_the_consoles_were_found() -> None:
    assert len(commands()) > 20
