"""The client on the real Triton: real pixels, bad input, agreement of its ways to ask the same question.

Nothing here depends on how good the served weights are, only on what is served; figures are measured elsewhere.
"""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from blocking import Blocking
from click.testing import Result
from cytoserve_cli.main import app
from cytoserve_client import Client, EncodedImage, Priority, SmearAnalysis, errors
from cytoserve_client import _constants as c
from cytoserve_client._config import ClientConfig
from cytoserve_client._plan import image_request
from cytoserve_client._transport import SyncTransport
from cytoserve_client._wire import CELL_MODEL, INFER, Call
from cytoserve_client.options import Options
from cytoserve_client.results import CellAnswer
from cytoserve_reports import SampleReport, summarise
from PIL import Image
from typer.testing import CliRunner

pytestmark = pytest.mark.integration

PBC_UM_PER_PIXEL = 0.18


@pytest.fixture(scope="module")
def client(triton_url: str) -> Iterator[Client]:
    with Client(triton_url, timeout=120) as opened:
        yield opened


@pytest.fixture(scope="module")
def real_field(data_dir: Path) -> Path:
    return sorted((data_dir / "smears" / "bccd" / "images").iterdir())[0]


@pytest.fixture(scope="module")
def real_cells(data_dir: Path) -> list[Path]:
    """One test cell of every class."""
    return [sorted(folder.iterdir())[0] for folder in sorted((data_dir / "pbc" / "test").iterdir())]


