"""Pruning: which weights become zero, counted by hand, and what stays."""

import itertools

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from elagage.data import Dataset
from elagage.errors import RefusedError
from elagage.files import sha256
from elagage.pruning import SCOPES as PRUNE
from elagage.pruning import WeightCounts
from elagage.pytorch.checkpoints import load_checkpoint, save_dense
from elagage.pytorch.models import build_network
from elagage.pytorch.pruning import count_weights, hold_zeros, magnitude_prune, prunable, weight_record
from elagage.version import VERSION
from prune import prune

COLOUR = Dataset("colour", ["a", "b"], 3, 8, [0.5] * 3, [0.2] * 3, True, {}, {})
GREY = Dataset("grey", ["a", "b"], 1, 3, [0.5], [0.2], True, {}, {})
COLOUR_9 = Dataset("colour", ["a", "b"], 3, 9, [0.5] * 3, [0.2] * 3, True, {}, {})
SCOPES = ["local", "global"]
RATES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.999]


def filled(module: nn.Module, weight: list[float]) -> nn.Module:
    """Return the module with these weights, row by row, and with a bias, if it has one, of 0.01."""
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weight).view_as(module.weight))
        if module.bias is not None:
            module.bias.fill_(0.01)
    return module


class Pixels(nn.Module):
    """The first pixels of an image."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x):
        return x.flatten(1)[:, : self.count]


class Toy(nn.Module):
    """Small weights in a convolution, larger ones in a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = filled(nn.Conv2d(1, 1, 2), [0.1, -0.2, 0.3, -0.4])
        self.norm = nn.BatchNorm2d(1)
        self.linear = filled(nn.Linear(2, 2), [-5, 4, 3, -0.35])

    def forward(self, x):
        return self.linear(self.norm(self.conv(x)).flatten(1)[:, :2])


def weights(network: nn.Module) -> dict[str, list[float]]:
    layers = network.named_modules()
    return {name: layer.weight.flatten().tolist() for name, layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)}


