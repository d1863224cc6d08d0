"""An image folder, `<path>/train/<class>/*` and `<path>/test/<class>/*`: its classes, files and pixels."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib

import numpy

from elagage.errors import UserError
from elagage.files import read_json, write_json
from elagage.progress import progress

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
            raise UserError(f"configuration: dataset.path: {folder} has no image ({', '.join(IMAGE_ENDINGS)})")
        files += [(file, index) for file in found]
    return files


def image_fingerprint(path: str, known_path: str) -> str:
    """Return a checksum of the names and contents of all image files.

    The JSON file `known_path` keeps the checksum of each file with its size and times, so that only files that are new
    or changed are read; a copied folder is read once and has the fingerprint of the first.
    """
    known = _read_known(known_path)
    found = {}
    for split in ("train", "test"):
        for name in image_folder_classes(path):
            with os.scandir(pathlib.Path(path, split, name)) as entries:
                for entry in entries:
                    if _is_image_name(entry.name):
                        found[f"{split}/{name}/{entry.name}"] = _signature(entry)
    unread = [name for name, signature in found.items() if known.get(name, [None])[:-1] != signature]
    if unread:
        with progress(len(unread), " images", "checksums") as advance, concurrent.futures.ThreadPoolExecutor() as pool:
            checksums = pool.map(_checksum, (pathlib.Path(path, name) for name in unread))
            for name, checksum in zip(unread, checksums, strict=True):
                known[name] = [*found[name], checksum]
                advance(1)
        with contextlib.suppress(UserError):  # a folder that may only be read: the next run reads the images again
            write_json(known_path, {name: known[name] for name in found})
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(f"{name} {known[name][-1]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_known(path: str) -> dict[str, list]:
    try:
        known = read_json(path)
    except (OSError, UserError):
        return {}
    return known if isinstance(known, dict) and all(isinstance(entry, list) for entry in known.values()) else {}


def _signature(entry: os.DirEntry) -> list[int]:
    try:
        status = entry.stat()
    except OSError as error:
        raise UserError(f"configuration: dataset.path: {entry.path}: {error.strerror}; remove or replace it") from error
    # The time of the last change of content or name cannot be set back, unlike that of the last change of content.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _checksum(file: pathlib.Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:32]
    except OSError as error:
        raise UserError(f"configuration: dataset.path: {file}: {error.strerror}; remove or replace it") from error


def read_image(file: pathlib.Path, size: int) -> numpy.ndarray:
    """Return an image as uint8 [size, size] if it is grey, else [size, size, 3].

    It is turned as its EXIF orientation says, scaled to cover the square and cropped at its centre. Raises UserError
    if it cannot be read or has more than 8 bits per channel.
    """
    # Pillow is not in the environment of Snakemake itself, which imports this module to check the configuration.
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            # Pillow opens PNGs of 16 bits per channel as RGB or RGBA, but its decoder's arguments say "RGB;16B".
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
