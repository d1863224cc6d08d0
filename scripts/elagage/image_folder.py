"""A folder of images, with a folder for each class: how it is split, and its files.

`<path>/train/<class>/**` and `<path>/test/<class>/**`; `val`, `valid` or `validation` beside train; or classes only.
"""

import collections
import contextlib
import hashlib
import os
import pathlib
import unicodedata
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from elagage.errors import UserError

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi"),
)
# What lies beside images without being one: labels, notes, what systems leave behind.
NO_PHOTOS = {
    *(".txt", ".json", ".xml", ".csv", ".tsv", ".md", ".yaml", ".yml", ".ini", ".db", ".html", ".log", ".url", ".lnk"),
    *(".py", ".sh", ".npy", ".npz", ".mat", ".zip", ".tar", ".gz"),
}
MOST_LEFT_OUT = 0.1  # share of the files that may be photos and are not read, from which the study stops
VALIDATION = ("val", "valid", "validation")
# What others call these folders.
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(VALIDATION, "val")
TEST_SHARE = 5  # one image in so many tests a folder that is not split
LISTED = 5

File = tuple[pathlib.Path, int]  # an image, and the number of its class


class ImageFolder(NamedTuple):
    """The classes of an image folder, the files of its splits (train, test, perhaps validation), and what to know.

    test_is_drawn: whether the folder itself has no split for testing.
    """

    classes: list[str]
    splits: dict[str, list[File]]
    notes: list[str]
    test_is_drawn: bool


def scan_image_folder(path: str) -> ImageFolder:
    """Return what an image folder holds, sorted by class and name.

    Without `test` the folder `val` is for testing; without both, or without `train`, one image in TEST_SHARE of each
    class is, chosen by a hash of its name. Raises UserError if a split has another name, if a class is in one split
    only or has no image, if links lead nowhere or in circles, or if more than MOST_LEFT_OUT of what may be photos
    cannot be read.
    """
    root = pathlib.Path(path)
    if root.is_symlink():
        with reading_photos(root):
            root.stat()
    if not root.is_dir():
        raise UserError(
            f"configuration: dataset.path: there is no folder {str(root)!r} in {os.getcwd()}; "
            f"an image folder is <path>/train/<class>/* and <path>/test/<class>/*"
        )
    folders, notes = _split_folders(root)
    classes = _classes(path, folders)
    left_out: collections.Counter[str] = collections.Counter()
    splits = {split: _labelled(folder, classes, left_out) for split, folder in folders.items()}
    images = sum(map(len, splits.values()))
    notes += _left_out(path, left_out, images)
    for folder in folders.values():
        beside = sum(file.suffix.lower() in ENDINGS and not _is_note(file.name) for file in folder.glob("*.*"))
        notes += [f"dataset.path: {folder}: left out {beside} images that lie in no class folder"] if beside else []
    if test_is_drawn := "test" not in splits:
        splits["train"], splits["test"] = _hashed_split(splits.pop("train"), root)
        notes.append(
            f"dataset.path: {path} has no folder for testing: {len(splits['test'])} of its {images} images, a fifth of "
            f"each class by a hash of their names, are kept for that"
        )
    return ImageFolder(classes, splits, notes, test_is_drawn)


def _split_folders(root: pathlib.Path) -> tuple[dict[str, pathlib.Path], list[str]]:
    """Return the folder of each split that is there, and what is to be known of it."""
    for name in ("train", "test", *VALIDATION):
        if (root / name).is_symlink():
            with reading_photos(root / name):
                (root / name).stat()
    named = [name for name in sorted(_class_names(root)) if name.lower() in SPLITS]
    misnamed = [name for name in named if name not in ("train", "test", *VALIDATION)]
    if misnamed and len({SPLITS[name.lower()] for name in named}) > 1:  # a folder Train alone may be of locomotives
        raise UserError(
            f"configuration: dataset.path: {root / misnamed[0]} is not read under this name; rename it to "
            f"{SPLITS[misnamed[0].lower()]!r}: an image folder is <path>/train/<class>/* and <path>/test/<class>/*"
        )
    found = {name: root / name for name in ("train", "test", *VALIDATION) if (root / name).is_dir()}
    validation = next((name for name in VALIDATION if name in found), None)
    if "train" not in found:
        if found:
            raise UserError(
                f"configuration: dataset.path: {root} has a folder {next(iter(found))!r} and none called 'train'; an "
                f"image folder is <path>/train/<class>/* and <path>/test/<class>/*"
            )
        return {"train": root}, []
    if "test" in found and validation:
        return {"train": found["train"], "validation": found[validation], "test": found["test"]}, [
            f"dataset.path: validation images are those of {found[validation]}; dataset.validation_fraction is not used"
        ]
    if "test" in found:
        return {"train": found["train"], "test": found["test"]}, []
    if validation:
        return {"train": found["train"], "test": found[validation]}, [
            f"dataset.path: {root} has no folder 'test': the images of {found[validation]} are for testing, and "
            f"validation images are taken from {found['train']}"
        ]
    return {"train": found["train"]}, []


