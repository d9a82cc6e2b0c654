"""A picture as people see it: what the overlay draws on, and what the review page shows and cuts cells from."""

from __future__ import annotations

import io

from cytoserve_contract.limits import IMAGE_FORMATS, MAX_PIXELS
from PIL import Image, ImageCms, ImageOps


def displayed(data: bytes) -> Image.Image:
    """Return a picture as displayed: EXIF orientation and colour profile applied, RGB.

    Raises
    ------
    ValueError
        It cannot be decoded, or is too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError("it has too many pixels")
            profile = image.info.get("icc_profile")
            return _in_srgb(ImageOps.exif_transpose(image).convert("RGB"), profile)
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise ValueError(f"it cannot be decoded: {error}") from error


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    except (OSError, ImageCms.PyCMSError):  # a damaged profile, or one that is not of RGB
        return image
    return image if converted is None else converted
