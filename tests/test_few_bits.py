"""Modes static4 and static3: few levels where they are promised, from inputs that are measured right."""

import numpy
import onnx
import onnxruntime
import pytest
import torch
from networks import (
    DATASET,
    NETWORKS,
    SIZE,
    ReusedBlock,
    images,
    lively,
    onnx_logits,
    relative_error,
    torch_logits,
)
from test_quantize import float_model
from torch import nn

from elagage.errors import RefusedError
from elagage.onnx.contents import count_contents, end_weights
from elagage.onnx.few_bits import round_layers
from elagage.onnx.layer_inputs import input_moments, layers, rows
from elagage.onnx.qdq import qdq_places
from elagage.onnx.quantization import quantize
from elagage.onnx.tensors import initializers
from elagage.packing.pack import pack
from elagage.pytorch.pruning import magnitude_prune
from elagage.rounding import round_weight


class Layers(nn.Module):
    """Convolutions of several kinds, and linear layers on vectors and on sequences."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.strided = nn.Conv2d(8, 8, (3, 2), stride=(2, 1), padding=(2, 1), groups=2)
        self.dilated = nn.Conv2d(8, 6, 3, dilation=2, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding="same", groups=6)
        self.along = nn.Conv1d(6, 5, 3, padding=1)
        self.sequence = nn.Linear(5, 7, bias=False)
        self.hidden = nn.Linear(7, 9)
        self.last = nn.Linear(9, 3)

    def forward(self, pixels):
        values = self.strided(self.first(pixels).relu()).relu()
        values = self.depthwise(self.dilated(values).relu()).relu()
        values = self.along(values.flatten(2)).relu()
        values = self.sequence(values.mT).relu().mean(1)
        return self.last(self.hidden(values).relu())


def layer_outputs(model, node, pixels):
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([node.output[0]], {"image": pixels})[0]


def test_moments_are_those_of_what_layers_multiply():
    torch.manual_seed(0)
    model = float_model(lively(Layers()), Layers)
    found, pixels = layers(model), images(19)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert len(found) == 8
    for name, moments in input_moments(model, found, pixels):
        (node,) = found[name]
        outputs = layer_outputs(model, node, pixels)
        outputs = numpy.moveaxis(outputs, 1 if node.op_type == "Conv" else -1, 0)
        bias = tensors[node.input[2]] if len(node.input) > 2 else numpy.zeros(len(outputs))
        outputs = outputs.reshape(len(outputs), -1) - bias[:, None]
        # Of layers with few outputs all positions are taken, so that the moments say exactly what comes out.
        assert moments.positions == outputs.shape[1]
        weight = rows(node, tensors[name])
        assert numpy.einsum("goi,gi->go", weight, moments.mean).ravel() == pytest.approx(outputs.mean(1), abs=1e-4)
        for centred, expected in ((True, outputs.var(1)), (False, (outputs**2).mean(1))):
            squares = numpy.einsum("goi,gij,goj->go", weight, moments.mean_products(centred), weight).ravel()
            assert squares == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_moments_do_not_depend_on_how_many_weights_are_taken_together(monkeypatch):
    model = float_model(lively(Layers()), Layers)
    together = dict(input_moments(model, layers(model), images(19)))
    monkeypatch.setattr("elagage.onnx.layer_inputs.MEMORY", 1)
    for name, moments in input_moments(model, layers(model), images(19)):
        assert moments.mean == pytest.approx(together[name].mean, abs=1e-6)


def levels(model: onnx.ModelProto) -> list[int]:
    """Return how many different numbers each int8 weight has in a channel, at most."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [int(abs(array).max()) for array in constants.values() if array.dtype == numpy.int8 and array.ndim > 1]


@pytest.mark.parametrize(("mode", "largest"), [("static4", 7), ("static3", 3)])
def test_inner_layers_have_few_levels_and_the_file_packs_better(mode, largest):
    network = lively(NETWORKS["resnet8"]())
    magnitude_prune(network, DATASET, "global", 0.3)
    model = float_model(network, NETWORKS["resnet8"])
    static, few = (quantize(model, name, images(64, seed=2)) for name in ("static", mode))
    first, *inner, last = levels(few)
    assert max(inner) == largest
    assert first > largest and last > largest
    contents, before = count_contents(few), count_contents(model)
    assert contents["int8_weights"] == contents["weights"] == before["weights"]
    assert contents["int8_operators"] == contents["operators"]
    assert contents["zeros"] >= before["zeros"]
    sizes = [len(pack(content, initializers(content))) for content in (m.SerializeToString() for m in (static, few))]
    assert sizes[1] < 0.75 * sizes[0]
    assert relative_error(onnx_logits(few, images(50)), torch_logits(network, images(50))) < {7: 0.1, 3: 0.3}[largest]


