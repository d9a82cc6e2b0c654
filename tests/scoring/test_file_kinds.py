"""Whole files of kinds that are not read are named, not called damaged; what can be decoded stays accepted."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from cytoserve_scoring.errors import InvalidImage, NotAnImage, TruncatedImage, UnsupportedMode
from cytoserve_scoring.vision.file_kinds import codec_is_built_in
from PIL import Image, features
from test_imaging import decode_image, encoded, picture, tiff_tags, tiff_with

WIDTH, HEIGHT = 48, 40


def tiff_of(compression: int = 1, bits: int = 8, sample_format: int | None = None) -> bytes:
    """A whole TIFF that holds as many bytes as it says, of a compression or of numbers that are not read."""
    body = bytes(WIDTH * HEIGHT * 3 * max(1, bits // 8))
    tags = [tag for tag in tiff_tags(WIDTH, HEIGHT, bits) if tag[0] != 259]
    tags += [(259, 3, [compression]), (273, 4, [8]), (278, 4, [HEIGHT]), (279, 4, [len(body)])]
    if sample_format is not None:
        tags.append((339, 3, [sample_format] * 3))
    return tiff_with(tags, body)


@pytest.mark.parametrize(
    ("compression", "name"),
    [
        *((value, "JPEG 2000") for value in (33003, 33005, 34712)),
        *((value, "JPEG XR") for value in (22610, 34934)),
        *((value, "JPEG XL") for value in (50002, 52546)),
        (34887, "LERC"),
        (64000, "method 64000"),
    ],
)
def test_a_tiff_of_a_compression_that_is_not_read_is_named(compression: int, name: str) -> None:
    with pytest.raises(UnsupportedMode, match=rf"{name}.*save it as 8-bit RGB"):
        decode_image(tiff_of(compression))


@pytest.mark.parametrize(
    ("bits", "sample_format", "words"),
    [
        (32, 3, "floating-point"),
        (64, 3, "floating-point"),
        (16, 3, "floating-point"),
        (8, 2, "signed"),
        (12, 1, "12-bit"),
    ],
)
def test_a_tiff_of_other_numbers_is_named(bits: int, sample_format: int, words: str) -> None:
    with pytest.raises(UnsupportedMode, match=words):
        decode_image(tiff_of(bits=bits, sample_format=sample_format))


@pytest.mark.parametrize("name", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "webp", "lzma"])
def test_what_the_bundled_libtiff_can_decode_stays_accepted(name: str) -> None:
    number = {"lzma": 34925, "zstd": 50000, "webp": 50001}.get(name, 1)
    if not codec_is_built_in(number):
        with pytest.raises(UnsupportedMode, match=r"(?i)" + {"zstd": "Zstandard"}.get(name, name)):
            decode_image(tiff_of(number))
        return
    assert decode_image(encoded(picture(), "TIFF", compression=name)).shape == (HEIGHT, WIDTH, 3)


def test_a_truncated_tiff_is_still_called_truncated() -> None:
    data = encoded(picture(400, 300), "TIFF", compression="tiff_lzw")
    with pytest.raises(TruncatedImage):
        decode_image(data[: len(data) // 2])


def jpeg_with_frame(marker: int, precision: int = 8) -> bytes:
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, precision
    return bytes(data)


def test_a_12_bit_jpeg_is_named() -> None:
    with pytest.raises(UnsupportedMode, match="12-bit JPEG"):
        decode_image(jpeg_with_frame(0xC1, 12))


@pytest.mark.parametrize(
    ("marker", "words"), [(0xC3, "lossless"), (0xC5, "hierarchical"), (0xCB, "lossless"), (0xCD, "arithmetic")]
)
def test_rare_jpegs_are_named(marker: int, words: str) -> None:
    with pytest.raises(UnsupportedMode, match=words):
        decode_image(jpeg_with_frame(marker))


def test_a_truncated_ordinary_jpeg_is_still_called_truncated() -> None:
    data = encoded(picture(400, 300), "JPEG")
    for share in (0.02, 0.5):
        with pytest.raises(TruncatedImage):
            decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GIF89a" + bytes(64), "GIF"),
        (b"%PDF-1.7\n" + bytes(64), "PDF"),
        (bytes(128) + b"DICM" + bytes(64), "DICOM"),
        (b"\0\0\0\x18ftypheic" + bytes(64), "HEIC"),
        (b"\0\0\0\x20ftypavif" + bytes(64), "AVIF"),
        (b"\0\0\0\x18ftypmp42" + bytes(64), "film"),
        (b"\xff\x0a" + bytes(64), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "JPEG XL"),
        (b"\xff\x4f\xff\x51" + bytes(64), "JPEG 2000"),
        (b"II\xbc\x01" + bytes(64), "JPEG XR"),
        (b"PK\x03\x04" + bytes(64), "ZIP"),
    ],
)
def test_files_sent_by_mistake_are_named(data: bytes, name: str) -> None:
    with pytest.raises(NotAnImage, match=rf"{name}.*PNG"):
        decode_image(data)


@pytest.mark.parametrize(("kind", "name", "need"), [("JPEG2000", "JPEG 2000", "jpg_2000"), ("AVIF", "AVIF", "avif")])
def test_real_files_of_modern_formats_are_named(kind: str, name: str, need: str) -> None:
    if not features.check(need):
        pytest.skip(f"this Pillow writes no {kind}")
    with pytest.raises(NotAnImage, match=name):
        decode_image(encoded(picture(), kind))


def test_a_whole_slide_scan_is_named() -> None:
    pages = [picture(), picture(40, 36)]
    stream = io.BytesIO()
    info = {270: "Aperio Image Library v12.0\n46000x32914 |AppMag = 40|MPP = 0.2499"}
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:], tiffinfo=info)
    with pytest.raises(NotAnImage, match=r"whole-slide.*SVS"):
        decode_image(stream.getvalue())


def test_no_text_of_a_file_is_repeated_in_the_error() -> None:
    """What a file says of itself may hold a patient's name."""
    data = tiff_of(33003).replace(bytes(16), b"PATIENT-NAME-XYZ", 1)
    with pytest.raises(InvalidImage) as caught:
        decode_image(data)
    assert "PATIENT" not in str(caught.value)


@pytest.mark.parametrize("chroma", [0, 2])
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 60}), ("WEBP", {"quality": 60})])
def test_greyscale_in_three_channels_is_refused(kind: str, options: dict[str, int], chroma: int) -> None:
    grey = np.asarray(picture(96, 80).convert("L")).astype(int)[..., None]
    pixels = np.clip(grey + np.array([0, 0, chroma]), 0, 255).astype(np.uint8)
    with pytest.raises(UnsupportedMode, match="greyscale"):
        decode_image(encoded(Image.fromarray(pixels), kind, **options))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_nothing_is_an_empty_field_not_greyscale(level: int) -> None:
    assert decode_image(encoded(Image.new("RGB", (64, 64), (level,) * 3), "PNG")).shape == (64, 64, 3)


def test_a_little_colour_is_colour() -> None:
    pixels = np.asarray(picture(96, 80).convert("L").convert("RGB")).copy()
    pixels[10:16, 10:16] = (150, 60, 160)  # 36 of 7680 pixels
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(pixels), "PNG")), pixels)


def test_struct_of_the_crafted_tiff_is_sound() -> None:
    """Positive control: the same crafted file with a compression and numbers that are read is decoded."""
    data = bytearray(tiff_of())
    data[8 : 8 + 6] = struct.pack("6B", 200, 10, 10, 10, 200, 10)
    assert decode_image(bytes(data))[0, :2].tolist() == [[200, 10, 10], [10, 200, 10]]
