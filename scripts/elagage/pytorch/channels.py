"""Structured pruning: whole channels are removed, so that every runtime has less to multiply."""

import copy
import math
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch_pruning import DependencyGraph
from torch_pruning.dependency import Dependency, Group
from torch_pruning.ops import OPTYPE
from torch_pruning.pruner.importance import GroupMagnitudeImportance

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.pytorch.models import checked_logits
from elagage.pytorch.pruning import WeightCounts, count_weights, prunable
from elagage.pytorch.shrinking import SHRINKABLE, is_depthwise, shrink

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
REMEDY = "for this model leave channel out of pruning.scopes"

Cut = tuple[nn.Module, str, int]  # layer, name of its tensor, axis
Cuts = defaultdict[Cut, set[int]]  # -> the entries along the axis that are removed


def channel_prune(network: nn.Module, dataset: Dataset, rate: float, dense_weights: int) -> WeightCounts:
    """Remove the least important channels, in place, until the share `rate` of `dense_weights` is removed.

    Returns the weights as counted afterwards, those of `prunable`, so that all scopes share one axis. The share comes
    as near to the rate as STEPS permit. Channels that the network couples, such as those of both sides of an addition,
    are removed together (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", and its library
    Torch-Pruning). Their importance is the mean of the squared norms of all weights that go with a channel, relative
    to those coupled alike, and is ranked over all layers. Classes and input channels stay, every layer keeps some
    channels, and layers that share a parameter, or pass through one that cannot lose channels (layer and group norm,
    attention, a parameter of the user's own), keep all.

    The smaller network has to agree with the masked one: the dense network in which all that was removed, weights,
    biases and batch norm, is zero. A removed channel is then zero when it leaves its layer, and whatever an activation
    makes of that (0.5, of a sigmoid) meets weights that are zero, so they agree for any computation that keeps
    channels separate. Raises UserError if they do not (a softmax over channels), if the smaller network does not run
    (shortcuts padded with zeros), if the library cannot trace it, or if the rate is beyond what can be removed.
    """
    classes = len(dataset.classes)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(PROBE_IMAGES, dataset.channels, dataset.image_size, dataset.image_size, generator=generator)
    images = noise + torch.randn(PROBE_IMAGES, dataset.channels, 1, 1, generator=generator)
    checked_logits(network.eval(), images, classes)
    masked = copy.deepcopy(network).requires_grad_()  # tracing follows gradients
    _remove(network, masked, _choose(masked, dataset, images, rate, dense_weights))
    _check_agreement(network, masked, images, classes)
    return count_weights(network, dataset)


def _choose(network: nn.Module, dataset: Dataset, images: torch.Tensor, rate: float, dense_weights: int) -> Cuts:
    """Return what to remove: by the widest step that comes CLOSE to the rate, else by the one that comes nearest."""
    graph, groups = _coupled(network, images)
    choices = []
    for step in STEPS:
        share, cuts, most = _nearest(network, dataset, _blocks(graph, groups, step), rate, dense_weights)
        if abs(share - rate) <= min(CLOSE, rate / 2) and most >= rate:
            return cuts
        choices.append((abs(share - rate), cuts))
    if most < rate:
        raise UserError(
            f"without channels at most {most:.4f} of the weights can be removed, not the rate {rate}: classes, and "
            f"layers whose channels are normalized or attended to together or that share parameters, stay whole; "
            f"lower pruning.rates, or {REMEDY}"
        )
    return min(choices, key=lambda choice: choice[0])[1]


def _coupled(network: nn.Module, images: torch.Tensor) -> tuple[DependencyGraph, list[tuple[Group, torch.Tensor]]]:
    """Return the dependency graph and, for channels that are coupled, the layers that have them and importances."""
    owners = Counter(id(tensor) for module in network.modules() for tensor in module.parameters(recurse=False))
    shared = {tensor for tensor, count in owners.items() if count > 1}
    importance = GroupMagnitudeImportance()
    try:
        # Multiplied by 1, the logits are a node of their own, by which the last layers are known.
        graph = DependencyGraph().build_dependency(
            network, (images,), output_transform=lambda logits: 1 * logits, verbose=False
        )
        groups = list(graph.get_all_groups())
        if not groups:
            raise ValueError("no layer has gradients")
        free = [group for group in groups if all(_can_lose_channels(item, shared) for item in group)]
        return graph, [(group, importance(group)) for group in free]
    except Exception as error:
        traceback.print_exc()
        raise UserError(
            f"Torch-Pruning cannot follow channels through the network, as through shortcuts padded with zeros "
            f"({type(error).__name__}: {error}); {REMEDY}"
        ) from error


def _can_lose_channels(item, shared: set[int]) -> bool:
    layer = item.dep.layer
    if isinstance(layer, nn.Parameter) or item.dep.target.type == OPTYPE.OUTPUT or None in item.root_idxs:
        return False
    tensors = [*layer.parameters(), *layer.buffers()]  # none for what is no layer: additions, concatenations, ...
    return not tensors or (isinstance(layer, SHRINKABLE) and shared.isdisjoint(map(id, tensors)))


