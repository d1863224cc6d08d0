"""Pruned layers fitted to dense ones: what they see, what they get, and that nothing else changes."""

import copy
import math

import pytest
import torch
from networks import (
    DATASET,
    NETWORKS,
    Grouped,
    InPlace,
    LinearBatchNorm,
    Pooling,
    ReusedBlock,
    SharedConvolution,
    Tied,
    images,
    lively,
    relative_error,
    torch_logits,
)
from torch import nn
from torch.nn import functional

from elagage.errors import RefusedError
from elagage.pytorch import reconstruction
from elagage.pytorch.channels import channel_prune
from elagage.pytorch.export import trace
from elagage.pytorch.pruning import count_weights, magnitude_prune
from elagage.pytorch.reconstruction import affordable_images, check_reconstruct, reconstruct, sample
from elagage.pytorch.walk import Walk

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@pytest.mark.parametrize("dims", CONVOLUTIONS)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2), (3, 1, 2)])
def test_weights_times_sampled_inputs_are_sampled_outputs(dims, groups, stride, padding, dilation):
    generator = torch.Generator().manual_seed(0)
    pixels, weight = torch.randn(3, 4, *range(7, 7 + dims)), torch.randn(8, 4 // groups, *range(2, 2 + dims))
    bias = torch.randn(8)
    geometry = {"stride": [stride], "padding": [padding] * dims, "dilation": [dilation], "groups": groups}
    outputs = CONVOLUTIONS[dims](pixels, weight, bias, stride, padding, dilation, groups)
    arguments = {"input": pixels, "weight": weight, "bias": bias, **geometry}
    inputs, targets = sample(arguments, outputs, None, 50, generator)
    places = outputs.numel() // 8
    assert inputs.shape == (min(50, places), groups, weight[0].numel())
    expected = torch.einsum("pgi,goi->pgo", inputs, weight.reshape(groups, 8 // groups, -1))
    torch.testing.assert_close(targets, expected, rtol=1e-4, atol=1e-4)


def test_only_the_kept_outputs_are_targets():
    pixels, weight = torch.randn(5, 6, 7), torch.randn(4, 7)
    arguments = {"input": pixels, "weight": weight[[0, 3]], "bias": None}
    inputs, targets = sample(arguments, functional.linear(pixels, weight), [0, 3], 12, torch.Generator())
    torch.testing.assert_close(targets[:, 0], inputs[:, 0] @ weight[[0, 3]].T)
    assert targets.shape == (12, 1, 2)


def test_a_walk_computes_what_the_network_does():
    network, pixels = lively(InPlace()), images(5)
    program = trace(network, DATASET)
    walk = Walk(program, network, list(torch.from_numpy(pixels).split(2)))
    with torch.inference_mode():
        for node in walk.nodes:
            walk.compute(node)
    (logits,) = program.graph.output_node().args[0]
    assert relative_error(torch.cat(walk.values[logits]).numpy(), torch_logits(network, pixels)) < 1e-6
    assert set(walk.values) == {logits}, "what no later node needs is forgotten"


def pruned(network: nn.Module, rate: float = 0.6) -> nn.Module:
    smaller = copy.deepcopy(network)
    magnitude_prune(smaller, DATASET, "global", rate)
    return smaller


@pytest.mark.parametrize(
    "build",
    [
        NETWORKS["resnet8"],
        NETWORKS["resnet20"],
        ReusedBlock,
        Grouped,
        SharedConvolution,
        Tied,
        LinearBatchNorm,
        InPlace,
        Pooling,
    ],
)
def test_logits_come_nearer_to_the_dense_network_and_zeros_stay(build):
    dense = lively(build())
    network, pixels = pruned(dense), images(64, seed=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    error = relative_error(torch_logits(network, images(32)), torch_logits(dense, images(32)))
    found = reconstruct(network, dense, DATASET, pixels, {}, memory=None, label="")
    assert found.images == 64
    after = network.state_dict()
    assert {name: tensor.shape for name, tensor in before.items()} == {n: t.shape for n, t in after.items()}
    assert all((after[name][tensor == 0] == 0).all() for name, tensor in before.items() if tensor.dim() > 1)
    now = relative_error(torch_logits(network, images(32)), torch_logits(dense, images(32)))
    assert now < 0.6 * error


def test_nothing_changes_where_nothing_is_pruned():
    dense = lively(ReusedBlock())
    network = copy.deepcopy(dense)
    reconstruct(network, dense, DATASET, images(20), {}, memory=None, label="")
    assert relative_error(torch_logits(network, images(8)), torch_logits(dense, images(8))) < 1e-3


def test_the_same_images_give_the_same_weights():
    dense = lively(ReusedBlock())
    networks = [pruned(dense) for _ in range(2)]
    for network in networks:
        reconstruct(network, dense, DATASET, images(20), {}, memory=None, label="")
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


class Twins(nn.Module):
    """Channels in pairs that are equal up to a factor and an offset: half of them can be done without."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.second, self.linear = nn.Conv2d(32, 16, 3, padding=1), nn.Linear(16, 3)
        with torch.no_grad():
            self.first.weight[16:] = 0.5 * self.first.weight[:16]

    def forward(self, x):
        return self.linear(functional.relu(self.second(self.norm(self.first(x)))).mean((2, 3)))


def test_removed_channels_that_others_can_stand_in_for_cost_nothing():
    dense = lively(Twins())
    network = copy.deepcopy(dense)
    _, kept = channel_prune(network, DATASET, 0.45, count_weights(dense, DATASET).weights)
    assert len(kept["first.weight"]) < 32
    expected = torch_logits(dense, images(16))
    assert relative_error(torch_logits(network, images(16)), expected) > 0.1
    reconstruct(network, dense, DATASET, images(80, seed=2), kept, memory=None, label="")
    assert relative_error(torch_logits(network, images(16)), expected) < 0.02


class Transposed(ReusedBlock):
    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.norm = nn.ConvTranspose2d(16, 16, 3, padding=1)


def test_what_cannot_be_fitted_is_named(monkeypatch):
    monkeypatch.setattr(reconstruction, "MOST_INPUTS", 100)
    dense = lively(Transposed())
    network = pruned(dense)
    left = reconstruct(network, dense, DATASET, images(20), {}, memory=None, label="").left
    assert left == {
        "conv.weight": "it has 144 inputs, more than 100",
        "norm.weight": "it is multiplied otherwise than by a convolution or a linear layer",
    }
    check_reconstruct(network, dense, DATASET, images(4), {})
    monkeypatch.setattr(reconstruction, "MOST_INPUTS", 1)
    nothing = r"changes nothing: 'stem\.weight' \(it has 27 inputs.* and 1 more"
    with pytest.raises(RefusedError, match=nothing):
        reconstruct(network, dense, DATASET, images(20), {}, memory=None, label="")
    with pytest.raises(RefusedError, match=nothing):
        check_reconstruct(network, dense, DATASET, images(4), {})


def test_images_are_as_many_as_the_memory_is_for(monkeypatch):
    network = lively(ReusedBlock())
    program = trace(network, DATASET)
    monkeypatch.setattr(reconstruction, "FEWEST_IMAGES", 1)
    few, many = (affordable_images(program, network, images(30), memory) for memory in (4e6, 8e6))
    bytes_of_a_map = 4 * 16 * DATASET.image_size**2
    assert few == pytest.approx(4e6 / (2 * 2 * bytes_of_a_map), rel=0.1)
    assert many == pytest.approx(2 * few, abs=1)
    monkeypatch.setattr(reconstruction, "FEWEST_IMAGES", 20)
    assert affordable_images(program, network, images(30), 1.0) == 20
    dense = copy.deepcopy(network)
    assert reconstruct(pruned(network), dense, DATASET, images(30), {}, memory=1.0, label="").images == 20


def test_intercepts_go_into_biases_and_running_means():
    dense = lively(build := NETWORKS["resnet8"]())
    network = pruned(build)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    reconstruct(network, dense, DATASET, images(32), {}, memory=None, label="")
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    kinds = {name.rsplit(".", 1)[1] for name in changed if "bn" in name or name.startswith("stage2.0.shortcut.1")}
    assert kinds == {"running_mean"}
    assert {"linear.weight", "linear.bias"} <= changed


def test_a_few_images_are_enough_to_hold_some_out():
    dense = lively(ReusedBlock())
    assert reconstruct(pruned(dense), dense, DATASET, images(5), {}, memory=None, label="").images == 5
    assert math.isfinite(float(torch_logits(dense, images(1)).sum()))


class Middle(nn.Module):
    """A network whose middle a subclass gives: images [n, 16, 16, 16] to [n, any, height, width]."""

    def __init__(self):
        super().__init__()
        self.stem, self.linear = nn.Conv2d(3, 16, 3, padding=1), nn.LazyLinear(3)
        self.build()

    def build(self):
        pass

    def forward(self, x):
        return self.linear(functional.relu(self.middle(functional.relu(self.stem(x)))).mean((2, 3)))


class Reflecting(Middle):
    def build(self):
        self.middle = nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")


class Same(Middle):
    def build(self):
        self.middle = nn.Conv2d(16, 16, (4, 3), padding="same", dilation=(1, 2))


class Valid(Middle):
    def build(self):
        self.middle = nn.Conv2d(16, 16, 3, padding="valid")


class Far(Middle):
    """Values whose mean is far from 0 meet a depthwise convolution."""

    def build(self):
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)

    def middle(self, x):
        return self.depthwise(x + 100)


class Auxiliary(Middle):
    """A second head, computed in evaluation, too, and used in training only."""

    def build(self):
        self.middle, self.auxiliary = nn.Conv2d(16, 16, 1, bias=False), nn.Linear(3, 3)

    def forward(self, x):
        logits = super().forward(x)
        auxiliary = self.auxiliary(logits)
        return logits + auxiliary if self.training else logits


class OverTokens(Middle):
    """Batch norm over another dimension than that of a linear layer's outputs."""

    def build(self):
        self.wide, self.norm = nn.Linear(16, 24, bias=False), nn.BatchNorm2d(16)

    def middle(self, x):
        return self.norm(self.wide(x + 3))


class Frozen(Middle):
    def build(self):
        self.convolution = nn.Conv2d(16, 16, 3)

    def middle(self, x):
        with torch.no_grad():
            return self.convolution(x)


ODD = [Frozen, Reflecting, Same, Valid, Far, Auxiliary, OverTokens]


@pytest.mark.parametrize("rate", [0.6, 0.95])
@pytest.mark.parametrize("build", ODD)
def test_odd_layers_end_with_numbers_of_a_usual_size_and_come_nearer(build, rate):
    dense = build()
    torch_logits(dense, images(2))
    dense = lively(dense)
    network = pruned(dense, rate)
    zeros = {name: tensor == 0 for name, tensor in network.state_dict().items()}
    error = relative_error(torch_logits(network, images(64)), torch_logits(dense, images(64)))
    left = reconstruct(network, dense, DATASET, images(160, seed=2), {}, memory=None, label="").left
    assert not left or build is Auxiliary
    for name, tensor in network.state_dict().items():
        assert tensor.abs().max() < 1e3
        assert tensor.dim() < 2 or not tensor[zeros[name]].any()
    assert relative_error(torch_logits(network, images(64)), torch_logits(dense, images(64))) < error


@pytest.mark.parametrize("build", [ReusedBlock, SharedConvolution])
def test_a_module_that_is_called_several_times_is_fitted_without_some_channels(build):
    dense = lively(build())
    network = copy.deepcopy(dense)
    _, kept = channel_prune(network, DATASET, 0.3, count_weights(dense, DATASET).weights)
    assert kept
    error = relative_error(torch_logits(network, images(64)), torch_logits(dense, images(64)))
    check_reconstruct(network, dense, DATASET, images(4), kept)
    reconstruct(network, dense, DATASET, images(160, seed=2), kept, memory=None, label="")
    assert relative_error(torch_logits(network, images(64)), torch_logits(dense, images(64))) < error


class Mixed(Middle):
    def build(self):
        self.convolution = nn.Conv2d(16, 16, 3)

    def middle(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.convolution(x)


def test_blocks_that_are_not_entered_are_refused():
    dense = Mixed()
    torch_logits(dense, images(2))
    network = pruned(lively(dense))
    with pytest.raises(RefusedError, match=r"does not enter blocks of torch\.autocast"):
        reconstruct(network, dense, DATASET, images(20), {}, memory=None, label="")
