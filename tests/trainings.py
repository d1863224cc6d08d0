"""Toy images, networks and settings for tests of training."""

import random

import numpy
import torch
from torch import nn

from elagage.data import Dataset, Split
from elagage.pytorch.models import build_network
from elagage.schedules import TrainingSettings

CPU = torch.device("cpu")
GREY = Dataset("toy", ["dark", "bright"], 1, 8, [0.5], [0.25], False, {}, {})
SETTINGS = TrainingSettings(
    epochs=4, batch_size=8, learning_rate=0.05, momentum=0.9, weight_decay=0, warmup_epochs=1, flip=False
)


def settings(**changes) -> TrainingSettings:
    return TrainingSettings(**vars(SETTINGS) | changes)


def separable(count: int, seed: int = 0) -> Split:
    """Return images [count, 1, 4, 4] of which those of class 1 are brighter in every pixel."""
    draws = numpy.random.default_rng(seed)
    labels = draws.permutation(numpy.arange(count) % 2)
    images = draws.integers(0, 100, (count, 1, 4, 4)) + 150 * labels[:, None, None, None]
    return Split(images.astype(numpy.uint8), labels)


def random_split(count: int, seed: int = 0) -> Split:
    """Return images [count, 1, 8, 8] and labels that have nothing to do with each other."""
    draws = numpy.random.default_rng(seed)
    return Split(draws.integers(0, 256, (count, 1, 8, 8), dtype=numpy.uint8), draws.integers(0, 2, count))


def linear(pixels: int = 16) -> nn.Module:
    """Return a linear classifier of two classes whose weights are all 0."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2))
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    return network


def state_bytes(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in state.items()}


class Drawing(nn.Module):
    """A network that draws from every generator it could reach, in its forward pass."""

    def __init__(self):
        super().__init__()
        self.inner = build_network("resnet8", 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            images = images * random.uniform(0.9, 1.1) * numpy.random.uniform(0.9, 1.1)
            images = nn.functional.dropout(images, 0.1)
        return self.inner(images)
