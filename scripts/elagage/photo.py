"""An image file as pixels: formats, orientation, size."""

import pathlib

import numpy
from PIL import Image, ImageOps

from elagage.errors import UserError
from elagage.geometry import COVER, Geometry

# Pillow's names of raster formats. Never all that it knows: some run programs (EPS) or are not pictures.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA", "QOI")
GREY_MODES = ("1", "L", "LA")  # of Pillow


def read_image(file: pathlib.Path, size: int, geometry: Geometry = COVER) -> numpy.ndarray:
    """Return an image as uint8 [size, size] if it is grey, else [size, size, 3].

    It is turned as its EXIF orientation says, then scaled and cropped. Raises UserError if it cannot be read or has
    more than 8 bits per channel.
    """
    Image.init()  # without it Pillow knows some formats only
    try:
        with Image.open(file, formats=FORMATS) as image:
            # Pillow opens PNGs of 16 bits per channel as RGB or RGBA, but its decoder's arguments say "RGB;16B".
            if image.mode in ("I", "F") or image.mode.startswith("I;16") or ";16" in str(getattr(image, "tile", "")):
                raise UserError(f"{file}: {image.mode} pixels have more than 8 bits; save the image with 8 bits")
            grey = image.mode in GREY_MODES
            image = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
            return numpy.asarray(square(image, size, geometry))
    except UserError:
        raise
    except Exception as error:  # damaged files raise of every kind, TypeError and struct.error too
        raise UserError(f"{file}: not a readable image ({error}); remove or replace it") from error


def is_grey(file: pathlib.Path) -> bool:
    """Whether read_image returns an image without colours, as the head of the file says; of a damaged one, True."""
    Image.init()
    try:
        with Image.open(file, formats=FORMATS) as image:
            return image.mode in GREY_MODES
    except Exception:  # read_image names it
        return True


def square(image: Image.Image, size: int, geometry: Geometry) -> Image.Image:
    """Return the image as a square of `size` pixels; with a number for `resize`, as torchvision's transforms do."""
    method = Image.Resampling[geometry.interpolation.upper()]
    if geometry.resize is None:
        return image if image.size == (size, size) else ImageOps.fit(image, (size, size), method)
    if isinstance(geometry.resize, str):
        return image.resize((size, size), method)
    width, height = image.size
    # Resize(resize), then CenterCrop(size): torchvision/transforms/functional.py.
    longer = int(geometry.resize * max(width, height) / min(width, height))
    scaled = (geometry.resize, longer) if width <= height else (longer, geometry.resize)
    left, top = (round((side - size) / 2) for side in scaled)
    return image.resize(scaled, method).crop((left, top, left + size, top + size))
