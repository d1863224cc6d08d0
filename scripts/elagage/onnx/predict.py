"""Classify photos with the model beside this file: python predict.py photo.jpg ...

This file and model.onnx are enough, with Python 3.10 or newer, ONNX Runtime, NumPy and Pillow.
"""

import argparse
import json
import pathlib
import sys

import numpy
import onnxruntime
from PIL import Image, ImageOps

# Pillow's names of the formats that studies read.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA", "QOI")


def square(image: Image.Image, size: int, resize: int | str | None, interpolation: str) -> Image.Image:
    """Return the image as the network was trained on it: scaled, then cropped at its centre to `size` pixels."""
    method = Image.Resampling[interpolation.upper()]
    if resize is None:
        return image if image.size == (size, size) else ImageOps.fit(image, (size, size), method)
    if isinstance(resize, str):  # "squash"
        return image.resize((size, size), method)
    width, height = image.size
    longer = int(resize * max(width, height) / min(width, height))
    scaled = (resize, longer) if width <= height else (longer, resize)
    left, top = (round((side - size) / 2) for side in scaled)
    return image.resize(scaled, method).crop((left, top, left + size, top + size))


def pixels(file: pathlib.Path, channels: int, size: int, resize: int | str | None, interpolation: str) -> numpy.ndarray:
    """Return a photo as the network takes it, uint8 [1, channels, size, size].

    resize, interpolation: of the model's metadata. Raises ValueError for more than 8 bits per channel, and whatever
    Pillow raises for files that are no images.
    """
    Image.init()  # without it Pillow knows some formats only
    with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
        # Pillow opens PNGs of 16 bits per channel as RGB or RGBA, but its decoder's arguments say "RGB;16B".
        if image.mode in ("I", "F") or image.mode.startswith("I;16") or ";16" in str(getattr(image, "tile", "")):
            raise ValueError(f"{image.mode} pixels have more than 8 bits; save the image with 8 bits")
        grey = channels == 1 or image.mode in ("1", "L", "LA")
        image = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
        image = square(image, size, resize, interpolation)
    array = numpy.asarray(image).reshape(size, size, -1).transpose(2, 0, 1)
    return numpy.ascontiguousarray(numpy.broadcast_to(array, (channels, size, size))[None])


def main() -> int:
    """Print the class of each photo and its probability; return 1 if one cannot be read, else 0."""
    parser = argparse.ArgumentParser(description="Print the class of each photo, and its probability.")
    parser.add_argument("photos", nargs="+", type=pathlib.Path, help="image files")
    beside = pathlib.Path(__file__).with_name("model.onnx")
    parser.add_argument("--model", type=pathlib.Path, default=beside, help="the ONNX file, if not the one beside me")
    arguments = parser.parse_args()
    try:
        model = onnxruntime.InferenceSession(str(arguments.model), providers=["CPUExecutionProvider"])
        about = {key: json.loads(text) for key, text in model.get_modelmeta().custom_metadata_map.items()}
        resize, interpolation = (about["preprocessing"][key] for key in ("resize", "interpolation"))
    except Exception as error:  # ONNX Runtime's, or a KeyError
        sys.exit(f"error: {arguments.model}: not a model of Elagage ({error!r}); name one with --model")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files that are no text
    _, channels, _, size = model.get_inputs()[0].shape
    status = 0
    for photo in arguments.photos:
        try:
            image = pixels(photo, channels, size, resize, interpolation)
        except Exception as error:  # damaged files raise of every kind
            print(f"error: {photo}: cannot be read as an image ({error}); name another", file=sys.stderr)
            status = 1
            continue
        logits = model.run(None, {"image": image})[0][0].astype(float)
        shares = numpy.exp(logits - logits.max())
        shares /= shares.sum()
        print(f"{photo}: {about['classes'][shares.argmax()]} {shares.max():.1%}")
    return status


if __name__ == "__main__":
    sys.exit(main())
