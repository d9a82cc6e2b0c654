"""The examples render what was reviewed, and the README is the one of the values.

``CYTOSERVE_GOLDEN=write`` renews the files.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from chart import CHART, EXAMPLES, Helm, Manifest
from chart_readme import entries, readme

GOLDEN = Path(__file__).parent / "golden"


def reviewed(manifests: list[Manifest]) -> str:
    """Return the objects as text, without the rules' and dashboards' contents, which have tests of their own."""
    kept = []
    for item in manifests:
        hollow = item["kind"] == "PrometheusRule" or "grafana_dashboard" in item["metadata"]["labels"]
        if not hollow:
            kept.append(item)
    return yaml.safe_dump_all(kept, sort_keys=True, width=120)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_render_what_was_reviewed(helm: Helm, name: str) -> None:
    path = GOLDEN / name
    text = reviewed(helm.render(name))
    if os.environ.get("CYTOSERVE_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "renew with CYTOSERVE_GOLDEN=write and look at the difference"


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(EXAMPLES)


def test_the_readme_is_generated_from_the_values() -> None:
    text = (CHART / "README.md").read_text(encoding="utf-8")
    assert text == readme(), "run: python tests/helm/chart_readme.py"


def test_every_value_is_explained() -> None:
    bare = [name for name, _, text in entries((CHART / "values.yaml").read_text(encoding="utf-8")) if not text]
    assert bare == []