def encoded(image: Image.Image, form: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def plain_image(mode: str = "RGB", size: tuple[int, int] = (320, 240)) -> Image.Image:
    return Image.new(mode, size)


def test_info(client: Client) -> None:
    info = client.info()
    assert len(info.classes) == 8
    assert info.weights_sha256
    assert info.probes is not None
    assert info.default_budget is not None
    assert 1 <= info.default_budget <= info.probes


def test_the_limits_that_the_client_takes_for_granted_are_those_in_force(client: Client) -> None:
    limits = {"max_file_bytes": c.MAX_FILE_BYTES, "max_pixels": c.MAX_PIXELS, "min_side": c.MIN_SIDE}
    assert (client.info().model_extra or {})["limits"] == {
        **limits,
        "max_area_um2": c.MAX_AREA_UM2,
        "max_cells": c.MAX_CELLS,
    }


def test_a_real_field(client: Client, real_field: Path) -> None:
    result = client.analyze(real_field, sample="s")
    (field,) = result.fields
    with Image.open(real_field) as picture:
        assert (field.width, field.height) == picture.size
    assert field.source == str(real_field)
    for cell in field.cells:
        assert (cell.label is not None) == (cell.kind == "white_cell")
        if cell.probability is not None:
            assert list(cell.probability) == list(result.model.classes)
            assert sum(cell.probability.values()) == pytest.approx(1, abs=1e-3)
            assert max(cell.probability, key=cell.probability.__getitem__) == cell.label
    text = result.model_dump_json()
    assert SmearAnalysis.model_validate_json(text).model_dump_json() == text


def test_a_folder_of_copies_overlays_and_odd_names_is_counted_as_the_one_field_it_is(
    triton_url: str, client: Client, real_field: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "sample", tmp_path / "out.json"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"copy.png", b"third.JPG"):
        (folder / os.fsdecode(name)).write_bytes(real_field.read_bytes())
    (folder / "scan.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for _ in range(2):  # the second time the first one's overlay lies there too
        words = ["analyze", str(folder), "--url", triton_url, "--json", str(out), "--overlay", str(folder)]
        result = CliRunner().invoke(app, words)
        # 8 before 3: the HEIC file was not read, but the field is of another site
        assert result.exit_code == 8, (result.output, result.exception)
    whole = SampleReport.model_validate_json(out.read_bytes())
    assert sorted(item.reason for item in whole.skipped) == [
        "duplicate",
        "duplicate",
        "own_overlay",
        "unsupported_format",
    ]
    assert whole.fields[0].source == str(folder / r"caf\xe9.png")
    assert whole.differential == summarise(client.analyze(real_field)).differential
    assert len([name for name in os.listdir(folder) if name.endswith(".overlay.png")]) == 1


def test_path_bytes_array_and_both_clients_get_the_same_answer(
    client: Client, real_field: Path, triton_url: str
) -> None:
    with Image.open(real_field) as picture:
        array = np.asarray(picture.convert("RGB"))
    with Blocking(triton_url, timeout=120) as other:
        answers = [client.analyze(real_field), client.analyze(real_field.read_bytes())]
        answers += [client.analyze(array), other.analyze(array)]
    cells = [answer.fields[0].cells for answer in answers]
    assert cells[0] == cells[1] == cells[2] == cells[3]


def test_the_callers_scale_wins(client: Client, real_field: Path) -> None:
    (field,) = client.analyze(real_field, 0.2).fields
    assert field.um_per_pixel == pytest.approx(0.2)
    assert field.scale_source == "caller"


def test_boxes_are_in_displayed_orientation(client: Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (field,) = client.analyze(encoded(plain_image(size=(240, 320)), "JPEG", exif=exif)).fields
    assert (field.width, field.height) == (320, 240)


def test_an_empty_field_is_an_answer(client: Client) -> None:
    blank = np.full((240, 320, 3), 235, np.uint8)
    result = client.analyze(blank)
    assert not [cell for cell in result.fields[0].cells if cell.kind == "white_cell"]
    assert not result.failures


def bomb() -> bytes:
    """A PNG whose header announces 50,000 x 50,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


BAD = {
    "text": (b"this is no image", errors.NotAnImage),
    "truncated": (encoded(plain_image(), "JPEG")[:-900], errors.TruncatedImage),
    "bomb": (bomb(), errors.TooManyPixels),
    "1x1": (encoded(plain_image(size=(1, 1))), errors.TooSmall),
    "grey": (encoded(plain_image("L")), errors.UnsupportedMode),
    "cmyk": (encoded(plain_image("CMYK"), "JPEG"), errors.UnsupportedMode),
    "16 bit": (encoded(plain_image("I;16")), errors.UnsupportedMode),
    "alpha": (encoded(plain_image("RGBA")), errors.UnsupportedMode),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_has_its_own_error_with_name_reason_and_remedy(client: Client, name: str) -> None:
    data, kind = BAD[name]
    with pytest.raises(kind) as caught:
        client.analyze(EncodedImage(f"{name}.img", data))
    assert caught.value.source == f"{name}.img"
    assert caught.value.request_id
    assert str(caught.value).startswith(f"{name}.img: ")
    assert len(caught.value.message) > 20


def test_bad_fields_do_not_sink_the_good_ones(client: Client, real_field: Path) -> None:
    other = sorted(real_field.parent.iterdir())[1]  # the same one again would count once
    images = [real_field, *(EncodedImage(name, data) for name, (data, _) in BAD.items()), other]
    result = client.analyze(images)
    assert [field.source for field in result.fields] == [str(real_field), str(other)]
    assert [(failure.source, failure.error) for failure in result.failures] == [
        (name, kind.default_code) for name, (_, kind) in BAD.items()
    ]


def test_bad_cells_do_not_sink_the_good_ones(client: Client, real_cells: list[Path]) -> None:
    images = [real_cells[0], *(EncodedImage(name, data) for name, (data, _) in BAD.items()), real_cells[1]]
    result = client.classify(images, PBC_UM_PER_PIXEL)
    assert [cell.source for cell in result.cells] == [str(path) for path in real_cells[:2]]
    assert [(failure.source, failure.error) for failure in result.failures] == [
        (name, kind.default_code) for name, (_, kind) in BAD.items()
    ]


def test_answers_do_not_depend_on_company_order_or_concurrency(triton_url: str, real_cells: list[Path]) -> None:
    def ask(paths: list[Path], size: int) -> dict[str, CellAnswer]:
        with Client(triton_url, timeout=120, cells_per_request=size) as one:
            return {cell.source: cell for cell in one.classify(paths, PBC_UM_PER_PIXEL, budget=4).cells}

    alone, together = ask(real_cells, 1), ask(real_cells[::-1], 8)
    assert alone.keys() == together.keys() == {str(path) for path in real_cells}
    for source, cell in alone.items():
        other = together[source]
        assert (cell.label, cell.decision, cell.reasons) == (other.label, other.decision, other.reasons)
        assert cell.probability is not None
        assert other.probability is not None
        # Another batch size may choose another order of summation in the kernels; no more than that.
        assert np.allclose(list(cell.probability.values()), list(other.probability.values()), atol=2e-4, rtol=0)
        assert cell.um_per_pixel == pytest.approx(PBC_UM_PER_PIXEL)


def test_a_deadline_that_is_too_short_is_met_and_the_server_lives_on(client: Client, real_cells: list[Path]) -> None:
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        client.classify(real_cells[0], PBC_UM_PER_PIXEL, timeout=0.01)
    assert time.monotonic() - started < 1
    assert client.classify(real_cells[0], PBC_UM_PER_PIXEL).cells


def test_a_budget_is_obeyed_and_a_wrong_one_refused(client: Client, real_cells: list[Path]) -> None:
    cell = client.classify(real_cells[0], PBC_UM_PER_PIXEL, budget=2).cells[0]
    assert cell.evaluations is not None
    assert 0 < cell.evaluations <= 2 * 4  # a near tie is evaluated in all four quarter turns
    with pytest.raises(errors.BadParameter):
        client.classify(real_cells[0], PBC_UM_PER_PIXEL, budget=10_000)


def test_naming_the_defaults_gives_the_answer_of_naming_nothing(client: Client, real_cells: list[Path]) -> None:
    info = client.info()
    usual = client.classify(real_cells[:3], PBC_UM_PER_PIXEL).cells
    named = client.classify(
        real_cells[:3], PBC_UM_PER_PIXEL, budget=info.default_budget, alpha=info.default_alpha, classes=info.classes
    ).cells
    assert [same(cell) for cell in named] == [same(cell) for cell in usual]


def same(cell: CellAnswer) -> tuple[object, ...]:
    return cell.label, cell.decision, cell.reasons, cell.evaluations, cell.prediction_set_95


def test_alpha_0_spends_the_whole_budget_and_is_referred(client: Client, real_cells: list[Path]) -> None:
    info = client.info()
    assert info.default_budget is not None
    early = client.classify(real_cells[:1], PBC_UM_PER_PIXEL).cells
    for cell, usual in zip(client.classify(real_cells[:1], PBC_UM_PER_PIXEL, alpha=0).cells, early, strict=True):
        assert cell.evaluations == info.default_budget
        assert usual.evaluations is not None
        assert usual.evaluations < cell.evaluations
        assert (cell.decision, cell.prediction_set_95) == ("review", None)
        assert "not_calibrated" in cell.reasons


@pytest.mark.parametrize("count", [1, 2, 8])
def test_only_the_classes_that_were_named_can_win(client: Client, real_cells: list[Path], count: int) -> None:
    chosen = client.info().classes[-count:]
    for cell in client.classify(real_cells[:3], PBC_UM_PER_PIXEL, budget=2, classes=chosen[::-1]).cells:
        assert cell.label in chosen
        assert cell.probability is not None
        assert cell.scores is not None
        assert {name for name, value in cell.probability.items() if value > 0} <= set(chosen)
        assert set(cell.scores) == set(chosen)
        if count == 1:
            assert cell.probability[chosen[0]] == 1
        if count < 8:
            assert (cell.decision, cell.prediction_set_95) == ("review", None)
            assert "not_calibrated" in cell.reasons


def test_a_field_takes_the_same_choices(client: Client, real_field: Path) -> None:
    result = client.analyze(real_field, budget=1, alpha=0, classes=["lymphocyte", "neutrophil"], priority="stat")
    scored = [cell for cell in result.fields[0].cells if cell.label is not None]
    assert scored
    assert {cell.label for cell in scored} <= {"lymphocyte", "neutrophil"}
    assert {cell.evaluations for cell in scored} == {1}
    assert "not_calibrated" in summarise(result).reasons_explained


def test_stat_gets_the_same_answer_as_routine(client: Client, real_cells: list[Path]) -> None:
    routine, stat = (client.classify(real_cells[:2], PBC_UM_PER_PIXEL, priority=p).cells for p in ("routine", "stat"))
    assert [same(cell) for cell in stat] == [same(cell) for cell in routine]


LONG = 32


@pytest.mark.parametrize("priority", ["stat", "routine"])
def test_stat_goes_before_what_waits(triton_url: str, real_cells: list[Path], priority: Priority) -> None:
    """Four long requests, two of which run at a time; then a short one: how many of the long ones does it wait for?"""
    ended: list[str] = []

    def ask(name: str, urgency: Priority, budget: int | None) -> None:
        # A long one takes far longer than decoding and encoding the short one, however busy the machine is. It is one
        # request of the client, and admission lets all four in on a slow machine too.
        cells = [real_cells[0]] * (LONG if name == "long" else 1)
        client.classify(cells, PBC_UM_PER_PIXEL, budget=budget, alpha=0, priority=urgency)
        ended.append(name)

    with (
        Client(triton_url, timeout=600, cells_per_request=LONG) as client,
        triton.InferenceServerClient(triton_url) as server,
        ThreadPoolExecutor(5) as pool,
    ):

        def encoded_so_far() -> int:
            return int(server.get_inference_statistics("encoder").model_stats[0].execution_count)

        client.classify(real_cells[0], PBC_UM_PER_PIXEL, budget=1)
        before = encoded_so_far()
        jobs = [pool.submit(ask, "long", "routine", 8) for _ in range(4)]
        # Until two are scored and two at the scorer's door (or have ended, if something went wrong).
        while encoded_so_far() < before + 4 and not all(job.done() for job in jobs):
            time.sleep(0.01)
        jobs.append(pool.submit(ask, "short", priority, 1))
        for job in jobs:
            job.result()
    # The two that run are finished first. Stat goes before the two that wait, routine after one of them at least.
    assert ended.index("short") <= 2 if priority == "stat" else ended.index("short") >= 3, ended


def test_the_server_refuses_what_the_client_would(triton_url: str, real_cells: list[Path]) -> None:
    image = EncodedImage("cell", real_cells[0].read_bytes())
    config = ClientConfig(triton_url)
    for choice in (Options(60.0, budget=10_000), Options(60.0, alpha=1.0), Options(60.0, classes=("blast",))):
        request = image_request(CELL_MODEL, [image], [PBC_UM_PER_PIXEL], choice, "refused")
        transport = SyncTransport(config)
        try:
            with pytest.raises(errors.BadParameter):
                transport.attempt(Call(INFER, request, choice.timeout))
        finally:
            transport.close()


def test_a_scale_no_microscope_has_is_refused_by_the_server(client: Client, real_field: Path) -> None:
    with pytest.raises(errors.BadScale):
        client.analyze(real_field, 5_000.0)


def test_eight_threads(client: Client, real_cells: list[Path]) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda path: client.classify(path, PBC_UM_PER_PIXEL, budget=2).cells[0], real_cells))
    assert [cell.source for cell in results] == [str(path) for path in real_cells]


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "140"}).invoke(app, [str(word) for word in words])


def test_the_command_line(triton_url: str, real_field: Path, tmp_path: Path) -> None:
    out, bad = tmp_path / "out.json", tmp_path / "bad.png"
    bad.write_bytes(BAD["text"][0])
    result = run("analyze", real_field, bad, "--url", triton_url, "--json", out, "--overlay", tmp_path / "o")
    assert result.exit_code == 8, result.output  # the field is of another site; 3 alone would hide that
    assert result.output.startswith("UNFAMILIAR SAMPLE: ")
    analysis = SampleReport.model_validate_json(out.read_text())
    assert [failure.error for failure in analysis.failures] == ["not_an_image"]
    with Image.open(tmp_path / "o" / f"{real_field.stem}.overlay.png") as overlay:
        assert overlay.width >= analysis.fields[0].width


def test_the_command_line_classifies_a_folder(triton_url: str, data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    for path in sorted((data_dir / "pbc" / "test" / "monocyte").iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    result = run("classify", folder, "--um-per-pixel", PBC_UM_PER_PIXEL, "--url", triton_url)
    assert result.exit_code == 0, result.output
    assert "3 cell(s)" in result.output


def test_home_cells_are_accepted_and_with_red_and_blue_swapped_none_is(client: Client, data_dir: Path) -> None:
    files = [file for folder in sorted((data_dir / "pbc" / "test").iterdir()) for file in sorted(folder.iterdir())[:3]]
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    home = client.classify(pixels, PBC_UM_PER_PIXEL, budget=4)
    assert home.familiarity is not None
    assert not home.familiarity.rejected
    assert sum(cell.decision == "accept" for cell in home.cells) > len(files) / 3
    swapped = client.classify([one[..., ::-1].copy() for one in pixels], PBC_UM_PER_PIXEL, budget=4)
    assert swapped.familiarity is not None
    assert swapped.familiarity.rejected
    assert "It looks as if red and blue were swapped" in swapped.familiarity.headline
    assert {cell.decision for cell in swapped.cells} == {"review"}
    assert all("unfamiliar_sample" in cell.reasons for cell in swapped.cells)
