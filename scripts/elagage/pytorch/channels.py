"""Structured pruning: whole channels are removed, so that every runtime has less to multiply."""

import gc
import math
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import nn

from elagage.data import Dataset
from elagage.errors import RefusedError
from elagage.job import say
from elagage.pytorch.coupling import Coupled, Cuts, find_coupled
from elagage.pytorch.models import checked_logits, copied
from elagage.pytorch.pruning import WeightCounts, count_weights, prunable
from elagage.pytorch.shrinking import shrink

# Channels that a layer loses at a time, so that multiples of them are left; the first step that comes CLOSE is taken.
# ONNX Runtime computes in blocks of 8 (AVX2) or 16 (AVX-512) channels, and odd numbers can be slower than all channels.
# How many times as fast as dense float32 ResNet-20 is, without 0.3, 0.5 and 0.7 of its weights, on an AMD EPYC with
# AVX-512 (95 % intervals within 4 %):
#   multiples of 16: float32 1.15, 1.60, 1.82; int8 2.39, 2.87, 3.12 (dense int8: 2.20)
#   multiples of 8:  float32 1.10, 1.41, 2.26; int8 2.22, 2.40, 2.48
#   multiples of 4:  float32 1.04, 1.18, 1.68; int8 2.07, 2.00, 2.33
#   any number:      float32 0.89, 1.09, 1.51; int8 1.49, 1.64, 1.89
STEPS = (16, 8, 4, 2, 1)
CLOSE = 0.05  # to the rate, as a share of the weights: half of the distance between the default rates
PROBE_IMAGES = 4  # of noise, each with its own brightness because noise averages out
# Rounding to float32 makes 1e-7 (ResNet-8) to 5e-7 (ResNet-50); with a single channel in the wrong place it is the
# whole of what the logits differ between images, which was never below 1e-4.
TOLERANCE = 1e-5
MUCH = 0.25  # of the weights in layers that stay whole: the terminal names the largest


class Block(NamedTuple):
    """Some channels of a layer, the root, and all that goes with them."""

    importance: float
    root: str
    cuts: Cuts


class ChannelPruning(NamedTuple):
    """The weights that are left, as counted, and the output channels that each prunable weight which lost some kept."""

    counts: WeightCounts
    kept: dict[str, list[int]]


def channel_prune(network: nn.Module, dataset: Dataset, rate: float, dense_weights: int) -> ChannelPruning:
    """Remove the least important channels, in place, until the share `rate` of `dense_weights` is removed.

    The weights counted are those of `prunable`, so that all scopes share one axis. The share comes as near to the rate
    as STEPS permit. Channels that the network couples, such as those of both sides of an addition,
    are removed together (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", and its library
    Torch-Pruning). Their importance is the mean of the squared norms of all weights that go with a channel, relative
    to those coupled alike, and is ranked over all layers. Classes and input channels stay, every layer keeps some
    channels, group norm loses whole groups, and layers that share a parameter, or whose channels meet what cannot lose
    any (layer norm, attention, a parameter of the user's own), keep all.

    The smaller network has to agree with the masked one: the dense network in which all that was removed, weights,
    biases and batch norm, is zero. A removed channel is then zero when it leaves its layer, and whatever an activation
    makes of that (0.5, of a sigmoid) meets weights that are zero, so they agree for any computation that keeps
    channels separate. Layers for which they do not (a softmax over channels), or without whose channels the network
    does not run (sizes that its code states), are found by halving and keep all channels, too. The log names all
    layers that stay whole.

    Raises RefusedError if the rate is beyond what can be removed, or if Torch-Pruning cannot trace the network, and
    UserError if the network does not run.
    """
    classes = len(dataset.classes)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(PROBE_IMAGES, dataset.channels, dataset.image_size, dataset.image_size, generator=generator)
    images = noise + torch.randn(PROBE_IMAGES, dataset.channels, 1, 1, generator=generator)
    # Only copies run: what a network keeps, computed from its weights, would not fit the smaller one.
    checked_logits(copied(network.eval()), images.clone(), classes)
    coupled, whole = find_coupled(copied(network).requires_grad_(), images)
    gc.collect()  # the traced copy of the network, which the graph holds in cycles
    shapes = _shapes(network, dataset)
    while True:
        blocks = _choose(network, shapes, coupled, whole, rate, dense_weights)
        refused = _refused(network, blocks, images, classes)
        if not refused:
            break
        whole |= {name: refused[each.root] for each in coupled if each.root in refused for name in each.layers}
        coupled = [each for each in coupled if each.root not in refused]
    _tell_whole(shapes, coupled, whole, dense_weights)
    cuts = _joined(blocks)
    _remove(network, cuts)
    lost = {key: gone for (key, axis), gone in cuts.items() if axis == 0 and key in shapes}
    kept = {key: sorted({*range(shapes[key][0])} - gone) for key, gone in lost.items()}
    return ChannelPruning(count_weights(network, dataset), kept)


