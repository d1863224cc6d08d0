"""Decode a data set once, into uint8 arrays with a fixed split, and describe it in dataset.json."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy

from elagage.data import KNOWN_SIZES, LISTED, SPLITS, Dataset, save_array
from elagage.downloads import Labelled, read_downloaded
from elagage.errors import UserError
from elagage.files import sha256, write_json
from elagage.geometry import COVER, Geometry
from elagage.image_folder import File, read_image, scan_image_folder, square
from elagage.job import job, say
from elagage.progress import progress

SPLIT_SEED = 0  # one fixed split, so that results of different studies can be compared


class Loaded(NamedTuple):
    """The splits of a data set, the names of its classes and, of an image folder, the names of its test images."""

    parts: dict[str, Labelled]
    classes: list[str]
    test_files: Sequence[str] = ()


def digits(path: str, size: int | None, geometry: Geometry) -> Loaded:
    """scikit-learn's 8x8 digits with 17 grey levels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    images = numpy.round(loaded.images * (255 / 16)).astype(numpy.uint8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, loaded.target, test_size=KNOWN_SIZES["digits"][1], stratify=loaded.target, random_state=SPLIT_SEED
    )
    names = [str(name) for name in loaded.target_names]
    parts = {"train": (train_images, train_labels), "test": (test_images, test_labels)}
    resized = {split: (_resized(images, size, geometry), labels) for split, (images, labels) in parts.items()}
    return Loaded(resized, names)


def downloaded(name: str, path: str, size: int | None, geometry: Geometry) -> Loaded:
    """Return one of torchvision's data sets, downloaded to `path` unless it is there."""
    *parts, classes = read_downloaded(name, path)
    resized = [(_resized(images, size, geometry), labels) for images, labels in parts]
    return Loaded(dict(zip(("train", "test"), resized, strict=True)), classes)


def image_folder(path: str, size: int, geometry: Geometry) -> Loaded:
    """The user's own images; each split is shuffled once, so that its first images are of all classes.

    Says which images stand in two places. Raises UserError that names several of those that cannot be read.
    """
    folder = scan_image_folder(path)
    for note in folder.notes:
        print(note)
    parts, shuffled = {}, {}
    read = functools.partial(_image_or_mistake, size=size, geometry=geometry)
    for split, files in folder.splits.items():
        order = numpy.random.default_rng(SPLIT_SEED).permutation(len(files))
        shuffled[split] = [files[index] for index in order]
        with progress(len(files), " images", f"decode {split}") as advance:
            images = []
            # Pillow releases the lock while it decodes, so threads use every core.
            with concurrent.futures.ThreadPoolExecutor() as pool:
                for image in pool.map(read, (file for file, _ in shuffled[split])):
                    images.append(image)
                    advance(1)
        parts[split] = images, numpy.array([label for _, label in shuffled[split]])
    mistakes = sorted(str(image) for images, _ in parts.values() for image in images if isinstance(image, UserError))
    if mistakes:
        more = [f"and {len(mistakes) - LISTED} more images"] if len(mistakes) > LISTED else []
        raise UserError("\n".join([*mistakes[:LISTED], *more]))
    grey = all(image.ndim == 2 for images, _ in parts.values() for image in images)
    stacked = {
        split: (numpy.stack([_with_channels(image, grey) for image in images]), labels)
        for split, (images, labels) in parts.items()
    }
    for note in repeats(shuffled, {split: images for split, (images, _) in stacked.items()}):
        say(note)
    names = (os.fsencode(file.relative_to(path)) for file, _ in shuffled["test"])
    return Loaded(stacked, folder.classes, [name.decode(errors="backslashreplace") for name in names])


def _image_or_mistake(file: pathlib.Path, size: int, geometry: Geometry) -> numpy.ndarray | UserError:
    try:
        return read_image(file, size, geometry)
    except UserError as error:
        return error


def repeats(files: Mapping[str, Sequence[File]], images: Mapping[str, numpy.ndarray]) -> list[str]:
    """Return notes on images of the same pixels that are for testing and for training, or in two classes.

    files and images: split -> the files with the numbers of their classes, and uint8 [n, ...] in the same order.
    """
    places: dict[bytes, list[tuple[str, pathlib.Path, int]]] = collections.defaultdict(list)
    for split, of_split in files.items():
        for (file, label), image in zip(of_split, images[split], strict=True):
            places[hashlib.sha256(image).digest()].append((split, file, label))
    twice = [found for found in places.values() if len(found) > 1]
    tested = [found for found in twice if len({split == "test" for split, _, _ in found}) > 1]
    contradictory = [found for found in twice if len({label for _, _, label in found}) > 1]
    notes = []
    for found, what in (
        (tested, "for testing and for training, which makes the accuracy too high: remove one of the two"),
        (contradictory, "in two classes: remove what is wrong"),
    ):
        if found:
            names = [str(file) for _, file, _ in found[0]]
            notes.append(
                f"dataset.path: {len(found)} image(s) of the same pixels are {what} (the first: "
                f"{', '.join(sorted(names)[:LISTED])})"
            )
    return notes


