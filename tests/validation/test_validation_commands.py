"""``cytoserve calibrate`` and ``cytoserve validate`` on a gRPC server with canned answers, and what they refuse."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest
from click.testing import Result
from cytoserve_cli.main import app
from cytoserve_scoring.classifier.familiarity import FamiliarPictures
from cytoserve_scoring.serving import site
from cytoserve_statistics.referral_band import expected_referral
from cytoserve_validation import labelled
from fake_server import INFO, FakeServer, Refuse, distant
from typer.testing import CliRunner

Make = Callable[..., Path]
WEIGHTS = "ab" * 32
SERVED = site.ServedModel(WEIGHTS, "cd" * 32)


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def calibrate(folder: Path, to: Path, server: FakeServer, *words: object) -> Result:
    return run("calibrate", folder, "--site", "ward 7", "--to", to, "--url", server.url, *words)


def test_a_calibration_is_written_that_the_server_reads(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    folder, to = make_folder({"monocyte": 30, "neutrophil": 40, "platelet": 10}), tmp_path / "out" / "site.json"
    words = ("--tolerated-error", 0.1, "--confidence", 0.9, "--um-per-pixel", 0.18, "--anomaly-level", 0.1)
    result = calibrate(folder, to, server, *words)
    assert result.exit_code == 0, result.output
    document = site.read(to, SERVED)
    schema = json.loads(
        importlib.resources.files("cytoserve_validation").joinpath("calibration.schema.json").read_text()
    )
    jsonschema.validate(document, schema)
    assert document["site"] == "ward 7"
    assert document["anomaly_level"] == 0.1
    assert document["cells"]["per_class"]["neutrophil"] == 40
    assert set(document["cells"]["absent"]) == {
        "basophil", "eosinophil", "erythroblast", "immature_granulocyte", "lymphocyte"
    }  # fmt: skip
    usual = INFO["default_budget"]  # what the server tells, not the whole bank
    assert document["default_budget"] == usual
    assert document["calibrated"] == [usual]
    assert [i + 1 for i, t in enumerate(document["accept_threshold"]) if t is not None] == [usual]
    assert {call.parameters["budget"] for call in server.fake.calls} == {usual}
    assert document["seen"]["by_threshold"] == {"accepted": 80, "share": 1.0, "wrong": 0, "upper": pytest.approx(
        1 - 0.1 ** (1 / 80))}  # fmt: skip
    assert "100.0%" in result.output
    assert "platelet: 10 cells; below 19 it stays in every 95% prediction set" in result.output


def test_the_most_that_may_be_accepted_is_kept_in_the_file_and_told(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    """The fake server is equally sure of every cell, so no threshold is strict enough: that is said, too."""
    folder, to = make_folder({"monocyte": 30, "neutrophil": 40}), tmp_path / "site.json"
    words = ("--tolerated-error", 0.1, "--confidence", 0.9, "--most-accepted", 0.8)
    result = calibrate(folder, to, server, *words)
    assert result.exit_code == 0, result.output
    document = site.read(to, SERVED)
    assert document["promise"]["most_accepted"] == 0.8
    assert "At most 80% of these cells were to be accepted" in result.output
    assert any("pass the strictest threshold" in text for text in document["warnings"])


def test_too_few_cells_promise_nothing_and_the_number_needed_is_said(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    to = tmp_path / "site.json"
    result = calibrate(make_folder({"monocyte": 20, "neutrophil": 20}), to, server)
    assert result.exit_code == 0, result.output
    assert "too few to promise anything: 299 accepted ones without an error" in " ".join(result.output.split())
    assert site.read(to, SERVED)["accept_threshold"] == [None] * 24


def test_wrong_labels_take_the_promise_away(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder({"monocyte": 40, "neutrophil": 40}, shown_as={"monocyte": "neutrophil"})
    to = tmp_path / "site.json"
    result = calibrate(folder, to, server, "--tolerated-error", 0.1, "--confidence", 0.9)
    assert result.exit_code == 0, result.output
    assert "Nothing can be promised" in result.output
    assert site.read(to, SERVED)["seen"]["by_threshold"]["accepted"] == 0


def test_images_that_fail_are_named_and_the_exit_code_says_so(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    folder, to = make_folder({"monocyte": 50}), tmp_path / "site.json"
    (folder / "monocyte" / "empty.png").write_bytes(b"")
    result = calibrate(folder, to, server)
    assert result.exit_code == 3, result.output
    (failed,) = site.read(to, SERVED)["cells"]["failed"]
    assert (failed["file"], failed["error"]) == ("monocyte/empty.png", "empty")
    assert "monocyte/empty.png" in result.output


def test_what_calibrate_refuses(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    good, to = make_folder({"monocyte": 60}), tmp_path / "site.json"
    there = tmp_path / "there.json"
    there.write_text("{}")
    unknown = make_folder({"blast": 1, "monocyte": 50}, "unknown")
    loose = make_folder({"monocyte": 1}, "loose")
    (loose / "stray.png").write_bytes(b"x")
    twice = make_folder({"monocyte": 2}, "twice")
    (twice / "monocyte" / "copy.png").write_bytes((twice / "monocyte" / "monocyte_000.png").read_bytes())
    (tmp_path / "bare").mkdir()
    cases: dict[str, tuple[Result, str]] = {
        "no folder": (calibrate(tmp_path / "nowhere", to, server), "BadLabelledFolder"),
        "no class folders": (calibrate(tmp_path / "bare", to, server), "NoCells"),
        "unknown class": (calibrate(unknown, to, server), "UnknownClass"),
        "loose image": (calibrate(loose, to, server), "BadLabelledFolder"),
        "same image twice": (calibrate(twice, to, server), "RepeatedImage"),
        "file in the way": (calibrate(good, there, server), "AlreadyThere"),
        "tolerated error": (calibrate(good, to, server, "--tolerated-error", 1.5), "BadSetting"),
        "anomaly level": (calibrate(good, to, server, "--anomaly-level", 0), "BadSetting"),
        "most accepted": (calibrate(good, to, server, "--most-accepted", 0), "BadSetting"),
        "budget": (calibrate(good, to, server, "--budget", 25), "BadSetting"),
        "scale": (calibrate(good, to, server, "--um-per-pixel", -1), "bad_scale"),
        "no server": (run("calibrate", good, "--site", "s", "--to", to, "--url", "127.0.0.1:9"), "unavailable"),
    }
    for name, (result, word) in cases.items():
        assert result.exit_code == (5 if name == "no server" else 2), (name, result.output)
        assert f"[{word}]" in result.output, (name, result.output)
    assert not to.exists()
    assert there.read_text() == "{}"
    assert "its classes: basophil, " in cases["unknown class"][0].output


def test_the_file_holds_the_sites_pictures_and_what_share_to_expect_under_review(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    folder, to = make_folder({"monocyte": 60, "neutrophil": 60}), tmp_path / "site.json"
    result = calibrate(folder, to, server, "--tolerated-error", 0.1, "--confidence", 0.9)
    assert result.exit_code == 0, result.output
    document = site.read(to, SERVED)
    familiar = FamiliarPictures.from_json(document["familiar"])
    assert familiar.cells == 120
    assert familiar.names == ("monocyte", "neutrophil")
    referred, expected = 120 - document["seen"]["with_every_reason"]["accepted"], document["expected_referral"]
    assert expected["value"] == pytest.approx(referred / 120, abs=1e-5)
    assert expected == expected_referral(referred, 120)
    assert referred >= document["pictures"]["unfamiliar"]["count"]
    shares = document["seen"]["referred_by_class"]
    assert sum(60 * share for share in shares.values()) == pytest.approx(referred)
    text = " ".join(result.output.split())
    assert "for cells whose pictures look like these 120" in text
    assert f"Expect {expected['value']:.1%} under review" in text


def test_the_plan_is_shown_before_any_cell_is_sent(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    server.fake.on_cells = lambda call: (_ for _ in ()).throw(Refuse(grpc.StatusCode.INVALID_ARGUMENT, "stop here"))
    result = calibrate(make_folder({"monocyte": 60}), tmp_path / "site.json", server)
    assert result.exit_code != 0
    assert "60 (yours)" in result.output
    assert "These 60 cells cannot promise that" in " ".join(result.output.split())


def test_a_folder_too_small_for_a_reference_is_refused_before_any_cell_is_sent(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    to = tmp_path / "site.json"
    result = calibrate(make_folder({"monocyte": 20, "neutrophil": 19}), to, server)
    assert result.exit_code == 2
    assert "[TooFewCells]" in result.output
    assert "40 are needed at least" in " ".join(result.output.split())
    assert not server.fake.calls
    assert not to.exists()


def test_cells_of_two_scanners_are_refused_and_an_option_is_written_into_the_file(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    make_folder({"monocyte": 60, "neutrophil": 60})
    folder, to = make_folder({"monocyte": 40, "neutrophil": 40}, lamp=12), tmp_path / "site.json"
    result = calibrate(folder, to, server)
    text = " ".join(result.output.split())
    assert result.exit_code == 2, result.output
    assert "[MixedPictures]" in text
    assert "light" in text, "the lamp is what differs"
    assert not to.exists()
    allowed = calibrate(folder, to, server, "--mixed-scanners")
    assert allowed.exit_code == 0, allowed.output
    parts = site.read(to, SERVED)["pictures"]["parts"]
    assert (parts["mixed"], parts["mixed_allowed"], parts["smaller"]) == (True, True, 80)
    assert "made of mixed scanners" in " ".join(allowed.output.split())


def test_slides_that_are_given_are_counted_in_the_file(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    folder, to, table = make_folder({"monocyte": 60}), tmp_path / "site.json", tmp_path / "groups.csv"
    rows = [f"{name},all,slide {i % 4}" for i, name in enumerate(labelled.scan(folder).names)]
    table.write_text("file,group,slide\n" + "\n".join(rows) + "\n")
    result = calibrate(folder, to, server, "--groups", table)
    assert result.exit_code == 0, result.output
    found = site.read(to, SERVED)
    assert (found["pictures"]["slides"], found["pictures"]["compared_with"]) == (4, "other slides")
    promise = found["promise"]
    assert (promise["independent"], promise["slides"]) == ("slides", 4)
    assert 0 <= promise["correlation_within_slides"] <= 1
    text = " ".join(result.output.split())
    assert "4 slide(s), fewer than 20" in text
    assert "4 slide(s), whose cells are right or wrong together" in text or "on new slides too" in text


def test_without_slides_the_file_says_that_cells_are_taken_as_independent(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    to = tmp_path / "site.json"
    assert calibrate(make_folder({"monocyte": 60}), to, server).exit_code == 0
    promise = site.read(to, SERVED)["promise"]
    assert (promise["independent"], promise["slides"], promise["correlation_within_slides"]) == ("cells", None, None)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 101, "home", " home ", "Home", "HO ME"])
def test_a_site_that_no_request_could_name_is_refused(make_folder: Make, tmp_path: Path, name: str) -> None:
    folder = make_folder({"monocyte": 1})
    result = run("calibrate", folder, "--site", name, "--to", tmp_path / "s.json", "--url", "127.0.0.1:9")
    assert result.exit_code == 2
    assert "[BadSetting]" in result.output


def test_a_server_that_declares_no_weights_cannot_be_calibrated(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    for declared in (None, {"unet": "1", "vae": "2"}):
        server.fake.info["weights_sha256"] = declared
        result = calibrate(make_folder({"monocyte": 45}, str(declared)[:4]), tmp_path / "site.json", server)
        assert result.exit_code == 2
        assert "[UnboundModel]" in result.output
    server.fake.info.update(weights_sha256=WEIGHTS, procedure_sha256=None)
    result = calibrate(make_folder({"monocyte": 45}, "rules"), tmp_path / "site.json", server)
    assert (result.exit_code, "procedure_sha256" in result.output) == (2, True)


def test_a_named_site_is_validated_and_its_cells_are_not_one_sample(
    server: FakeServer, make_folder: Make, tmp_path: Path
) -> None:
    """Cells of many samples lie in one folder: they are counted as each was decided, however odd they are together."""
    answer = server.fake.on_cells
    server.fake.on_cells = lambda call: distant(answer(call))
    folder, report = make_folder({"monocyte": 20, "neutrophil": 20}), tmp_path / "report"
    result = run("validate", folder, "--report", report, "--url", server.url, "--site", "north")
    assert result.exit_code == 0, result.output
    assert {call.parameters["site"] for call in server.fake.calls} == {"north"}
    document = json.loads((report / "validation.json").read_text())
    assert document["overall"]["headline"]["accepted"]["value"] == 1
    assert (document["calibration"]["site"], document["calibration"]["content_sha256"]) == ("north", "23" * 32)
    unknown = run("validate", folder, "--report", tmp_path / "r", "--url", server.url, "--site", "south")
    assert (unknown.exit_code, "choose from home, north" in " ".join(unknown.output.split())) == (2, True)


def test_a_report_is_written(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder({"monocyte": 12, "neutrophil": 12})
    strange = make_folder({"myeloblast": 6, "smudge": 3}, "strange")
    table = tmp_path / "groups.csv"
    names = labelled.scan(folder).names
    rows = [f"{name},{'old' if i % 2 else 'new'},slide {i // 4}" for i, name in enumerate(names)]
    table.write_text("file,group,slide\n" + "\n".join(rows) + "\n")
    words = ("--report", tmp_path / "report", "--url", server.url, "--groups", table, "--strangers", strange)
    result = run("validate", folder, *words)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "report" / "validation.json").read_text())
    assert document["overall"]["headline"]["accuracy"]["value"] == 1
    assert document["data"]["slides"] == 6
    assert document["anomalies"]["cells"] == 9
    kinds = document["anomalies"]["by_kind"]
    assert {name: row["cells"] for name, row in kinds.items()} == {"myeloblast": 6, "smudge": 3}
    assert sum(kinds["myeloblast"]["labels"].values()) == 6
    assert document["anomalies"]["ordinary"]["cells"] == 24
    assert "myeloblast: 6 cell(s), referred " in result.output
    assert "whatever the picture" in (tmp_path / "report" / "validation.html").read_text()
    assert document["restricted"]["classes"] == ["monocyte", "neutrophil"]
    assert document["familiarity"]["unfamiliar"]["value"] == 0
    assert len(document["familiarity"]["slides"]) == 6
    assert "unfamiliar pictures: 0 " in result.output
    assert "0 of 6 slide(s) rejected" in result.output
    assert "<h1>Validation of cells</h1>" in (tmp_path / "report" / "validation.html").read_text()
    again = run("validate", folder, *words)
    assert again.exit_code == 2
    assert "[AlreadyThere]" in again.output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,slide\n", "has no column group"),
        ("file,group\nmonocyte_000.png,a\n", "has no row for monocyte/monocyte_001.png"),
        ("file,group\nelsewhere.png,a\n", "is no (or no unique) image"),
        ("file,group\nmonocyte_000.png,a\nmonocyte/monocyte_000.png,a\n", "has a row already"),
        ("file,group\nmonocyte_000.png,\n", "is empty"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    make_folder: Make, tmp_path: Path, server: FakeServer, text: str, complaint: str
) -> None:
    table = tmp_path / "groups.csv"
    table.write_text(text)
    folder = make_folder({"monocyte": 2})
    result = run("validate", folder, "--report", tmp_path / "r", "--url", server.url, "--groups", table)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())
    assert "[BadGroups]" in result.output


def test_the_hash_of_the_data_moves_with_names_and_content_and_not_with_the_place(make_folder: Make) -> None:
    def value(folder: Path) -> Any:
        cells = labelled.scan(folder)
        return labelled.data_sha256(cells.names, labelled.file_hashes(cells.files))

    first, second = make_folder({"monocyte": 3}, "one"), make_folder({"monocyte": 3}, "two")
    assert value(first) == value(second)
    (second / "monocyte" / "monocyte_000.png").rename(second / "monocyte" / "other.png")
    assert value(first) != value(second)


@pytest.mark.parametrize(("given", "sent"), [((), 0.0), (("--um-per-pixel", 0.0777), 0.0777)])
def test_validate_hands_on_the_sites_scale_and_reports_it(
    server: FakeServer, make_folder: Make, tmp_path: Path, given: tuple[object, ...], sent: float
) -> None:
    folder = make_folder({"monocyte": 4, "neutrophil": 4})
    result = run("validate", folder, "--report", tmp_path / "report", "--url", server.url, *given)
    assert result.exit_code == 0, result.output
    scales = [value for call in server.fake.calls for value in call.um_per_pixel]
    assert scales
    assert scales == pytest.approx([sent] * len(scales))
    told = json.loads((tmp_path / "report" / "validation.json").read_text())["data"]["um_per_pixel"]
    assert told == (None if not given else pytest.approx(sent))


def test_validate_refuses_a_scale_that_no_microscope_has(server: FakeServer, make_folder: Make, tmp_path: Path) -> None:
    result = run(
        "validate", make_folder({"monocyte": 1}), "--report", tmp_path / "r", "--url", server.url, "--um-per-pixel", -1
    )
    assert result.exit_code != 0
    assert "bad_scale" in result.output
    assert not server.fake.calls
    assert not (tmp_path / "r").exists()