def _classes(path: str, folders: Mapping[str, pathlib.Path]) -> list[str]:
    names = {split: set(_class_names(folder)) for split, folder in folders.items()}
    for split, other in ((split, other) for split in names for other in names if split != other):
        if lonely := sorted(names[split] - names[other]):
            alike = [name for name in sorted(names[other]) if _alike(name) == _alike(lonely[0])]
            hint = f"; there it is called {alike[0]!a}: rename one of them" if alike else ""
            raise UserError(
                f"configuration: dataset.path: class {ascii(lonely[0]) if alike else repr(lonely[0])} is in "
                f"{folders[split]} only, not in {folders[other]}; every class needs images in both{hint}"
            )
    if len(names["train"]) < 2:
        there = f" ({', '.join(sorted(names['train']))})" if names["train"] else ""
        raise UserError(
            f"configuration: dataset.path: {folders['train']} has {len(names['train'])} class folders{there}; 2 are "
            f"needed: an image folder is <path>/train/<class>/* and <path>/test/<class>/*"
        )
    return sorted(names["train"])


def _class_names(folder: pathlib.Path) -> Iterator[str]:
    with reading_photos(folder), os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if not _is_note(entry.name) and _is_folder(entry))


def _alike(name: str) -> str:
    """Return a name without what looks the same: upper case, and letters with accents in one or two characters."""
    return unicodedata.normalize("NFC", name).casefold()


def _is_note(name: str) -> bool:
    """Return whether other programs left a file or folder of this name, as macOS leaves ._cat.jpg."""
    return name.startswith(".") or name == "__MACOSX"


def _is_folder(entry: os.DirEntry) -> bool:
    with reading_photos(entry.path):
        return entry.is_dir()


@contextlib.contextmanager
def reading_photos(path: str | os.PathLike) -> Iterator[None]:
    """Name a file or folder that the system cannot read, such as a link to itself."""
    try:
        yield
    except OSError as error:
        raise UserError(f"configuration: dataset.path: {path}: {error.strerror}; remove or replace it") from error


def _labelled(folder: pathlib.Path, classes: list[str], left_out: collections.Counter) -> list[File]:
    """Return the images of a split with the numbers of their classes; count by ending what is left out."""
    files = []
    for index, name in enumerate(classes):
        inside = sorted(_files(folder / name, ()))
        images = [file for file in inside if file.suffix.lower() in ENDINGS]
        left_out.update(file.suffix.lower() for file in inside if file.suffix.lower() not in ENDINGS)
        if not images:
            there = sorted({file.suffix.lower() or "none" for file in inside})
            raise UserError(
                f"configuration: dataset.path: {folder / name} has no image that is read ({', '.join(ENDINGS)})"
                + (f"; the endings in it: {', '.join(there)}" if there else "")
                + "; add images to it, or remove the folder"
            )
        files += [(file, index) for file in images]
    return files


def _files(folder: pathlib.Path, above: tuple[pathlib.Path, ...]) -> Iterator[pathlib.Path]:
    """Yield the files of a folder at any depth, but for other programs' notes."""
    place = pathlib.Path(folder).resolve()
    if any(outer.is_relative_to(place) for outer in above):
        raise UserError(
            f"configuration: dataset.path: {folder} is a link to a folder that it lies in; remove or replace it"
        )
    with reading_photos(folder), os.scandir(folder) as entries:
        for entry in entries:
            if _is_note(entry.name):
                continue
            if _is_folder(entry):
                yield from _files(folder / entry.name, (*above, place))
            else:
                yield folder / entry.name


def _left_out(path: str, endings: Mapping[str, int], images: int) -> list[str]:
    """Return a note on the files that are not read; raise UserError if they are a large part of the photos."""
    photos = {ending: count for ending, count in endings.items() if ending not in NO_PHOTOS}
    listed = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in sorted(endings.items()))
    if sum(photos.values()) > MOST_LEFT_OUT * (images + sum(photos.values())):
        raise UserError(
            f"configuration: dataset.path: {path}: {sum(photos.values())} files beside {images} images cannot be read "
            f"({listed}); convert them to one of {', '.join(ENDINGS)}, or remove them"
        )
    return [f"dataset.path: {path}: left out {listed}"] if endings else []


def _hashed_split(files: list[File], root: pathlib.Path) -> tuple[list[File], list[File]]:
    """Return the files for training and those for testing, one in TEST_SHARE of each class and at least one."""
    train, test = [], []
    for label in sorted({label for _, label in files}):
        of_class = [file for file in files if file[1] == label]
        ranked = sorted(of_class, key=lambda file: hashlib.sha256(os.fsencode(file[0].relative_to(root))).digest())
        count = max(1, round(len(of_class) / TEST_SHARE))
        test += sorted(ranked[:count])
        train += sorted(ranked[count:])
    return train, test