def _blocks(graph: DependencyGraph, groups: list[tuple[Group, torch.Tensor]], step: int) -> list[Cuts]:
    """Return what can be removed, `step` channels at a time and the least important first.

    A group convolution loses the same places of each of its groups.
    """
    ranked = []
    for group, importance in groups:
        convolutions = [item.dep.layer for item in group if isinstance(item.dep.layer, _ConvNd)]
        repeats = math.lcm(*(layer.groups for layer in convolutions if not is_depthwise(layer)))
        if len(importance) % repeats:
            continue
        places = importance.nan_to_num().view(repeats, -1).mean(0)  # 0 / 0 where all weights are zero
        order = places.argsort(stable=True).tolist()
        size, width = len(order), step // math.gcd(step, repeats)
        # The first is smaller if the size is no multiple; the last, the most important, always stays.
        ends = range((size - 1) % width + 1, size, width)
        for start, end in zip([0, *ends], ends, strict=False):
            block = order[start:end]
            roots = {place + repeat * size for place in block for repeat in range(repeats)}
            ranked.append((float(places[block].mean()), _cuts(graph, group, roots)))
    return [cuts for _, cuts in sorted(ranked, key=lambda pair: pair[0])]


def _cuts(graph: DependencyGraph, group: Group, roots: set[int]) -> Cuts:
    """Return the entries of all tensors that go with the channels `roots` of the group's first layer."""
    cuts: Cuts = defaultdict(set)
    for item in group:
        indices = [index for index, root in zip(item.idxs, item.root_idxs, strict=True) if root in roots]
        for name, axis in _axes(graph, item.dep):
            size = getattr(item.dep.layer, name).shape[axis]
            cuts[item.dep.layer, name, axis] |= {index % size for index in indices}  # places within one of its groups
    return cuts


def _axes(graph: DependencyGraph, dependency: Dependency) -> Iterator[tuple[str, int]]:
    """Yield each tensor of a layer that the removal changes, and along which axis."""
    layer = dependency.layer
    for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        if isinstance(layer, nn.Linear | _ConvNd) and name == "weight" and not is_depthwise(layer):
            inputs = not graph.is_out_channel_pruning_fn(dependency.handler)
            yield name, int(inputs != getattr(layer, "transposed", False))
        elif isinstance(layer, nn.Linear | _ConvNd):
            if graph.is_out_channel_pruning_fn(dependency.handler):
                yield name, 0
        elif tensor.dim() and not (isinstance(layer, nn.PReLU) and layer.num_parameters == 1):
            yield name, 0


def _nearest(
    network: nn.Module, dataset: Dataset, blocks: list[Cuts], rate: float, dense_weights: int
) -> tuple[float, Cuts, float]:
    """Return the removed share that is nearest to the rate, its cuts, and the share if all blocks are removed."""
    shapes = [(module, name, getattr(module, name).shape) for module, name in prunable(network, dataset)]
    cuts: Cuts = defaultdict(set)

    def removed_share() -> float:
        kept = (
            math.prod(size - len(cuts[module, name, axis]) for axis, size in enumerate(shape))
            for module, name, shape in shapes
        )
        return 1 - sum(kept) / dense_weights

    shares = [removed_share()]
    for block in blocks:
        _add(cuts, block)
        shares.append(removed_share())
    number = min(range(len(shares)), key=lambda n: abs(shares[n] - rate))
    chosen: Cuts = defaultdict(set)
    for block in blocks[:number]:
        _add(chosen, block)
    return shares[number], chosen, shares[-1]


def _add(cuts: Cuts, block: Cuts) -> None:
    for cut, indices in block.items():
        cuts[cut] |= indices


def _remove(network: nn.Module, masked: nn.Module, cuts: Cuts) -> None:
    """Take the cuts, given for the layers of `masked`, out of the network, and set them to zero in `masked`."""
    kept, zeroed = network.state_dict(), masked.state_dict()
    for place, module in masked.named_modules(remove_duplicate=False):
        for (layer, name, axis), indices in cuts.items():
            if layer is module:
                key = f"{place}.{name}".lstrip(".")
                rest = sorted(set(range(zeroed[key].shape[axis])) - indices)
                kept[key] = kept[key].index_select(axis, torch.tensor(rest))
                zeroed[key] = zeroed[key].index_fill(axis, torch.tensor(sorted(indices), dtype=torch.int64), 0)
    shrink(network, kept)
    network.load_state_dict(kept)
    masked.load_state_dict(zeroed)


def _check_agreement(network: nn.Module, masked: nn.Module, images: torch.Tensor, classes: int) -> None:
    """Raise UserError unless the network without channels gives the logits of the masked one."""
    reason = "Torch-Pruning did not follow a channel everywhere, as through shortcuts padded with zeros"
    try:
        logits = checked_logits(network, images, classes)
    except UserError as error:
        raise UserError(f"with channels removed, {error}; {reason}; {REMEDY}") from error
    expected = checked_logits(masked, images, classes)
    difference = float((logits - expected).norm() / expected.norm())
    if not (difference <= TOLERANCE or torch.equal(logits, expected)):  # 0 / 0 where all logits are 0
        raise UserError(
            f"with channels removed, the network's logits differ by {difference:.2g} (relative) from those with the "
            f"same channels set to zero: it computes across channels (softmax, mean, ...), or {reason}; {REMEDY}"
        )
