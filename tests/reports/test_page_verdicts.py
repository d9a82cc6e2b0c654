"""Verdicts read back: what is refused and why, two readers compared, confirmed cells as a labelled folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cytoserve_cli.main import app
from cytoserve_cli.verdicts import app as verdicts_app
from cytoserve_client.images import is_synthetic
from cytoserve_reports import SampleReport
from cytoserve_reports.page import errors
from cytoserve_reports.page.binding import read_analysis
from cytoserve_reports.page.readings import compare, window, write_folder
from cytoserve_reports.page.verdicts import check_binding, read_verdicts
from cytoserve_scoring.vision.file_scale import file_um_per_pixel
from cytoserve_validation import labelled
from fake_server import FakeServer, cells
from page_samples import RECORDED, exported, of_the_checkout, recorded, resigned, sample, written
from PIL import Image
from typer.testing import CliRunner

JUDGED: dict[tuple[int, int], tuple[str, str | None]] = {
    (0, 0): ("agree", "neutrophil"),
    (0, 1): ("reclassify", "monocyte"),
    (1, 2): ("cannot_tell", None),
    (1, 3): ("reclassify", "basophil"),
}
Made = tuple[SampleReport, Path, Path, dict[str, Any]]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A report, its JSON, a file of verdicts on it, and the content of that file."""
    report = sample(tmp_path / "fields")
    digest = written(report, tmp_path / "out.json")
    content = exported(report, digest, JUDGED)
    return report, tmp_path / "out.json", put(tmp_path / "verdicts.json", content), content


def put(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(verdicts_app, [str(word) for word in words])


def test_a_whole_file_passes_and_its_counts_are_said(made: Made) -> None:
    _, analysis, path, _ = made
    done = run("check", path, "--analysis", analysis)
    assert done.exit_code == 0, done.output
    assert "4 of 7 cells have a verdict: 1 agreed, 2 reclassified, 1 cannot tell." in done.output
    assert "Reviewer: AB." in done.output
    assert (
        "Accepted cells with a class by the reader: 1; 0 of them have another label (0.0 %, 0.0 to 97.5)" in done.output
    )
    assert "Referred cells with a class by the reader: 2; 2 of them have another label (100.0 %" in done.output
    assert "For research use" in done.output


Change = Callable[[dict[str, Any]], Any]


def change(name: str, value: Any) -> Change:
    return lambda content: content.__setitem__(name, value)


def change_first(name: str, value: Any) -> Change:
    return lambda content: content["verdicts"][0].__setitem__(name, value)


@pytest.mark.parametrize(
    "edit",
    [
        change_first("class", "monocyte"),
        change_first("verdict", "cannot_tell"),
        change_first("reviewer", "CD"),
        change_first("time", "2026-11-27T18:00:00.000Z"),
        change_first("cell", 2),
        change("exported", "2026-11-27T18:00:00.000Z"),
        change("blinded", True),
        change("cells_shown", 4),
        lambda content: content["verdicts"].pop(),
        lambda content: content["verdicts"].reverse(),
    ],
)
def test_an_edited_file_is_refused(made: Made, edit: Change) -> None:
    _, analysis, path, content = made
    edit(content)
    put(path, content)
    with pytest.raises(errors.EditedVerdicts, match="changed after its export"):
        read_verdicts(path)
    assert run("check", path, "--analysis", analysis).exit_code == 2


@pytest.mark.parametrize(
    ("edit", "error", "words"),
    [
        (change_first("cell", 3), errors.UnknownCell, "shows no such cell"),
        (change_first("field", 9), errors.UnknownCell, "shows no such cell"),
        (change_first("box", [0, 0, 1, 1]), errors.UnknownCell, "box is not the cell's"),
        (change_first("box", None), errors.UnknownCell, "box is not the cell's"),
        (change_first("class", "monocyte"), errors.EditedVerdicts, "does not go with the label"),
        (change_first("verdict", "reclassify"), errors.EditedVerdicts, "does not go with the label"),
        (change_first("class", "blast"), errors.EditedVerdicts, "does not go with"),
        (change_first("class", None), errors.EditedVerdicts, "does not go with"),
        (change_first("verdict", "classify"), errors.EditedVerdicts, "does not belong on this page"),
        (change_first("field_sha256", "0" * 64), errors.EditedVerdicts, "two files are named for one field"),
        (lambda c: c["verdicts"].append(c["verdicts"][0]), errors.EditedVerdicts, "has two verdicts"),
        (change("blinded", True), errors.EditedVerdicts, "does not belong on this page"),
        (change("analysis_sha256", "0" * 64), errors.OtherAnalysis, "give the JSON that was written with the page"),
        (change("sample", "S-2"), errors.EditedVerdicts, "sample is not that of the analysis"),
        (change("site", "north"), errors.EditedVerdicts, "site is not that of the analysis"),
        (change("synthetic", True), errors.EditedVerdicts, "synthetic is not that of the analysis"),
        (change("cells_shown", 6), errors.EditedVerdicts, "cells_shown is not that of the analysis"),
        (change("cells_shown", 3), errors.EditedVerdicts, "more verdicts than the page showed"),
    ],
)
def test_a_forged_hash_does_not_help(made: Made, edit: Change, error: type[Exception], words: str) -> None:
    report, analysis, path, content = made
    edit(content)
    put(path, resigned(content))
    with pytest.raises(error, match=words):
        check_binding(read_verdicts(path), report, read_analysis(analysis)[1])
    assert run("check", path, "--analysis", analysis).exit_code == 2


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change("schema", "cytoserve.verdicts/2"), "is no cytoserve.verdicts/1"),
        (change("more", 1), "more: Extra inputs"),
        (change_first("reviewer", ""), "reviewer: String should match"),
        (change_first("reviewer", "a b"), "reviewer: String should match"),
        (change_first("time", "yesterday"), "time: String should match"),
        (change_first("time", "2026-13-45T18:00:00.000Z"), "is damaged"),
        (change_first("verdict", "agree!"), "verdict: Input should be"),
        (change_first("cell", -1), "cell: Input should be greater"),
        (change("content_sha256", "x"), "content_sha256: String should match"),
        (lambda content: content.pop("verdicts"), "verdicts: Field required"),
    ],
)
def test_what_no_page_exports_is_refused(made: Made, edit: Change, words: str) -> None:
    _, analysis, path, content = made
    edit(content)
    put(path, content)
    with pytest.raises(errors.NotVerdicts, match=words):
        read_verdicts(path)
    done = run("check", path, "--analysis", analysis)
    assert done.exit_code == 2
    assert "[NotVerdicts]" in done.output


