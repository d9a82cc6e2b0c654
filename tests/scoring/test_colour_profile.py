"""Embedded colour profiles: wide-gamut pictures come back as their sRGB originals, sRGB ones to the last bit."""

from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
from cytoserve_scoring.errors import UnsupportedMode
from cytoserve_scoring.vision.crops import cut_crop
from PIL import Image, ImageCms
from test_imaging import decode_image, encoded, picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PRIMARIES = {
    # CIE XYZ (D50) of red, green and blue, and the curve's exponent: Adobe RGB (1998) annex; Display P3 (ICC registry)
    "Adobe RGB": ([(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)], 2.19921875),
    "Display P3": ([(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)], 2.2),
}


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def matrix_profile(name: str) -> bytes:
    """Write a version 2 matrix/curve profile by hand (ICC.1:2001-04, 6.1 to 6.5)."""
    colours, exponent = PRIMARIES[name]
    text = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.encode() + b"\0" + bytes(4 + 4 + 2 + 1 + 67)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    bodies = {b"desc": text + bytes(-len(text) % 4), b"wtpt": white, b"cprt": b"text" + bytes(4) + b"none"}
    for tag, colour in zip((b"r", b"g", b"b"), colours, strict=True):
        bodies[tag + b"XYZ"] = b"XYZ " + bytes(4) + b"".join(map(fixed, colour))
        bodies[tag + b"TRC"] = curve
    at, table, data = 128 + 4 + 12 * len(bodies), struct.pack(">I", len(bodies)), b""
    for tag, body in bodies.items():
        table += tag + struct.pack(">II", at + len(data), len(body))
        data += body
    head = bytes(4) + bytes(4) + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += b"".join(map(fixed, (0.9642, 1.0, 0.8249))) + bytes(48)
    whole = head + table + data
    return struct.pack(">I", len(whole)) + whole[4:]


def stored_as(image: Image.Image, profile: bytes) -> Image.Image:
    """Return what a camera of that colour space stores for a picture."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, renderingIntent=1, outputMode="RGB")


@pytest.fixture
def cell(data_dir) -> Image.Image:
    path = sorted((data_dir / "pbc" / "val" / "eosinophil").iterdir())[0]
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.mark.data
@pytest.mark.parametrize("name", PRIMARIES)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_a_wide_gamut_picture_gives_nearly_the_pixels_and_crop_of_its_original(
    cell: Image.Image, name: str, kind: str
) -> None:
    profile = matrix_profile(name)
    options = {"PNG": {}, "TIFF": {}, "JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    stored = stored_as(cell, profile)
    original = np.asarray(cell)
    assert np.abs(np.asarray(stored, int) - original).max() > 8, "the profile changes nothing: no test"
    decoded = decode_image(encoded(stored, kind, icc_profile=profile, **options))
    assert np.abs(decoded.astype(int) - original).mean() < 1.5
    crops = [cut_crop(np.ascontiguousarray(image), (80.0, 80.0), 0.18).astype(int) for image in (decoded, original)]
    unread = cut_crop(np.asarray(stored), (80.0, 80.0), 0.18).astype(int)
    assert np.abs(crops[0] - crops[1]).mean() < 1.0
    if kind != "JPEG":
        assert np.abs(crops[0] - crops[1]).mean() < 0.5 * np.abs(unread - crops[1]).mean()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_picture_that_is_srgb_already_is_left_alone(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encoded(picture(), kind, icc_profile=SRGB, **options))
    np.testing.assert_array_equal(decoded, np.asarray(picture()))


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (b"no profile at all", "damaged"),
        (SRGB[:200], "damaged"),
        (SRGB[:140] + b"\xff" * (len(SRGB) - 140), "damaged"),
        (SRGB[:16] + b"GRAY" + SRGB[20:], "GRAY"),
        (SRGB[:16] + b"CMYK" + SRGB[20:], "CMYK"),
    ],
)
def test_a_profile_that_cannot_be_applied_is_refused_with_what_to_do(profile: bytes, words: str) -> None:
    with pytest.raises(UnsupportedMode, match=rf"profile.*{words}.*sRGB"):
        decode_image(encoded(picture(), "PNG", icc_profile=profile))


def test_a_huge_profile_is_refused() -> None:
    with pytest.raises(UnsupportedMode, match="profile"):
        decode_image(encoded(picture(), "TIFF", icc_profile=SRGB + bytes(5 * 2**20)))


def test_converting_four_million_pixels_takes_seconds_at_most() -> None:
    data = encoded(picture(2000, 2000), "TIFF", icc_profile=matrix_profile("Adobe RGB"))
    start = time.perf_counter()
    decode_image(data)
    assert time.perf_counter() - start < 5
