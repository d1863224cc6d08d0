"""Channels of small weights keep their levels, and their biases leave the sums of products room."""

import numpy
import onnx
import pytest
import torch
from networks import DATASET, images, lively, onnx_logits, relative_error
from test_quantize import float_model
from test_unsupported_int8 import Between, centred_error
from torch import nn
from torch.nn import functional

from elagage.onnx.int32_bias import LARGEST_BIAS, leave_room_for_sums
from elagage.onnx.qdq import qdq_places
from elagage.onnx.quantization import quantize
from elagage.pytorch.qat import check_agreement, prepare

WIDE = 2048  # inputs of a channel


class SmallBeforeNorm(Between):
    """Weights that a norm, which is no part of the convolution, scales up."""

    def make(self):
        self.next = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, 16, eps=1e-20)

    def between(self, x):
        return functional.relu(self.norm(functional.conv2d(x, 1e-6 * self.next.weight, padding=1)))


class GivenUp(Between):
    """Channels that do little beyond their bias."""

    def make(self):
        self.wide = nn.Conv2d(16, WIDE, 1)
        self.next = nn.Conv2d(WIDE, 16, 1)

    def between(self, x):
        return functional.relu(self.next(functional.relu(self.wide(x))))


class GivenUpTwice(GivenUp):
    """The same with a weight that another convolution has, too."""

    def between(self, x):
        x = functional.relu(self.wide(x))
        return functional.relu(self.next(x) + functional.conv2d(x, self.next.weight, self.next.bias / 2))


class SharedWithDead(Between):
    """A weight of two convolutions, of which one takes nothing but zeros."""

    def make(self):
        self.shared = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Parameter(torch.ones(16))

    def between(self, x):
        dead = functional.conv2d(functional.relu(x - 100), self.shared.weight, self.last, padding=1)
        return functional.relu(self.shared(x) * dead)


class SharedTwice(SharedWithDead):
    def between(self, x):
        return functional.relu(self.shared(x) + functional.conv2d(x, self.shared.weight, self.last, padding=1))


class BiasOfTheImage(Between):
    """A matrix product with a bias that is computed."""

    def make(self):
        self.weight = nn.Parameter(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
        self.linear = nn.Linear(16, 16)

    def between(self, x):
        mean = x.mean((2, 3))
        return functional.relu(torch.addmm(self.linear(mean), mean, self.weight))[..., None, None]


def given_up(largest: float, inputs: float, kind: type[GivenUp] = GivenUp) -> nn.Module:
    """Return the network with so large weights, and inputs of them."""
    network = lively(kind())
    with torch.no_grad():
        network.wide.weight.mul_(0.01 * inputs)
        network.wide.bias.fill_(inputs)
        network.next.weight.abs_().mul_(largest / network.next.weight.max())
        network.next.bias.fill_(2.0)
    return network


def biases(model: onnx.ModelProto) -> list[numpy.ndarray]:
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    uses = (node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear")
    return [constants[name] for name in uses if name in constants and constants[name].dtype == numpy.int32]


@pytest.mark.parametrize(
    ("largest", "inputs", "kind"),
    [
        (3e-7, 1.0, GivenUp),
        (3e-6, 1.0, GivenUp),
        (3e-5, 0.01, GivenUp),
        (1e-4, 0.01, GivenUp),
        (2e-3, 0.01, GivenUpTwice),
    ],
)
def test_sums_have_room_beside_large_biases(largest, inputs, kind):
    float32 = float_model(given_up(largest, inputs, kind), kind)
    int8 = quantize(float32, "static", images(40))
    expected, found = (onnx_logits(model, images(40, seed=1)) for model in (float32, int8))
    assert relative_error(found, expected) < 0.05
    assert LARGEST_BIAS / 2 < max(numpy.abs(bias.astype(numpy.int64)).max() for bias in biases(int8)) <= LARGEST_BIAS


def test_only_channels_of_large_biases_change():
    network = given_up(1e-4, 0.01)
    with torch.no_grad():
        network.next.bias[:3] = 0.0
        network.next.weight[:, 0] = 1e-4  # so that a scale tells what the largest level is
    int8 = quantize(float_model(network, GivenUp), "static", images(8))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    largest = numpy.abs(constants["next.weight_quantized"]).max((1, 2, 3))
    assert (largest[:3] == 64).all()
    assert (largest[3:] <= 10).all()


def test_small_weights_before_a_norm_keep_their_levels():
    float32 = float_model(lively(SmallBeforeNorm()), SmallBeforeNorm)
    int8 = quantize(float32, "static", images(40))
    expected, found = (onnx_logits(model, images(40, seed=1)) for model in (float32, int8))
    assert centred_error(found, expected) < 0.2


def test_small_weights_are_trained_as_the_file_rounds_them():
    trainable = prepare(lively(SmallBeforeNorm()), DATASET, images(40), torch.device("cpu"))
    assert check_agreement(trainable, DATASET, images(40, seed=1)).error < 0.05


@pytest.mark.parametrize("network", [SharedWithDead, BiasOfTheImage])
def test_a_bias_takes_no_levels_from_another_use_of_its_weight(network):
    float32 = float_model(lively(network()), network)
    int8 = quantize(float32, "static", images(40))
    expected, found = (onnx_logits(model, images(40, seed=1)) for model in (float32, int8))
    assert centred_error(found, expected) < 0.3


@pytest.mark.parametrize("mode", ["static", "static3"])
def test_shared_weights_that_keep_their_levels_become_int8(mode):
    int8 = quantize(float_model(lively(SharedTwice()), SharedTwice), mode, images(40))
    assert "shared.weight" in qdq_places(int8).weights


def test_of_a_weight_with_one_scale_all_channels_change():
    values = {
        "weight": numpy.full((3, 2), 40, numpy.int8),
        "weight_scale": numpy.float32(0.5),
        "bias": numpy.array([2**30 + 2, 4, -6], numpy.int32),
        "bias_scale": numpy.array([0.25], numpy.float32),
    }
    nodes = [
        onnx.helper.make_node("DequantizeLinear", [name, f"{name}_scale"], [f"{name}_f"]) for name in ("weight", "bias")
    ]
    nodes.append(onnx.helper.make_node("Gemm", ["x", "weight_f", "bias_f"], ["y"], transB=1))
    graph = onnx.helper.make_graph(nodes, "one scale", [], [])
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    model = onnx.helper.make_model(graph)
    leave_room_for_sums(model)
    after = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert (after["weight"] == 20).all()
    assert after["bias"].tolist() == [2**29 + 1, 2, -3]
    assert {name: value.tolist() for name, value in after.items() if "scale" in name} == {
        "weight_scale": 1.0,
        "bias_scale": [0.5],
    }
