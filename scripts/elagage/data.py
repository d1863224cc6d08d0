"""Data sets as later jobs see them: arrays of uint8 images that are mapped into memory, and their description."""

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence

import numpy

from elagage.errors import UserError
from elagage.files import read_json, reading, whole_file
from elagage.geometry import Geometry

SPLITS = ("train", "validation", "test")
LISTED = 5  # mistakes in a message
# Training (before some are kept for validation) and test images of the data sets whose size is known beforehand. Of the
# 1,797 digits 1,000 are for testing, so that "the first 1,000 test images" exist.
KNOWN_SIZES = {
    "digits": (797, 1000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
}
OWN_SIZES = {"digits": 8, "cifar10": 32, "cifar100": 32, "fashion_mnist": 28}  # pixels of a side

# Mean and standard deviation per channel, of full scale, that published weights expect.
NORMALIZATIONS = {
    "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},  # torchvision, most of timm
    "half": {"mean": [0.5], "std": [0.5]},  # Inception, ViT, many of timm
    "none": {"mean": [0.0], "std": [1.0]},  # ToTensor() and nothing after it
}
# Images that are taken where the configuration states no number, or all if there are fewer.
USUAL_IMAGES = {
    "quantization.calibration_images": 512,
    "retraining.batchnorm_images": 512,
    "retraining.reconstruct_images": 1024,
    "sensitivity.images": 1000,  # one is a tenth of a percentage point
    "evaluation.latency_images": 1000,
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What `dataset.json` says of a prepared data set and, from `as_trained`, how a model takes it.

    mean and std are those of the training images, one number per channel in the order of the images, in units of a
    full-scale pixel (0 to 1).
    """

    name: str
    classes: list[str]
    channels: int
    image_size: int  # pixels; images are square
    mean: list[float]
    std: list[float]
    flip: bool  # whether a mirrored image is still one of its class
    images: dict[str, int]  # split -> number of images
    sha256: dict[str, str]  # file name -> checksum
    resize: int | str | None = None  # as in Geometry
    interpolation: str = "bilinear"
    bgr: bool = False  # whether the network takes the three channels of the images, which are RGB, in reverse order

    @classmethod
    def read(cls, path: str | os.PathLike, trained_with: Mapping | None = None) -> "Dataset":
        """Return the description that prepare_data wrote; trained_with: what as_trained takes, by name."""
        with reading(path):
            dataset = cls(**read_json(path))
        return dataset.as_trained(**trained_with) if trained_with else dataset

    def as_trained(
        self,
        *,
        model: str = "<name>",
        normalization: str | Mapping = "dataset",
        channels: str = "RGB",
        full_scale: int = 1,
        classes: list[str] | None = None,
    ) -> "Dataset":
        """Return the data set with the constants, the order of channels and the order of classes that a model expects.

        model: its name in the configuration, for messages. normalization: "dataset" for the constants of the training
        images, a key of NORMALIZATIONS, or {"mean": [...], "std": [...]}, one number per channel, in the model's order
        and in units of which a white pixel has `full_scale`. channels: "RGB" or "BGR". classes: all names in the order
        of the model's outputs. Raises UserError if the numbers are not as many as the channels, if the channels are not
        three, or if the names are other ones.
        """
        if channels == "BGR" and self.channels != 3:
            raise UserError(
                f"models.{model}.preprocessing.channels: BGR, but the images have {self.channels} channel(s); remove it"
            )
        if classes is not None:
            check_classes(classes, self.classes, f"models.{model}.classes")
        taken = dataclasses.replace(self, bgr=channels == "BGR", classes=classes or self.classes)
        if normalization == "none":
            normalization = {"mean": [0.0] * self.channels, "std": [1.0] * self.channels}
        if isinstance(normalization, str):
            return taken if normalization == "dataset" else taken.normalized(normalization, model)
        stated = {key: [value / full_scale for value in values] for key, values in normalization.items()}
        if taken.bgr:
            stated = {key: values[::-1] for key, values in stated.items()}
        return taken.normalized(stated, model)

    def split(self, files, name: str) -> "Split":
        """Return a split of a rule's named inputs; its labels number the classes in this data set's order."""
        split = Split.read(getattr(files, f"{name}_images"), getattr(files, f"{name}_labels"))
        prepared = Dataset.read(files.dataset).classes
        if prepared == self.classes:
            return split
        return Split(split.images, numbers_in(prepared, self.classes)[split.labels])

    def normalized(self, normalization: str | Mapping, model: str = "<name>") -> "Dataset":
        """Return the same data set with the constants of NORMALIZATIONS or stated ones, of a model of that name."""
        constants = NORMALIZATIONS[normalization] if isinstance(normalization, str) else normalization
        mean, std = list(constants["mean"]), list(constants["std"])
        if isinstance(normalization, str) and len(mean) == 1:
            mean, std = mean * self.channels, std * self.channels
        if not len(mean) == len(std) == self.channels:
            raise UserError(
                f"models.{model}.normalization: {normalization} has {len(mean)} mean(s) and {len(std)} deviation(s), "
                f"the images have {self.channels} channel(s); state as many"
            )
        return dataclasses.replace(self, mean=mean, std=std)

    def preprocessing(self) -> dict:
        """Return what an ONNX file tells its user of the images that it takes; predict.py reads how they are scaled."""
        return {
            "input": f"uint8 [batch, {self.channels}, {self.image_size}, {self.image_size}], raw pixels",
            "colours": "grey" if self.channels == 1 else "RGB",
            "size": Geometry(self.resize, self.interpolation).description(self.image_size),
            "resize": self.resize,
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8 [n, channels, height, width] and labels int64 [n] of one part of a data set."""

    images: numpy.ndarray
    labels: numpy.ndarray

    @classmethod
    def read(cls, images: str | os.PathLike, labels: str | os.PathLike) -> "Split":
        """Map the images into memory: jobs on one machine share one copy of them in the page cache.

        Raises UserError if a file is damaged, or holds other types or shapes.

        Copy-on-write ("c") rather than read-only, because torch warns of tensors over memory it may not write.
        """
        with reading(images):
            mapped = numpy.load(images, mmap_mode="c")
            if mapped.dtype != numpy.uint8 or mapped.ndim != 4:
                raise ValueError(f"an array of {mapped.dtype} {mapped.shape}, not of uint8 images")
        with reading(labels):
            read = numpy.load(labels)
            if read.dtype != numpy.int64 or read.shape != mapped.shape[:1]:
                raise ValueError(f"an array of {read.dtype} {read.shape}, not of int64 labels of {len(mapped)} images")
        return cls(mapped, read)

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, number: int | None, key: str) -> "Split":
        """Return the first `number` images; `key` is the configuration key that asked for them.

        None takes as many as USUAL_IMAGES says, or all if there are fewer. Raises UserError if a number is stated and
        there are fewer.
        """
        number = min(USUAL_IMAGES[key], len(self)) if number is None else number
        if number > len(self):
            raise UserError(f"{key}: {number} images asked for, but there are only {len(self)}; lower {key}")
        return Split(self.images[:number], self.labels[:number])


@dataclasses.dataclass(frozen=True)
class PreparedData:
    """What a training reads: the description of the data set, its training images and its validation images."""

    dataset: Dataset
    train: Split
    validation: Split

    @classmethod
    def read(cls, files, trained_with: Mapping | None = None) -> "PreparedData":
        """Return the data of a rule's named inputs: `dataset`, and `<split>_images` and `<split>_labels`."""
        dataset = Dataset.read(files.dataset, trained_with)
        return cls(dataset, dataset.split(files, "train"), dataset.split(files, "validation"))


def read_labels(path: str | os.PathLike) -> numpy.ndarray:
    """Return the labels of a split that prepare_data wrote: the number of a class for each image, int64 [n]."""
    with reading(path):
        return numpy.load(path)


def read_predictions(path: str) -> numpy.ndarray:
    """Return the predictions that evaluate_accuracy wrote: the number of a class for each image, int32 [n]."""
    with reading(path):
        return numpy.load(path)


def check_classes(stated: Sequence[str], known: Sequence[str], key: str) -> None:
    """Raise UserError unless the stated names are those of the data set's classes, each once, in any order."""
    twice = sorted({name for name in stated if stated.count(name) > 1})
    missing, unknown = [sorted(set(one) - set(other)) for one, other in ((known, stated), (stated, known))]
    mistakes = [f"{name!r} stands twice" for name in twice] + [f"{name!r} is missing" for name in missing]
    for name in unknown:
        near = difflib.get_close_matches(name, missing or known, 1)
        mistakes.append(f"{name!r} is no class of the data set" + (f", did you mean {near[0]!r}?" if near else ""))
    if mistakes:
        more = f"; and {len(mistakes) - LISTED} more" if len(mistakes) > LISTED else ""
        raise UserError(
            f"{key}: {'; '.join(mistakes[:LISTED])}{more}; state all {len(known)} names of the classes, each once, in "
            f"the order of the model's outputs"
        )


def numbers_in(names: Sequence[str], order: Sequence[str]) -> numpy.ndarray:
    """Return the number, int64 [classes], that each name has in another order of the same names."""
    places = {name: number for number, name in enumerate(order)}
    return numpy.array([places[name] for name in names])


def save_array(path: str | os.PathLike, array: numpy.ndarray) -> None:
    """Write an array as .npy, whole or not at all.

    Not with numpy.save, whose error on a full disk does not say that it is full.
    """
    array = numpy.ascontiguousarray(array)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        numpy.lib.format.write_array_header_1_0(file, numpy.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
