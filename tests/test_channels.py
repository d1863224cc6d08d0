"""Channel pruning: what is removed, that the rest computes the same, and that it loads, exports and quantizes."""

import copy
import functools
from collections import defaultdict

import numpy
import pytest
import torch
import torchvision
from networks import (
    DATASET,
    SIZE,
    Narrow,
    ReusedBlock,
    images,
    onnx_logits,
    relative_error,
    tensors,
    torch_logits,
)
from torch import nn
from torch.nn import functional

from elagage.errors import RefusedError, UserError
from elagage.onnx.contents import count_contents
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.pytorch.channels import channel_prune
from elagage.pytorch.export import export_graph
from elagage.pytorch.models import build_network
from elagage.pytorch.pruning import WeightCounts, count_weights
from elagage.pytorch.shrinking import shrink


class Net(nn.Module):
    """A stem of 16 channels, a body that a subclass gives, the mean over pixels and a linear layer."""

    features = 16

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.build()
        self.linear = nn.Linear(self.features, num_classes)

    def build(self):
        pass

    def body(self, x):
        return x

    def forward(self, x):
        return self.linear(self.body(functional.relu(self.norm(self.stem(x)))).mean((2, 3)))


class Mobile(Net):
    """A depthwise convolution, a squeeze-and-excitation whose gate is 0.5 at 0, and a hard swish."""

    def build(self):
        self.wide = nn.Conv2d(16, 32, 1, bias=False)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.depth_norm = nn.BatchNorm2d(32)
        self.down, self.up = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 1)
        self.back = nn.Conv2d(32, 16, 1)

    def body(self, x):
        y = functional.hardswish(self.depth_norm(self.depthwise(self.wide(x))))
        gate = self.up(functional.relu(self.down(y.mean((2, 3), keepdim=True)))).sigmoid()
        return x + self.back(gate * y)


class Grouped(Net):
    """A convolution of 4 groups between two of 1, as in ResNeXt, and one of 2 groups right after it."""

    def build(self):
        self.first, self.last = nn.Conv2d(16, 64, 1), nn.Conv2d(32, 16, 1)
        self.grouped = nn.Conv2d(64, 64, 3, padding=1, groups=4)
        self.grouped2 = nn.Conv2d(64, 32, 3, padding=1, groups=2)
        self.slope = nn.PReLU(64)

    def body(self, x):
        return x + self.last(functional.relu(self.grouped2(self.slope(self.grouped(self.first(x))))))


class Dense(Net):
    """Every layer sees the concatenated outputs of all before it, normalized together."""

    features = 48

    def build(self):
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (16, 32))
        self.convs = nn.ModuleList(nn.Conv2d(width, 16, 3, padding=1) for width in (16, 32))

    def body(self, x):
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(functional.relu(norm(x)))], 1)
        return x


class Flat(Net):
    """As VGG: the linear layer sees every pixel of every channel."""

    features = 16 * 4 * 4

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), SIZE // 4)
        return self.linear(x.flatten(1))


class Transposed(Net):
    """Down and up again."""

    def build(self):
        self.down, self.up = nn.Conv2d(16, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)

    def body(self, x):
        return x + self.up(functional.relu(self.down(x)))


class Sigmoid(Net):
    """Zero channels leave the activation as 0.5."""

    def build(self):
        self.conv = nn.Conv2d(16, 16, 3)

    def body(self, x):
        return torch.sigmoid(self.conv(torch.sigmoid(x)))


class Tied(Net):
    """Two layers that share one parameter, beside layers that do not."""

    def build(self):
        self.one, self.other = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.other.weight = self.one.weight
        self.wide, self.back = nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1)

    def body(self, x):
        return self.back(functional.relu(self.wide(self.other(functional.relu(self.one(x))))))


class LayerNormed(Net):
    """ConvNeXt's block: only the hidden channels between its linear layers are free."""

    def build(self):
        self.layer_norm = nn.LayerNorm(16)
        self.wide, self.back = nn.Linear(16, 64), nn.Linear(64, 16)
        self.scale = nn.Parameter(0.5 * torch.ones(16))

    def body(self, x):
        y = self.back(functional.gelu(self.wide(self.layer_norm(x.permute(0, 2, 3, 1)))))
        return x + (self.scale * y).permute(0, 3, 1, 2)


