"""Layers of an int8 file that stay float32: their names and kinds, and that ONNX Runtime computes them in float32."""

import numpy
import onnx
import onnxruntime
import pytest
import torch
from networks import ReusedBlock, images, lively, onnx_logits, relative_error
from test_quantize import float_model
from torch import nn
from torch.nn import functional

from elagage.modes import MINMAX
from elagage.onnx.contents import count_contents
from elagage.onnx.float32_layers import int8_layers, named_layers, widening
from elagage.onnx.qdq import qdq_places
from elagage.onnx.quantization import quantize, quantize_some
from elagage.onnx.runtime import session
from elagage.onnx.simulation import simulating_session


class Kinds(nn.Module):
    """One layer of each kind, among them one that makes two channels of each."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.widening = nn.Conv2d(8, 16, 5, padding=2, groups=8)
        self.grouped = nn.Conv2d(16, 16, 1, groups=4)
        self.tokens = nn.Linear(16, 16)
        self.linear = nn.Linear(16, num_classes)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = x + functional.relu6(self.depthwise(x))
        x = functional.relu(self.grouped(functional.relu(self.widening(x))))
        tokens = self.tokens(x.flatten(2).transpose(1, 2))
        tokens = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return self.linear(tokens.mean(1))


@pytest.fixture(scope="module")
def float32() -> onnx.ModelProto:
    return float_model(lively(Kinds()), Kinds)


def test_layers_have_the_names_of_their_weights_and_the_relu_that_follows(float32):
    layers = named_layers(float32)
    kinds = {name: layer.kind for name, layer in layers.items() if name.endswith("weight")}
    assert kinds == {
        "stem.weight": "first Conv 3x3",
        "depthwise.weight": "depthwise Conv 3x3",
        "widening.weight": "widening depthwise Conv 5x5",
        "grouped.weight": "grouped Conv 1x1",
        "tokens.weight": "MatMul",
        "linear.weight": "Gemm",
    }
    assert [layer.kind for layer in layers.values()].count("MatMul of activations") == 2
    operators = {node.name: node.op_type for node in float32.graph.node}
    assert [operators[node] for node in layers["depthwise.weight"].nodes] == ["Conv", "Clip"]
    assert [operators[node] for node in layers["stem.weight"].nodes] == ["Conv", "Relu"]


def test_a_layer_that_widens_each_channel_by_itself_stays_float32(float32):
    assert list(widening(float32)) == ["widening.weight"]
    int8 = quantize(float32, "static", images(8))
    assert "widening.weight" in {tensor.name for tensor in int8.graph.initializer}
    layers = int8_layers(float32, int8, "all")
    assert "widening.weight" not in layers
    assert {"stem.weight", "depthwise.weight", "grouped.weight", "tokens.weight", "linear.weight"} <= layers.keys()


def operators_run(model: onnx.ModelProto, tmp_path) -> list[str]:
    """Return the operators that ONNX Runtime makes of a file when it loads it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


@pytest.mark.parametrize("name", ["depthwise.weight", "grouped.weight", "stem.weight"])
def test_onnx_runtime_computes_in_float32_what_stays_float32(float32, name, tmp_path):
    pixels = images(8)
    usual = quantize(float32, "static", pixels)
    kept = quantize(float32, "static", pixels, calibration=MINMAX._replace(float32=(name,)))
    assert name in {tensor.name for tensor in kept.graph.initializer}
    counts = [operators_run(model, tmp_path).count("QLinearConv") for model in (usual, kept)]
    assert counts[0] - counts[1] == 1
    logits = session(kept.SerializeToString(), 1).run(None, {"image": pixels})[0]
    exact = simulating_session(kept.SerializeToString(), 1).run(None, {"image": pixels})[0]
    assert relative_error(logits, exact) < 0.02


