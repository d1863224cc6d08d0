"""Weights that a network computes in each call: folded, they are pruned, stored and trained like any others."""

import copy

import pytest
import torch
from networks import DATASET, images, onnx_logits, relative_error, tensors, torch_logits
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.onnx.contents import count_contents
from elagage.onnx.graph import with_weights
from elagage.pytorch.channels import channel_prune
from elagage.pytorch.checkpoints import load_network, save_checkpoint
from elagage.pytorch.export import export_graph
from elagage.pytorch.folding import fold, fold_checked
from elagage.pytorch.products import products
from elagage.pytorch.pruning import count_weights, hold_zeros, magnitude_prune, prunable, weight_record

GREY = Dataset("grey", ["a", "b", "c"], 1, 16, [0.5], [0.2], True, {}, {})


def standardized(weight):
    mean, deviation = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True)
    return (weight - mean) / (deviation + 1e-6)


class Standardized(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(x, standardized(self.weight), self.bias, self.stride, self.padding)


class SamePadding(nn.Conv2d):
    """Standardizes by a batch norm over the filters, and pads in its own way, as networks of other frameworks do."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 0.7))

    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(rows, None, None, self.gain.view(-1), training=True, momentum=0.0)
        x = functional.pad(x, (0, 2, 0, 2))
        return functional.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride)


class Equalized(nn.Module):
    """A bare parameter, which is scaled in each call and given by name."""

    def __init__(self, before, after, size, **options):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(after, before, size, size))

    def forward(self, x):
        return functional.conv2d(x, weight=self.kernel * (2 / self.kernel[0].numel()) ** 0.5, padding=1)


def masked(layer):
    prune.random_unstructured(layer, "weight", 0.3)
    return layer


LAYERS = {
    "parametrized_weight_norm": lambda *sizes: parametrizations.weight_norm(nn.Conv2d(*sizes, padding=1)),
    "parametrized_spectral_norm": lambda *sizes: parametrizations.spectral_norm(nn.Conv2d(*sizes, padding=1)),
    "weight_norm": lambda *sizes: weight_norm(nn.Conv2d(*sizes, padding=1)),
    "spectral_norm": lambda *sizes: spectral_norm(nn.Conv2d(*sizes, padding=1)),
    "masked": lambda *sizes: masked(nn.Conv2d(*sizes, padding=1)),
    "standardized": lambda *sizes: Standardized(*sizes, padding=1),
    "same_padding": SamePadding,
    "equalized": Equalized,
}
IN_FORWARD = ("standardized", "same_padding", "equalized")


class Network(nn.Module):
    """Two layers of a kind, and a head."""

    def __init__(self, kind, in_channels=3, num_classes=3):
        super().__init__()
        self.first, self.second = LAYERS[kind](in_channels, 16, 3), LAYERS[kind](16, 32, 3)
        self.norm, self.head = nn.BatchNorm2d(32), nn.Linear(32, num_classes)

    def forward(self, x):
        x = functional.relu(self.first(x))
        return self.head(functional.relu(self.norm(self.second(x))).mean((2, 3)))


WEIGHTS = 3 * 16 * 9 + 16 * 32 * 9 + 32 * 3


def trained(network):
    """Return the network after a few steps, so that nothing is as it was made."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        network.train()(torch.randn(8, 3, 16, 16)).square().sum().backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("kind", LAYERS)
def test_folding_keeps_the_logits_and_leaves_parameters_that_are_multiplied_as_they_are(kind):
    network = trained(Network(kind))
    expected = torch_logits(network, images(4))
    assert fold(network, DATASET) == ["first", "second"]
    assert relative_error(torch_logits(network, images(4)), expected) < 1e-5
    assert count_weights(network, DATASET).weights == WEIGHTS
    assert "unpruned" not in weight_record(network, DATASET)
    assert fold(network, DATASET) == []  # once and for all


@pytest.mark.parametrize("kind", LAYERS)
def test_half_of_the_weights_of_the_file_are_zero_and_it_computes_what_pytorch_computes(kind):
    network = trained(Network(kind))
    fold(network, DATASET)
    magnitude_prune(network, DATASET, "global", 0.5)
    model = with_weights(export_graph(network, DATASET), tensors(network))
    contents = count_contents(model)
    assert contents["weights"] == WEIGHTS
    assert contents["zeros"] == pytest.approx(0.5 * WEIGHTS, rel=0.01)  # a mask may have left more
    operators = {
        "Cast",
        "Sub",
        "Div",
        "Pad",
        "Conv",
        "Relu",
        "ReduceMean",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    }  # normalize the image, and layers
    assert {node.op_type for node in model.graph.node} <= operators
    assert relative_error(onnx_logits(model, images(4)), torch_logits(network, images(4))) < 1e-5


@pytest.mark.parametrize("kind", IN_FORWARD)
def test_names_and_shapes_of_the_state_dict_stay_where_the_layer_is_the_users(kind):
    network = Network(kind)
    before = {name: tensor.shape for name, tensor in network.state_dict().items()}
    fold(network, DATASET)
    assert {name: tensor.shape for name, tensor in network.state_dict().items()} == before
    assert type(network.first).__name__ == type(Network(kind).first).__name__


@pytest.mark.parametrize("kind", LAYERS)
def test_a_checkpoint_of_a_folded_network_is_loaded_as_it_was(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    network = trained(Network(kind))
    fold(network, DATASET)
    monkeypatch.setattr("elagage.pytorch.checkpoints.build_network", lambda *_, **__: Network(kind))
    save_checkpoint("dense.safetensors", network.state_dict(), {})
    loaded, _ = load_network("dense.safetensors", "mine", DATASET)
    assert (torch_logits(loaded.eval(), images(4)) == torch_logits(network, images(4))).all()


@pytest.mark.parametrize("kind", IN_FORWARD)
def test_a_copy_is_trained_and_computes_with_its_own_weights(kind):
    network = trained(Network(kind))
    fold(network, DATASET)
    magnitude_prune(network, DATASET, "global", 0.5)
    copied = copy.deepcopy(network)
    before, weights = torch_logits(network, images(4)), prunable(copied, DATASET)
    start = [getattr(module, name).detach().clone() for module, name in weights]
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.05)
    hold_zeros(weights, optimizer)
    copied.train()(torch.randn(8, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    for (module, name), old in zip(weights, start, strict=True):
        new = getattr(module, name).detach()
        assert not new[old == 0].any()
        assert (new[old != 0] != old[old != 0]).any()
    assert (torch_logits(network, images(4)) == before).all()
    assert relative_error(torch_logits(copied.eval(), images(4)), before) > 1e-3


@pytest.mark.parametrize("kind", ["weight_norm", "standardized"])
def test_channels_of_a_folded_network_can_be_removed(kind):
    network = trained(Network(kind))
    fold(network, DATASET)
    dense = count_weights(network, DATASET).weights
    counts, _ = channel_prune(network, DATASET, 0.5, dense)
    assert 1 - counts.weights / dense == pytest.approx(0.5, abs=0.1)


class SharedStandardized(Network):
    """Two layers standardize one parameter, each by its own gain: no one weight can take its place."""

    def __init__(self):
        super().__init__("standardized")
        self.third, self.fourth = SamePadding(32, 32, 3), SamePadding(32, 32, 3)
        self.fourth.weight = self.third.weight

    def forward(self, x):
        x = functional.relu(self.norm(self.second(functional.relu(self.first(x)))))
        return self.head(self.fourth(self.third(x)).mean((2, 3)))


class Mixed(Network):
    """A convolution whose weight is a mixture that depends on the image."""

    def __init__(self):
        super().__init__("standardized")
        self.experts = nn.Parameter(torch.randn(4, 8, 32, 1, 1))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = functional.relu(self.norm(self.second(functional.relu(self.first(x)))))
        shares = x.mean((0, 2, 3))[:4].softmax(0)
        return self.head(functional.conv2d(x, (shares.view(4, 1, 1, 1, 1) * self.experts).sum(0)).mean((2, 3)))


def test_weights_that_cannot_be_folded_are_named_with_their_number():
    assert fold(network := SharedStandardized(), DATASET) == ["first", "second"]
    assert weight_record(network, DATASET)["unpruned"] == {"third": 32 * 32 * 9, "fourth": 32 * 32 * 9}
    assert fold(network := Mixed(), DATASET) == ["first", "second"]
    assert list(weight_record(network, DATASET)["unpruned"]) == [""]
    assert network.experts not in {getattr(module, name) for module, name in prunable(network, DATASET)}


class Capricious(Standardized):
    """Computes another weight in every call."""

    def forward(self, x):
        noise = torch.rand(())
        return functional.conv2d(x, standardized(self.weight) * noise, self.bias, self.stride, self.padding)


def test_a_network_whose_logits_would_change_is_refused():
    network = Network("standardized")
    network.second = Capricious(16, 32, 3, padding=1)
    with pytest.raises(UserError, match=r"first, second compute their weights .* logits differ"):
        fold_checked(network, DATASET, torch.from_numpy(images(2)))


def test_weights_that_give_no_numbers_are_refused():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    network[0].running_var.fill_(-1)
    with pytest.raises(UserError, match="NaN"):
        fold_checked(network, DATASET, torch.from_numpy(images(2)))


def test_a_network_that_computes_no_weights_stays_as_it_is():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
    kinds, before = [type(module) for module in network.modules()], copy.deepcopy(network.state_dict())
    assert fold(network, GREY) == []
    assert [type(module) for module in network.modules()] == kinds
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert products(network, GREY).others == {}