def zeros(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return where the weights of each convolution and linear layer are zero."""
    layers = network.named_modules()
    return {name: layer.weight == 0 for name, layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)}


@pytest.mark.parametrize(
    "scope, rate, conv, linear",
    [
        ("local", 0.0, [0.1, -0.2, 0.3, -0.4], [-5, 4, 3, -0.35]),
        ("local", 0.25, [0, -0.2, 0.3, -0.4], [-5, 4, 3, 0]),
        ("local", 0.5, [0, 0, 0.3, -0.4], [-5, 4, 0, 0]),
        ("local", 0.75, [0, 0, 0, -0.4], [-5, 0, 0, 0]),
        ("global", 0.0, [0.1, -0.2, 0.3, -0.4], [-5, 4, 3, -0.35]),
        ("global", 0.25, [0, 0, 0.3, -0.4], [-5, 4, 3, -0.35]),
        ("global", 0.5, [0, 0, 0, -0.4], [-5, 4, 3, 0]),
        ("global", 0.75, [0, 0, 0, 0], [-5, 4, 0, 0]),
    ],
)
def test_the_smallest_weights_become_zero_in_each_layer_or_over_all(scope, rate, conv, linear):
    network = Toy()
    assert magnitude_prune(network, GREY, scope, rate) == WeightCounts(conv.count(0) + linear.count(0), 8)
    assert weights(network)["conv"] == pytest.approx(conv)
    assert weights(network)["linear"] == pytest.approx(linear)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("scope", SCOPES)
def test_the_zeros_are_as_many_as_the_rate_says_and_as_counted(scope, rate):
    network = build_network("resnet8", 10, 3)
    counts = magnitude_prune(network, COLOUR, scope, rate)
    masks = zeros(network)
    sizes = [mask.numel() for mask in masks.values()]
    assert counts == WeightCounts(sum(int(mask.sum()) for mask in masks.values()), sum(sizes))
    if scope == "global":
        assert counts.zeros == round(rate * counts.weights)
    else:
        assert [int(mask.sum()) for mask in masks.values()] == [round(rate * size) for size in sizes]


@pytest.mark.parametrize("scope", SCOPES)
def test_zeros_of_a_lower_rate_stay_zeros_at_a_higher_one(scope):
    masks = []
    for rate in RATES:
        network = build_network("resnet8", 10, 3)
        magnitude_prune(network, COLOUR, scope, rate)
        masks.append(zeros(network))
    for lower, higher in itertools.pairwise(masks):
        assert all((higher[name] | ~lower[name]).all() for name in lower)


@pytest.mark.parametrize("scope", SCOPES)
def test_every_weight_left_is_at_least_as_large_as_every_weight_removed(scope):
    dense, network = build_network("resnet8", 10, 3), build_network("resnet8", 10, 3)
    magnitude_prune(network, COLOUR, scope, 0.6)
    removed, kept = [], []
    for name, mask in zeros(network).items():
        weight = dense.get_submodule(name).weight.abs()
        removed.append(weight[mask])
        kept.append(weight[~mask])
    groups = zip(removed, kept, strict=True) if scope == "local" else [(torch.cat(removed), torch.cat(kept))]
    assert all(small.max() <= large.min() for small, large in groups)


@pytest.mark.parametrize("scope", SCOPES)
def test_all_but_pruned_weights_stays_as_it_was_under_the_same_names(scope):
    dense, network = build_network("resnet8", 10, 3), build_network("resnet8", 10, 3)
    nn.init.uniform_(network.linear.bias)
    dense.load_state_dict(network.state_dict())
    magnitude_prune(network, COLOUR, scope, 0.9)
    masks = {f"{name}.weight": mask for name, mask in zeros(network).items()}
    before, after = dense.state_dict(), network.state_dict()
    assert set(before) == set(after)
    for name, tensor in before.items():
        expected = tensor.masked_fill(masks[name], 0) if name in masks else tensor
        assert torch.equal(after[name], expected), name


@pytest.mark.parametrize("scope", SCOPES)
def test_pruned_weights_are_zero_in_every_bit_because_signs_of_zeros_would_not_compress(scope):
    network = Toy()
    magnitude_prune(network, GREY, scope, 0.75)
    pruned = torch.cat([layer.weight.flatten() for layer in (network.conv, network.linear)])
    assert not torch.signbit(pruned[pruned == 0]).any()


@pytest.mark.parametrize("scope", SCOPES)
def test_a_rate_of_0_changes_nothing(scope):
    dense, network = build_network("resnet8", 10, 3), build_network("resnet8", 10, 3)
    assert magnitude_prune(network, COLOUR, scope, 0.0).zeros == 0
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in dense.state_dict().items())


@pytest.mark.parametrize("scope", SCOPES)
def test_pruning_a_pruned_network_again_changes_nothing(scope):
    network = build_network("resnet8", 10, 3)
    first = magnitude_prune(network, COLOUR, scope, 0.5)
    before = weights(network)
    assert magnitude_prune(network, COLOUR, scope, 0.5) == first
    assert weights(network) == before


@pytest.mark.parametrize("scope", SCOPES)
def test_equal_weights_are_pruned_to_the_exact_number(scope):
    network = nn.Sequential(nn.Flatten(), filled(nn.Linear(9, 2), [1.0, -1.0] * 9))
    assert magnitude_prune(network, GREY, scope, 0.3) == WeightCounts(5, 18)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_weight_that_two_modules_share_counts_once_and_is_zero_for_both(scope):
    network = nn.Sequential(Pixels(2), filled(nn.Linear(2, 2), [1, 2, 3, 4]), nn.Linear(2, 2))
    network[2].weight = network[1].weight
    network.append(filled(nn.Linear(2, 1), [5, 6]))
    assert magnitude_prune(network, GREY, scope, 0.5) == WeightCounts(3, 6)
    expected = [0, 0, 3, 4] if scope == "local" else [0, 0, 0, 4]
    assert network[1].weight.flatten().tolist() == expected
    assert network[2].weight is network[1].weight


class CalledTwice(nn.Module):
    """One convolution that the forward pass uses twice, registered under two names."""

    def __init__(self):
        super().__init__()
        self.conv = filled(nn.Conv2d(1, 1, 2, bias=False), [1, -2, 3, -4])
        self.blocks = nn.ModuleList([self.conv, self.conv])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            image = block(image)
        return image


@pytest.mark.parametrize("scope", SCOPES)
def test_a_module_called_several_times_counts_once_and_is_pruned_in_every_call(scope):
    network = CalledTwice()
    assert magnitude_prune(network, GREY, scope, 0.5) == WeightCounts(2, 4)
    by_hand = filled(nn.Conv2d(1, 1, 2, bias=False), [0, 0, 3, -4])
    image = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(image), by_hand(by_hand(image)))


class AllKinds(nn.Module):
    """Weights that meet the image in every kind of product, and parameters that meet it in none."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 9, 8))
        self.token, self.names = nn.Parameter(torch.randn(1, 1, 8)), nn.Embedding(4, 8)
        self.patches = nn.Conv2d(3, 8, 3, padding=1, stride=3)
        self.norm, self.gain = nn.LayerNorm(8), nn.Parameter(torch.ones(8, 1))
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.gru, self.rnn = nn.GRU(16, 8, batch_first=True), nn.RNN(8, 8, batch_first=True)
        self.bare, self.kernel = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(5, 6, 1))
        self.mixture, self.queries = nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(1, 2, 7))
        self.query, self.bilinear = nn.Linear(7, 7), nn.Bilinear(7, 7, 4)
        self.upscale, self.head = nn.ConvTranspose1d(4, 4, 2), nn.Linear(4, 2)
        self.bias_table = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2))
        self.auxiliary, self.unused = nn.Linear(8, 2), nn.Conv2d(3, 3, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions + self.names(torch.tensor([1]))
        x = self.attention(self.norm(torch.cat([self.token.expand(len(x), -1, -1), x], 1)) * self.gain.T)
        auxiliary = self.auxiliary(x.mean(1)) if self.training else 0
        x = self.rnn(self.gru(self.lstm(x)[0])[0])[0]
        x = functional.conv1d(functional.linear(x, self.bare).transpose(1, 2), self.kernel)
        x = torch.einsum("bcl,cd->bld", x, self.mixture)
        scores = self.query(self.queries.expand(len(x), -1, -1)) @ x.transpose(1, 2)
        x = (scores.softmax(-1) @ x).transpose(1, 2).contiguous().mean(2)
        x = self.upscale(self.bilinear(x, x).unsqueeze(-1)).mean(-1)
        return self.head(x) + self.bias_table(torch.ones(1, 2)) + auxiliary


MULTIPLIED = """
patches.weight attention.self_attn.in_proj_weight attention.self_attn.out_proj.weight attention.linear1.weight
attention.linear2.weight lstm.weight_ih_l0 lstm.weight_hh_l0 lstm.weight_ih_l0_reverse lstm.weight_hh_l0_reverse
gru.weight_ih_l0 gru.weight_hh_l0 rnn.weight_ih_l0 rnn.weight_hh_l0 bare kernel mixture queries query.weight
bilinear.weight upscale.weight head.weight
"""


@pytest.mark.parametrize("gradients", [True, False])
def test_what_a_forward_pass_multiplies_with_activations_is_pruned_and_nothing_else(gradients):
    network = AllKinds().requires_grad_(gradients).train()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = [names[id(getattr(module, name))] for module, name in prunable(network, COLOUR_9)]
    assert sorted(found) == sorted(MULTIPLIED.split())
    assert found == [name for name in names.values() if name in found]  # in the order of the network
    assert network.training
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("scope", SCOPES)
def test_every_kind_of_weight_is_pruned_and_held(scope):
    network = AllKinds()
    counts = magnitude_prune(network, COLOUR_9, scope, 0.5)
    assert counts.zeros == pytest.approx(counts.weights / 2, abs=len(MULTIPLIED.split()))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    hold_zeros(prunable(network, COLOUR_9), optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        network.train()(torch.randn(2, 3, 9, 9)).square().sum().backward()
        optimizer.step()
    assert count_weights(network, COLOUR_9) == counts


class Caching(nn.Module):
    """Keeps, in evaluation mode, what it computed from its weights."""

    def __init__(self):
        super().__init__()
        self.scale, self.head, self.cache = nn.Parameter(torch.randn(1, 1)), nn.Linear(9, 2), None

    def forward(self, x):
        if self.training or self.cache is None:
            self.cache = self.scale.exp()
        return self.head(x.flatten(1) * self.cache)


def test_looking_for_weights_leaves_nothing_behind_in_the_network():
    network = Caching().eval()
    (weight,) = prunable(network, GREY)
    assert weight == (network.head, "weight")
    assert network.cache is None
    assert not network.head._forward_hooks
    assert not network.head._forward_pre_hooks


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_same_weights_as_pytorchs_own_pruning_chooses(scope, rate):
    weights = [torch.randn(50, 20), torch.randn(7, 300)]
    layers = [nn.Linear(20, 50), nn.Linear(300, 7)]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data.copy_(weight)
    if scope == "local":
        for layer in layers:
            nn.utils.prune.l1_unstructured(layer, "weight", round(rate * layer.weight.numel()))
    else:
        total = sum(weight.numel() for weight in weights)
        chosen = {"pruning_method": nn.utils.prune.L1Unstructured, "amount": round(rate * total)}
        nn.utils.prune.global_unstructured([(layer, "weight") for layer in layers], **chosen)
    PRUNE[scope]([weight.numpy() for weight in weights], rate)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, weights, strict=True))