def test_verdicts_of_another_film_or_of_an_edited_analysis_are_refused(made: Made, tmp_path: Path) -> None:
    _, analysis, path, _ = made
    other = tmp_path / "other.json"
    document = json.loads(analysis.read_text())
    document["fields"][0]["cells"][1]["label"] = "neutrophil"
    put(other, document)
    done = run("check", path, "--analysis", other)
    assert done.exit_code == 2
    assert "[OtherAnalysis]" in done.output
    assert run("check", path, "--analysis", tmp_path / "gone.json").exit_code == 2


def test_a_pipe_is_no_file_of_verdicts(made: Made, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run("check", tmp_path / "pipe", "--analysis", made[1])
    assert done.exit_code == 2
    assert "named pipe" in done.output


def blinded(
    content: dict[str, Any], classes: dict[tuple[int, int], str | None], reviewer: str = "CD"
) -> dict[str, Any]:
    """Return the file of a second reader, who saw no label, on the cells of the first."""
    kept = [one for one in content["verdicts"] if (one["field"], one["cell"]) in classes]
    rows = [
        {
            **one,
            "reviewer": reviewer,
            "class": classes[one["field"], one["cell"]],
            "verdict": "classify" if classes[one["field"], one["cell"]] else "cannot_tell",
        }
        for one in kept
    ]
    return resigned({**content, "blinded": True, "verdicts": rows})


def test_two_readers_are_compared(made: Made, tmp_path: Path) -> None:
    _, _, path, content = made
    second = blinded(content, {(0, 0): "neutrophil", (0, 1): "monocyte", (1, 2): "monocyte"})
    other = put(tmp_path / "second.json", second)
    found = compare(read_verdicts(path), read_verdicts(other))
    assert (found.kappa.items, found.only_first, found.only_second) == (3, 1, 0)
    assert [(one.place, one.first, one.second) for one in found.disagreements] == [((1, 2), "cannot_tell", "monocyte")]
    # by hand: observed 2/3; expected (1*1 + 1*2)/9 = 1/3
    assert found.kappa.value == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3))
    assert found.remarks == ()
    done = run("compare", path, other)
    assert done.exit_code == 0, done.output
    assert "Cohen's kappa: 0.500 (95 % interval" in done.output
    assert "Agreement: 2 of 3 (66.7 %" in done.output
    assert "field 1, cell 2" in done.output


