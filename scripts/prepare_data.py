"""Decode a data set once, into uint8 arrays with a fixed split, and describe it in dataset.json."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy

from elagage.data import KNOWN_SIZES, LISTED, SPLITS, Dataset, save_array
from elagage.downloads import read_downloaded
from elagage.errors import UserError
from elagage.files import sha256, whole_file, write_json
from elagage.geometry import COVER, Geometry
from elagage.image_folder import File, scan_image_folder
from elagage.job import job, say
from elagage.photo import is_grey, read_image, square
from elagage.progress import progress

SPLIT_SEED = 0  # one fixed split, so that results of different studies can be compared
CHUNK, CHUNK_IMAGES = 2**25, 256  # bytes and number of the images that are in memory at once, at most


class Part(NamedTuple):
    """The images of a split, which are read when they are written, and their labels, int [n]; files: of a folder."""

    read: Callable[[numpy.ndarray], numpy.ndarray]  # numbers, int [k] -> uint8 [k, channels, size, size]
    labels: numpy.ndarray
    files: Sequence[File] = ()

    def chosen(self, numbers: numpy.ndarray) -> "Part":
        """Return some of the images, int [k], in this order."""
        files = [self.files[number] for number in numbers] if self.files else ()
        return Part(lambda some: self.read(numbers[some]), self.labels[numbers], files)


class Loaded(NamedTuple):
    """The splits of a data set, the names of its classes, and what is wrong with images that were read so far."""

    parts: dict[str, Part]
    classes: list[str]
    mistakes: Sequence[str] = ()


def digits(path: str, size: int | None, geometry: Geometry) -> Loaded:
    """scikit-learn's 8x8 digits with 17 grey levels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    images = numpy.round(loaded.images * (255 / 16)).astype(numpy.uint8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, loaded.target, test_size=KNOWN_SIZES["digits"][1], stratify=loaded.target, random_state=SPLIT_SEED
    )
    train, test = (train_images, train_labels), (test_images, test_labels)
    names = [str(name) for name in loaded.target_names]
    return Loaded({"train": _part(*train, size, geometry), "test": _part(*test, size, geometry)}, names)


def downloaded(name: str, path: str, size: int | None, geometry: Geometry) -> Loaded:
    """Return one of torchvision's data sets, downloaded to `path` unless it is there."""
    train, test, classes = read_downloaded(name, path)
    return Loaded({"train": _part(*train, size, geometry), "test": _part(*test, size, geometry)}, classes)


def _part(images: numpy.ndarray, labels: numpy.ndarray, size: int | None, geometry: Geometry) -> Part:
    """Return images, uint8 [n, height, width(, 3)], and their labels as a split."""
    return Part(lambda numbers: _channels_first(_resized(images[numbers], size, geometry)), labels)


def image_folder(path: str, size: int, geometry: Geometry) -> Loaded:
    """The user's own images; each split is shuffled once, so that its first images are of all classes."""
    folder = scan_image_folder(path)
    for note in folder.notes:
        print(note)
    grey = all(is_grey(file) for files in folder.splits.values() for file, _ in files)
    mistakes: list[str] = []
    parts = {}
    for split, files in folder.splits.items():
        order = numpy.random.default_rng(SPLIT_SEED).permutation(len(files))
        shuffled = [files[index] for index in order]
        read = functools.partial(_decoded, shuffled, size, geometry, grey, mistakes)
        parts[split] = Part(read, numpy.array([label for _, label in shuffled], int), shuffled)
    return Loaded(parts, folder.classes, mistakes)


def _decoded(
    files: Sequence[File], size: int, geometry: Geometry, grey: bool, mistakes: list[str], numbers: numpy.ndarray
) -> numpy.ndarray:
    """Return images, uint8 [n, channels, size, size]; those that cannot be read are black, and named in `mistakes`."""
    images = numpy.zeros((len(numbers), 1 if grey else 3, size, size), numpy.uint8)

    def decode(place: int) -> None:
        """Put an image into its place, or take down why it cannot be read."""
        file, _ = files[numbers[place]]
        try:
            image = read_image(file, size, geometry)
            if grey and image.ndim == 3:  # is_grey could not read it, or read another file
                raise UserError(f"{file}: has changed while the images were read; run again")
            images[place] = image if image.ndim == 2 else image.transpose(2, 0, 1)
        except UserError as error:
            mistakes.append(str(error))

    # Pillow releases the lock while it decodes, so threads use every core.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(len(numbers))))
    return images


