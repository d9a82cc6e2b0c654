"""The command line, through its own parser, against the fake server."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import typer
from click.testing import Result
from cytoserve_cli import mounts
from cytoserve_cli.main import app
from cytoserve_client import Client
from cytoserve_client.errors import InvalidImage
from cytoserve_client.results import CellsAnalysis
from cytoserve_deploy.errors import DeployError
from cytoserve_reports import SampleReport
from cytoserve_reports.overlay import ACCEPTED, ALARM, CALM, REVIEW, draw_overlay
from cytoserve_reports.text import NOTICE
from fake_server import Call, FakeServer, Refuse, cells, distant, sleeping, smear, unfamiliar
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "140"}).invoke(app, [str(word) for word in words])


def save(path: Path, size: tuple[int, int] = (640, 480), mark: bool = False) -> Path:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", path.name)  # no two are the same file, which would count once
    if mark:
        text.add_text("cytoserve:synthetic", "true")
    Image.new("RGB", size, (230, 220, 225)).save(path, pnginfo=text)
    return path


@pytest.fixture
def fields(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / f"field-{i}.png") for i in range(3)]


def test_analyze_prints_writes_and_draws(server: FakeServer, fields: list[Path], tmp_path: Path) -> None:
    server.fake.on_smear = lambda call: smear([6, 6, 4], {1: "near_tie,poor_image"})
    result = run(
        "analyze", *fields, "--url", server.url, "--json", tmp_path / "a" / "out.json", "--overlay", tmp_path / "o"
    )
    assert result.exit_code == 0, result.output
    for words in ("Differential of 9 white cells", "near tie, poor image", "field-2.png", "Fewer than 100", NOTICE):
        assert words in result.output
    analysis = SampleReport.model_validate_json((tmp_path / "a" / "out.json").read_text())
    assert [field.source for field in analysis.fields] == [str(path) for path in fields]
    assert not analysis.synthetic
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [f"field-{i}.overlay.png" for i in range(3)]


def test_json_on_standard_output_is_json_and_nothing_else(server: FakeServer, fields: list[Path]) -> None:
    result = run("analyze", *fields, "--url", server.url, "--json", "-")
    assert result.exit_code == 0
    assert len(SampleReport.model_validate_json(result.stdout).fields) == 3
    assert "Differential" in result.stderr


def test_the_address_may_come_from_the_environment(
    server: FakeServer, fields: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYTOSERVE_URL", server.url)
    assert run("analyze", fields[0]).exit_code == 0


def test_per_image(server: FakeServer, fields: list[Path], tmp_path: Path) -> None:
    result = run("analyze", *fields, "--per-image", "--url", server.url, "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    assert result.output.count("Differential of 3 white cells") == 3
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["schema"] == "cytoserve.analyses/1"
    assert [len(SampleReport.model_validate(one).fields) for one in document["analyses"]] == [1, 1, 1]


def test_synthetic_input_is_marked_everywhere(server: FakeServer, tmp_path: Path) -> None:
    path = save(tmp_path / "made.png", mark=True)
    result = run("analyze", path, "--url", server.url, "--json", tmp_path / "out.json", "--overlay", tmp_path)
    assert "SYNTHETIC" in result.output
    assert json.loads((tmp_path / "out.json").read_text())["fields"][0]["synthetic"] is True
    with Image.open(tmp_path / "made.overlay.png") as overlay, Image.open(path) as original:
        assert overlay.info["cytoserve:synthetic"] == "true"
        head = np.asarray(overlay.convert("RGB"))[0]
        assert (head == 0).all()  # the black banner
        assert overlay.height > 2 * original.height
    unmarked = run("analyze", save(tmp_path / "plain.png"), "--url", server.url, "--overlay", tmp_path)
    assert "SYNTHETIC" not in unmarked.output


@pytest.mark.parametrize(
    "name", ["x[red]y[/red]", "[bold", "a\x1b[31mb", "a\x07b", "[link=http://x]l[/link]", "\u202eabc"]
)
def test_sample_ids_are_text_not_markup(server: FakeServer, fields: list[Path], name: str) -> None:
    result = run("analyze", fields[0], "--sample", name, "--url", server.url)
    assert result.exit_code == 0
    shown = "".join(ch if ch.isprintable() else "?" for ch in name)
    assert f"Sample {shown}" in result.output
    assert "\x1b[31m" not in result.output


def test_classify_a_folder(server: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    for i in range(20):
        save(folder / f"cell-{i:02}.png", (40, 40))
    (folder / "notes.txt").write_text("no image")
    server.fake.on_cells = lambda call: cells([6] * len(call.files), {0: "anomalous"})
    result = run("classify", folder, "--url", server.url, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "20 cell(s)" in result.output
    assert "3 cell(s) to review" in result.output
    document = CellsAnalysis.model_validate_json((tmp_path / "out.json").read_text())
    assert [Path(cell.source).name for cell in document.cells] == [f"cell-{i:02}.png" for i in range(20)]


def test_info(server: FakeServer) -> None:
    result = run("info", "--url", server.url)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["weights_sha256"] == "ab" * 32


# -- exit codes --------------------------------------------------------------------------------------------------------


def refusing(status: grpc.StatusCode, details: str) -> Any:
    def behaviour(call: Call) -> dict[str, Any]:
        raise Refuse(status, details)

    return behaviour


def test_exit_3_some_failed(server: FakeServer, fields: list[Path], tmp_path: Path) -> None:
    result = run("analyze", *fields, tmp_path / "gone.png", "--url", server.url)
    assert result.exit_code == 3
    assert "1 image(s) without an answer" in result.output
    assert "unreadable" in result.output


def test_exit_4_all_failed(server: FakeServer, fields: list[Path]) -> None:
    server.fake.on_smear = refusing(grpc.StatusCode.INVALID_ARGUMENT, "[cytoserve:truncated] copy again")
    result = run("analyze", *fields, "--url", server.url)
    assert result.exit_code == 4
    assert "copy again" in result.output


def test_exit_5_no_server(fields: list[Path]) -> None:
    result = run("analyze", *fields, "--url", "127.0.0.1:1")
    assert result.exit_code == 5
    assert "unavailable" in result.output


def test_exit_5_server_gone_for_every_image(server: FakeServer, fields: list[Path]) -> None:
    server.fake.on_smear = refusing(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    assert run("analyze", *fields, "--url", server.url).exit_code == 5


def test_exit_6_deadline(server: FakeServer, fields: list[Path]) -> None:
    server.fake.on_smear = sleeping(3)
    assert run("analyze", *fields, "--url", server.url, "--timeout", "0.5").exit_code == 6


def test_exit_7_another_release(server: FakeServer, fields: list[Path]) -> None:
    server.fake.outputs["smear_analysis"].pop("LABEL")
    assert run("analyze", *fields, "--url", server.url).exit_code == 7


@pytest.mark.parametrize(
    "words",
    [
        ["analyze"],
        ["analyze", "--no-such-option", "x.png"],
        ["analyze", "x.png", "--um-per-pixel", "-1", "--url", "127.0.0.1:1"],
        ["analyze", "x.png", "--timeout", "0", "--url", "127.0.0.1:1"],
        ["analyze", "x.png", "--url", "http://127.0.0.1:1"],
        ["no-such-command"],
    ],
)
def test_exit_2_usage(words: Sequence[str]) -> None:
    assert run(*words).exit_code == 2


def test_exit_2_empty_folder(tmp_path: Path) -> None:
    result = run("classify", tmp_path, "--url", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "no image files" in result.output


def test_a_result_that_cannot_be_written_is_told(server: FakeServer, fields: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = run("analyze", fields[0], "--url", server.url, "--json", tmp_path / "file" / "out.json")
    assert result.exit_code == 2
    assert "cannot write" in result.output
    assert not server.fake.calls  # told before the work


def test_version_of_the_distribution() -> None:
    from importlib.metadata import version

    assert run("--version").output.strip() == f"cytoserve {version('cytoserve')}"


# -- overlay -----------------------------------------------------------------------------------------------------------


def analysed(server: FakeServer, path: Path) -> SampleReport:
    result = run("analyze", path, "--url", server.url, "--json", "-")
    return SampleReport.model_validate_json(result.stdout)


def test_overlay_frames_each_kind_in_its_colour(server: FakeServer, fields: list[Path]) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = smear([6, 4], {1: "low_confidence"}, red=0, platelets=0)
        answer["BOX"] = np.array([[100, 100, 180, 180], [300, 300, 380, 380]], np.float32)
        return answer

    server.fake.on_smear = judge
    (field,) = analysed(server, fields[0]).fields
    with Image.open(fields[0]) as picture:
        drawn = Image.open(io.BytesIO(draw_overlay(picture.convert("RGB"), field)))
    pixels = np.asarray(drawn)
    scale = drawn.width // 640
    assert tuple(pixels[140 * scale, 100 * scale]) == ACCEPTED
    assert tuple(pixels[340 * scale, 300 * scale]) == REVIEW
    assert drawn.height > 480 * scale  # the legend
    assert drawn.info["Disclaimer"] == NOTICE


def test_overlay_refuses_another_picture(server: FakeServer, fields: list[Path]) -> None:
    (field,) = analysed(server, fields[0]).fields
    with pytest.raises(InvalidImage, match="320 x 240"):
        draw_overlay(Image.new("RGB", (320, 240)), field)


def test_overlay_follows_the_exif_orientation(server: FakeServer, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 480 x 640, displayed 640 x 480
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (480, 640)).save(path, exif=exif)
    result = run("analyze", path, "--url", server.url, "--overlay", tmp_path / "o")
    assert result.exit_code == 0
    assert (tmp_path / "o" / "turned.overlay.png").exists()


def test_overlay_says_in_its_head_whether_the_sample_is_familiar(server: FakeServer, fields: list[Path]) -> None:
    with Image.open(fields[0]) as opened:
        blank = opened.convert("RGB")

    def head(answer: dict[str, Any]) -> tuple[int, int, int]:
        server.fake.on_smear = lambda call: answer
        report = analysed(server, fields[0])
        drawn = Image.open(io.BytesIO(draw_overlay(blank, report.fields[0], report.familiarity, report.site)))
        return tuple(np.asarray(drawn)[0, 0].tolist())  # type: ignore[return-value]

    assert head(smear([6] * 20)) == CALM
    assert head(distant(smear([6] * 20))) == ALARM
    # A field that was judged as a sample of its own says so for itself.
    server.fake.on_smear = lambda call: distant(smear([6] * 20))
    with Client(server.url) as client:
        (field,) = client.analyze([fields[0]], one_sample=False).fields
    assert tuple(np.asarray(Image.open(io.BytesIO(draw_overlay(blank, field))))[0, 0].tolist()) == ALARM


def test_long_words_stay_inside_a_narrow_picture(server: FakeServer, tmp_path: Path) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = unfamiliar(smear([6], red=0, platelets=0), 1, cause="surroundings_green+")
        answer["FIELD_SIZE"] = np.array([60, 400], np.int32)
        answer["BOX"] = np.array([[10, 200, 50, 240]], np.float32)
        return answer

    server.fake.on_smear = judge
    report = analysed(server, save(tmp_path / "narrow.png", (60, 400)))
    drawn = np.asarray(Image.open(io.BytesIO(draw_overlay(Image.new("RGB", (60, 400)), report.fields[0]))))
    ground = (drawn == REVIEW).all(axis=-1)
    label = ground.sum(axis=1) > 60  # rows of the label: frames, in the legend too, have fewer such pixels
    assert label.sum() > 5 * 13  # several lines of 13 pixels at least
    # The ground reaches past the letters on both sides, so no line is cut off.
    assert not (drawn[label][:, -2:] == 255).all(axis=-1).any()


def test_no_cell_of_a_rejected_sample_is_framed_as_accepted(server: FakeServer, fields: list[Path]) -> None:
    server.fake.on_smear = lambda call: distant(smear([6] * 20))
    report = analysed(server, fields[0])
    with Image.open(fields[0]) as picture:
        drawn = np.asarray(
            Image.open(io.BytesIO(draw_overlay(picture.convert("RGB"), report.fields[0], report.familiarity)))
        )
    scale = drawn.shape[1] // 640
    body = drawn[: 480 * scale]  # the legend below has a frame of each colour
    assert (body == REVIEW).all(axis=-1).any()
    assert not (body == ACCEPTED).all(axis=-1).any()


@pytest.mark.parametrize("corner", [(0, 0), (632, 0), (0, 472), (632, 472)])
def test_labels_stay_inside_the_picture(server: FakeServer, fields: list[Path], corner: tuple[int, int]) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = smear([6], {0: "low_confidence,near_tie,poor_image,out_of_scale"}, red=0, platelets=0)
        answer["BOX"] = np.array([[*corner, corner[0] + 8, corner[1] + 8]], np.float32)
        return answer

    server.fake.on_smear = judge
    (field,) = analysed(server, fields[0]).fields
    with Image.open(fields[0]) as picture:
        drawn = np.asarray(Image.open(io.BytesIO(draw_overlay(picture.convert("RGB"), field))))
    scale = drawn.shape[1] // 640
    # The label's background: far more pixels than the frame of an 8-pixel box has.
    assert (drawn[: 480 * scale] == REVIEW).all(axis=-1).sum() > 3000


# -- subcommands of the other rooms, local server ----------------------------------------------------------------------


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mounts.MOUNTS, "serve", mounts.Mount("no_such_library_here.cli:app", "", "serve"))
    result = run("serve", "--whatever", "x")
    assert result.exit_code == 2
    assert 'pip install "cytoserve[serve]"' in result.output


def test_a_library_missing_while_it_runs_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("pretend_training")
    pretend = typer.Typer()

    @pretend.command()
    def denoiser() -> None:
        import no_such_library_here  # noqa: F401

    module.app = pretend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pretend_training", module)
    monkeypatch.setitem(mounts.MOUNTS, "train", mounts.Mount("pretend_training:app", "", "train"))
    result = run("train")
    assert result.exit_code == 2
    assert 'pip install "cytoserve[train]"' in result.output


def test_arguments_reach_the_mounted_app_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("pretend_export")
    pretend = typer.Typer()

    @pretend.callback()
    def group() -> None:
        pass

    @pretend.command()
    def onnx(checkpoint: str, to: str = "", flag: bool = False) -> None:
        typer.echo(f"{checkpoint} {to} {flag}")
        raise typer.Exit(9)

    module.app = pretend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pretend_export", module)
    monkeypatch.setitem(mounts.MOUNTS, "export", mounts.Mount("pretend_export:app", "", "export"))
    result = run("export", "onnx", "model", "--to", "repo", "--flag")
    assert (result.exit_code, result.output.strip()) == (9, "model repo True")
    assert "--to" in run("export", "onnx", "--help").output


def test_without_an_address_a_local_server_lives_as_long_as_the_command(
    server: FakeServer, fields: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Local:
        grpc_url = server.url

        def start(self) -> None:
            events.append("start")

        def stop(self) -> None:
            events.append("stop")

    class Broken(Local):
        def start(self) -> None:
            raise DeployError("no libpython here")

    def pretend(local: type) -> None:
        module = types.SimpleNamespace(LocalServer=local)
        monkeypatch.setitem(sys.modules, "cytoserve_deploy.launch.local_server", module)  # type: ignore[arg-type]

    pretend(Local)
    assert run("analyze", fields[0]).exit_code == 0
    assert events == ["start", "stop"]
    server.fake.outputs["smear_analysis"].pop("LABEL")
    assert run("analyze", fields[0]).exit_code == 7
    assert events == ["start", "stop"] * 2
    pretend(Broken)
    result = run("analyze", fields[0])
    assert result.exit_code == 5
    assert "no libpython here" in result.output


def test_the_installed_entry_point_runs(server: FakeServer, fields: list[Path]) -> None:
    script = Path(sys.executable).with_name("cytoserve")
    done = subprocess.run(
        [script, "analyze", *fields, "--url", server.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Differential" in done.stdout
    assert "\x1b" not in done.stdout


def test_ctrl_c_ends_the_command_at_once(server: FakeServer, fields: list[Path]) -> None:
    answer = threading.Event()

    def held(call: Call) -> dict[str, Any]:
        answer.wait(120)
        return smear([6])

    server.fake.on_smear = held
    script = Path(sys.executable).with_name("cytoserve")
    # A shell starts background jobs with the signal ignored, and a child would inherit that; a handler it does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command = subprocess.Popen([script, "analyze", *fields, "--url", server.url], stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        end = time.monotonic() + 60
        while server.fake.running < 3:
            assert time.monotonic() < end
            time.sleep(0.02)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=60)
        assert server.fake.running == 3  # it did not wait for an answer
    finally:
        answer.set()
        command.kill()
    assert command.returncode == 130
    assert said.strip() == "interrupted"
