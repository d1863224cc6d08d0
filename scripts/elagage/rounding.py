"""Weights rounded to few levels so that a layer's outputs change least.

Coordinate descent on the squared error of the outputs, as Behdin et al. 2023, "QuantEase", https://arxiv.org/abs/2309.01885
and Zhang et al. 2024, "COMQ: A Backpropagation-Free Algorithm for Post-Training Quantization",
https://arxiv.org/abs/2403.07134, which also gives the best scale for given levels.
"""

import math
from typing import NamedTuple

import numpy

CLIPS = numpy.linspace(0.4, 1, 31)  # shares of a row's largest weight that are tried as the largest level
# Added to the square of each input, in units of their mean: so that inputs that never vary hold their weights, and, by
# the share of inputs to positions, because products of few positions are known badly. For linear layers of 1,024
# inputs and 8 to 512 images 0.3 and 1 had the smallest errors of 0, 0.03, 0.1, 0.3, 1 and 3.
DAMPING = 0.01
DAMPING_BY_POSITIONS = 0.3
# Of levels, then scales. The squared error of a ResNet-20's layers is 1.4, 1.15, 1.07 and 1.04 times that of 8 rounds
# after 1, 2, 3 and 4, with 15 levels; with 7 levels 1.4, 1.18, 1.09 and 1.05 times.
ROUNDS = 4
BLOCK = 128  # inputs whose changes are carried to all others at once
# Largest weight of a row, and largest value of an activation, at least. A filter whose weights are all pruned would get
# the scale 1.0, and its bias levels as far apart as those of its input. The product of two such scales is a float32.
SMALLEST_RANGE = 1e-12
SMALLEST = 1e-30  # of what is divided by, in float32


class Rounded(NamedTuple):
    """Levels, float32 [groups, outputs, inputs] of whole numbers, and scales, float32 [groups, outputs]."""

    levels: numpy.ndarray
    scales: numpy.ndarray

    @property
    def weight(self) -> numpy.ndarray:
        """The rounded weights, float32 [groups, outputs, inputs]."""
        return self.levels * self.scales[..., None]


def round_weight(
    weight: numpy.ndarray, products: numpy.ndarray | None, largest: int, positions: float = math.inf
) -> Rounded:
    """Return a weight, [groups, outputs, inputs], on whole levels from -largest to largest times a scale for each row.

    products: mean products of its inputs, [groups, inputs, inputs], float32, of so many positions; None takes all
    inputs for equally large and independent of each other. Zeros stay zero.
    """
    weight = weight.astype(numpy.float32)
    if products is None:
        return _nearest(weight, numpy.ones((len(weight), weight.shape[2]), numpy.float32), largest)
    variance = numpy.einsum("gii->gi", products)
    damped = products.copy()
    share = DAMPING + DAMPING_BY_POSITIONS * weight.shape[2] / positions
    numpy.einsum("gii->gi", damped)[:] += numpy.maximum(share * variance.mean(1, keepdims=True), SMALLEST)
    return _descend(weight, damped, *_nearest(weight, numpy.einsum("gii->gi", damped), largest), largest)


def _nearest(weight: numpy.ndarray, variance: numpy.ndarray, largest: int) -> Rounded:
    """Return the nearest levels, with the scale of each row whose squared error, weighted by input, is least."""
    highest = numpy.maximum(numpy.abs(weight).max(2), SMALLEST_RANGE)
    least, scales = numpy.full(highest.shape, numpy.inf), highest / largest
    for clip in CLIPS:
        tried = clip * highest / largest
        error = (weight - _levels(weight, tried, largest) * tried[..., None]) ** 2 @ variance[..., None]
        better = error[..., 0] < least
        least, scales = numpy.where(better, error[..., 0], least), numpy.where(better, tried, scales)
    return Rounded(_levels(weight, scales, largest), scales.astype(numpy.float32))


def _levels(weight: numpy.ndarray, scales: numpy.ndarray, largest: int) -> numpy.ndarray:
    return numpy.rint(weight / scales[..., None]).clip(-largest, largest)


def _descend(
    weight: numpy.ndarray, products: numpy.ndarray, levels: numpy.ndarray, scales: numpy.ndarray, largest: int
) -> Rounded:
    """Lower the squared error of the outputs, level by level."""
    free = weight != 0
    wanted = weight @ products
    for _ in range(ROUNDS):
        # Half the negative gradient of the error by the rounded weights.
        gradient = wanted - (levels * scales[..., None]) @ products
        for start in range(0, weight.shape[2], BLOCK):
            block = slice(start, start + BLOCK)
            own = products[:, block, block]
            change = _block(levels[..., block], gradient[..., block], free[..., block], own, scales, largest)
            gradient -= change @ products[:, block]
        square = ((levels @ products) * levels).sum(2)
        best = (wanted * levels).sum(2) / numpy.maximum(square, SMALLEST)
        scales = numpy.where((square > 0) & (best > 0), best, scales).astype(numpy.float32)
    return Rounded(levels, scales)


def _block(
    levels: numpy.ndarray,
    gradient: numpy.ndarray,
    free: numpy.ndarray,
    products: numpy.ndarray,
    scales: numpy.ndarray,
    largest: int,
) -> numpy.ndarray:
    """Choose the levels of some inputs one after the other, in place; return how the rounded weights change."""
    gradient, before = gradient.copy(), levels.copy()
    for place in range(levels.shape[2]):
        exact = levels[..., place] + gradient[..., place] / products[:, place, place, None] / scales
        new = numpy.where(free[..., place], numpy.rint(exact).clip(-largest, largest), 0)
        gradient -= ((new - levels[..., place]) * scales)[..., None] * products[:, None, place]
        levels[..., place] = new
    return (levels - before) * scales[..., None]