class Padded(Net):
    """The shortcut of He et al. 2016, option A: zeros for the channels that a stage has more."""

    features = 32

    def build(self):
        self.conv, self.conv2 = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 1, 1)

    def body(self, x):
        return self.conv2(functional.relu(self.conv(x))) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))


class Concatenated(Padded):
    """The same with zeros after the channels, where 8 too many or too few would still be 32 together."""

    def body(self, x):
        y = self.conv2(functional.relu(self.conv(x)))
        half = x[:, :, ::2, ::2]
        return y + torch.cat([half, torch.zeros_like(y[:, half.shape[1] :])], 1)


class Softmax(Net):
    """Every channel depends on all others, but nothing says so."""

    def body(self, x):
        return x.softmax(1)


class GatedSoftmax(Softmax):
    """The same, and beside it hidden channels that are free."""

    def build(self):
        self.wide, self.back = nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1)

    def body(self, x):
        return x.softmax(1) * self.back(functional.relu(self.wide(x)))


class Shuffled(Net):
    """ShuffleNet's unit: half of the channels is convolved, then both halves are interleaved."""

    def build(self):
        self.wide, self.depthwise = nn.Conv2d(8, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.back = nn.Conv2d(32, 8, 1)

    def body(self, x):
        first, second = x.chunk(2, 1)
        x = torch.cat([first, self.back(self.depthwise(functional.relu(self.wide(second))))], 1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)


class Split(Net):
    """MixNet's block: parts of stated, unequal sizes, each with a kernel of its own; then hidden channels."""

    def build(self):
        self.parts = nn.ModuleList(
            [nn.Conv2d(10, 10, 3, padding=1, groups=10), nn.Conv2d(6, 6, 5, padding=2, groups=6)]
        )
        self.wide, self.back = nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1)

    def body(self, x):
        parts = [part(piece) for part, piece in zip(self.parts, x.split([10, 6], 1), strict=True)]
        return self.back(functional.relu(self.wide(torch.cat(parts, 1))))


class Halved(Net):
    """A gated linear unit: each channel of one half is multiplied with its own of the other."""

    def build(self):
        self.wide, self.back = nn.Conv2d(16, 64, 1), nn.Conv2d(32, 16, 1)

    def body(self, x):
        value, gate = self.wide(x).chunk(2, 1)
        return self.back(value * gate.sigmoid())


class Ghost(Net):
    """GhostNet's block: half of the channels is made from the other half, and a shortcut couples both."""

    def build(self):
        self.primary, self.cheap = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def body(self, x):
        half = functional.relu(self.primary(x))
        return x + torch.cat([half, self.cheap(half)], 1)


class Multiplied(Net):
    """A depthwise convolution of two filters for each channel."""

    features = 32

    def build(self):
        self.depthwise, self.norm2 = nn.Conv2d(16, 32, 3, padding=1, groups=16), nn.BatchNorm2d(32)

    def body(self, x):
        return self.norm2(self.depthwise(x))


class GroupNormed(Net):
    """Groups of 4 channels are normalized together."""

    def build(self):
        self.conv, self.group_norm = nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(8, 32)
        self.back = nn.Conv2d(32, 16, 1)

    def body(self, x):
        return x + self.back(functional.relu(self.group_norm(self.conv(x))))


class Transformer(Net):
    """Attention over pixels, its heads cut out by views, then the two linear layers of a transformer."""

    def build(self):
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.wide, self.back = nn.Linear(16, 64), nn.Linear(64, 16)

    def body(self, x):
        batch, _, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norms[0](x)).reshape(batch, -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(((q @ k.transpose(2, 3)).softmax(3) @ v).transpose(1, 2).reshape(batch, -1, 16))
        x = x + self.back(functional.gelu(self.wide(self.norms[1](x))))
        return x.transpose(1, 2).reshape(batch, 16, height, width)


class Scales(Net):
    """Res2Net's block: one convolution for each quarter of the channels, which also sees the quarter before."""

    def build(self):
        self.wide, self.back = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.hidden = nn.ModuleList([nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1)])

    def body(self, x):
        quarters = functional.relu(self.wide(x)).split(8, 1)
        outputs = [quarters[0]]
        for conv, quarter in zip(self.convs, quarters[1:], strict=True):
            outputs.append(functional.relu(conv(quarter + outputs[-1])))
        x = x + self.back(torch.cat(outputs, 1))
        return x + self.hidden[1](functional.relu(self.hidden[0](x)))