def test_of_equal_weights_the_first_become_zero():
    weights = [numpy.array([[2.0, -1.0], [1.0, 3.0]]), numpy.array([1.0, -1.0, 0.5])]
    PRUNE["global"](weights, 4 / 7)
    assert [weight.tolist() for weight in weights] == [[[2, 0], [0, 3]], [0, -1, 0]]


def test_weights_that_are_not_contiguous_are_pruned_in_place():
    weight = numpy.array([[1.0, 4.0], [2.0, 3.0]])
    PRUNE["local"]([weight.T], 0.5)
    assert weight.tolist() == [[0, 4], [0, 3]]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_checkpoint_is_pruned_as_its_network_is_under_all_names_of_a_shared_weight(tmp_path, scope):
    network = Tied()
    save_dense(tmp_path / "dense", network, GREY, {})
    prune(tmp_path / "dense", scope=scope, rate=0.5, checkpoint=tmp_path / "pruned")
    counts, (state, provenance) = magnitude_prune(network, GREY, scope, 0.5), load_checkpoint(tmp_path / "pruned")
    assert provenance["prunable"] == [["first.weight", "second.weight"], ["last.weight"]]
    assert (provenance["zeros"], provenance["weights"]) == counts
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


class Shadowed(Toy):
    """A buffer that is the weight itself, as of a moving average that was never copied."""

    def __init__(self, view=slice(None)):
        super().__init__()
        self.register_buffer("shadow", self.linear.weight.data[view])


