"""Whether given weights get what they were trained on: the known accuracy, other normalizations, other class orders."""

import json
from collections.abc import Iterable, Mapping

import numpy
import scipy.optimize
import torch
from torch import nn

from elagage.data import NORMALIZATIONS, Dataset, Split
from elagage.errors import UserError
from elagage.pytorch.models import Normalize
from elagage.statistics import most_frequent_share, share_became_correct, wilson_interval

IMAGES = 1000  # training images that alternatives are tried on
CLEARLY = 0.05  # share of the images by which an alternative has to be better, beside the test
BATCH = 250  # images
COMPARE = (
    "compare normalization, preprocessing (range, channels, resize), classes and dataset.image_size with those of its "
    "training"
)


@torch.inference_mode()
def predicted_classes(network: nn.Module, dataset: Dataset, images: numpy.ndarray) -> numpy.ndarray:
    """Return the class, int64 [n], of uint8 images [n, channels, height, width], in evaluation mode on the CPU."""
    deployed = nn.Sequential(Normalize(dataset), network).eval()
    batches = (torch.from_numpy(images[start : start + BATCH]) for start in range(0, len(images), BATCH))
    return torch.cat([deployed(batch).argmax(1) for batch in batches]).numpy()


def check_accuracy(correct: numpy.ndarray, known: float, hints: list[str]) -> None:
    """Raise UserError if the known accuracy lies above the 95 % interval of the one measured, with what may mend it.

    correct: bool [n], of test images: a check, not a choice.
    """
    _, high = wilson_interval(int(correct.sum()), len(correct))
    if high < known:
        raise UserError(
            f"the dense model has an accuracy of {correct.mean():.2%} on {len(correct)} test images (at most "
            f"{high:.2%}, 95 %), not the stated {known:.2%}; " + ("; ".join(hints) or COMPARE)
        )


def no_better_than_a_guess(correct: numpy.ndarray, labels: numpy.ndarray) -> str | None:
    """Return a hint if the share of images that are correct may be that of the most frequent class alone.

    correct: bool [n]; labels: int [n].
    """
    most = most_frequent_share(labels)
    low, _ = wilson_interval(int(correct.sum()), len(correct))
    if low > most:
        return None
    return (
        f"the given weights classify {correct.mean():.1%} of {len(correct)} test images correctly, where the most "
        f"frequent class alone is {most:.1%} of them; {COMPARE}"
    )


def better_normalization(
    network: nn.Module,
    dataset: Dataset,
    train: Split,
    used: str | Mapping,
    names: Iterable[str] = tuple(NORMALIZATIONS),
) -> str | None:
    """Return a hint at another of the usual normalizations under which clearly more training images are correct.

    dataset: as the model is configured; used: what the configuration says; names: those to try. More by McNemar's test
    and by CLEARLY.
    """
    images, labels = train.images[:IMAGES], train.labels[:IMAGES]
    correct = predicted_classes(network, dataset, images) == labels
    best, hint = correct.mean() + CLEARLY, None
    for name in names:
        if name == used or len(NORMALIZATIONS[name]["mean"]) not in (1, dataset.channels):
            continue
        other = predicted_classes(network, dataset.normalized(name), images) == labels
        if other.mean() >= best and share_became_correct(correct, other)[1] > 0.5:
            best = other.mean()
            hint = (
                f"with normalization: {name} {other.mean():.1%} of {len(images)} training images are correct, with "
                f"{used} {correct.mean():.1%}"
            )
    return hint


def better_class_order(network: nn.Module, dataset: Dataset, train: Split) -> str | None:
    """Return a hint at another order of the classes in which clearly more training images would be correct.

    The best order is the assignment of outputs to classes that makes most images correct (Kuhn 1955).
    """
    images, labels = train.images[:IMAGES], train.labels[:IMAGES]
    predicted, count = predicted_classes(network, dataset, images), len(dataset.classes)
    together = numpy.zeros((count, count), int)
    numpy.add.at(together, (predicted, labels), 1)
    outputs, classes = scipy.optimize.linear_sum_assignment(together, maximize=True)
    before, after = together.trace() / len(images), together[outputs, classes].sum() / len(images)
    # Of random predictions the best assignment, too, makes some more correct, but never twice as many, and half of all,
    # nor half as many wrong.
    explains = after >= 2 * before or 1 - after <= (1 - before) / 2
    better = share_became_correct(predicted == labels, classes[predicted] == labels)[1] > 0.5
    if after < 0.5 or after < before + CLEARLY or not explains or not better:
        return None
    order = json.dumps([dataset.classes[label] for label in classes], ensure_ascii=False)  # a list in YAML, too
    return (
        f"with classes: {order} {after:.1%} of {len(images)} training images are correct, as counted now {before:.1%}"
    )