def repeats(files: Mapping[str, Sequence[File]], digests: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Return notes on images of the same pixels: for testing and for training, in two classes, or tested repeatedly.

    files and digests: split -> the files with the numbers of their classes, and checksums of their pixels.
    """
    places: dict[bytes, list[tuple[str, pathlib.Path, int]]] = collections.defaultdict(list)
    for split, of_split in files.items():
        for (file, label), digest in zip(of_split, digests[split], strict=True):
            places[digest].append((split, file, label))
    twice = [found for found in places.values() if len(found) > 1]
    tested = [found for found in twice if len({split == "test" for split, _, _ in found}) > 1]
    contradictory = [found for found in twice if len({label for _, _, label in found}) > 1]
    copies = [[place for place in found if place[0] == "test"] for found in twice]
    copies = [found for found in copies if len(found) > 1]
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
    if copies:
        names = sorted(str(file) for _, file, _ in copies[0])
        count = sum(map(len, copies)) - len(copies)
        notes.append(
            f"dataset.path: {count} of {len(files['test'])} test images have the pixels of another test image (the "
            f"first: {', '.join(names[:LISTED])}): intervals and certificates take each for an image of its own, so "
            f"that they promise too much; keep one of each"
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


def _resized(images: numpy.ndarray, size: int | None, geometry: Geometry) -> numpy.ndarray:
    size = size or images.shape[1]
    if images.shape[1:3] == (size, size) and geometry.resize in (None, "squash"):
        return images
    from PIL import Image

    return numpy.stack([numpy.asarray(square(Image.fromarray(image), size, geometry)) for image in images])


def _channels_first(images: numpy.ndarray) -> numpy.ndarray:
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return numpy.ascontiguousarray(images)


def split_validation(labels: numpy.ndarray, fraction: float, classes: list[str]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the numbers of the images for training and of those for validation, of labels, int [n].

    They are shuffled, with the same share of every class, and at least one image. Raises UserError if a class has a
    single image.
    """
    from sklearn.model_selection import train_test_split

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
    return kept, validation


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
    Says which images of a folder stand in two places. Raises UserError that names several that cannot be read.
    """
    loaded = LOADERS[name](path, image_size, geometry)
    parts, classes = dict(loaded.parts), loaded.classes
    if "validation" not in parts:
        kept, validation = split_validation(parts["train"].labels, validation_fraction, classes)
        parts["train"], parts["validation"] = parts["train"].chosen(kept), parts["train"].chosen(validation)
    with contextlib.ExitStack() as written:
        digests = {}
        for split in SPLITS:
            images = written.enter_context(whole_file(outputs[f"{split}_images"]))
            digests[split] = write_images(images, parts[split], f"prepare {split}")
        _check_all_read(loaded.mistakes)
    for note in repeats({split: part.files for split, part in parts.items() if part.files}, digests):
        say(note)
    for split, part in parts.items():
        save_array(outputs[f"{split}_labels"], part.labels.astype(numpy.int64))
    names = (os.fsencode(file.relative_to(path)) for file, _ in parts["test"].files)
    write_json(outputs["test_files"], [name.decode(errors="backslashreplace") for name in names])
    images = numpy.load(outputs["train_images"], mmap_mode="r")
    mean, std = channel_moments(images)
    dataset = Dataset(
        name=name,
        classes=classes,
        channels=images.shape[1],
        image_size=images.shape[2],
        mean=mean,
        std=std,
        flip=FLIP[name],
        images={split: len(parts[split].labels) for split in SPLITS},
        **geometry._asdict(),
        sha256={pathlib.Path(file).name: sha256(file) for file in outputs.values() if file.endswith(".npy")},
    )
    write_json(outputs["dataset"], dataclasses.asdict(dataset))


def write_images(path: pathlib.Path, part: Part, label: str) -> list[bytes]:
    """Write the images of a split as .npy, a few at a time; return the checksum of each one's pixels."""
    digests: list[bytes] = []
    with open(path, "wb") as file, progress(len(part.labels), " images", label) as advance:
        for images in _chunks(part):
            if not digests:
                header = numpy.lib.format.header_data_from_array_1_0(images)
                header["shape"] = (len(part.labels), *images.shape[1:])
                numpy.lib.format.write_array_header_1_0(file, header)
            file.write(images.data)
            digests += [hashlib.sha256(image).digest() for image in images]
            advance(len(images))
    return digests


def _chunks(part: Part) -> Iterator[numpy.ndarray]:
    """Yield the images of a split in their order, uint8 [n, channels, size, size]; n as the limits above permit."""
    start, size = 0, 1
    while start < len(part.labels):
        images = part.read(numpy.arange(start, min(start + size, len(part.labels))))
        yield images
        start += len(images)
        size = max(1, min(CHUNK_IMAGES, CHUNK // images[0].nbytes))


def _check_all_read(mistakes: Sequence[str]) -> None:
    if mistakes:
        more = [f"and {len(mistakes) - LISTED} more images"] if len(mistakes) > LISTED else []
        raise UserError("\n".join([*sorted(mistakes)[:LISTED], *more]))


def channel_moments(images: numpy.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8 [n, channels, height, width], as shares of 255.

    Exact, from the histogram of a few images at a time. A channel that never changes gets the deviation of one grey
    level, so that dividing by it stays possible.
    """
    values, counts = numpy.arange(256) / 255, numpy.zeros((images.shape[1], 256), numpy.int64)
    step = max(1, CHUNK // images[0].nbytes)  # numpy.bincount makes eight bytes of each
    for start in range(0, len(images), step):
        for channel, of_channel in enumerate(counts):
            of_channel += numpy.bincount(images[start : start + step, channel].ravel(), minlength=256)
    mean, std = [], []
    for of_channel in counts:
        share = of_channel / of_channel.sum()
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