def test_a_buffer_in_the_memory_of_a_weight_is_pruned_with_it_or_refused(tmp_path):
    save_dense(tmp_path / "dense", Shadowed(), GREY, {})
    prune(tmp_path / "dense", scope="global", rate=0.5, checkpoint=tmp_path / "pruned")
    state, provenance = load_checkpoint(tmp_path / "pruned")
    network = Shadowed()
    network.load_state_dict(state)
    assert count_weights(network, GREY).zeros == provenance["zeros"] == 4
    save_dense(tmp_path / "view", Shadowed(slice(1)), GREY, {"architecture": "own.py:build"})
    with pytest.raises(RefusedError, match=r"own\.py:build.*zeros in linear\.weight would be lost"):
        prune(tmp_path / "view", scope="global", rate=0.5, checkpoint=tmp_path / "refused")


@pytest.mark.parametrize("scope", SCOPES)
def test_a_pruned_network_still_learns_all_its_weights(scope):
    network = Toy()
    magnitude_prune(network, GREY, scope, 0.5)
    names = dict(network.named_parameters())
    assert set(names) == set(dict(Toy().named_parameters()))
    network.linear(torch.ones(1, 2)).sum().backward()
    assert names["linear.weight"].grad is not None


class Tied(nn.Module):
    """One weight in two layers, one of which is called twice, and a parameter that starts with zeros."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.second.weight = self.first.weight
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        x = x.flatten(1)[:, :4]
        return self.last(self.second(self.first(self.first(x)))) + self.shift


def stepped(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 20) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        (network(torch.randn(8, 4, generator=torch.Generator().manual_seed(step))) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_zeros_are_held_bit_by_bit_through_every_step_and_nothing_else_is(kind):
    start, free, network = Tied(), Tied(), Tied()
    for each in (start, free, network):
        magnitude_prune(each, GREY, "local", 0.5)
    stepped(free, kind(free.parameters(), lr=0.01, weight_decay=0.1))
    optimizer = kind(network.parameters(), lr=0.01, weight_decay=0.1)
    hold_zeros(prunable(network, GREY), optimizer)
    stepped(network, optimizer)
    for name, before in start.named_parameters():
        pruned = (before == 0) & name.endswith("weight")
        moved, held = free.get_parameter(name) != before, network.get_parameter(name)
        assert (pruned & moved).any() == pruned.any()
        assert (held.detach().view(torch.int32)[pruned] == 0).all(), name  # no -0.0 either
        assert (held != before)[moved & ~pruned].all(), name
    assert network.second.weight is network.first.weight


def test_weights_that_become_zero_later_are_not_held_and_the_handle_ends_it():
    network = Tied()
    magnitude_prune(network, GREY, "local", 0.5)
    zeros = network.first.weight == 0
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    handle = hold_zeros(prunable(network, GREY), optimizer)
    with torch.no_grad():
        network.first.weight.zero_()
    stepped(network, optimizer)
    assert network.first.weight[~zeros].any()
    assert not network.first.weight[zeros].any()
    handle.remove()
    stepped(network, optimizer)
    assert network.first.weight[zeros].any()


@pytest.mark.parametrize("scope", SCOPES)
def test_a_network_without_a_weight_to_prune_is_refused(scope):
    with pytest.raises(RefusedError, match="no convolution, no linear layer"):
        magnitude_prune(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9)), GREY, scope, 0.5)
    assert weight_record(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9)), GREY) == {"prunable": []}


def test_deformable_convolutions_are_pruned():
    ops = pytest.importorskip("torchvision.ops")

    class Deformable(nn.Module):
        def __init__(self):
            super().__init__()
            self.places, self.conv = nn.Conv2d(1, 18, 3, padding=1), ops.DeformConv2d(1, 4, 3, padding=1)

        def forward(self, image):
            return self.conv(image, self.places(image)).mean((2, 3))

    network = Deformable()
    assert prunable(network, GREY) == [(network.places, "weight"), (network.conv, "weight")]


@pytest.fixture
def dense(tmp_path, data):
    """Return the path of a dense resnet8 for the data set `dataset`."""
    path = tmp_path / "dense.safetensors"
    save_dense(path, build_network("resnet8", 3, 1, seed=5), data.dataset, {"model": "mine", "seed": 5})
    return path


@pytest.mark.parametrize("scope", SCOPES)
def test_the_pruned_checkpoint_holds_the_zeros_that_its_provenance_counts(tmp_path, dense, scope):
    before, checkpoint = sha256(dense), tmp_path / "out" / "pruned.safetensors"
    prune(dense, scope=scope, rate=0.7, checkpoint=checkpoint)
    state, provenance = load_checkpoint(checkpoint)
    network = build_network("resnet8", 3, 1)
    network.load_state_dict(state)
    masks = zeros(network).values()
    assert provenance == {
        "elagage": VERSION,
        "model": "mine",
        "seed": 5,
        "prunable": [[name] for name, tensor in network.state_dict().items() if tensor.dim() > 1],
        "scope": scope,
        "rate": 0.7,
        "recovery": "none",
        "zeros": sum(int(mask.sum()) for mask in masks),
        "weights": sum(mask.numel() for mask in masks),
        "dense_weights": sum(mask.numel() for mask in masks),
    }
    assert provenance["zeros"] / provenance["weights"] == pytest.approx(0.7, abs=0.001)
    kept = [tensor != 0 for tensor in state.values()]
    original = load_checkpoint(dense)[0].values()
    pairs = zip(kept, state.values(), original, strict=True)
    assert all(torch.equal(tensor[mask], whole[mask]) for mask, tensor, whole in pairs)
    assert sha256(dense) == before


@pytest.mark.parametrize("scope", SCOPES)
def test_the_same_dense_model_gives_the_same_file_again(tmp_path, dense, scope):
    for name in ("first", "second"):
        prune(dense, scope=scope, rate=0.5, checkpoint=tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_layer_of_which_nothing_is_left_is_named(tmp_path, data, capsys):
    network = build_network("resnet8", 3, 1, seed=5)
    with torch.no_grad():
        network.linear.weight.mul_(1e-6)
    save_dense(tmp_path / "dense.safetensors", network, data.dataset, {"model": "mine", "seed": 5})
    for scope, rate in (("global", 0.1), ("local", 0.5)):
        prune(tmp_path / "dense.safetensors", scope=scope, rate=rate, checkpoint=tmp_path / "pruned.safetensors")
        said = capsys.readouterr().out
        told = "mine 5: global pruning at 10% leaves nothing of linear.weight; `local` leaves each layer its share"
        assert (told in said) == (scope == "global")
