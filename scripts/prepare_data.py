"""Decode a data set once, into uint8 arrays with a fixed split, and describe it in dataset.json."""

import concurrent.futures
import dataclasses
import functools
import itertools
import pathlib

import numpy

from elagage.data import KNOWN_SIZES, SPLITS, Dataset, save_array
from elagage.downloads import Labelled, read_downloaded
from elagage.errors import UserError
from elagage.files import sha256, write_json
from elagage.image_folder import image_files, image_folder_classes, read_image
from elagage.job import job
from elagage.progress import progress

SPLIT_SEED = 0  # one fixed split, so that results of different studies can be compared


def digits(path: str, size: int | None) -> tuple[Labelled, Labelled, list[str]]:
    """scikit-learn's 8x8 digits with 17 grey levels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    images = numpy.round(loaded.images * (255 / 16)).astype(numpy.uint8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, loaded.target, test_size=KNOWN_SIZES["digits"][1], stratify=loaded.target, random_state=SPLIT_SEED
    )
    names = [str(name) for name in loaded.target_names]
    return (_resized(train_images, size), train_labels), (_resized(test_images, size), test_labels), names


def downloaded(name: str, path: str, size: int | None) -> tuple[Labelled, Labelled, list[str]]:
    """Return one of torchvision's data sets, downloaded to `path` unless it is there."""
    *parts, classes = read_downloaded(name, path)
    train, test = [(_resized(images, size), labels) for images, labels in parts]
    return train, test, classes


def image_folder(path: str, size: int | None) -> tuple[Labelled, Labelled, list[str]]:
    """The user's own images; the test images are shuffled once, so that the first 1,000 are of all classes."""
    parts = []
    for split in ("train", "test"):
        files = image_files(path, split)
        order = numpy.random.default_rng(SPLIT_SEED).permutation(len(files))
        with progress(len(files), " images", f"decode {split}") as advance:
            images = []
            # Pillow releases the lock while it decodes, so threads use every core.
            with concurrent.futures.ThreadPoolExecutor() as pool:
                for image in pool.map(read_image, (files[index][0] for index in order), itertools.repeat(size)):
                    images.append(image)
                    advance(1)
        parts.append((images, numpy.array([files[index][1] for index in order])))
    grey = all(image.ndim == 2 for images, _ in parts for image in images)
    stacked = [(numpy.stack([_with_channels(i, grey) for i in images]), labels) for images, labels in parts]
    return *stacked, image_folder_classes(path)


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


def _resized(images: numpy.ndarray, size: int | None) -> numpy.ndarray:
    if size is None or images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    return numpy.stack(
        [numpy.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BILINEAR)) for i in images]
    )


def _channels_first(images: numpy.ndarray) -> numpy.ndarray:
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return numpy.ascontiguousarray(images)


def split_validation(train: Labelled, fraction: float) -> tuple[Labelled, Labelled]:
    """Return the training and the validation part: shuffled, with the same share of every class.

    Raises UserError if a part would lack a class.
    """
    from sklearn.model_selection import train_test_split

    images, labels = train
    try:
        kept, validation = train_test_split(
            numpy.arange(len(labels)), test_size=fraction, stratify=labels, random_state=SPLIT_SEED
        )
    except ValueError as error:
        raise UserError(
            f"dataset.validation_fraction: {fraction} of {len(labels)} training images cannot hold every class: {error}"
        ) from error
    for part in (kept, validation):
        if absent := set(labels.tolist()) - set(labels[part].tolist()):
            raise UserError(
                f"dataset.validation_fraction: {fraction} of {len(labels)} training images leaves one part without "
                f"class number {min(absent)}; change it, or add images of that class"
            )
    return (images[kept], labels[kept]), (images[validation], labels[validation])


def prepare_data(name: str, path: str, image_size: int | None, validation_fraction: float, outputs: dict) -> None:
    """Write `<split>_images`, uint8 [n, channels, size, size], `<split>_labels`, int64 [n], and `dataset` (JSON)."""
    train, test, classes = LOADERS[name](path, image_size)
    train, validation = split_validation(train, validation_fraction)
    parts = dict(zip(SPLITS, (train, validation, test), strict=True))
    parts = {split: (_channels_first(images), labels.astype(numpy.int64)) for split, (images, labels) in parts.items()}
    for split, arrays in parts.items():
        for kind, array in zip(("images", "labels"), arrays, strict=True):
            save_array(outputs[f"{split}_{kind}"], array)
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
        sha256={pathlib.Path(file).name: sha256(file) for key, file in outputs.items() if key != "dataset"},
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
        )
