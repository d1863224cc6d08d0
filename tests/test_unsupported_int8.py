"""Networks of which ONNX Runtime's quantizer makes files that compute something else, or none, unless it is told."""

import numpy
import pytest
import torch
from networks import DATASET, images, lively, onnx_logits, relative_error
from test_quantize import float_model
from torch import nn
from torch.nn import functional

from elagage.errors import RefusedError
from elagage.modes import MINMAX, OPERATORS, Calibration
from elagage.onnx.divergence import Answers
from elagage.onnx.float32_layers import unsupported
from elagage.onnx.qdq import qdq_places
from elagage.onnx.quantization import quantize
from elagage.onnx.simulation import Simulation, simulating_session
from elagage.pytorch.qat import check_agreement, prepare


class Between(nn.Module):
    """A convolution, what a subclass does with its 16 channels, the mean over the image, and a linear layer."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.make()
        self.head = nn.Linear(16, num_classes)

    def make(self):
        """Add what the subclass needs."""

    def forward(self, pixels):
        return self.head(self.between(functional.relu(self.stem(pixels))).mean((2, 3)))


class TiedConvolutions(Between):
    def make(self):
        scales = torch.logspace(-1.5, 0, 16).view(16, 1, 1, 1)
        self.weight = nn.Parameter(scales * torch.randn(16, 16, 3, 3, generator=torch.Generator().manual_seed(0)))

    def between(self, x):
        x = functional.relu(functional.conv2d(x, self.weight, padding=1))
        return functional.relu(functional.conv_transpose2d(x, self.weight, padding=1))


class TiedLinear(Between):
    def make(self):
        self.weight = nn.Parameter(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))

    def between(self, x):
        x = functional.relu(functional.linear(x.mean((2, 3)), self.weight))
        return functional.relu(x @ self.weight)[..., None, None]


class AmbiguousNames(Between):
    def make(self):
        self.weight = nn.Parameter(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
        self.weight_scale = nn.Parameter(torch.linspace(0.5, 1.5, 16))
        self.weight_zero_point = nn.Parameter(torch.linspace(-0.1, 0.1, 16))
        self.relu_scale = nn.Parameter(torch.tensor(2.0))

    def between(self, x):
        x = x.mean((2, 3)) * self.relu_scale * self.weight_scale + self.weight_zero_point
        return functional.relu(functional.linear(x, self.weight))[..., None, None]


class ClippedAboveZero(Between):
    def make(self):
        self.next = nn.Conv2d(16, 16, 3, padding=1)

    def between(self, x):
        return functional.relu(self.next((3 * x).clamp(0.5, 2.0)))


class GroupedTransposed(Between):
    bias = True

    def make(self):
        self.up = nn.ConvTranspose2d(16, 16, 2, 2, groups=4, bias=self.bias)
        nn.init.normal_(self.up.weight, generator=torch.Generator().manual_seed(0))

    def between(self, x):
        return functional.relu(self.up(x))


class WithoutBias(GroupedTransposed):
    bias = False


class NormOfImages(Between):
    def make(self):
        self.norm = nn.LayerNorm([16, *[DATASET.image_size] * 2])

    def between(self, x):
        return functional.relu(self.norm(x))


class StackOfMatrices(Between):
    def make(self):
        self.weight = nn.Parameter(torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0)))

    def between(self, x):
        heads = x.mean(2).transpose(1, 2).unflatten(-1, (4, 4)).transpose(1, 2)
        return (heads @ self.weight).transpose(1, 2).flatten(2).transpose(1, 2)[..., None]


class ProductWithVector(Between):
    def make(self):
        self.vector = nn.Parameter(torch.randn(16, generator=torch.Generator().manual_seed(0)))

    def between(self, x):
        tokens = x.permute(0, 2, 3, 1)
        return (tokens * (tokens @ self.vector)[..., None]).permute(0, 3, 1, 2)


class ScaledBias(Between):
    beta, shape = 0.25, (16,)

    def make(self):
        draws = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.3 * torch.randn(16, 16, generator=draws))
        self.bias = nn.Parameter(torch.randn(self.shape, generator=draws))
        self.last = nn.Linear(16, 16)

    def between(self, x):
        x = functional.relu(torch.addmm(self.bias, x.mean((2, 3)), self.weight, beta=self.beta))
        return functional.relu(self.last(x))[..., None, None]


class BiasOfOneRow(ScaledBias):
    beta, shape = 1.0, (1, 16)


class AverageOverTheEdge(Between):
    def make(self):
        self.next = nn.Conv2d(16, 16, 3, padding=1)

    def between(self, x):
        x = functional.max_pool2d(functional.relu(self.next(x)), 3)
        return functional.avg_pool2d(x, 2, 2, ceil_mode=True)


class AverageOverThePadding(AverageOverTheEdge):
    """Windows that reach over the padding, too, in which PyTorch counts the padding."""

    def between(self, x):
        return functional.avg_pool2d(functional.relu(self.next(x)), 3, 2, padding=1, ceil_mode=True)


class AverageOfNoWindowBehind(AverageOverTheEdge):
    """Another window would start in the padding behind the image: PyTorch has none there."""

    def between(self, x):
        x = functional.max_pool2d(functional.relu(self.next(x)), 2, stride=1)
        return functional.avg_pool2d(x, 2, 2, padding=1, ceil_mode=True)


class TiedEmbedding(Between):
    """Rows of a weight, chosen by the image, are added to what the weight is multiplied with."""

    def make(self):
        scales = torch.logspace(-1.5, 0, 16).view(16, 1)
        self.weight = nn.Parameter(scales * torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
        self.linear = nn.Linear(16, 16)

    def forward(self, pixels):
        self.rows = ((pixels[:, 0, 2::4, 2] > 0).long() * torch.tensor([1, 2, 4, 8])).sum(-1)
        return super().forward(pixels)

    def between(self, x):
        x = functional.relu(self.linear(x.mean((2, 3))) + functional.embedding(self.rows, self.weight))
        return functional.relu(functional.linear(x, self.weight))[..., None, None]


class MaskedScores(Between):
    """Attention that sees no token behind its own, by a mask of large numbers."""

    mask = -1e4

    def make(self):
        self.tokens = nn.Linear(16, 48)
        nn.init.normal_(self.tokens.weight, generator=torch.Generator().manual_seed(0))

    def between(self, x):
        query, key, value = self.tokens(x.mean(2).transpose(1, 2)).chunk(3, -1)
        behind = torch.ones(DATASET.image_size, DATASET.image_size, dtype=torch.bool).triu(1)
        scores = (query @ key.transpose(1, 2)).masked_fill(behind, self.mask)
        return (scores.softmax(-1) @ value).transpose(1, 2)[..., None]


class Causal(MaskedScores):
    def between(self, x):
        query, key, value = self.tokens(x.mean(2).transpose(1, 2)).unsqueeze(1).chunk(3, -1)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return seen.squeeze(1).transpose(1, 2)[..., None]


class InfinitelyMasked(MaskedScores):
    mask = -torch.inf


class NormOfSmall(Between):
    def make(self):
        self.next, self.norm = nn.Linear(16, 16), nn.LayerNorm(16, eps=1e-20)
        nn.init.normal_(self.norm.bias, generator=torch.Generator().manual_seed(0))

    def between(self, x):
        return functional.relu(self.norm(1e-8 * self.next(x.mean((2, 3)))))[..., None, None]


NETWORKS = [
    TiedConvolutions,
    TiedLinear,
    AmbiguousNames,
    ClippedAboveZero,
    GroupedTransposed,
    WithoutBias,
    NormOfImages,
    StackOfMatrices,
    ProductWithVector,
    ScaledBias,
    BiasOfOneRow,
    AverageOverTheEdge,
    AverageOverThePadding,
    AverageOfNoWindowBehind,
    TiedEmbedding,
    MaskedScores,
    Causal,
    InfinitelyMasked,
    NormOfSmall,
]


def centred_error(found: numpy.ndarray, expected: numpy.ndarray) -> float:
    """Return the error in relation to what differs between images."""
    return relative_error(found - expected.mean(0), expected - expected.mean(0))


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_file_computes_what_the_network_and_the_simulation_do(network, operators):
    float32 = float_model(lively(network()), network)
    int8 = quantize(float32, "static", images(40), calibration=Calibration("minmax", operators))
    expected, found = (onnx_logits(model, images(40, seed=1)) for model in (float32, int8))
    assert centred_error(found, expected) < 0.1
    simulation = Simulation(float32, int8, operators)
    rounded = simulating_session(simulation.rounding(simulation.layers).SerializeToString(), 1)
    assert centred_error(rounded.run(None, {"image": images(40, seed=1)})[0], found) < 0.05


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_trained_is_what_the_file_computes(network):
    trainable = prepare(lively(network()), DATASET, images(40), torch.device("cpu"))
    found = check_agreement(trainable, DATASET, images(40, seed=1))
    assert found.error < 0.05


def test_only_these_nodes_stay_float32():
    tied, clipped = (float_model(lively(network()), network) for network in (TiedLinear, ClippedAboveZero))
    kinds = {node.name: node.op_type for node in (*tied.graph.node, *clipped.graph.node)}
    assert sorted(kinds[name] for name in unsupported(tied)) in (["Gemm", "MatMul"], ["MatMul", "MatMul"])
    assert [kinds[name] for name in unsupported(clipped)] == ["Clip"]
    assert "next.weight" in qdq_places(quantize(clipped, "static", images(8))).weights
    assert not list(unsupported(float_model(lively(WithoutBias()), WithoutBias)))


class PlainNorm(Between):
    """Layer norm without weights, which the exporter makes ones of while the network runs, where they are many."""

    def between(self, x):
        return functional.layer_norm(functional.interpolate(x, scale_factor=10), [10 * DATASET.image_size] * 2)


def test_a_norm_without_weights_is_no_mistake():
    float32 = float_model(lively(PlainNorm()), PlainNorm)
    int8 = quantize(float32, "static", images(8), calibration=Calibration("minmax", "weighted"))
    assert "stem.weight" in qdq_places(int8).weights


@pytest.mark.parametrize("network", [StackOfMatrices, ProductWithVector])
@pytest.mark.parametrize("mode", ["dynamic", "dynamic_conv"])
def test_what_is_no_matrix_stays_float32_in_dynamic_modes(mode, network):
    float32 = float_model(lively(network()), network)
    expected, found = (onnx_logits(model, images(40)) for model in (float32, quantize(float32, mode)))
    assert centred_error(found, expected) < 0.1


class Logarithm(Between):
    """The logarithm of zeros."""

    def between(self, x):
        return functional.relu((functional.relu(x - 100).log() + x).exp() + x)


def test_infinite_values_are_refused_where_they_would_be_rounded():
    float32 = float_model(lively(Logarithm()), Logarithm)
    with pytest.raises(RefusedError, match="is infinite for some calibration images"):
        quantize(float32, "static", images(8), calibration=MINMAX)
    int8 = quantize(float32, "static", images(40), calibration=Calibration("minmax", "weighted"))
    divergence, _ = Answers(float32, images(40, seed=1), 1).compare(int8)
    assert divergence < 0.01
