"""An image folder, `<path>/train/<class>/*` and `<path>/test/<class>/*`: its classes, files and pixels."""

import hashlib
import os
import pathlib

import numpy

from elagage.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def image_folder_classes(path: str) -> list[str]:
    """Return the class names of an image folder, `<path>/train/<class>/*` and `<path>/test/<class>/*`, sorted.

    Raises UserError if a folder is missing or a class is in one split only.
    """
    classes = {}
    for split in ("train", "test"):
        folder = pathlib.Path(path, split)
        if not folder.is_dir():
            raise UserError(
                f"configuration: dataset.path: there is no folder {str(folder)!r} in {os.getcwd()}; "
                f"an image folder is <path>/train/<class>/* and <path>/test/<class>/*"
            )
        with os.scandir(folder) as entries:
            classes[split] = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    for split, other in (("train", "test"), ("test", "train")):
        if lonely := sorted(classes[split] - classes[other]):
            raise UserError(
                f"configuration: dataset.path: class {lonely[0]!r} is in {path}/{split} only, not in {path}/{other}; "
                f"every class needs images in both"
            )
    if len(classes["train"]) < 2:
        raise UserError(
            f"configuration: dataset.path: {path}/train has {len(classes['train'])} class folders; 2 are needed"
        )
    return sorted(classes["train"])


def _is_image_name(name: str) -> bool:
    # Names with a dot in front are other programs' notes, such as macOS's ._cat.jpg.
    return not name.startswith(".") and name.lower().endswith(IMAGE_ENDINGS)


def image_files(path: str, split: str) -> list[tuple[pathlib.Path, int]]:
    """Return the image files of a split with the index of their class, sorted by class and name.

    Raises UserError if a class has none.
    """
    files = []
    for index, name in enumerate(image_folder_classes(path)):
        folder = pathlib.Path(path, split, name)
        found = sorted(file for file in folder.iterdir() if _is_image_name(file.name))
        if not found:
            raise UserError(f"dataset.path: {folder} has no image ({', '.join(IMAGE_ENDINGS)})")
        files += [(file, index) for file in found]
    return files


def image_listing(path: str) -> str:
    """Return a checksum of the names and sizes, in bytes, of all image files.

    Sizes instead of contents or times: 60,000 are read in half a second, and a copied folder keeps them.
    """
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for name in image_folder_classes(path):
            with os.scandir(pathlib.Path(path, split, name)) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if _is_image_name(entry.name):
                        digest.update(f"{split}/{name}/{entry.name} {_size(entry)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError as error:
        raise UserError(f"configuration: dataset.path: {entry.path}: {error.strerror}; remove or replace it") from error


def read_image(file: pathlib.Path, size: int) -> numpy.ndarray:
    """Return an image as uint8 [size, size] if it is grey, else [size, size, 3].

    It is turned as its EXIF orientation says, scaled to cover the square and cropped at its centre. Raises UserError
    if it cannot be read or has more than 8 bits a channel.
    """
    # Pillow is not in the environment of Snakemake itself, which imports this module to check the configuration.
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            # Pillow opens PNGs of 16 bits a channel as RGB or RGBA, but its decoder's arguments say "RGB;16B".
            if image.mode in ("I", "F") or image.mode.startswith("I;16") or ";16" in str(getattr(image, "tile", "")):
                raise UserError(f"{file}: {image.mode} pixels have more than 8 bits; save the image with 8 bits")
            grey = image.mode in ("1", "L", "LA")
            image = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
            if image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            return numpy.asarray(image)
    except UserError:
        raise
    except Exception as error:  # damaged files raise of every kind, TypeError and struct.error too
        raise UserError(f"{file}: not a readable image ({error}); remove or replace it") from error
