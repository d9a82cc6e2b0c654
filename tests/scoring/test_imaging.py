"""Image files from strangers: every bad one earns its own error, no good one is changed."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from cytoserve_contract import limits
from cytoserve_scoring.errors import (
    EmptyImage,
    InvalidImage,
    NotAnImage,
    TooManyBytes,
    TooManyPixels,
    TooSmall,
    TruncatedImage,
    UnsupportedMode,
)
from cytoserve_scoring.vision.imaging import decode_picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

LOSSLESS = {"PNG": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}, "BMP": {}}
EVERY = {**LOSSLESS, "JPEG": {"quality": 95}}


def decode_image(data: bytes) -> np.ndarray:
    return decode_picture(data).pixels


def picture(width: int = 48, height: int = 40) -> Image.Image:
    """A colour picture without any symmetry, so that every turn and flip of it is another picture."""
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float64)
    pixels = np.stack((xx * 255 / width, yy * 255 / height, 128 + 60 * np.sin(xx / 5)), axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_with_header(width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(body)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff_with(tags: list[tuple[int, int, list[int]]], body: bytes = b"\0" * 64) -> bytes:
    """A little-endian TIFF of the given (tag, type 3 or 4, values) and a body at offset 8."""
    head = 8 + len(body)
    directory, extra = b"", b""
    extra_at = head + 2 + 12 * len(tags) + 4
    for tag, kind, values in sorted(tags):
        code = {3: "H", 4: "I"}[kind]
        packed = struct.pack(f"<{len(values)}{code}", *values)
        if len(packed) > 4:
            directory += struct.pack("<HHII", tag, kind, len(values), extra_at + len(extra))
            extra += packed
        else:
            directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", head) + body + struct.pack("<H", len(tags)) + directory + b"\0" * 4 + extra


def tiff_tags(width: int, height: int, bits: int = 8, samples: int = 3) -> list[tuple[int, int, list[int]]]:
    return [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * samples),
        (259, 3, [1]),
        (262, 3, [2 if samples >= 3 else 1]),
        (277, 3, [samples]),
    ]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_come_back_to_the_last_bit(kind: str) -> None:
    image = picture()
    decoded = decode_image(encoded(image, kind, **LOSSLESS[kind]))
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, np.asarray(image))


def test_jpeg_comes_back_nearly() -> None:
    image = picture()
    decoded = decode_image(encoded(image, "JPEG", quality=95)).astype(int)
    assert np.abs(decoded - np.asarray(image)).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    # what a camera stores when the displayed picture is `picture()`; EXIF 2.32, table of tag 0x0112
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    displayed = np.asarray(picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {**EVERY[kind], "exif": exif.tobytes() if kind != "TIFF" else exif}
    decoded = decode_image(encoded(Image.fromarray(np.ascontiguousarray(stored(displayed))), kind, **options))
    assert decoded.shape == displayed.shape
    assert np.abs(decoded.astype(int) - displayed).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_palette_is_looked_up_exactly(kind: str) -> None:
    image = picture().quantize(32)
    np.testing.assert_array_equal(decode_image(encoded(image, kind)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_opaque_alpha_is_dropped_and_transparency_refused(kind: str) -> None:
    image = picture().convert("RGBA")
    np.testing.assert_array_equal(
        decode_image(encoded(image, kind, **LOSSLESS[kind])), np.asarray(picture()), err_msg="opaque alpha"
    )
    image.putpixel((3, 3), (10, 20, 30, 254))
    with pytest.raises(UnsupportedMode, match="transparent"):
        decode_image(encoded(image, kind, **LOSSLESS[kind]))


def test_transparent_colour_key_is_refused_only_where_it_is_used() -> None:
    image = picture()
    used = image.getpixel((5, 5))
    with pytest.raises(UnsupportedMode):
        decode_image(encoded(image, "PNG", transparency=used))
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG", transparency=(1, 254, 3))), np.asarray(image))


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("L", "PNG", "greyscale"),
        ("L", "JPEG", "greyscale"),
        ("L", "TIFF", "greyscale"),
        ("L", "BMP", "greyscale"),
        ("LA", "PNG", "greyscale"),
        ("1", "PNG", "black and white"),
        ("1", "TIFF", "black and white"),
        ("CMYK", "JPEG", "CMYK"),
        ("CMYK", "TIFF", "CMYK"),
        ("I;16", "PNG", "16-bit"),
        ("I;16", "TIFF", "16-bit"),
        ("F", "TIFF", "32-bit"),
        ("LAB", "TIFF", "Lab"),
    ],
)
def test_what_is_not_colour_of_8_bits_is_refused(mode: str, kind: str, words: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((40, 48), 4000, np.uint16))
    elif mode == "LAB":
        image = Image.new("LAB", (48, 40), (100, 120, 130))
    else:
        image = picture().convert(mode)
    with pytest.raises(UnsupportedMode, match=words):
        decode_image(encoded(image, kind))


def test_16_bit_rgb_png_is_refused_although_pillow_reads_it() -> None:
    rows = b"".join(b"\0" + struct.pack(">144H", *range(144)) for _ in range(40))
    data = png_with_header(48, 40, depth=16, body=rows)
    assert Image.open(io.BytesIO(data)).mode == "RGB", "the trap this test is about is gone"
    with pytest.raises(UnsupportedMode, match="16-bit"):
        decode_image(data)


def test_16_bit_rgb_tiff_is_refused() -> None:
    body = b"\0" * (48 * 40 * 6)
    tags = [*tiff_tags(48, 40, bits=16), (273, 4, [8]), (278, 4, [40]), (279, 4, [len(body)])]
    with pytest.raises(UnsupportedMode, match="16-bit"):
        decode_image(tiff_with(tags, body))


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG"])
def test_several_pictures_in_a_file_are_refused(kind: str) -> None:
    other = picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    data = encoded(picture(), kind, save_all=True, append_images=[other])
    with pytest.raises(UnsupportedMode, match="several pictures"):
        decode_image(data)


def test_jpeg_with_a_preview_behind_it_gives_the_picture() -> None:
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture(32, 32)], quality=95)
    assert decode_image(data).shape == (40, 48, 3)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyImage),
        (b"\0", NotAnImage),
        (b"this is no image, it is text\n" * 20, NotAnImage),
        (b"%PDF-1.7\n" + b"\0" * 200, NotAnImage),
        (b"GIF89a" + b"\0" * 200, NotAnImage),
        (b"\x89PNG\r\n\x1a\n", TruncatedImage),
        (b"\xff\xd8\xff\xe0", TruncatedImage),
        (b"RIFF\x10\0\0\0WAVEfmt " + b"\0" * 64, InvalidImage),
    ],
)
def test_bytes_that_are_no_image(data: bytes, error: type[InvalidImage]) -> None:
    with pytest.raises(error):
        decode_image(data)


def test_real_gif_is_refused_although_pillow_reads_it() -> None:
    with pytest.raises(NotAnImage, match="PNG"):
        decode_image(encoded(picture().quantize(16), "GIF"))


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("share", [0.25, 0.6, 0.95])
def test_truncated_files(kind: str, share: float) -> None:
    data = encoded(picture(400, 300), kind, **EVERY[kind])
    with pytest.raises(InvalidImage) as caught:
        decode_image(data[: int(len(data) * share)])
    assert caught.value.code in {"truncated", "not_an_image"}


@pytest.mark.parametrize(
    ("size", "error"),
    [((1, 1), TooSmall), ((31, 500), TooSmall), ((10_000, 10), TooSmall), ((0, 0), InvalidImage)],
)
def test_too_small(size: tuple[int, int], error: type[InvalidImage]) -> None:
    with pytest.raises(error):
        decode_image(png_with_header(*size, body=b"\0" * 64))


def test_the_smallest_accepted_side() -> None:
    side = limits.MIN_SIDE
    assert decode_image(encoded(picture(side, side), "PNG")).shape == (side, side, 3)


def test_ten_thousand_pixels_wide_is_fine_within_the_limit() -> None:
    assert decode_image(encoded(Image.new("RGB", (10_000, 40), (200, 190, 210)), "PNG")).shape == (40, 10_000, 3)


def test_too_many_bytes() -> None:
    with pytest.raises(TooManyBytes, match="40 MiB"):
        decode_image(b"\x89PNG\r\n\x1a\n" + b"\0" * limits.MAX_FILE_BYTES)


def bombs() -> dict[str, bytes]:
    """Small files whose headers announce a huge picture (or, of the last, a huge tile)."""
    side = 50_000
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + (16_382).to_bytes(3, "little") * 2
    bmp = (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    jpeg = bytearray(encoded(picture(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    strip = [(273, 4, [8]), (278, 4, [side]), (279, 4, [64])]
    tile = [(322, 4, [20_000]), (323, 4, [20_000]), (324, 4, [8]), (325, 4, [64])]
    return {
        "PNG": png_with_header(side, side),
        "PNG rows": png_with_header(side, side, body=b"\0" * 1_000_000),
        "WEBP": b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x,
        "BMP": bmp,
        "JPEG": bytes(jpeg),
        "TIFF": tiff_with([*tiff_tags(side, side), *strip]),
        "TIFF tile": tiff_with([*tiff_tags(64, 64), *tile]),
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_from_their_header(name: str) -> None:
    with pytest.raises(TooManyPixels, match="million"):
        decode_image(bombs()[name])


def test_bombs_cost_no_memory() -> None:
    """In a process that may not take 300 MiB more than it has after its imports."""
    code = (
        "import resource, sys\n"
        "sys.path[:0] = sys.argv[1:2]\n"
        "from test_imaging import bombs, decode_image, InvalidImage\n"
        "files = bombs()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)\n"
        "for data in files.values():\n"
        "    try: decode_image(data)\n"
        "    except InvalidImage: continue\n"
        "    sys.exit(3)\n"
    )
    folder = __file__.rsplit("/", 1)[0]
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_memory_limit_of_the_test_above_bites() -> None:
    """Positive control: decoding a picture of 40 million pixels does not fit into the same limit."""
    code = (
        "import io, resource, sys\n"
        "sys.path[:0] = sys.argv[1:2]\n"
        "from test_imaging import Image, decode_image, encoded\n"
        "data = encoded(Image.new('1', (8000, 5000)), 'PNG')\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)\n"
        "try: Image.open(io.BytesIO(data)).convert('RGB')\n"
        "except MemoryError: sys.exit(7)\n"
    )
    folder = __file__.rsplit("/", 1)[0]
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr


def test_text_chunk_that_unpacks_to_a_gigabyte() -> None:
    body = b"comment\0\0" + zlib.compress(b"a" * (64 * 2**20), 9)
    whole = encoded(picture(), "PNG")
    data = whole[:33] + png_chunk(b"zTXt", body) + whole[33:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(InvalidImage):
        assert decode_image(data).shape == (40, 48, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024, "KiB taken for a comment"


def test_broken_exif_does_not_cost_the_picture() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert decode_image(data).shape == (40, 48, 3)


FILES = {kind: encoded(picture(), kind, **options) for kind, options in EVERY.items()}


@pytest.mark.parametrize("kind", EVERY)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_files_raise_only_invalid_image(kind: str, data: st.DataObject) -> None:
    """Flip bits and cut: either RGB comes out, or one error of the tree."""
    damaged = bytearray(FILES[kind])
    for at in data.draw(st.lists(st.integers(0, len(damaged) * 8 - 1), max_size=8)):
        damaged[at // 8] ^= 1 << (at % 8)
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(damaged))))
    try:
        decoded = decode_image(bytes(damaged[:cut]))
    except InvalidImage as error:
        text = error.wire()
    else:
        assert decoded.dtype == np.uint8
        assert decoded.ndim == 3
        assert decoded.shape[2] == 3
        return
    assert text.startswith("[cytoserve:")
    assert len(text) > 40, "a sentence that says what to do"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"RIFF", b"BM"]))
def test_noise_raises_only_invalid_image(noise: bytes, head: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode_image(head + noise)
