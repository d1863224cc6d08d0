"""Whether given weights are fed as they were trained: the known accuracy, other normalizations, other class orders."""

import re

import numpy
import pytest
import torch
import yaml
from torch import nn

from elagage.data import NORMALIZATIONS, Dataset, Split, numbers_in
from elagage.errors import UserError
from elagage.pytorch.inspection import (
    better_class_order,
    better_normalization,
    check_accuracy,
    no_better_than_a_guess,
    predicted_classes,
)
from elagage.pytorch.models import Normalize

DATASET = Dataset("toy", ["dark", "bright"], 3, 8, [0.2] * 3, [0.1] * 3, True, {}, {})


class Brighter(nn.Module):
    """Calls images bright whose mean, as it was trained on pixels of mean 0.5 and deviation 0.5, is above grey 125."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        above = x.mean((1, 2, 3)) - (125 / 255 - 0.5) / 0.5
        return torch.stack([-above, above], 1)


def images(count: int = 200) -> Split:
    """Return images of one grey level each, 100 or 150 with noise, labelled 0 or 1."""
    random, labels = numpy.random.default_rng(0), numpy.arange(count) % 2
    pixels = (100 + 50 * labels + random.integers(-9, 10, count))[:, None, None, None]
    return Split(numpy.broadcast_to(pixels, (count, 3, 8, 8)).astype(numpy.uint8), labels)


def test_the_normalization_of_the_training_is_named_with_its_share():
    hint = better_normalization(Brighter(), DATASET, images(), "dataset")
    assert hint == "with normalization: half 100.0% of 200 training images are correct, with dataset 50.0%"


def test_the_right_normalization_gets_no_hint():
    right = DATASET.as_trained(normalization="half")
    assert better_normalization(Brighter(), right, images(), "half") is None
    assert (predicted_classes(Brighter(), right, images().images) == images().labels).all()


def test_grey_images_are_not_tried_with_constants_of_colour():
    grey = Dataset("toy", ["dark", "bright"], 1, 8, [0.2], [0.1], True, {}, {})
    split = Split(images().images[:, :1], images().labels)
    assert "half" in better_normalization(Brighter(), grey, split, "dataset")
    with pytest.raises(UserError, match="3 mean"):
        grey.normalized("imagenet")


def test_another_order_of_classes_is_named_only_where_it_explains_the_labels():
    right = DATASET.normalized("half")
    swapped = Split(images().images, 1 - images().labels)
    assert better_class_order(Brighter(), right, swapped).startswith('with classes: ["bright", "dark"] 100.0% of')
    assert better_class_order(Brighter(), right, images()) is None
    random = Split(images().images, numpy.random.default_rng(1).integers(0, 2, 200))
    assert better_class_order(Brighter(), right, random) is None


def test_another_order_of_classes_is_named_where_two_of_four_are_swapped():
    names, labels = ["barn", "cat", "dog", "scene"], numpy.arange(200) % 4
    dataset = Dataset("toy", names, 1, 8, [0.5], [0.25], False, {}, {})
    swapped = torch.tensor([0, 2, 1, 3])[labels]
    swapped[:8] = 0  # some are wrong in any order

    class Swapped(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(swapped[: len(x)], 4).float()

    split = Split(numpy.zeros((200, 1, 8, 8), numpy.uint8), labels)
    assert '["barn", "dog", "cat", "scene"] 97.' in better_class_order(Swapped(), dataset, split)


@pytest.mark.parametrize(("right", "told"), [(25, True), (30, True), (60, False)])
def test_weights_no_better_than_the_most_frequent_class_are_told(right, told):
    hint = no_better_than_a_guess(numpy.arange(100) < right, numpy.arange(100) % 4)
    assert (hint is not None) == told
    if told:
        assert f"{right:.1f}% of 100 test images" in hint and "25.0%" in hint and "range, channels, resize" in hint


@pytest.mark.parametrize(("correct", "known", "stops"), [(60, 0.9, True), (60, 0.65, False), (95, 0.9, False)])
def test_a_known_accuracy_above_the_interval_stops_the_study_with_what_may_mend_it(correct, known, stops):
    measured = numpy.arange(100) < correct
    if not stops:
        check_accuracy(measured, known, [])
        return
    with pytest.raises(UserError, match=r"60\.00% on 100 test images.*not the stated 90\.00%; a hint"):
        check_accuracy(measured, known, ["a hint"])


def test_stated_constants_are_one_number_for_each_channel():
    stated = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    assert DATASET.as_trained(normalization=stated).preprocessing()["std"] == [0.4, 0.5, 0.6]
    with pytest.raises(UserError, match=r"1 mean.*3 channel"):
        DATASET.as_trained(normalization={"mean": [0.1], "std": [0.4]})


OPENCV = {"mean": [103.9, 116.8, 123.7], "std": [57.4, 57.1, 58.4]}  # blue, green, red, of pixels of 0 to 255
MADE_LIKE = {  # what a model's training made of uint8 RGB images -> how that is stated
    "ToTensor alone": (lambda rgb: rgb / 255, {"normalization": "none"}),
    "raw pixels": (lambda rgb: rgb, {"normalization": "none", "full_scale": 255}),
    "OpenCV": (
        lambda rgb: (rgb[:, ::-1] - numpy.reshape(OPENCV["mean"], (3, 1, 1))) / numpy.reshape(OPENCV["std"], (3, 1, 1)),
        {"normalization": OPENCV, "channels": "BGR", "full_scale": 255},
    ),
    "OpenCV, ImageNet": (
        lambda rgb: ((rgb / 255 - IMAGENET["mean"]) / IMAGENET["std"])[:, ::-1],
        {"normalization": "imagenet", "channels": "BGR"},
    ),
}
IMAGENET = {key: numpy.reshape(values, (3, 1, 1)) for key, values in NORMALIZATIONS["imagenet"].items()}


@pytest.mark.parametrize(("made", "stated"), MADE_LIKE.values(), ids=MADE_LIKE)
def test_the_network_gets_what_its_training_made_of_the_same_pixels(made, stated):
    pixels = numpy.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=numpy.uint8)
    fed = Normalize(DATASET.as_trained(**stated))(torch.from_numpy(pixels))
    numpy.testing.assert_allclose(fed.numpy(), made(pixels.astype(float)), rtol=1e-5, atol=1e-5)


def test_grey_images_have_no_order_of_channels():
    grey = Dataset("toy", ["dark", "bright"], 1, 8, [0.2], [0.1], True, {}, {})
    with pytest.raises(UserError, match=r"preprocessing\.channels: BGR, .* 1 channel"):
        grey.as_trained(channels="BGR")


def test_the_hint_at_another_order_of_classes_is_what_to_write():
    right = DATASET.as_trained(normalization="half")
    swapped = Split(images().images, 1 - images().labels)
    (stated,) = re.findall(r"classes: \[.*\]", better_class_order(Brighter(), right, swapped))
    reordered = right.as_trained(normalization="half", **yaml.safe_load(stated))
    labels = numbers_in(right.classes, reordered.classes)[swapped.labels]
    assert (predicted_classes(Brighter(), reordered, swapped.images) == labels).all()
    assert better_class_order(Brighter(), reordered, Split(swapped.images, labels)) is None


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (["bright", "darc"], ["'dark' is missing", "'darc' is no class", "did you mean 'dark'?"]),
        (["bright"], ["'dark' is missing", "all 2 names"]),
        (["bright", "dark", "dark"], ["'dark' stands twice"]),
        (["bright", "dark", "grey"], ["'grey' is no class"]),
        (["Bright", "dark"], ["'bright' is missing", "did you mean 'bright'?"]),
    ],
)
def test_names_that_are_not_those_of_the_classes_are_named(stated, words):
    with pytest.raises(UserError, match=r"models\.<name>\.classes: ") as error:
        DATASET.as_trained(classes=stated)
    for word in words:
        assert word in str(error.value)