def test_what_weakens_a_comparison_is_said(made: Made, tmp_path: Path) -> None:
    _, _, path, content = made
    for one in content["verdicts"]:
        one["time"] = "2026-11-28T18:00:00.000Z"
    other = put(tmp_path / "again.json", resigned(content))
    done = run("compare", path, other)
    assert "same reviewer's code" in done.output
    assert "Neither reader was blinded" in done.output
    assert "no interval: the readers never differed" in done.output


def test_what_is_no_pair_of_readings_is_refused(made: Made, tmp_path: Path) -> None:
    _, _, path, content = made
    assert "[NotComparable]" in run("compare", path, path).output
    nothing = put(tmp_path / "nothing.json", resigned({**content, "blinded": True, "verdicts": []}))
    assert "[NotComparable]" in run("compare", path, nothing).output
    elsewhere = put(tmp_path / "elsewhere.json", resigned({**content, "analysis_sha256": "0" * 64}))
    done = run("compare", path, elsewhere)
    assert "[OtherAnalysis]" in done.output
    assert done.exit_code == 2


def test_confirmed_cells_make_a_labelled_folder(made: Made, tmp_path: Path) -> None:
    report, analysis, path, _ = made
    (tmp_path / "fields" / "field 0.png").rename(tmp_path / "fields" / "another name.png")
    words = ("folder", path, "--analysis", analysis, "--fields", tmp_path / "fields", "--to", tmp_path / "cells")
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "3 cells written" in done.output
    assert "1 cell(s) that the reader could not judge were left out" in done.output
    assert "3 cell(s) of the page have no verdict" in done.output
    cells = labelled.scan(tmp_path / "cells")
    assert sorted(cells.truth) == ["basophil", "monocyte", "neutrophil"]
    assert cells.ignored == ()
    first = next(file for file in cells.files if file.parent.name == "neutrophil")
    with Image.open(first) as shown, Image.open(tmp_path / "fields" / "another name.png") as field:
        box = report.fields[0].cells[0].box
        assert box is not None
        assert shown.convert("RGB").tobytes() == field.crop(window(box, field.size, 0.25)).convert("RGB").tobytes()
        assert file_um_per_pixel(shown) == pytest.approx(0.25, rel=1e-3)  # as the server reads it
    assert not is_synthetic(first.read_bytes())
    assert run(*words).exit_code == 2  # it is there already


def test_cells_of_a_synthetic_field_stay_marked(tmp_path: Path) -> None:
    report, digest = recorded()
    judged = {(0, i): ("agree", cell.label) for i, cell in enumerate(report.fields[0].cells) if cell.label}
    content = exported(report, digest, judged, read=of_the_checkout)
    path = put(tmp_path / "v.json", content)
    document = read_verdicts(path)
    check_binding(document, report, digest)
    made = write_folder(document, report, RECORDED.parents[2] / "examples", tmp_path / "cells")
    assert sum(made.written.values()) == len(judged) == 8
    files = labelled.scan(tmp_path / "cells").files
    assert all(is_synthetic(file.read_bytes()) for file in files)
    done = run("check", path, "--analysis", RECORDED)
    assert "SYNTHETIC" in done.output


