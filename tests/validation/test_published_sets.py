"""Published sets with blasts in them: which of their folders is a class, and that nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from cytoserve_cli.main import app
from cytoserve_validation.errors import BadLabelledFolder
from cytoserve_validation.published_sets import LEFT_OUT, PUBLISHED, divided
from fake_server import FakeServer
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
SHOWN = {"MON": "monocyte", "NGS": "neutrophil", "MYO": "lymphocyte", "KSC": "basophil"}


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_folder_means_one_thing_and_every_class_is_the_models(name: str) -> None:
    found = PUBLISHED[name]
    known = set(json.loads((ROOT / "models/reference/classes.json").read_text())["classes"])
    assert len(found.folders) == len(found.classes) + len(found.strangers) + len(found.left_out)
    assert set(found.classes.values()) <= known
    assert set(found.strangers.values()).isdisjoint(known)
    assert any("blast" in kind for kind in found.strangers.values())


def test_a_set_is_measured_as_it_was_published(server: FakeServer, make_folder, tmp_path: Path) -> None:
    folder = make_folder({"MON": 12, "NGS": 12, "MYO": 6, "KSC": 3}, "AML", SHOWN)
    (folder / "MYO" / "copy.png").write_bytes(sorted((folder / "MYO").iterdir())[0].read_bytes())
    words = ("--published", "aml_lmu", "--report", tmp_path / "report", "--url", server.url)
    result = run("validate", folder, *words)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "report" / "validation.json").read_text())
    kinds = document["anomalies"]["by_kind"]
    assert {name: row["cells"] for name, row in kinds.items()} == {"myeloblast": 6, "smudge cell": 3}
    assert document["anomalies"]["ordinary"]["cells"] == 24
    assert document["restricted"]["classes"] == ["monocyte", "neutrophil"]
    assert "the same content as" in " ".join(result.output.split())


def test_what_is_neither_is_named(make_folder) -> None:
    found = divided(make_folder({"monocyte": 2, "lymphocyte_large_granular": 3, "myeloblast": 2}), "mll23")
    assert [item.reason for item in found.cells.ignored] == [LEFT_OUT] * 3
    assert (len(found.cells.files), sorted(found.strangers.values())) == (2, ["myeloblast"] * 2)


def test_a_folder_of_another_name_is_refused_before_anything_is_sent(
    server: FakeServer, make_folder, tmp_path: Path
) -> None:
    folder = make_folder({"MON": 2, "mystery": 2})
    result = run("validate", folder, "--published", "aml_lmu", "--report", tmp_path / "r", "--url", server.url)
    assert result.exit_code == 2
    assert "mystery is no folder of AML-Cytomorphology_LMU" in " ".join(result.output.split())
    assert not server.fake.calls
    with pytest.raises(BadLabelledFolder, match="choose from aml_lmu, mll23"):
        divided(folder, "aml")


def test_strangers_of_two_sources_are_not_mixed(make_folder, tmp_path: Path) -> None:
    folder = make_folder({"MON": 2, "MYO": 2})
    words = ("--published", "aml_lmu", "--strangers", folder / "MYO", "--report", tmp_path / "r")
    result = run("validate", folder, *words, "--url", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "leave out --strangers" in " ".join(result.output.replace("│", " ").split())