class Radix(Net):
    """ResNeSt's split attention: a softmax over two halves of the channels, by a view of stated sizes."""

    def build(self):
        self.conv, self.attention = nn.Conv2d(16, 32, 3, padding=1, groups=2), nn.Conv2d(16, 32, 1)
        self.wide, self.back = nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1)

    def body(self, x):
        halves = functional.relu(self.conv(x)).unflatten(1, (2, 16))
        weights = self.attention(halves.sum(1).mean((2, 3), keepdim=True)).view(-1, 2, 16, 1, 1).softmax(1)
        x = (halves * weights).sum(1)
        return x + self.back(functional.relu(self.wide(x)))


class Standardized(Net):
    """A convolution whose weights are standardized, so that each depends on all channels of its input."""

    def build(self):
        self.conv, self.wide, self.back = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1)

    def body(self, x):
        weight = self.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return self.back(functional.relu(self.wide(functional.conv2d(x, weight, self.conv.bias, padding=1))))


class InPlace(Net):
    """Changes the images that it is given."""

    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.2))


class Auxiliary(Net):
    """A second head, which only training calls."""

    def build(self):
        self.conv, self.head = nn.Conv2d(16, 32, 3, padding=1), nn.Linear(32, 3)
        self.back = nn.Conv2d(32, 16, 1)

    def forward(self, x):
        x = functional.relu(self.conv(functional.relu(self.norm(self.stem(x)))))
        logits = self.linear(self.back(x).mean((2, 3)))
        return (logits, self.head(x.mean((2, 3)))) if self.training else logits


# Networks of which some channels can be removed, though not all can be followed -> layers that keep theirs.
PARTLY: dict[type[Net], set[str]] = {
    Padded: {"stem", "conv2"},
    Concatenated: {"linear"},
    GatedSoftmax: {"stem", "back"},
    Shuffled: {"stem", "back"},
    Split: {"parts.0", "parts.1"},
    Transformer: {"stem", "qkv", "proj", "back"},
    Scales: {"wide", "convs.0", "convs.1", "convs.2"},
    Radix: {"conv", "attention"},
    Standardized: {"stem", "conv"},
}
NETWORKS = {
    "resnet8": lambda: build_network("resnet8", 3, 3),
    "resnet20": lambda: build_network("resnet20", 3, 3),
    "torchvision_resnet18": lambda: build_network("resnet18", 3, 3),
    "torchvision_resnet50": lambda: build_network("resnet50", 3, 3),
    "reused_block": ReusedBlock,
    "Narrow": Narrow,
    **{kind.__name__: kind for kind in (Mobile, Grouped, Dense, Flat, Transposed, Sigmoid, Tied, LayerNormed)},
    **{kind.__name__: kind for kind in (Halved, Ghost, Multiplied, GroupNormed, InPlace, *PARTLY)},
}


EACH = [pytest.param(name, marks=pytest.mark.slow if "torchvision" in name else ()) for name in NETWORKS]