def test_validate_takes_the_folder(tmp_path: Path) -> None:
    report, digest = recorded()
    judged = {(0, i): ("agree", cell.label) for i, cell in enumerate(report.fields[0].cells) if cell.label}
    document = read_verdicts(put(tmp_path / "v.json", exported(report, digest, judged, read=of_the_checkout)))
    write_folder(document, report, RECORDED.parents[2] / "examples", tmp_path / "cells")
    with FakeServer() as server:
        server.fake.on_cells = lambda call: cells([6] * len(call.files))
        words = ("validate", tmp_path / "cells", "--report", tmp_path / "report", "--url", server.url)
        done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "report" / "validation.json").read_text())["data"]
    assert told["images"] == 8
    assert {name: count for name, count in told["per_class"].items() if count} == {
        "basophil": 1,
        "eosinophil": 1,
        "lymphocyte": 1,
        "monocyte": 2,
        "neutrophil": 3,
    }


@pytest.mark.parametrize("spoil", ["gone", "changed", "no folder"])
def test_without_the_fields_that_were_read_nothing_is_written(made: Made, tmp_path: Path, spoil: str) -> None:
    _, analysis, path, _ = made
    fields = tmp_path / "fields"
    if spoil == "gone":
        (fields / "field 1.png").unlink()
    elif spoil == "changed":
        with Image.open(fields / "field 1.png") as image:
            image.save(fields / "field 1.png", compress_level=1)
    else:
        fields = tmp_path / "nowhere"
    done = run("folder", path, "--analysis", analysis, "--fields", fields, "--to", tmp_path / "cells")
    assert done.exit_code == 2
    assert "[FieldNotFound]" in done.output
    assert sorted(one.name for one in tmp_path.iterdir()) == ["fields", "out.json", "verdicts.json"]


def test_a_full_disk_leaves_no_half_folder(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cytoserve_reports.page import readings

    _, analysis, path, _ = made
    write, calls = readings.write_bytes, []

    def full(to: Path, data: bytes) -> None:
        calls.append(to)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(to, data)

    monkeypatch.setattr(readings, "write_bytes", full)
    done = run("folder", path, "--analysis", analysis, "--fields", tmp_path / "fields", "--to", tmp_path / "cells")
    assert done.exit_code == 2
    assert "No space left on device" in done.output
    assert sorted(one.name for one in tmp_path.iterdir()) == ["fields", "out.json", "verdicts.json"]


def test_a_verdict_without_a_picture_makes_no_cell(made: Made, tmp_path: Path) -> None:
    _, analysis, path, content = made
    for one in content["verdicts"]:
        one["field_sha256"] = None
    put(path, resigned(content))
    done = run("folder", path, "--analysis", analysis, "--fields", tmp_path / "fields", "--to", tmp_path / "cells")
    assert "[UnknownCell]" in done.output


def test_a_class_that_makes_no_folder_is_refused(made: Made, tmp_path: Path) -> None:
    report, _, path, content = made
    name = "../outside"
    content["classes"] = [name, *content["classes"]]
    content["verdicts"][1]["class"] = name
    put(path, resigned(content))
    with pytest.raises(errors.NotAnAnalysis, match="makes no name of a folder"):
        write_folder(read_verdicts(path), report, tmp_path / "fields", tmp_path / "cells")
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize(("um_per_pixel", "side"), [(0.25, 144), (0.1, 360), (None, 120), (1.0, 120)])
def test_the_window_holds_what_the_server_cuts_out(um_per_pixel: float | None, side: int) -> None:
    left, upper, right, lower = window((500, 500, 540, 530), (2000, 2000), um_per_pixel)
    assert right - left == lower - upper == side


def test_a_page_of_a_stored_analysis(made: Made, tmp_path: Path) -> None:
    report, analysis, _, _ = made
    page = tmp_path / "second.html"
    done = run("page", analysis, "--report", page, "--blinded", "--language", "fr")
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert 'lang="fr"' in text
    assert read_analysis(analysis)[1] in text
    Path(report.fields[0].source).unlink()
    assert run("page", analysis, "--report", page).exit_code == 3
    assert run("page", analysis, "--report", page, "--language", "xx").exit_code == 2
    assert run("page", analysis, "--report", tmp_path).exit_code == 2
    before = analysis.read_bytes()
    assert run("page", analysis, "--report", analysis).exit_code == 2, "the page would replace what it is made of"
    assert analysis.read_bytes() == before


def test_the_subcommand_is_there() -> None:
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["verdicts", "--help"])
    assert done.exit_code == 0
    assert all(name in done.output for name in ("check", "compare", "folder", "page"))