LOADERS = {
    "digits": digits,
    "cifar10": functools.partial(downloaded, "CIFAR10"),
    "cifar100": functools.partial(downloaded, "CIFAR100"),
    "fashion_mnist": functools.partial(downloaded, "FashionMNIST"),
    "image_folder": image_folder,
}
FLIP = {name: name != "digits" for name in LOADERS}  # a mirrored 3 is no digit


def _with_channels(image: numpy.ndarray, grey: bool) -> numpy.ndarray:
    return image if grey or image.ndim == 3 else numpy.stack([image] * 3, axis=-1)


def _resized(images: numpy.ndarray, size: int | None, geometry: Geometry) -> numpy.ndarray:
    size = size or images.shape[1]
    if images.shape[1:3] == (size, size) and geometry.resize in (None, "squash"):
        return images
    from PIL import Image

    return numpy.stack([numpy.asarray(square(Image.fromarray(image), size, geometry)) for image in images])


def _channels_first(images: numpy.ndarray) -> numpy.ndarray:
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return numpy.ascontiguousarray(images)


def split_validation(train: Labelled, fraction: float, classes: list[str]) -> tuple[Labelled, Labelled]:
    """Return the training and the validation part: shuffled, with the same share of every class, at least one image.

    Raises UserError if a class has a single image.
    """
    from sklearn.model_selection import train_test_split

    images, labels = train
    counts = numpy.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        name = classes[int(counts.argmin())]
        raise UserError(
            f"dataset.path: class {name!r} has {counts.min()} image(s) for training and validation; 2 are needed: add "
            f"images of it, or remove the class"
        )
    try:
        kept, validation = train_test_split(
            numpy.arange(len(labels)), test_size=fraction, stratify=labels, random_state=SPLIT_SEED
        )
    except ValueError:  # fewer images than classes in a part
        kept = validation = numpy.arange(0)
    if len(set(labels[kept])) < len(classes) or len(set(labels[validation])) < len(classes):
        order = numpy.random.default_rng(SPLIT_SEED).permutation(len(labels))
        shares = numpy.clip(numpy.round(fraction * counts), 1, counts - 1)
        place = numpy.empty(len(labels), int)
        for label in range(len(classes)):
            of_class = order[labels[order] == label]
            place[of_class] = numpy.arange(len(of_class))
        chosen = place[order] < shares[labels[order]]
        kept, validation = order[~chosen], order[chosen]
    return (images[kept], labels[kept]), (images[validation], labels[validation])


def prepare_data(
    name: str,
    path: str,
    image_size: int | None,
    validation_fraction: float,
    outputs: dict,
    geometry: Geometry = COVER,
) -> None:
    """Write `<split>_images`, uint8 [n, channels, size, size], `<split>_labels`, int64 [n], and `dataset` (JSON).

    Splits, their order and labels are the same for all geometries. `test_files` (JSON) lists the names of test images
    below `path`; it is empty for all but image folders, and not described in `dataset`, on which trainings depend.
    """
    parts, classes, test_files = LOADERS[name](path, image_size, geometry)
    if "validation" not in parts:
        parts["train"], parts["validation"] = split_validation(parts["train"], validation_fraction, classes)
    parts = {split: (_channels_first(parts[split][0]), parts[split][1].astype(numpy.int64)) for split in SPLITS}
    for split, arrays in parts.items():
        for kind, array in zip(("images", "labels"), arrays, strict=True):
            save_array(outputs[f"{split}_{kind}"], array)
    write_json(outputs["test_files"], test_files)
    images = parts["train"][0]
    mean, std = channel_moments(images)
    dataset = Dataset(
        name=name,
        classes=classes,
        channels=images.shape[1],
        image_size=images.shape[2],
        mean=mean,
        std=std,
        flip=FLIP[name],
        images={split: len(labels) for split, (_, labels) in parts.items()},
        **geometry._asdict(),
        sha256={pathlib.Path(file).name: sha256(file) for file in outputs.values() if file.endswith(".npy")},
    )
    write_json(outputs["dataset"], dataclasses.asdict(dataset))


def channel_moments(images: numpy.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8 [n, channels, height, width], as shares of 255.

    Exact, from the histogram; a float copy of the images would take eight times their memory. A channel that never
    changes gets the deviation of one grey level, so that dividing by it stays possible.
    """
    values = numpy.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        share = numpy.bincount(images[:, channel].ravel(), minlength=256) / images[:, channel].size
        mean.append(float(share @ values))
        std.append(max(float(numpy.sqrt(share @ (values - mean[-1]) ** 2)), 1 / 255))
    return mean, std


if "snakemake" in globals():
    with job(snakemake.log[0]):
        prepare_data(
            snakemake.params.name,
            snakemake.params.path,
            snakemake.params.image_size,
            snakemake.params.validation_fraction,
            dict(snakemake.output.items()),
            Geometry(*snakemake.params.geometry),
        )
