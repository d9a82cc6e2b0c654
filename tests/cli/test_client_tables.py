"""What the command line shows and asks: prediction sets, reasons in plain words, the choices of a call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from cytoserve_cli.main import app
from fake_server import CLASSES, Call, FakeServer, cells, distant, smear, unfamiliar
from typer.testing import CliRunner


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three files; what is in them is the fake server's business."""
    paths = [tmp_path / f"p{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(b"picture %d" % i)
    return paths


def rows(text: str, first: str) -> list[list[str]]:
    """Return the cells of the table rows whose first column is a number, after the line that holds ``first``."""
    after = text[text.index(first) :].splitlines()
    split = [[part.strip() for part in line.split("│")[1:-1]] for line in after if line.startswith("│")]
    return [row for row in split if row[0].isdigit()]


def p_values(*likely: str, of: Sequence[str] = CLASSES) -> np.ndarray:
    return np.array([0.4 if name in likely else 0.01 for name in of], np.float32)


def test_the_review_list_shows_sets_and_explains_each_reason_once(server: FakeServer, pictures: list[Path]) -> None:
    def judge(call: Call) -> dict[str, Any]:
        reviews = {0: "near_tie,low_confidence", 1: "anomalous,new_one", 2: "not_calibrated", 3: "low_confidence"}
        answer = smear([6, 4, 6, 4, 6], reviews)
        answer["CONFORMAL"][0] = p_values("monocyte", "neutrophil")
        answer["CONFORMAL"][1] = p_values()
        answer["CONFORMAL"][2] = p_values("neutrophil")
        answer["CONFORMAL"][3] = p_values(*CLASSES)
        return answer

    server.fake.on_smear = judge
    result = run("analyze", pictures[0], "--url", server.url)
    assert result.exit_code == 0, result.output
    shown = [(row[2], row[4], row[5]) for row in rows(result.output, "4 cell(s) to review")]
    assert shown == [
        ("lymphocyte", "no class", "anomalous, new one"),
        ("neutrophil", "monocyte, neutrophil", "near tie, low confidence"),
        ("lymphocyte", "any class", "low confidence"),
        ("neutrophil", "-", "not calibrated"),
    ]
    for words in (
        "95 % set: the classes that cannot be excluded",
        "anomalous: stranger than nearly all calibration cells",
        "near tie: the best two classes differ by less",
        "not calibrated: no threshold was calibrated",
        "new one: a reason that this release of the client does not know",
    ):
        assert result.output.count(words) == 1
    assert "poor image:" not in result.output


def test_nothing_to_review_needs_no_legend(server: FakeServer, pictures: list[Path]) -> None:
    result = run("analyze", pictures[0], "--url", server.url)
    assert result.exit_code == 0
    assert "95 % set" not in result.output


def test_few_cells_are_listed_one_by_one_with_their_sets(server: FakeServer, pictures: list[Path]) -> None:
    server.fake.on_cells = lambda call: cells([6, 5, 4], {1: "ambiguous"})
    result = run("classify", *pictures, "--url", server.url)
    assert result.exit_code == 0, result.output
    accepted, review = result.output.split("1 cell(s) to review")
    assert [(Path(row[1]).name, row[2], row[3], row[4]) for row in rows(accepted, "2 cell(s) accepted")] == [
        ("p0.png", "neutrophil", "0.930 (0.75 to 0.99)", "neutrophil"),
        ("p2.png", "lymphocyte", "0.930 (0.75 to 0.99)", "lymphocyte"),
    ]
    assert [(row[2], row[5]) for row in rows(review, "")] == [("monocyte", "ambiguous")]
    assert "ambiguous: a second class has a considerable probability too." in review


def test_many_accepted_cells_are_counted_not_listed(server: FakeServer, tmp_path: Path) -> None:
    for i in range(21):
        (tmp_path / f"{i}.png").write_bytes(b"picture %d" % i)
    result = run("classify", tmp_path, "--url", server.url)
    assert result.exit_code == 0, result.output
    assert "21 cell(s)" in result.output
    assert "accepted\n" not in result.output
    assert "95 % set" not in result.output


@pytest.mark.parametrize("command", ["analyze", "classify"])
def test_the_choices_of_a_call_reach_the_server(server: FakeServer, pictures: list[Path], command: str) -> None:
    words = ["--budget", 4, "--alpha", 0.02, "--classes", "monocyte, neutrophil", "--priority", "stat"]
    assert run(command, pictures[0], "--url", server.url, *words).exit_code == 0
    sent = {k: v for k, v in server.fake.calls[0].parameters.items() if k != "deadline_ms"}
    assert sent == {"budget": 4, "alpha": 0.02, "classes": "monocyte,neutrophil", "priority": 1, "stat": 1}


@pytest.mark.parametrize("command", ["analyze", "classify"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--alpha", "1"], "alpha must be a number from 0"),
        (["--budget", "0"], "budget must be a whole number"),
        (["--classes", " , "], "classes is empty"),
        (["--priority", "urgent"], "priority must be one of routine, stat"),
    ],
)
def test_a_choice_out_of_range_is_told_before_a_server_is_started(
    pictures: list[Path], command: str, words: list[str], says: str
) -> None:
    result = run(command, pictures[0], *words)
    assert result.exit_code == 2
    assert says in result.output


def test_an_unknown_class_lists_those_the_server_has(server: FakeServer, pictures: list[Path]) -> None:
    result = run("classify", pictures[0], "--classes", "blast,neutrophil", "--url", server.url)
    assert result.exit_code == 2
    assert f"no class blast; choose from {', '.join(CLASSES)}" in " ".join(result.output.split())


def test_the_json_on_standard_output_explains_its_reasons(server: FakeServer, pictures: list[Path]) -> None:
    server.fake.on_cells = lambda call: cells([6], {0: "touches_border"})
    result = run("classify", pictures[0], "--url", server.url, "--json", "-")
    document = json.loads(result.stdout)
    assert document["reasons_explained"] == {
        "touches_border": "cut off by the edge of the picture, the rim of the eyepiece or a drawn mark"
    }
    assert document["cells"][0]["prediction_set_95"] == ["neutrophil"]


# -- whether the sample is familiar ------------------------------------------------------------------------------------


def first_line(result: Result) -> str:
    return result.output.splitlines()[0]


def test_the_first_line_says_that_the_sample_is_familiar(server: FakeServer, pictures: list[Path]) -> None:
    result = run("analyze", *pictures, "--url", server.url, "--sample", "s-1", "--site", "north")
    assert result.exit_code == 0
    assert first_line(result) == (
        "Familiar: the pictures look like those of the calibration of site 'north' (9 cell(s), 0 unfamiliar)."
    )
    assert "It does not see diseases" in result.output
    cells_too = run("classify", *pictures, "--url", server.url)
    assert first_line(cells_too).endswith("of site 'home' (3 cell(s), 0 unfamiliar).")
    assert "It does not see diseases" in cells_too.output


def test_an_unfamiliar_cell_is_shown_with_its_cause_in_words(server: FakeServer, pictures: list[Path]) -> None:
    server.fake.on_smear = lambda call: unfamiliar(smear([6] * 40), 1)
    result = run("analyze", pictures[0], "--url", server.url)
    assert result.exit_code == 0, result.output
    assert "(40 cell(s), 1 unfamiliar). Most frequent cause: nuclei absorb more red light than in" in result.output
    assert [row[5] for row in rows(result.output, "1 cell(s) to review")] == [
        "unfamiliar image (nuclei absorb more red light)"
    ]
    assert "unfamiliar image: its picture is unlike those" in result.output
    assert "In brackets: what differs most from this site's calibration." in result.output


@pytest.mark.parametrize("command", ["analyze", "classify"])
def test_exit_8_an_unfamiliar_sample_is_told_first_and_has_no_accepted_cell(
    server: FakeServer, tmp_path: Path, command: str
) -> None:
    server.fake.on_smear = lambda call: distant(smear([6] * 10))
    server.fake.on_cells = lambda call: distant(cells([6] * len(call.files)))
    (tmp_path / "s").mkdir()
    for i in range(24):
        (tmp_path / "s" / f"{i}.png").write_bytes(b"picture %d" % i)
    result = run(command, tmp_path / "s", "--url", server.url, "--json", tmp_path / "out.json")
    assert result.exit_code == 8, result.output
    assert first_line(result).startswith("UNFAMILIAR SAMPLE: the pictures, taken together, are unlike those of the")
    assert "nuclei absorb more red light than in this site's calibration" in result.output
    counted = [row for line in result.output.splitlines() if "│ neutrophil" in line for row in [line.split("│")]]
    assert int(counted[0][2]) == int(counted[0][4]) >= 24
    assert int(counted[0][3]) == 0  # accepted
    document = json.loads((tmp_path / "out.json").read_text())
    found = document["cells"] if command == "classify" else [c for f in document["fields"] for c in f["cells"]]
    assert {cell["decision"] for cell in found} <= {"review", None}
    assert document["familiarity"]["rejected"] is True
    assert "so no cell" in document["reasons_explained"]["unfamiliar_sample"]


def test_each_image_of_its_own_is_judged_alone_and_one_is_enough_for_exit_8(
    server: FakeServer, pictures: list[Path], tmp_path: Path
) -> None:
    def judge(call: Call) -> dict[str, Any]:
        return distant(smear([6] * 12)) if call.files[0] == b"picture 1" else smear([6] * 12)

    server.fake.on_smear = judge
    result = run("analyze", *pictures, "--per-image", "--url", server.url, "--json", tmp_path / "out.json")
    assert result.exit_code == 8, result.output
    assert result.output.count("UNFAMILIAR SAMPLE") == 1
    assert result.output.count("Familiar: ") == 2
    document = json.loads((tmp_path / "out.json").read_text())
    assert [one["familiarity"]["rejected"] for one in document["analyses"]] == [False, True, False]
    assert [one["differential"]["neutrophil"]["accepted"] for one in document["analyses"]] == [12, 0, 12]


def test_cells_of_several_samples_are_counted_as_each_was_decided(server: FakeServer, tmp_path: Path) -> None:
    server.fake.on_cells = lambda call: distant(cells([6] * len(call.files)))
    for i in range(24):
        (tmp_path / f"{i}.png").write_bytes(b"picture %d" % i)
    result = run("classify", tmp_path, "--several-samples", "--url", server.url)
    assert result.exit_code == 0, result.output
    assert first_line(result).startswith("Not one sample: each cell was compared by itself")
    assert run("classify", tmp_path, "--url", server.url).exit_code == 8


def test_exit_8_goes_before_3_and_1_before_8(
    server: FakeServer, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fake.on_smear = lambda call: distant(smear([6] * 20))
    some_failed = run("analyze", *pictures, tmp_path / "gone.png", "--url", server.url)
    assert "1 image(s) without an answer" in some_failed.output
    assert some_failed.exit_code == 8
    undrawn = run("analyze", *pictures, "--url", server.url, "--overlay", tmp_path / "o")
    assert "no overlay of" in undrawn.output  # the fake server's pictures are none
    assert undrawn.exit_code == 8

    def full(path: Path, data: bytes) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("cytoserve_cli.outputs.write_bytes", full)
    unwritten = run("analyze", *pictures, "--url", server.url, "--json", tmp_path / "out.json")
    assert (unwritten.exit_code, "no space left" in unwritten.output) == (1, True)


@pytest.mark.parametrize("command", ["analyze", "classify"])
def test_a_site_reaches_the_server_and_an_unknown_one_lists_those_there_are(
    server: FakeServer, pictures: list[Path], command: str, tmp_path: Path
) -> None:
    words = (command, pictures[0], "--url", server.url, "--json", tmp_path / "out.json")
    assert run(*words, "--site", "north").exit_code == 0
    assert server.fake.calls[0].parameters["site"] == "north"
    assert json.loads((tmp_path / "out.json").read_text())["site"] == "north"
    assert run(*words).exit_code == 0
    assert "site" not in server.fake.calls[1].parameters
    assert json.loads((tmp_path / "out.json").read_text())["site"] == "home"
    unknown = run(*words, "--site", "south")
    assert unknown.exit_code == 2
    assert "no site 'south'; choose from home, north" in " ".join(unknown.output.split())
    assert run(*words, "--site", "").exit_code == 2
    assert len(server.fake.calls) == 2