@pytest.mark.parametrize("kind", [Layers, ReusedBlock])
def test_rounding_follows_the_inputs_of_layers(kind, monkeypatch):
    """The nearest levels, without regard to inputs, are further from the float32 network."""
    torch.manual_seed(0)
    network = lively(kind())
    model = float_model(network, kind)
    pixels = images(128, seed=2)
    expected = torch_logits(network, images(50))
    few = relative_error(onnx_logits(quantize(model, "static3", pixels), images(50)), expected)
    monkeypatch.setattr(
        "elagage.onnx.few_bits.round_weight", lambda weight, _, largest, __: round_weight(weight, None, largest)
    )
    nearest = relative_error(onnx_logits(quantize(model, "static3", pixels), images(50)), expected)
    assert few < 0.8 * nearest


def test_a_network_without_inner_layers_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, SIZE), nn.Linear(4, 3)

        def forward(self, pixels):
            return self.last(self.first(pixels).flatten(1).relu())

    with pytest.raises(RefusedError, match=r"between the first and the last layers, no conv.*use static"):
        quantize(float_model(Two(), Two), "static4", images(8))


def test_the_bias_takes_what_the_mean_output_moves():
    network = lively(NETWORKS["resnet8"]())
    model = float_model(network, NETWORKS["resnet8"])
    few = quantize(model, "static3", images(256, seed=2))
    found, expected = (onnx_logits(each, images(256, seed=2)).mean(0) for each in (few, model))
    assert numpy.abs(found - expected).max() < 0.1 * numpy.abs(expected).max()


def test_places_are_those_of_weights_that_become_int8():
    model = float_model(lively(Layers()), Layers)
    assert {*layers(model)} <= {*qdq_places(quantize(model, "static", images(8))).weights}


class Shared(nn.Module):
    """A weight of two convolutions, each with a bias of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 3)
        self.one, self.other = (nn.Conv2d(16, 16, 3, stride=stride, padding=1) for stride in (1, 2))
        self.other.weight = self.one.weight

    def forward(self, pixels):
        values = self.other(self.one(self.first(pixels).relu()).relu()).relu()
        return self.last(values.mean((2, 3)))


class Scaled(nn.Module):
    """A matrix product that is multiplied with a number before its bias is added."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(32, 3)
        self.weight, self.bias = nn.Parameter(torch.randn(64, 32)), nn.Parameter(torch.randn(32))

    def forward(self, pixels):
        values = self.first(pixels).relu().flatten(1) + 1
        return self.last(torch.addmm(self.bias, values, self.weight, alpha=0.1).relu())


@pytest.mark.parametrize(
    ("kind", "moved"), [(Shared, set()), (Scaled, set()), (Layers, {"strided.bias", "along.bias"})]
)
def test_a_bias_moves_only_with_a_weight_that_is_its_own(kind, moved):
    torch.manual_seed(0)
    model = float_model(kind().eval(), kind)
    rounded = round_layers(model, qdq_places(quantize(model, "static", images(8))), images(64), 7).model
    before, after = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in each.graph.initializer}
        for each in (model, rounded)
    )
    changed = {name for name, array in before.items() if not numpy.array_equal(array, after[name])}
    assert {name for name in changed if before[name].ndim == 1} >= moved
    assert any(before[name].ndim > 1 for name in changed)
    assert moved or not any(before[name].ndim == 1 for name in changed)


class Gated(nn.Module):
    """Two stems, and logits that a gate multiplies, computed after them."""

    def __init__(self):
        super().__init__()
        self.stem, self.other_stem = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.inner = nn.Conv2d(8, 8, 3)
        self.head, self.gate = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, pixels):
        values = self.stem(pixels).relu() + self.other_stem(pixels).relu()
        logits = self.head(self.inner(values).relu().mean((2, 3)))
        return logits * self.gate(values.mean((2, 3))).sigmoid()


def test_first_and_last_layers_are_those_that_no_other_feeds_and_that_feed_no_other():
    ends = end_weights(float_model(lively(Gated()), Gated))
    assert ends == {f"{name}.weight" for name in ("stem", "other_stem", "head", "gate")}
    assert end_weights(float_model(lively(Layers()), Layers)) == {"first.weight", "last.weight"}


def test_the_user_is_told_which_weights_keep_their_levels(capfd):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.wide = nn.Conv2d(3, 40, 3, padding=1), nn.Linear(40 * SIZE**2, 8)
            self.hidden, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, pixels):
            return self.last(self.hidden(self.wide(self.first(pixels).flatten(1)).relu()).relu())

    quantize(float_model(lively(Wide()), Wide), "static4", images(8))
    assert "of the weights keep the levels of static: wide.weight (81920)" in capfd.readouterr().out


def test_images_are_taken_in_as_many_batches_as_memory_permits(monkeypatch):
    model = float_model(lively(Layers()), Layers)
    whole = dict(input_moments(model, layers(model), images(40)))
    monkeypatch.setattr("elagage.onnx.layer_inputs.BATCH_MEMORY", 1)
    for name, moments in input_moments(model, layers(model), images(40)):
        assert moments.positions == pytest.approx(whole[name].positions, rel=0.05)
        assert moments.mean == pytest.approx(whole[name].mean, abs=0.05 + 0.1 * abs(whole[name].mean).max())
