"""Ranges of the activations that an int8 file rounds, from what calibration images make of them.

A range that is smaller than from the lowest to the highest value clips rare large values and rounds all others more
finely. Histograms of a sample of the values tell what that costs; they take the same memory for any number of images.
"""

import functools
from collections.abc import Callable, Iterable, Mapping

import numpy
import onnx

from elagage.onnx.runtime import session

BINS = 4096  # half of them below zero
LEVELS = 256  # of uint8
SAMPLE = 2**14  # values of a tensor and an image, at most; the lowest and the highest are those of all values
FEWEST = 64 * BINS  # values in a histogram whose bins tell a distribution
FIRST_BATCH = 4  # images, which tell how much memory one takes
BATCH_MEMORY = 400e6  # bytes of activations that are kept at once
SHARES = numpy.linspace(1, 0.05, 96)  # of the lowest and of the highest value, which are tried as bounds of a range
ROUNDS = 2  # in which one bound is chosen after the other
# Their results have no rare large values. `entropy` clipped those of the last sigmoid of a trained EfficientNet-B0 from
# 0.78 to 0.17, so that its logits were a third of what they should be.
BOUNDED = ("Sigmoid", "HardSigmoid", "Tanh", "Erf")

Range = tuple[float, float]


class Histogram:
    """Counts of a tensor's values, in bins of equal width from -edge to edge; the edge doubles for larger values.

    bounded: whether the tensor is the result of one of BOUNDED.
    """

    def __init__(self, bounded: bool = False):
        self.bounded = bounded
        self.low, self.high, self.edge = 0.0, 0.0, 0.0  # a range has zero in it, which padding and ReLU make
        self.counts = numpy.zeros(BINS, numpy.int64)

    def add(self, low: float, high: float, sample: numpy.ndarray) -> None:
        """Add values, float32 [n], and the lowest and the highest of what they are a sample of."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.edge = self.edge or max(-low, high, 0.0)
        while self.edge < max(-low, high):
            inner = self.counts.reshape(-1, 2).sum(1)
            self.counts = numpy.pad(inner, BINS // 4)
            self.edge *= 2
        if self.edge:
            bins = ((sample / self.edge + 1) * (BINS / 2)).astype(numpy.int64)
            self.counts += numpy.bincount(bins.clip(0, BINS - 1), minlength=BINS)

    @property
    def width(self) -> float:
        """The width of a bin."""
        return 2 * self.edge / BINS

    def filled(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return the counts of the bins that are not empty, and their middles, float64 [bins]."""
        numbers = numpy.flatnonzero(self.counts)
        return self.counts[numbers].astype(float), (numbers + 0.5) * self.width - self.edge


def minmax(histogram: Histogram) -> Range:
    """Return the range from the lowest to the highest value."""
    return histogram.low, histogram.high


def percentile(share: float, histogram: Histogram) -> Range:
    """Return the range that has this share of the values, with as many below as above."""
    if not histogram.counts.any():
        return minmax(histogram)
    below, outside = numpy.cumsum(histogram.counts) / histogram.counts.sum(), (1 - share) / 2
    first, last = numpy.searchsorted(below, outside, side="right"), numpy.searchsorted(below, 1 - outside)
    low, high = first * histogram.width - histogram.edge, (last + 1) * histogram.width - histogram.edge
    return min(0.0, max(histogram.low, float(low))), max(0.0, min(histogram.high, float(high)))


def mean_squared_error(histogram: Histogram) -> Range:
    """Return the range in which rounding and clipping move the values least, by the mean square."""
    counts, values = histogram.filled()

    def error(low: float, high: float) -> float:
        scale = (high - low) / (LEVELS - 1)
        rounded = ((values - low) / scale).round().clip(0, LEVELS - 1) * scale + low
        return float(counts @ (rounded - values) ** 2)

    return _best(histogram, error)


def entropy(histogram: Histogram) -> Range:
    """Return the range that loses the least information (Migacz 2017, "8-bit Inference with TensorRT").

    By the Kullback-Leibler divergence of the values on LEVELS levels from the values, of which those beyond the range
    count at its bounds. Values next to zero do not count: zero itself, what a ReLU mostly returns, is a level of every
    range. Of fewer than FEWEST values it is that from the lowest to the highest.
    """
    if histogram.counts.sum() < FEWEST:
        return minmax(histogram)
    counts, values = histogram.filled()
    apart = numpy.abs(values) > histogram.width
    counts, values = counts[apart], values[apart]

    def divergence(low: float, high: float) -> float:
        """Return that of the values on the levels of a range from the values."""
        inside = (values >= low) & (values <= high)
        if not inside.any():
            return numpy.inf
        found, expected = counts[inside], counts[inside].copy()
        expected[0] += counts[values < low].sum()
        expected[-1] += counts[values > high].sum()
        levels = ((values[inside] - low) / (high - low) * (LEVELS - 1)).round().astype(int)
        on_levels = (numpy.bincount(levels, found) / numpy.bincount(levels).clip(1))[levels]
        expected, on_levels = expected / expected.sum(), on_levels / on_levels.sum()
        return float(expected @ numpy.log(expected / on_levels))

    return _best(histogram, divergence)


# Of CALIBRATIONS in elagage.modes.
METHODS: dict[str, Callable[[Histogram], Range]] = {
    "minmax": minmax,
    "percentile_99.99": functools.partial(percentile, 0.9999),
    "percentile_99.9": functools.partial(percentile, 0.999),
    "mse": mean_squared_error,
    "entropy": entropy,
}


def _best(histogram: Histogram, cost: Callable[[float, float], float]) -> Range:
    """Return the range of the lowest cost, of those from one of SHARES of the lowest to one of the highest value."""
    low, high = minmax(histogram)
    for _ in range(ROUNDS):
        if high > 0:
            high = min((share * histogram.high for share in SHARES), key=lambda bound: cost(low, bound))
        if low < 0:
            low = min((share * histogram.low for share in SHARES), key=lambda bound: cost(bound, high))
    return float(low), float(high)


def ranges_by(method: str, found: Mapping[str, Histogram]) -> dict[str, dict]:
    """Return the range of each tensor, as quantize takes it: `rmin` and `rmax`, float32.

    method: one of METHODS, which does not clip what is bounded anyway.
    """
    ranges = {name: (minmax if each.bounded else METHODS[method])(each) for name, each in found.items()}
    return {name: {"rmin": numpy.float32(low), "rmax": numpy.float32(high)} for name, (low, high) in ranges.items()}


def histograms(model: onnx.ModelProto, tensors: Iterable[str], images: numpy.ndarray) -> dict[str, Histogram]:
    """Return a histogram of each tensor of a float32 model; images: uint8 [n, channels, height, width]."""
    names = sorted(tensors)
    if not names:  # ONNX Runtime would refuse to compute nothing; of trained networks all ranges are known
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    running, generator = session(watched.SerializeToString(), 1), numpy.random.default_rng(0)
    bounded = {result for node in model.graph.node if node.op_type in BOUNDED for result in node.output}
    found = {name: Histogram(name in bounded) for name in names}
    start, size = 0, FIRST_BATCH
    while start < len(images):
        batch = images[start : start + size]
        taken = 0
        for name, value in zip(names, running.run(None, {model.graph.input[0].name: batch}), strict=True):
            flat, count = value.ravel(), SAMPLE * len(batch)
            sample = flat if flat.size <= count else flat[generator.integers(flat.size, size=count)]
            found[name].add(float(flat.min()), float(flat.max()), sample)
            taken += value.nbytes
        start += len(batch)
        size = max(1, int(BATCH_MEMORY * len(batch) / taken))
    return found