def _choose(
    network: nn.Module,
    shapes: dict[str, torch.Size],
    coupled: list[Coupled],
    whole: dict[str, str],
    rate: float,
    dense_weights: int,
) -> list[Block]:
    """Return what to remove: by the widest step that comes CLOSE to the rate, else by the one that comes nearest."""
    choices = []
    for step in STEPS:
        share, blocks, most = _nearest(shapes, _blocks(network, coupled, step), rate, dense_weights)
        if abs(share - rate) <= min(CLOSE, rate / 2) and most >= rate:
            return blocks
        choices.append((abs(share - rate), blocks))
    if most < rate:
        largest = _named(_whole_layers(shapes, coupled), whole)
        raise RefusedError(
            f"without channels at most {most:.4f} of the weights can be removed, not the rate {rate}"
            + (f"; the largest layers that keep all channels: {largest}" if largest else "; every layer keeps some")
        )
    return min(choices, key=lambda choice: choice[0])[1]


def _shapes(network: nn.Module, dataset: Dataset) -> dict[str, torch.Size]:
    """Return the shape of each prunable weight, by its key in the state dict."""
    names = {module: name for name, module in network.named_modules()}
    weights = prunable(network, dataset)
    return {f"{names[module]}.{name}".lstrip("."): getattr(module, name).shape for module, name in weights}


def _blocks(network: nn.Module, coupled: list[Coupled], step: int) -> list[Block]:
    """Return what can be removed, `step` channels at a time and the least important first."""
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    blocks = []
    for each in coupled:
        order = each.importance.argsort(stable=True).tolist()
        size, together = len(order), max(map(len, each.places))
        width = step // math.gcd(step, together)
        # The first is smaller if the size is no multiple; the last, the most important, always stays.
        ends = range((size - 1) % width + 1, size, width)
        gone: Cuts = defaultdict(set)
        for start, end in zip([0, *ends], ends, strict=False):
            places = order[start:end]
            cuts = each.cuts(places)
            # A layer that has only some of the places, as in a concatenation, keeps some of these.
            if all(len(gone[key, axis] | indices) < shapes[key][axis] for (key, axis), indices in cuts.items()):
                _add(gone, cuts)
                blocks.append(Block(float(each.importance[places].mean()), each.root, cuts))
    return sorted(blocks, key=lambda block: block.importance)


def _nearest(
    shapes: dict[str, torch.Size], blocks: list[Block], rate: float, dense_weights: int
) -> tuple[float, list[Block], float]:
    """Return the removed share that is nearest to the rate, its blocks, and the share if all blocks are removed."""
    cuts: Cuts = defaultdict(set)
    sizes = {key: shape.numel() for key, shape in shapes.items()}
    left = sum(sizes.values())
    shares = [1 - left / dense_weights]
    for block in blocks:
        _add(cuts, block.cuts)
        for key in {key for key, _ in block.cuts} & sizes.keys():
            left -= sizes[key]
            sizes[key] = math.prod(size - len(cuts[key, axis]) for axis, size in enumerate(shapes[key]))
            left += sizes[key]
        shares.append(1 - left / dense_weights)
    number = min(range(len(shares)), key=lambda n: abs(shares[n] - rate))
    return shares[number], blocks[:number], shares[-1]


