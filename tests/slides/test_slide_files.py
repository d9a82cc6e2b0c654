"""Slides as scanners write them: what is one, how large a pixel is, what a region holds, and what is damaged."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from cytoserve_slides import RegionUnreadable, Slide, SlideUnreadable, is_slide
from cytoserve_slides.slide import scale_of
from PIL import Image
from slide_files import cells_on_glass, write_aperio, write_dicom, write_ome, write_svs, write_tiled


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (1300, 1700, 3), dtype=np.uint8)


def test_a_scanners_file_is_a_slide_however_small(tmp_path: Path, pixels: np.ndarray) -> None:
    assert is_slide(write_svs(tmp_path / "small.svs", pixels))


def test_a_tiled_tiff_is_a_slide_where_it_is_too_large_for_a_field(tmp_path: Path, pixels: np.ndarray) -> None:
    """0.292 mm2 is the largest field: 1700 x 1300 pixels of 0.25 um have 0.138, of 0.5 um 0.55."""
    assert not is_slide(write_tiled(tmp_path / "field.tif", pixels, 0.25))
    assert is_slide(write_tiled(tmp_path / "slide.tif", pixels, 0.5))
    assert not is_slide(write_tiled(tmp_path / "unknown.tif", pixels))


def test_pictures_and_other_files_are_no_slides(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "field.png")
    (tmp_path / "notes.svs").write_text("no slide")
    (tmp_path / "empty.tif").write_bytes(b"")
    for path in (tmp_path / "field.png", tmp_path / "notes.svs", tmp_path / "empty.tif", tmp_path, tmp_path / "none"):
        assert not is_slide(path)


def test_size_and_scale(tmp_path: Path, pixels: np.ndarray) -> None:
    for path, scale in (
        (write_svs(tmp_path / "a.svs", pixels, 0.2521), 0.2521),
        (write_ome(tmp_path / "b.ome.tif", pixels, 0.172), 0.172),
        (write_ome(tmp_path / "c.ome.tif", pixels, 172, "nm"), 0.172),
        (write_tiled(tmp_path / "d.tif", pixels, 0.5), 0.5),
        (write_svs(tmp_path / "e.svs", pixels, None), None),
        (write_dicom(tmp_path, pixels, 0.2521), 0.2521),
        (write_tiled(tmp_path / "f.tif", pixels), None),
    ):
        with Slide(path) as slide:
            assert slide.size == (1700, 1300)
            assert slide.um_per_pixel == (None if scale is None else pytest.approx(scale, rel=1e-4)), path.name


@pytest.mark.parametrize(
    "properties",
    [
        {"openslide.mpp-x": "0.25"},
        {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"},
        {"openslide.mpp-x": "0", "openslide.mpp-y": "0"},
        {"openslide.mpp-x": "nan", "openslide.mpp-y": "nan"},
        {"openslide.mpp-x": "25", "openslide.mpp-y": "25"},
        {"openslide.mpp-x": "a lot", "openslide.mpp-y": "a lot"},
        {"openslide.comment": '<OME><Pixels PhysicalSizeX="0.2" PhysicalSizeXUnit="pc" PhysicalSizeY="0.2"/></OME>'},
        {"openslide.comment": 'PhysicalSizeX="0.2" PhysicalSizeY="0.2"'},
    ],
)
def test_a_scale_that_cannot_be_is_not_believed(properties: dict[str, str]) -> None:
    assert scale_of(properties) is None


def test_a_region_holds_the_files_own_pixels(tmp_path: Path, pixels: np.ndarray) -> None:
    with Slide(write_svs(tmp_path / "a.svs", pixels)) as slide:
        assert np.array_equal(slide.region(100, 200, 640, 480), pixels[200:680, 100:740])
        beyond = slide.region(1600, 1200, 200, 200)
        assert np.array_equal(beyond[:100, :100], pixels[1200:, 1600:])
        assert (beyond[100:] == 255).all(), "what was not scanned is white, not black"


def test_a_dicom_slide_is_its_levels_together(tmp_path: Path) -> None:
    pixels = cells_on_glass(1300, 1700, 0.25)
    file = write_dicom(tmp_path, pixels, 0.25)
    assert is_slide(file)
    with Slide(file) as slide:
        assert np.array_equal(slide.region(100, 200, 640, 480), pixels[200:680, 100:740])
        found = slide.overview()
    assert found is not None
    assert found[1] == pytest.approx(2, rel=0.01)
    assert found[0].shape == (650, 850, 3)


def test_the_overview_is_the_smallest_level(tmp_path: Path) -> None:
    pixels = cells_on_glass(1300, 1700, 0.25)
    with Slide(write_svs(tmp_path / "a.svs", pixels, levels=3)) as slide:
        found = slide.overview()
        assert found is not None
        seen, downsample = found
        assert downsample == pytest.approx(4, rel=0.01)
        assert abs(float(seen.mean()) - float(pixels.mean())) < 1
    with Slide(write_tiled(tmp_path / "b.tif", pixels)) as slide:
        assert slide.overview() is None


def test_one_damaged_tile_costs_its_region_and_no_other(tmp_path: Path, pixels: np.ndarray) -> None:
    """A file that was cut short while it was copied: OpenSlide answers nothing after an error, so it is opened anew."""
    whole = write_tiled(tmp_path / "slide.tif", pixels, 0.5).read_bytes()
    import tifffile

    with tifffile.TiffFile(tmp_path / "slide.tif") as file:
        page = file.pages[0]
        offset, length = page.dataoffsets[8], page.databytecounts[8]  # type: ignore[union-attr]
    spoilt = bytearray(whole)
    spoilt[offset : offset + length] = bytes(length)
    (tmp_path / "spoilt.tif").write_bytes(bytes(spoilt))
    with Slide(tmp_path / "spoilt.tif") as slide:
        row, column = divmod(8, -(-1700 // 256))
        with pytest.raises(RegionUnreadable, match="spoilt"):
            slide.region(column * 256, row * 256, 256, 256)
        assert np.array_equal(slide.region(0, 0, 256, 256), pixels[:256, :256])


def test_tiles_of_other_colour_models_are_shown_in_their_own_colours(tmp_path: Path) -> None:
    """CMYK and 16 bit come as RGB of the same colours; grey stays grey, which the server refuses by name."""
    pixels = cells_on_glass(700, 900, 0.5)
    inks = np.concatenate([255 - pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    grey = pixels[..., 1]
    for name, stored, how, wanted in (
        ("cmyk.svs", inks, {"photometric": "separated"}, pixels),
        ("deep.svs", pixels.astype(np.uint16) * 257, {"photometric": "rgb"}, pixels),
        ("planes.svs", np.moveaxis(pixels, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}, pixels),
        ("grey.svs", grey, {"photometric": "minisblack"}, np.repeat(grey[..., None], 3, axis=-1)),
        ("negative.svs", 255 - grey, {"photometric": "miniswhite"}, np.repeat(grey[..., None], 3, axis=-1)),
    ):
        with Slide(write_aperio(tmp_path / name, stored, **how)) as slide:
            shown = slide.region(100, 100, 300, 200).astype(int)
        assert np.abs(shown - wanted[100:300, 100:400]).max() <= 1, name


def test_a_pyramid_without_its_base_claims_no_scale_that_is_not_its_own(tmp_path: Path) -> None:
    pixels = cells_on_glass(1200, 1600, 0.25)
    write_svs(tmp_path / "whole.svs", pixels)
    small = tmp_path / "small.svs"
    write_aperio(small, pixels[::4, ::4], "Aperio Image Library v1\r\n400x300", photometric="rgb", subfiletype=1)
    with Slide(small) as slide:
        assert (slide.size, slide.um_per_pixel) == ((400, 300), None)


def test_a_slide_of_100_000_pixels_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    strip = np.full((512, 100_000, 3), 235, np.uint8)
    strip[:, -300:] = cells_on_glass(512, 300, 0.25)
    with Slide(write_aperio(tmp_path / "wide.svs", strip, photometric="rgb")) as slide:
        assert slide.size == (100_000, 512)
        tracemalloc.start()
        found = slide.region(99_700, 0, 300, 512)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert np.array_equal(found, strip[:, -300:])
    assert peak < 5e6, "a region, not the slide"


def test_what_is_no_slide_is_said_with_a_cure(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / "notes.svs").write_text("no slide")
    cut = tmp_path / "cut.svs"
    cut.write_bytes(write_svs(tmp_path / "a.svs", pixels).read_bytes()[:2000])
    for path, words in (
        (tmp_path / "none.svs", "no such file"),
        (tmp_path / "notes.svs", "convert it"),
        (cut, "cut"),
    ):
        with pytest.raises(SlideUnreadable, match=words):
            Slide(path)


def test_a_generated_slide_says_so(tmp_path: Path, pixels: np.ndarray) -> None:
    with Slide(write_svs(tmp_path / "a.svs", pixels, note="|cytoserve:synthetic")) as slide:
        assert slide.synthetic
    with Slide(write_svs(tmp_path / "b.svs", pixels)) as slide:
        assert not slide.synthetic
