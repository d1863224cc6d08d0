"""Ranges of activations: what the histograms of a few values say, and what each method takes from them."""

import numpy
import onnx
import pytest
import torch
from networks import ReusedBlock, images, lively
from test_quantize import float_model

from elagage.modes import CALIBRATIONS, Calibration
from elagage.onnx.calibration import (
    BINS,
    FEWEST,
    METHODS,
    Histogram,
    entropy,
    histograms,
    mean_squared_error,
    minmax,
    percentile,
    ranges_by,
)
from elagage.onnx.qdq import qdq_places
from elagage.onnx.quantization import quantize


def histogram(*parts: numpy.ndarray) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(float(part.min()), float(part.max()), part.astype(numpy.float32))
    return found


def normal(count: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).normal(size=count)


def test_every_method_of_the_configuration_is_there():
    assert tuple(METHODS) == CALIBRATIONS


def test_larger_values_widen_the_bins_and_none_is_forgotten():
    small, large = numpy.linspace(-1, 1, 1001), numpy.linspace(-300, 200, 501)
    found = histogram(small, large)
    counts, values = found.filled()
    assert (found.low, found.high) == (-300, 200)
    assert counts.sum() == 1502
    assert found.edge == 512
    # The bins of the first values were merged, so that these are known within the width of a bin.
    together = numpy.sort(numpy.concatenate([small, large]))
    assert numpy.abs(numpy.repeat(values, counts.astype(int)) - together).max() <= found.width


def test_a_range_has_zero_in_it():
    above, below = histogram(numpy.array([3.0, 5.0])), histogram(numpy.array([-5.0, -3.0]))
    for method in METHODS.values():
        assert method(above)[0] == 0
        assert method(below)[1] == 0


def test_nothing_but_zeros_is_no_range():
    for method in METHODS.values():
        assert method(histogram(numpy.zeros(10))) == (0, 0)


def test_a_percentile_leaves_out_as_many_values_below_as_above():
    values = normal(200_000)
    low, high = percentile(0.99, histogram(values))
    expected = numpy.quantile(values, [0.005, 0.995])
    assert numpy.allclose([low, high], expected, atol=3 * histogram(values).width)
    assert minmax(histogram(values)) == (values.min(), values.max())


def test_a_percentile_of_what_a_relu_returns_begins_at_zero():
    low, high = percentile(0.999, histogram(normal(100_000).clip(0)))
    assert low == 0
    assert 3 < high < 3.6


def squared_error(values: numpy.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    return float(((((values - low) / scale).round().clip(0, 255) * scale + low - values) ** 2).mean())


@pytest.mark.parametrize("outlier", [10, 100])
def test_the_least_squared_error_is_that_of_the_values_themselves(outlier):
    values = normal(200_000)
    values[0] = outlier
    low, high = mean_squared_error(histogram(values))
    tried = [share * bound for share in numpy.linspace(1, 0.05, 20) for bound in (values.min(), values.max())]
    bounds = [(a, b) for a in tried for b in tried if a < 0 < b]
    best = min(squared_error(values, *bound) for bound in bounds)
    assert squared_error(values, low, high) <= 1.02 * best
    assert squared_error(values, low, high) <= squared_error(values, *minmax(histogram(values)))


def test_entropy_clips_what_is_rare_and_far_away():
    values = normal(2 * FEWEST)
    values[:3] = 40
    low, high = entropy(histogram(values))
    assert -6 < low < -2
    assert 2 < high < 10
    few = histogram(values[: FEWEST // 2])
    assert entropy(few) == minmax(few)


def test_memory_does_not_grow_with_values():
    assert histogram(*[normal(1000, seed) for seed in range(50)]).counts.shape == (BINS,)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return float_model(lively(ReusedBlock()), ReusedBlock)


def test_extremes_are_those_that_onnx_runtime_finds(model):
    pixels = images(40)
    expected = qdq_places(quantize(model, "static", pixels)).ranges
    found = histograms(model, expected, pixels)
    same = quantize(model, "static", pixels[:2], ranges_by("minmax", found))
    for name, (scale, zero_point) in qdq_places(same).ranges.items():
        assert scale == pytest.approx(expected[name][0], rel=1e-5)
        assert zero_point == pytest.approx(expected[name][1], abs=1)


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_gates_are_never_clipped(method):
    class Gated(torch.nn.Module):
        def forward(self, pixels):
            return torch.sigmoid(pixels.mean((2, 3)))

    model = float_model(Gated(), Gated)
    gate = next(node.output[0] for node in model.graph.node if node.op_type == "Sigmoid")
    found = histograms(model, [gate], images(40))
    # As a histogram that has seen much: nearly all of it is close to zero, which every method but minmax keeps.
    found[gate].counts[BINS // 2] += 10**9
    (range_,) = ranges_by(method, found).values()
    assert range_["rmax"] == numpy.float32(found[gate].high)


@pytest.mark.parametrize("method", CALIBRATIONS[1:])
@pytest.mark.parametrize("mode", ["static", "static4"])
def test_a_method_narrows_ranges_and_the_same_nodes_are_int8(model, method, mode):
    pixels = images(40)
    usual = qdq_places(quantize(model, mode, pixels))
    found = qdq_places(quantize(model, mode, pixels, calibration=Calibration(method, "all")))
    assert found.ranges.keys() == usual.ranges.keys()
    assert found.weights == usual.weights
    if mode == "static":
        assert all(found.ranges[name][0] <= 1.001 * usual.ranges[name][0] for name in usual.ranges)


def test_ranges_that_are_known_stay_whatever_the_method(model):
    places = qdq_places(quantize(model, "static", images(40)))
    known = {
        name: {"scale": numpy.array(2 * scale, numpy.float32), "zero_point": numpy.array(zero_point, numpy.uint8)}
        for name, (scale, zero_point) in places.ranges.items()
    }
    found = qdq_places(quantize(model, "qat", images(40), known, Calibration("mse", "all"))).ranges
    assert found == {name: (2 * scale, zero_point) for name, (scale, zero_point) in places.ranges.items()}


def test_weighted_operators_leave_the_others_as_they_are(model):
    usual = qdq_places(quantize(model, "static", images(8))).ranges
    weighted = qdq_places(quantize(model, "static", images(8), calibration=Calibration("minmax", "weighted"))).ranges
    # The mean, of which GlobalAveragePool makes two, is rounded by what takes it.
    assert {name.removesuffix("__flat"): range_ for name, range_ in weighted.items()}.items() < usual.items()
