"""``analyze`` with the hospital's formats and ``send-hl7``, as a user calls them."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import socket
from pathlib import Path
from typing import Any

import grpc
import pydicom
import pytest
from click.testing import Result
from cytoserve_cli import exit_codes
from cytoserve_cli.formats import summary_beside
from cytoserve_cli.main import app
from cytoserve_files import writing
from cytoserve_reports import SampleReport
from cytoserve_reports.formats import Findings, Origin, fhir, hl7v2
from fake_server import INFO, Call, FakeServer, Refuse, distant, smear
from fhir.resources.R4B.bundle import Bundle
from geojson_pydantic import FeatureCollection
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from mllp_peer import acknowledging, listening, silence
from PIL import Image
from typer.testing import CliRunner

HOME_CALIBRATION = INFO["sites"][0]["content_sha256"]  # type: ignore[index]
FILES = ("--fhir", "--hl7", "--lis2", "--csv", "--dicom-sr")


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


@pytest.fixture
def film(tmp_path: Path) -> Path:
    folder = tmp_path / "film"
    folder.mkdir()
    for level in (0, 1):
        Image.new("RGB", (640, 480), (230, 220, level)).save(folder / f"field {level}.png")
    return folder


def all_formats(folder: Path) -> list[object]:
    return [
        *("--fhir", folder / "out.json", "--hl7", folder / "out.hl7", "--lis2", folder / "out.astm"),
        *("--csv", folder / "out.csv", "--geojson", folder / "regions", "--dicom-sr", folder / "out.dcm"),
        *("--json", folder / "result.json"),
    ]


def test_all_formats_of_one_call_agree(server: FakeServer, film: Path, tmp_path: Path) -> None:
    server.fake.on_smear = lambda call: smear([6] * 60 + [4] * 20, {0: "near_tie"})
    result = run(
        "analyze", film, "--url", server.url, "--sample", "S|1", "--patient-id", "4711", *all_formats(tmp_path)
    )
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "result.json").read_text())
    share = document["differential"]["neutrophil"]["percent"]
    assert share == 75
    bundle = Bundle.model_validate_json((tmp_path / "out.json").read_text())
    observations = [one.resource for one in bundle.entry if one.resource.get_resource_type() == "Observation"]
    by_text = {one.code.text: float(one.valueQuantity.value) for one in observations}
    assert by_text["Neutrophils"] == share
    message = (tmp_path / "out.hl7").read_bytes().decode()
    assert parse_message(message, validation_level=VALIDATION_LEVEL.STRICT).validate()
    assert "|26511-6^Neutrophils/Leukocytes in Blood^LN^neutrophil^Neutrophils^99CYTO|7|75|%" in message
    assert "26511-6^Neutrophils/Leukocytes in Blood^LN^neutrophil|75|%" in (tmp_path / "out.astm").read_text()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out-summary.csv").read_text())))
    assert [float(row["value"]) for row in rows if row["class"] == "neutrophil"] == [share]
    cells = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert len(cells) == sum(len(field["cells"]) for field in document["fields"])
    assert pydicom.dcmread(tmp_path / "out.dcm").PatientID == "4711"
    names = sorted(path.name for path in (tmp_path / "regions").iterdir())
    assert names == ["field 0.geojson", "field 1.geojson"]
    for name in names:
        text = (tmp_path / "regions" / name).read_text()
        FeatureCollection.model_validate_json(text)
        assert json.loads(text)["cytoserve"]["model"]["sha256"]["calibration"] == HOME_CALIBRATION
    reports = {
        str(bundle.identifier.value).removeprefix("urn:uuid:"),
        message.split("\rOBR|1||")[1].split("^")[0],
        cells[0]["report"],
    }
    assert len(reports) == 1


def test_the_calibration_is_that_of_the_site_asked_for(server: FakeServer, film: Path, tmp_path: Path) -> None:
    assert run("analyze", film, "--url", server.url, "--site", "north", "--fhir", tmp_path / "f").exit_code == 0
    text = (tmp_path / "f").read_text()
    assert INFO["sites"][1]["content_sha256"] in text  # type: ignore[index]
    assert HOME_CALIBRATION not in text


def test_an_unfamiliar_sample_has_exit_code_8_and_no_number_anywhere(
    server: FakeServer, film: Path, tmp_path: Path
) -> None:
    server.fake.on_smear = lambda call: distant(smear([6] * 60))
    result = run("analyze", film, "--url", server.url, *all_formats(tmp_path))
    assert result.exit_code == exit_codes.UNFAMILIAR, result.output
    for name in ("out.json", "out.hl7", "out.astm", "out-summary.csv", "regions/field 0.geojson"):
        assert "CANNOT BE REPORTED" in (tmp_path / name).read_text(), name
    assert "cannot be reported" in (tmp_path / "out.csv").read_text()
    assert "CANNOT BE REPORTED" in str(pydicom.dcmread(tmp_path / "out.dcm"))
    assert '"registered"' in (tmp_path / "out.json").read_text()
    assert "valueQuantity" not in (tmp_path / "out.json").read_text()


def test_where_every_image_failed_the_report_is_registered(server: FakeServer, film: Path, tmp_path: Path) -> None:
    def refuse(call: Call) -> dict[str, Any]:
        raise Refuse(grpc.StatusCode.INVALID_ARGUMENT, "[cytoserve:not_an_image] no image")

    server.fake.on_smear = refuse
    result = run("analyze", film, "--url", server.url, *all_formats(tmp_path))
    assert result.exit_code == exit_codes.ALL_FAILED, result.output
    assert '"registered"' in (tmp_path / "out.json").read_text()
    assert "2 image(s) got no answer and are in no number: 2 not_an_image." in (tmp_path / "out.hl7").read_text()
    assert not (tmp_path / "regions").exists()


def test_a_format_on_standard_output_is_alone_there(server: FakeServer, film: Path) -> None:
    result = run("analyze", film, "--url", server.url, "--hl7", "-")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("MSH|^~\\&|CytoServe|")
    assert "Differential of" in result.stderr


# -- refused before the work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", FILES)
def test_an_output_that_is_a_folder_is_refused_before_the_work(
    server: FakeServer, film: Path, tmp_path: Path, option: str
) -> None:
    result = run("analyze", film, "--url", server.url, option, tmp_path)
    assert result.exit_code == exit_codes.USAGE
    assert "is a folder" in result.output
    assert server.fake.calls == []


def test_a_folder_of_regions_that_is_a_file_is_refused(server: FakeServer, film: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("kept")
    assert run("analyze", film, "--url", server.url, "--geojson", tmp_path / "x").exit_code == exit_codes.USAGE
    assert (tmp_path / "x").read_text() == "kept"
    assert server.fake.calls == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("--fhir", "a"), ("--hl7", "a")),
        (("--json", "a"), ("--lis2", "./a")),
        (("--csv", "a.csv"), ("--fhir", "a-summary.csv")),
        (("--fhir", "-"), ("--hl7", "-")),
        (("--json", "-"), ("--hl7", "-")),
        (("--fhir", "old"), ("--hl7", "linked")),
    ],
)
def test_two_outputs_of_one_name_are_refused(
    server: FakeServer,
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one: tuple[str, str],
    other: tuple[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old").write_text("kept")
    os.link("old", "linked")
    result = run("analyze", film, "--url", server.url, *one, *other)
    assert result.exit_code == exit_codes.USAGE
    assert "two outputs have this name" in result.output
    assert server.fake.calls == []
    assert Path("old").read_text() == "kept"


def test_an_image_of_the_sample_is_not_overwritten(server: FakeServer, film: Path) -> None:
    image = film / "field 0.png"
    before = image.read_bytes()
    result = run("analyze", film, "--url", server.url, "--fhir", image)
    assert result.exit_code == exit_codes.USAGE
    assert "one of the inputs" in result.output
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--hl7", "o", "--sample", "x" * 10_000), "199"),
        (("--dicom-sr", "o", "--patient-id", "a\\b"), "U+005C"),
        (("--fhir", "o", "--sample", "a\x1bb"), "U+001B"),
        (("--patient-id", "1"), "give one of them"),
        (("--fhir", "o", "--per-image"), "--per-image"),
    ],
)
def test_wrong_usage(
    server: FakeServer,
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("analyze", film, "--url", server.url, *words)
    assert result.exit_code == exit_codes.USAGE, result.output
    assert said in result.output
    assert server.fake.calls == []
    assert not Path("o").exists()


# -- after the work ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", FILES)
def test_a_full_disk_leaves_the_old_file_and_the_other_formats(
    server: FakeServer, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    out, other = tmp_path / "out" / "o", tmp_path / "other.json"
    out.parent.mkdir()
    out.write_bytes(b"old")
    real = os.fsync

    def full(number: int) -> None:
        if os.path.realpath(f"/proc/self/fd/{number}").startswith(str(out.parent)):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    monkeypatch.setattr(writing.os, "fsync", full)
    result = run("analyze", film, "--url", server.url, option, out, "--json", other)
    assert result.exit_code == exit_codes.UNFORESEEN, result.output
    assert "No space left" in " ".join(result.stderr.split())
    assert out.read_bytes() == b"old"
    assert [path.name for path in out.parent.iterdir()] == ["o"]
    assert json.loads(other.read_text())["schema"]


def test_a_full_disk_leaves_the_old_regions(
    server: FakeServer, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "regions"
    assert run("analyze", film, "--url", server.url, "--geojson", folder).exit_code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    result = run("analyze", film, "--url", server.url, "--geojson", folder)
    assert result.exit_code == exit_codes.UNFORESEEN
    assert " ".join(result.stderr.split()).count("No space left") == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_formats_can_be_written_later_from_the_json(server: FakeServer, film: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    assert run("analyze", film, "--url", server.url, "--sample", "S-1", "--json", out).exit_code == 0
    found = Findings.of(SampleReport.model_validate_json(out.read_text()), Origin(patient="4711"))
    assert found.reportable
    assert found.white == 6
    Bundle.model_validate(fhir.bundle(found))
    assert parse_message(hl7v2.message(found), validation_level=VALIDATION_LEVEL.STRICT).validate()


def test_regions_are_written_again_and_other_files_kept(server: FakeServer, film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "regions"
    folder.mkdir()
    (folder / "field 1.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    for _ in range(2):
        assert run("analyze", film, "--url", server.url, "--geojson", folder).exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["field 0.geojson", "field 1-2.geojson", "field 1.geojson"]
    assert json.loads((folder / "field 1.geojson").read_text())["features"] == []


def test_the_summary_stands_beside_its_table() -> None:
    assert summary_beside(Path("d/cells.csv")) == Path("d/cells-summary.csv")
    assert summary_beside(Path("cells")) == Path("cells-summary")


# -- send-hl7 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def message(server: FakeServer, film: Path, tmp_path: Path) -> Path:
    path = tmp_path / "out.hl7"
    assert run("analyze", film, "--url", server.url, "--hl7", path).exit_code == 0
    return path


def test_what_analyze_wrote_is_sent_and_acknowledged(message: Path) -> None:
    with listening(acknowledging(text="filed")) as peer:
        result = run("send-hl7", message, "--mllp", peer.address)
    assert result.exit_code == 0, result.output
    assert "accepted message" in result.stderr
    assert "filed" in result.stderr
    assert peer.received == [message.read_bytes()]


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (silence, exit_codes.DEADLINE, "no acknowledgement in 0.3 s"),
        (acknowledging("AE", "no such order"), exit_codes.REFUSED, "no such order"),
        (acknowledging("AR"), exit_codes.REFUSED, "(AR)"),
    ],
)
def test_what_can_go_wrong_has_its_exit_code(message: Path, answer: Any, code: int, said: str) -> None:
    with listening(answer) as peer:
        result = run("send-hl7", message, "--mllp", peer.address, "--timeout", "0.3", "--attempts", "1")
    assert result.exit_code == code, result.output
    assert said in result.stderr


def test_nobody_there(message: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = run("send-hl7", message, "--mllp", f"127.0.0.1:{port}", "--attempts", "1")
    assert result.exit_code == exit_codes.UNAVAILABLE
    assert "[PeerUnreachable]" in result.stderr


def test_wrong_usage_of_send(message: Path, tmp_path: Path) -> None:
    (tmp_path / "no.hl7").write_text("{}")
    for words in (
        (tmp_path / "no.hl7", "--mllp", "127.0.0.1:1"),
        (tmp_path / "gone", "--mllp", "127.0.0.1:1"),
        (tmp_path, "--mllp", "127.0.0.1:1"),
        (message, "--mllp", "nowhere"),
        (message, "--mllp", "127.0.0.1:1", "--tls-server-name", "x"),
        (message, "--mllp", "127.0.0.1:1", "--attempts", "0"),
        (message,),
    ):
        assert run("send-hl7", *words).exit_code == exit_codes.USAGE, words