class Answer(nn.Module):
    """Ends in what makes 256 levels of the logits too few: a scale for each class, and the logits of two heads."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.heads = nn.ModuleList(nn.Linear(8, num_classes) for _ in range(2))
        self.scale = nn.Parameter(torch.tensor([0.01, 1.0, 100.0]))

    def forward(self, x):
        features = functional.relu(self.stem(x)).mean((2, 3))
        return functional.relu(self.heads[0](features)) * self.scale + self.heads[1](features)


class AnswerOfConvolution(nn.Module):
    """Has its classes as channels of the last convolution, as a SqueezeNet."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.stem, self.head = nn.Conv2d(in_channels, 8, 3, padding=1), nn.Conv2d(8, num_classes, 1)

    def forward(self, x):
        return functional.relu(self.head(functional.relu(self.stem(x)))).mean((2, 3)).log_softmax(1)


@pytest.mark.parametrize("calibration", [MINMAX, MINMAX._replace(method="entropy", operators="weighted")])
@pytest.mark.parametrize("network", [Answer, AnswerOfConvolution])
def test_the_answer_is_not_rounded(network, calibration, tmp_path):
    float32 = float_model(lively(network()), network)
    int8 = quantize(float32, "static", images(64), calibration=calibration)
    onnx.checker.check_model(int8, full_check=True)
    logits = onnx_logits(int8, images(64))
    assert len(numpy.unique(logits)) > 256 / 3 * 2, "of 192 values, few are equal"
    after = operators_run(int8, tmp_path)
    assert not {"Conv", "Gemm", "MatMul", "FusedConv"}.intersection(after), "all products are int8"
    layers = int8_layers(float32, int8, calibration.operators)
    weights = {name for name, layer in layers.items() if "." in name}
    assert weights == {name for name in named_layers(float32) if name.endswith("weight")}
    used = {name for node in int8.graph.node for name in node.input}
    assert {tensor.name for tensor in int8.graph.initializer} <= used


BRANCHES = """<ir_version: 10, opset_import: ["": 20]>
branches (uint8[n, 3, 16, 16] image) => (float[n, 3] logits) {
    [cast] pixels = Cast<to = 1>(image)
    [conv] convolved = Conv(pixels, stem)
    [relu] positive = Relu(convolved)
    [pool] pooled = GlobalAveragePool(positive)
    [flatten] features = Flatten(pooled)
    [sum] total = ReduceSum<keepdims = 0>(features)
    [greater] larger = Greater(total, limit)
    [if] logits = If(larger) <
        then_branch = first () => (float[n, 3] a) { [a] a = MatMul(features, head) },
        else_branch = second () => (float[n, 3] b) { [b] b = MatMul(features, other) }
    >
}"""


def test_the_branches_of_a_network_take_what_is_computed_before():
    float32, generator = onnx.parser.parse_model(BRANCHES), numpy.random.default_rng(0)
    shapes = {"stem": (8, 3, 3, 3), "head": (8, 3), "other": (8, 3), "limit": ()}
    for name, shape in shapes.items():
        values = generator.normal(size=shape).astype(numpy.float32)
        float32.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    int8 = quantize(float32, "static", images(64))
    onnx.checker.check_model(int8, full_check=True)
    found, expected = (
        session(model.SerializeToString(), 1).run(None, {"image": images(8)})[0] for model in (int8, float32)
    )
    assert relative_error(found, expected) < 0.05


def test_a_network_may_have_no_layer_left_to_round(float32):
    layers = named_layers(float32)
    some = quantize_some(float32, "static", images(8), None, MINMAX._replace(float32=tuple(layers)))
    assert count_contents(some)["int8_weights"] == 0
    assert not qdq_places(some).weights
    numpy.testing.assert_allclose(onnx_logits(some, images(4)), onnx_logits(float32, images(4)), atol=0.05)


def test_a_shared_weight_is_one_layer_of_all_nodes_that_use_it():
    layers = named_layers(float_model(lively(ReusedBlock()), ReusedBlock))
    assert len(layers["conv.weight"].nodes) == 3
