"""Write helm/cytoserve/README.md from the comments of values.yaml: ``python tests/helm/chart_readme.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).resolve().parents[2] / "helm" / "cytoserve"

HEAD: Final = """<!-- Generated from values.yaml by tests/helm/chart_readme.py: do not edit. -->
# Chart `cytoserve` {version}

{description}

```console
$ helm install cyto helm/cytoserve --namespace blood --create-namespace --values helm/cytoserve/values-a10.yaml
$ helm test cyto --namespace blood --logs
```
From nothing to a running service, upgrade, rollback and the security model: [docs/deploy.md](../../docs/deploy.md).

## Examples
{examples}

## Values
| key | default | meaning |
|---|---|---|
"""


def entries(text: str) -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted key, default, comment) for every key of values.yaml that has a comment or no keys below it."""
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, Any, str]]:
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            inner = isinstance(value, yaml.MappingNode) and bool(value.value) and not value.flow_style
            comment = _above(lines, key.start_mark.line)
            deeper = inner and _has_comments(lines, value)
            if comment or not deeper:
                yield name, None if deeper else yaml.safe_load(yaml.serialize(value)), comment
            if deeper:
                yield from walk(value, f"{name}.")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, "")


def _above(lines: list[str], number: int) -> str:
    """Return the comment directly above a line, at its own indentation."""
    found: list[str] = []
    while number > 0 and lines[number - 1].strip().startswith("#"):
        number -= 1
        found.insert(0, lines[number].strip().lstrip("#").strip())
    return " ".join(found)


def _has_comments(lines: list[str], node: yaml.MappingNode) -> bool:
    """A mapping whose keys carry no comments is one default, such as a label selector."""
    start = " " * node.start_mark.column + "#"
    return any(line.startswith(start) for line in lines[node.start_mark.line - 1 : node.end_mark.line])


def readme() -> str:
    """Return the text of the README."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    examples = "\n".join(
        f"- `{path.name}`: {_first_comment(path.read_text(encoding='utf-8'))}"
        for path in sorted(CHART.glob("values-*.yaml"))
    )
    rows = []
    for name, default, comment in entries((CHART / "values.yaml").read_text(encoding="utf-8")):
        shown = "" if default is None else f"`{json.dumps(default)}`"
        rows.append(f"| `{name}` | {shown} | {comment.replace('|', chr(92) + '|')} |")
    head = HEAD.format(version=chart["version"], description=chart["description"], examples=examples)
    return head + "\n".join(rows) + "\n"


def _first_comment(text: str) -> str:
    block = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        block.append(line.lstrip("# "))
    return " ".join(block)


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme(), encoding="utf-8")