def trained(network: nn.Module) -> nn.Module:
    """Return the network as training leaves it: no weight, bias or statistic is 0 or 1, and none equals another."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.mul_(1 + 0.3 * torch.randn_like(tensor)).add_(0.05 * torch.randn_like(tensor))
        for name, tensor in network.named_buffers():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 * name.endswith("running_var"))
    return network.eval()


@functools.cache
def pruned(name: str, rate: float) -> tuple[nn.Module, nn.Module, WeightCounts]:
    """Return the dense network, the pruned one and what was counted."""
    dense = trained(NETWORKS[name]())
    network = copy.deepcopy(dense)
    counts, _ = channel_prune(network, DATASET, rate, count_weights(dense, DATASET).weights)
    return dense, network, counts


def logits(network: nn.Module, pixels: numpy.ndarray) -> numpy.ndarray:
    return torch_logits(network.eval(), pixels)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("name", ["resnet8", "resnet20", pytest.param("torchvision_resnet18", marks=pytest.mark.slow)])
def test_the_share_of_weights_removed_is_close_to_the_rate_and_as_counted(name, rate):
    dense, network, counts = pruned(name, rate)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert counts == WeightCounts(0, sum(layer.weight.numel() for layer in layers))
    assert 1 - counts.weights / count_weights(dense, DATASET).weights == pytest.approx(rate, abs=0.05)


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_a_low_rate_removes_something(rate):
    dense, _, counts = pruned("resnet20", rate)
    assert 1 - counts.weights / count_weights(dense, DATASET).weights == pytest.approx(rate, abs=rate / 2)


@pytest.mark.parametrize("rate, multiple", [(0.5, 16), (0.9, 8)])
def test_resnet20_is_left_with_multiples_that_are_fast(rate, multiple):
    network = pruned("resnet20", rate)[1]
    assert {m.out_channels % multiple for m in network.modules() if isinstance(m, nn.Conv2d)} == {0}


def test_a_narrow_network_comes_as_near_to_the_rate_as_whole_channels_permit():
    # All of its 8 channels are coupled; by hand: n channels have 27 n + 9 n² + 3 n weights.
    dense, _, counts = pruned("Narrow", 0.5)
    left = {n: 27 * n + 9 * n * n + 3 * n for n in range(1, 9)}
    assert count_weights(dense, DATASET).weights == left[8]
    assert counts.weights == min(left.values(), key=lambda count: abs(count - left[8] / 2))


def test_by_hand_the_channels_with_the_smallest_weights_go():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        for tensor in (network[0].weight, network[4].weight):
            tensor.fill_(1)
        network[0].weight *= torch.tensor([1.0, 0.1, 3, 0.2]).view(4, 1, 1, 1)
        network[0].bias.copy_(torch.tensor([9.0, 1, 9, 1]))
        network[4].weight *= torch.tensor([1.0, 0.2, 3, 0.1])
    assert channel_prune(network, DATASET, 0.5, 24).counts == WeightCounts(0, 12)
    assert network[0].weight[:, 0].flatten().tolist() == [1, 3]
    assert network[0].bias.tolist() == [9, 9]
    assert network[4].weight[0].tolist() == [1, 3]
    assert (network[0].out_channels, network[4].in_features, network[4].out_features) == (2, 2, 3)


@pytest.mark.parametrize("name", EACH)
def test_some_channels_go_and_classes_and_input_channels_stay(name):
    dense, network, counts = pruned(name, 0.3)
    assert counts.weights < count_weights(dense, DATASET).weights
    assert logits(network, images(2)).shape == (2, 3)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert all(0 not in shape for shape in shapes.values())
    whole = {key: tensor.shape for key, tensor in dense.state_dict().items()}
    assert shapes.keys() == whole.keys()
    changed = {key for key in shapes if shapes[key] != whole[key]}
    assert changed


def dimensions(network: nn.Module) -> list[int]:
    names = ["in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "num_parameters"]
    return [getattr(module, name) for module in network.modules() for name in names if hasattr(module, name)]


@pytest.mark.parametrize("name", EACH)
def test_a_new_network_shrunk_to_the_state_dict_is_the_pruned_one(name):
    _, network, _ = pruned(name, 0.3)
    again = NETWORKS[name]()
    shrink(again, network.state_dict())
    again.load_state_dict(network.state_dict())
    assert dimensions(again) == dimensions(network)
    assert (logits(again, images(3)) == logits(network, images(3))).all()
    again.train()(torch.randn(4, 3, SIZE, SIZE)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in again.parameters())


def test_depthwise_and_group_convolutions_stay_what_they_are():
    mobile = pruned("Mobile", 0.5)[1].depthwise
    assert mobile.groups == mobile.in_channels == mobile.out_channels < 32
    network = pruned("Grouped", 0.5)[1]
    assert (network.grouped.groups, network.grouped2.groups) == (4, 2)
    assert network.grouped.out_channels < 64


def test_tied_parameters_stay_tied_and_whole():
    network = pruned("Tied", 0.3)[1]
    assert network.other.weight is network.one.weight
    assert network.one.weight.shape == (16, 16, 3, 3)
    assert network.wide.out_channels < 64


def test_a_tied_parameter_that_is_shrunk_stays_tied():
    network = Tied()
    state = network.state_dict()
    shrink(network, state | {f"{name}.weight": torch.zeros(16, 8, 3, 3) for name in ("one", "other")})
    assert network.other.weight is network.one.weight
    assert (network.one.in_channels, network.other.in_channels) == (8, 8)


def test_channels_that_are_normalized_together_stay():
    network = pruned("LayerNormed", 0.3)[1]
    assert network.stem.out_channels == network.layer_norm.normalized_shape[0] == 16
    assert network.wide.out_features == network.back.in_features < 64


@pytest.mark.parametrize("name", EACH)
def test_the_smaller_network_computes_what_the_dense_one_does_with_the_removed_channels_zero(name):
    dense, network, _ = pruned(name, 0.3)
    masked, small = copy.deepcopy(dense), network.state_dict()
    with torch.no_grad():
        # Entries of a layer that go together, along an axis: single numbers may be equal by chance.
        together = defaultdict(list)
        for key, tensor in masked.state_dict().items():
            for axis, size in enumerate(tensor.shape):
                layer = key if axis else key.rpartition(".")[0]
                together[layer, axis, size, small[key].shape[axis]].append((key, tensor))
        gone = {}
        for (layer, axis, size, left), tensors in together.items():
            there = [
                torch.isin(tensor, small[key]).float().movedim(axis, 0).reshape(size, -1) for key, tensor in tensors
            ]
            found = torch.cat(there, 1).mean(1)
            gone[layer, axis, size, left] = (found < found.max() / 2).nonzero().flatten()
            assert len(gone[layer, axis, size, left]) == size - left
        for part, tensors in together.items():
            for _, tensor in tensors:
                tensor.index_fill_(part[1], gone[part], 0)
    assert relative_error(logits(network, images(4)), logits(masked, images(4))) < 1e-5


@pytest.mark.parametrize("kind", PARTLY)
def test_layers_that_cannot_be_followed_keep_their_channels_and_others_lose_some(kind):
    dense = trained(kind())
    weights = count_weights(dense, DATASET).weights
    for rate in (0.2, 0.4, 0.6, 0.8):
        network = copy.deepcopy(dense)
        try:
            channel_prune(network, DATASET, rate, weights)
        except RefusedError as error:
            assert rate > 0.4 and "without channels at most" in str(error)
            break
        assert count_weights(network, DATASET).weights < weights
        for name in PARTLY[kind]:
            assert network.get_submodule(name).weight.shape[0] == dense.get_submodule(name).weight.shape[0]


def test_shifted_windows_are_followed_in_bounded_time_and_only_hidden_layers_lose_channels():
    swin = torchvision.models.SwinTransformer(
        patch_size=[2, 2], embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=3
    )
    dense = trained(swin)
    network = copy.deepcopy(dense)
    channel_prune(network, DATASET, 0.3, count_weights(dense, DATASET).weights)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    changed = {key for key, tensor in dense.state_dict().items() if tensor.shape != shapes[key]}
    assert changed and all(".mlp." in key for key in changed)


@pytest.mark.parametrize("kind, largest", [(Padded, None), (Transformer, "qkv")])
def test_the_log_says_which_layers_keep_their_channels_and_a_note_if_they_are_large(kind, largest, capsys):
    network = trained(kind())
    channel_prune(network, DATASET, 0.5, count_weights(network, DATASET).weights)
    log = capsys.readouterr().out
    assert "'stem'" in log
    assert ("note: layers with" in log) == (largest is not None)
    if largest:
        assert f"of the weights keep all channels, such as '{largest}.weight'" in log


def test_channels_coupled_within_one_layer_go_together():
    network = pruned("Halved", 0.3)[1]
    assert network.wide.out_channels == 2 * network.back.in_channels < 64
    network = pruned("Ghost", 0.3)[1]
    assert network.stem.out_channels == 2 * network.primary.out_channels == 2 * network.cheap.groups < 16


def test_a_depthwise_convolution_with_a_multiplier_loses_all_filters_of_a_channel():
    network = pruned("Multiplied", 0.3)[1]
    assert network.depthwise.groups == network.depthwise.in_channels == network.stem.out_channels < 16
    assert network.depthwise.out_channels == network.norm2.num_features == 2 * network.stem.out_channels


def test_group_norm_loses_whole_groups():
    network = pruned("GroupNormed", 0.6)[1]
    assert network.group_norm.num_channels == network.conv.out_channels == 4 * network.group_norm.num_groups < 32


def test_a_layer_with_only_some_of_the_coupled_channels_keeps_some():
    # All channels of the first layer are less important than any of the second.
    class Joined(Net):
        features = 32

        def build(self):
            self.one, self.two, self.other = (nn.Conv2d(16, width, 1) for width in (16, 16, 32))

        def body(self, x):
            return torch.cat([self.one(x), self.two(x)], 1) + self.other(x)

    network = trained(Joined())
    with torch.no_grad():
        for tensor in (network.one.weight, network.other.weight[:16], network.linear.weight[:, :16]):
            tensor.mul_(0.01)
    channel_prune(network, DATASET, 0.5, count_weights(network, DATASET).weights)
    assert 0 < network.one.out_channels < 16


def test_auxiliary_heads_lose_the_channels_that_they_are_given():
    network = trained(Auxiliary())
    channel_prune(network, DATASET, 0.3, count_weights(network, DATASET).weights)
    assert network.head.in_features == network.conv.out_channels < 32
    assert [output.shape for output in network.train()(torch.randn(2, 3, SIZE, SIZE))] == [(2, 3), (2, 3)]


@pytest.mark.parametrize(
    "network, reason",
    [
        (Softmax(), r"'stem.weight' \(without some of them the logits differ"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3)), "they are the classes"),
        (
            nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
            ),
            "they can only be removed together",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, SIZE), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 3)),
            "they meet '2', a LayerNorm",
        ),
    ],
    ids=["softmax", "classes only", "one group", "layer norm"],
)
def test_a_network_without_a_channel_to_remove_is_refused_with_the_reason(network, reason):
    network = trained(network)
    with pytest.raises(RefusedError, match=rf"at most 0\.0000 of the weights.*{reason}"):
        channel_prune(network, DATASET, 0.1, count_weights(network, DATASET).weights)


def test_a_rate_beyond_the_last_channel_of_every_layer_is_refused_with_the_share_that_can_go():
    network = Narrow()
    with pytest.raises(RefusedError, match=rf"at most {1 - 39 / 816:.4f} of the weights.*not the rate 0\.96"):
        channel_prune(network, DATASET, 0.96, 816)


def test_a_network_that_gradients_cannot_follow_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    network.forward = lambda x: nn.Sequential.forward(network, x).detach()
    with pytest.raises(RefusedError, match="Torch-Pruning cannot follow channels"):
        channel_prune(network, DATASET, 0.3, count_weights(network, DATASET).weights)


def test_a_layer_that_cannot_be_shrunk_is_named():
    with pytest.raises(UserError, match=r"'layer_norm', a LayerNorm, has weight of another shape"):
        shrink(network := LayerNormed(), network.state_dict() | {"layer_norm.weight": torch.zeros(8)})


@pytest.mark.parametrize(
    "name",
    [
        "Mobile",
        "Grouped",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet20", "reused_block", "Dense", "Flat")),
    ],
)
def test_the_exported_graph_agrees_for_any_batch_and_becomes_int8(name):
    _, network, (_, weights) = pruned(name, 0.5)
    model = with_weights(export_graph(network, DATASET), tensors(network))
    for count in (1, 2, 7):
        assert relative_error(onnx_logits(model, images(count)), logits(network, images(count))) < 1e-4
    assert count_contents(model)["weights"] == weights
    int8 = quantize(model, "static", images(32))
    assert count_contents(int8)["int8_weights"] == weights
    assert relative_error(onnx_logits(int8, images(7)), logits(network, images(7))) < 0.15
