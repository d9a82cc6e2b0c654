"""Sources: what is refused before anything is sent, and what travels unchanged."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from cytoserve_client import _constants as c
from cytoserve_client import errors
from cytoserve_client.images import check_scale, check_scales, encode_array, is_synthetic, read_file, sources_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin


def load(image: object) -> bytes:
    sources, single = sources_of(image)  # type: ignore[arg-type]
    assert single
    return sources[0].load().data


@settings(deadline=None, max_examples=20)
@given(height=st.integers(32, 60), width=st.integers(32, 60), seed=st.integers(0, 100), order=st.sampled_from("CFT"))
def test_arrays_travel_bit_for_bit_in_any_memory_layout(height: int, width: int, seed: int, order: str) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    given_array = {"C": array, "F": np.asfortranarray(array), "T": array[::-1, ::-1][::-1, ::-1]}[order]
    with Image.open(io.BytesIO(encode_array(given_array))) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(image), array)


@pytest.mark.parametrize(
    ("array", "kind", "says"),
    [
        (np.zeros((40, 40, 3), np.float32), errors.InvalidArray, "float32; give uint8"),
        (np.full((40, 40, 3), np.nan), errors.InvalidArray, "NaN or infinity"),
        (np.zeros((40, 40, 3), np.uint16), errors.InvalidArray, "uint16"),
        (np.zeros((40, 40, 3), bool), errors.InvalidArray, "bool"),
        (np.zeros((40, 40, 3), object), errors.InvalidArray, "object"),
        (np.zeros((40, 40), np.uint8), errors.InvalidArray, r"\(height, width, 3\)"),
        (np.zeros((40, 40, 4), np.uint8), errors.InvalidArray, r"\(40, 40, 4\)"),
        (np.zeros((3, 40, 40), np.uint8), errors.InvalidArray, r"\(3, 40, 40\)"),
        (np.zeros((2, 40, 40, 3), np.uint8), errors.InvalidArray, "shape"),
        (np.zeros((0, 40, 3), np.uint8), errors.TooSmall, "40 x 0"),
        (np.zeros((1, 1, 3), np.uint8), errors.TooSmall, "1 x 1"),
        (np.broadcast_to(np.uint8(0), (10_000, 5_001, 3)), errors.TooManyPixels, "limit"),
    ],
)
def test_wrong_arrays_are_refused_with_reason_and_remedy(
    array: np.ndarray, kind: type[errors.InvalidImage], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        load(array)
    assert caught.value.source == "array"
    assert not caught.value.retryable


def test_files_travel_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "field.jpg"
    path.write_bytes(b"not even an image: the server judges that")
    assert load(path) == load(str(path)) == path.read_bytes()
    assert load(bytearray(b"abc")) == load(memoryview(b"abc")) == b"abc"


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    with pytest.raises(errors.UnreadableFile, match="no such file") as caught:
        read_file(tmp_path / "gone.png")
    assert caught.value.source == str(tmp_path / "gone.png")
    with pytest.raises(errors.UnreadableFile, match="folder"):
        read_file(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(errors.EmptyImage, match="no bytes"):
        read_file(tmp_path / "empty.png")
    with pytest.raises(errors.UnreadableFile):
        load("nul\0byte.png")


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.tif"
    with path.open("wb") as file:
        os.ftruncate(file.fileno(), c.MAX_FILE_BYTES + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("was read"))
    with pytest.raises(errors.TooManyBytes, match="40 MiB"):
        read_file(path)


def test_something_else_is_no_image() -> None:
    with pytest.raises(errors.InvalidInput, match="int"):
        sources_of(7)  # type: ignore[arg-type]
    sources, single = sources_of([b"x", 7])  # type: ignore[list-item]
    assert not single
    with pytest.raises(errors.InvalidInput, match=r"item\[1\]: is a int"):
        sources[1].load()


def encoded(form: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, form, **settings)
    return buffer.getvalue()


def png_with(key: str, value: str) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text(key, value)
    return encoded("PNG", pnginfo=text)


def test_synthetic_marks_are_found_and_nothing_else_is() -> None:
    exif = Image.Exif()
    exif[0x0131] = "cytoserve:synthetic 1.0"
    assert is_synthetic(png_with("cytoserve:synthetic", "true"))
    assert is_synthetic(png_with("Synthetic", "yes"))
    assert is_synthetic(encoded("JPEG", exif=exif))
    assert is_synthetic(encoded("PNG", exif=exif))
    assert is_synthetic(encoded("WEBP", xmp=b"<x:xmpmeta>cytoserve:synthetic</x:xmpmeta>"))
    assert not is_synthetic(png_with("Synthetic", "false"))
    assert not is_synthetic(png_with("Comment", "a synthetic dye was used"))
    assert not is_synthetic(encoded("JPEG"))
    assert not is_synthetic(b"cytoserve:synthetic")


@given(data=st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_the_mark_is_looked_up_in_any_bytes_without_raising(data: bytes) -> None:
    for head in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"II*\0"):
        assert is_synthetic(head + data) in (True, False)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "wide", [0.1]])
def test_bad_scales(bad: object) -> None:
    with pytest.raises(errors.BadScale, match="finite, positive"):
        check_scale(bad)  # type: ignore[arg-type]


def test_scales_are_one_for_all_or_one_each() -> None:
    assert check_scales(None, 2) == [0, 0]
    assert check_scales(0.25, 2) == [0.25, 0.25]
    assert check_scales([0.25, None], 2) == [0.25, 0]
    with pytest.raises(errors.BadParameter, match="3 images"):
        check_scales([0.25], 3)