def _add(cuts: Cuts, more: Cuts) -> None:
    for cut, indices in more.items():
        cuts[cut] |= indices


def _joined(blocks: list[Block]) -> Cuts:
    cuts: Cuts = defaultdict(set)
    for block in blocks:
        _add(cuts, block.cuts)
    return cuts


def _refused(network: nn.Module, blocks: list[Block], images: torch.Tensor, classes: int) -> dict[str, str]:
    """Return the layers whose blocks cannot be removed, and why: all are tried at once, then halves of those refused.

    As many checks as layers are refused, times the binary logarithm of how many there are.
    """
    refused: dict[str, str] = {}
    fine: list[str] = []
    roots = list(dict.fromkeys(block.root for block in blocks))
    pending = [roots] if roots else []
    while pending:
        tried = pending.pop()
        cuts = _joined([block for block in blocks if block.root in {*fine, *tried}])
        reason = _disagreement(network, cuts, images, classes)
        half = len(tried) // 2
        if not reason:
            fine += tried
        elif half:
            pending += [tried[half:], tried[:half]]
        else:
            refused[tried[0]] = reason
    return refused


def _disagreement(network: nn.Module, cuts: Cuts, images: torch.Tensor, classes: int) -> str:
    """Return how the network without the cuts differs from the one where they are zero, or nothing."""
    expected = checked_logits(_masked(network, cuts), images.clone(), classes)
    smaller = copied(network)
    _remove(smaller, cuts)
    try:
        with torch.inference_mode():
            logits = smaller(images.clone())
        difference = float((logits - expected).norm() / expected.norm())
    except Exception as error:
        return f"without some of them the network raises {type(error).__name__}: {error}"
    if difference <= TOLERANCE or torch.equal(logits, expected):  # 0 / 0 where all logits are 0
        return ""
    return f"without some of them the logits differ by {difference:.1g} from those with the same ones zero"


def _remove(network: nn.Module, cuts: Cuts) -> None:
    state = network.state_dict()
    for (key, axis), indices in cuts.items():
        kept = sorted(set(range(state[key].shape[axis])) - indices)
        state[key] = state[key].index_select(axis, torch.tensor(kept))
    shrink(network, state)
    network.load_state_dict(state)


def _masked(network: nn.Module, cuts: Cuts) -> nn.Module:
    masked = copied(network)
    state = masked.state_dict()
    for (key, axis), indices in cuts.items():
        state[key].index_fill_(axis, torch.tensor(sorted(indices)), 0)
    return masked


def _whole_layers(shapes: dict[str, torch.Size], coupled: list[Coupled]) -> dict[str, int]:
    """Return how many weights those prunable tensors have that lose nothing with any channel."""
    touched = {key for each in coupled for key, _ in each.entries}
    return {key: shape.numel() for key, shape in shapes.items() if key not in touched}


def _named(layers: dict[str, int], whole: dict[str, str]) -> str:
    """Return the three largest layers, with the reasons."""
    largest = sorted(layers, key=lambda key: -layers[key])[:3]
    reasons = {key: whole.get(key.rpartition(".")[0], "they cannot be followed") for key in largest}
    return ", ".join(f"{key!r} ({reason})" for key, reason in reasons.items())


def _tell_whole(
    shapes: dict[str, torch.Size], coupled: list[Coupled], whole: dict[str, str], dense_weights: int
) -> None:
    for reason in dict.fromkeys(whole.values()):
        names = [name for name in whole if whole[name] == reason]
        print(f"all channels of {', '.join(map(repr, names))} stay: {reason}")
    layers = _whole_layers(shapes, coupled)
    share = sum(layers.values()) / dense_weights
    if share >= MUCH:
        say(f"layers with {share:.0%} of the weights keep all channels, such as {_named(layers, whole)}")
