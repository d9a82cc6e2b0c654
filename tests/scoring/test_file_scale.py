"""The scale that a file carries: read where it can be a microscope's, ignored where it is a printer's."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from cytoserve_scoring.errors import UnsupportedMode
from cytoserve_scoring.vision.imaging import decode_picture
from PIL import Image, TiffImagePlugin
from test_imaging import encoded, picture, png_chunk

OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    "<Image><Pixels {}/></Image></OME>"
)


def tiff(description: str | None = None, **tags: object) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    if description is not None:
        info.tagtype[270] = 2  # ASCII; Pillow would write the micro sign of a str as a question mark
        info[270] = description.encode()
    for name, value in tags.items():
        info[{"x": 282, "y": 283, "unit": 296}[name]] = value
    return encoded(picture(), "TIFF", tiffinfo=info)


def scale(data: bytes) -> float | None:
    return decode_picture(data).um_per_pixel


@pytest.mark.parametrize("prefix", ["", "ome:"])
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('PhysicalSizeX="0.18" PhysicalSizeY="0.18"', 0.18),
        ('SizeX="48" PhysicalSizeX="0.18" PhysicalSizeXUnit="\u00b5m"', 0.18),
        ('PhysicalSizeX="0.18" PhysicalSizeXUnit="&#181;m"', 0.18),
        ('PhysicalSizeX="180" PhysicalSizeXUnit="nm" PhysicalSizeY="180" PhysicalSizeYUnit="nm"', 0.18),
        ('PhysicalSizeX="1.8e-4" PhysicalSizeXUnit="mm"', 0.18),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel"', None),
        ('PhysicalSizeX="18" PhysicalSizeXUnit="\u00b5m"', None),
        ('PhysicalSizeX="broken"', None),
        ('SizeX="48"', None),
    ],
)
def test_ome_tiff(prefix: str, attributes: str, expected: float | None) -> None:
    text = OME.format(attributes).replace("<Pixels", f"<{prefix}Pixels")
    found = scale(tiff(text))
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-6))


def test_imagej_names_its_unit() -> None:
    per_um = TiffImagePlugin.IFDRational(1_000_000, 180_000)
    for unit in ("micron", "\\u00B5m", "um"):
        assert scale(tiff(f"ImageJ=1.54f\nunit={unit}\n", x=per_um, y=per_um, unit=1)) == pytest.approx(0.18)
    assert scale(tiff("ImageJ=1.54f\nunit=pixel\n", x=per_um, y=per_um, unit=1)) is None


def test_tiff_resolution_in_both_units() -> None:
    assert scale(tiff(x=1e4 / 0.18, y=1e4 / 0.18, unit=3)) == pytest.approx(0.18, rel=1e-4)
    assert scale(tiff(x=25_400 / 0.18, y=25_400 / 0.18, unit=2)) == pytest.approx(0.18, rel=1e-4)
    assert scale(tiff(x=1e4 / 0.18, y=1e4 / 0.18, unit=1)) is None


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_density_of_png_and_bmp(kind: str) -> None:
    assert scale(encoded(picture(), kind, dpi=(25_400 / 0.18,) * 2)) == pytest.approx(0.18, rel=1e-3)


def test_density_of_a_jpeg_per_centimetre() -> None:
    data = bytearray(encoded(picture(), "JPEG", dpi=(300, 300)))
    at = data.index(b"JFIF\0") + 7
    data[at : at + 5] = struct.pack(">BHH", 2, 50_000, 50_000)
    assert scale(bytes(data)) == pytest.approx(0.2)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG"])
@pytest.mark.parametrize("dpi", [72, 96, 300, 1200, 4800])
def test_a_print_density_is_no_microscope_scale(kind: str, dpi: int) -> None:
    assert scale(encoded(picture(), kind, dpi=(dpi, dpi))) is None


def test_no_scale_at_all() -> None:
    assert [scale(encoded(picture(), kind)) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")] == [None] * 5


def test_pixels_that_are_not_square_are_refused() -> None:
    data = tiff(x=1e4 / 0.18, y=1e4 / 0.25, unit=3)
    with pytest.raises(UnsupportedMode, match="square"):
        decode_picture(data)


@pytest.mark.parametrize("x", [0, 1])
@pytest.mark.parametrize("unit", [0, 1, 2, 3, 9])
def test_broken_resolutions_cost_nothing(x: int, unit: int) -> None:
    assert scale(tiff(x=TiffImagePlugin.IFDRational(x, 0), y=TiffImagePlugin.IFDRational(1, 0), unit=unit)) is None


def test_a_png_of_unknown_unit_gives_no_scale() -> None:
    whole = encoded(picture(), "PNG")
    for unit, expected in ((0, None), (1, 0.18)):
        per_unit = round(1e6 / 0.18)
        data = whole[:33] + png_chunk(b"pHYs", struct.pack(">IIB", per_unit, per_unit, unit)) + whole[33:]
        assert scale(data) == (None if expected is None else pytest.approx(expected, rel=1e-3))


def test_a_description_of_a_megabyte_is_searched_quickly() -> None:
    text = "<Pixels " * 120_000 + 'PhysicalSizeX="0.18"'
    stream = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270] = text
    Image.fromarray(np.asarray(picture())).save(stream, "TIFF", tiffinfo=info)
    assert scale(stream.getvalue()) is None
