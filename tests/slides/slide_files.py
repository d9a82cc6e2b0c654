"""Slide files: pyramids as Aperio's scanners write them, OME-TIFF and bare tiled TIFF by tifffile, DICOM by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import tifffile
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

TILE = 256


def halves(pixels: Pixels, levels: int) -> list[Pixels]:
    """Return a picture and its halves, by means of four pixels."""
    out = [pixels]
    for _ in range(levels - 1):
        last = out[-1][: out[-1].shape[0] // 2 * 2, : out[-1].shape[1] // 2 * 2].astype(np.float32)
        height, width = last.shape[:2]
        out.append(np.rint(last.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))).astype(np.uint8))
    return out


def _options(**more: Any) -> dict[str, Any]:
    return {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib", "metadata": None, **more}


def write_svs(path: Path, pixels: Pixels, um_per_pixel: float | None = 0.25, levels: int = 4, note: str = "") -> Path:
    """Write a pyramid with the description by which OpenSlide knows Aperio."""
    height, width = pixels.shape[:2]
    scale = "" if um_per_pixel is None else f"|AppMag = 40|MPP = {um_per_pixel}"
    about = f"Aperio Image Library v1\r\n{width}x{height} (256x256) JPEG/RGB Q=70{scale}{note}"
    with tifffile.TiffWriter(path, bigtiff=False) as file:
        for level, part in enumerate(halves(pixels, levels)):
            said = about if level == 0 else f"Aperio Image Library v1\r\n{part.shape[1]}x{part.shape[0]}"
            file.write(part, description=said, subfiletype=int(level > 0), **_options())
    return path


def write_aperio(path: Path, stored: NDArray[Any], about: str | None = None, **how: Any) -> Path:
    """Write one level with Aperio's description, its pixels stored in any way."""
    said = about or "Aperio Image Library v1\r\n(256x256) JPEG/RGB Q=70|AppMag = 40|MPP = 0.5"
    with tifffile.TiffWriter(path) as file:
        file.write(stored, description=said, **_options(**how))
    return path


def write_ome(path: Path, pixels: Pixels, um_per_pixel: float, unit: str = "µm") -> Path:
    """Write an OME-TIFF, as Bio-Formats and QuPath do."""
    with tifffile.TiffWriter(path, ome=True) as file:
        about = {
            "axes": "YXS",
            "PhysicalSizeX": um_per_pixel,
            "PhysicalSizeXUnit": unit,
            "PhysicalSizeY": um_per_pixel,
            "PhysicalSizeYUnit": unit,
        }
        file.write(pixels, **_options(metadata=about))
    return path


def write_tiled(path: Path, pixels: Pixels, um_per_pixel: float | None = None) -> Path:
    """Write a tiled TIFF of no maker, with its resolution in pixels per centimetre."""
    more: dict[str, Any] = {}
    if um_per_pixel is not None:
        more = {"resolution": (1e4 / um_per_pixel, 1e4 / um_per_pixel), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, **_options(**more))
    return path


def write_dicom(folder: Path, pixels: Pixels, um_per_pixel: float, levels: int = 2) -> Path:
    """Write a VL Whole Slide Microscopy Image, one file a level, and return the file of full resolution.

    DICOM PS3.3 A.32.8, TILED_FULL, uncompressed.
    """
    series, frame, study = (pydicom.uid.generate_uid() for _ in range(3))
    for level, part in enumerate(halves(pixels, levels)):
        scale = um_per_pixel / 1000 * pixels.shape[1] / part.shape[1]
        image = _instance(part, scale, "DERIVED" if level else "ORIGINAL", "RESAMPLED" if level else "NONE")
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.save_as(folder / f"level{level}.dcm", enforce_file_format=True)
    return folder / "level0.dcm"


def _instance(pixels: Pixels, mm_per_pixel: float, origin: str, resampled: str) -> pydicom.Dataset:
    height, width = pixels.shape[:2]
    rows, columns = -(-height // TILE), -(-width // TILE)
    whole = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
    whole[:height, :width] = pixels
    frames = whole.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2)
    kind = [origin, "PRIMARY", "VOLUME", resampled]
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = pydicom.uid.VLWholeSlideMicroscopyImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
    image.Modality, image.ImageType, image.VolumetricProperties = "SM", kind, "VOLUME"
    image.Rows = image.Columns = TILE
    image.NumberOfFrames = str(rows * columns)
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.TotalPixelMatrixColumns, image.TotalPixelMatrixRows = width, height
    image.TotalPixelMatrixFocalPlanes = image.NumberOfOpticalPaths = 1
    image.DimensionOrganizationType = "TILED_FULL"
    measures, frame_type, shared, path = (pydicom.Dataset() for _ in range(4))
    measures.PixelSpacing, measures.SliceThickness = [mm_per_pixel, mm_per_pixel], 0.001
    frame_type.FrameType = kind
    shared.PixelMeasuresSequence = [measures]
    shared.WholeSlideMicroscopyImageFrameTypeSequence = [frame_type]
    image.SharedFunctionalGroupsSequence = [shared]
    image.ImagedVolumeWidth, image.ImagedVolumeHeight = width * mm_per_pixel, height * mm_per_pixel
    image.ImagedVolumeDepth = 0.001
    path.OpticalPathIdentifier = "1"
    image.OpticalPathSequence = [path]
    image.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    image.PixelData = frames.tobytes()
    return image


def cells_on_glass(
    height: int, width: int, um_per_pixel: float, share: float = 0.25, seed: int = 0, apart: bool = True
) -> Pixels:
    """Draw discs of the size and colour of red cells on glass, to cover a share of it.

    ``apart``: on a jittered grid, so that they hardly touch; else anywhere, on each other.
    """
    draw = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 235, np.uint8)
    radius = 3.6 / um_per_pixel
    count = int(share * height * width / (np.pi * radius**2))
    if apart:
        step = np.sqrt(height * width / count)
        ys, xs = np.meshgrid(np.arange(step / 2, height, step), np.arange(step / 2, width, step), indexing="ij")
        free = max(0.0, (step - 2 * radius) / 2 - 1)
        centres = np.stack([ys.ravel(), xs.ravel()], 1) + draw.uniform(-free, free, (ys.size, 2))
    else:
        centres = draw.uniform((0, 0), (height, width), (count, 2))
    for y, x in centres:
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        window = pixels[top : int(y + radius) + 2, left : int(x + radius) + 2]
        rows, columns = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
        inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        window[inside] = np.minimum(window[inside], (205, 150, 145))
    return pixels
