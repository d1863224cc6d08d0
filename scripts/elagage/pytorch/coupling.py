"""Which channels of a network can only be removed together, and which layers have to keep theirs.

Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"; its library Torch-Pruning traces the network.
"""

import contextlib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree
from torch_pruning import DependencyGraph
from torch_pruning._helpers import _HybridIndex
from torch_pruning.dependency import Dependency, Node, index_mapping
from torch_pruning.ops import OPTYPE

from elagage.errors import RefusedError
from elagage.pytorch.shrinking import SHRINKABLE, is_depthwise

Cut = tuple[str, int]  # key of a tensor in the state dict, axis
Cuts = dict[Cut, set[int]]  # -> the entries along the axis that are removed
Roots = dict[int, int]  # channels of one side of a layer or operation -> the root's channels that reach them first
Items = dict[tuple[Node, Callable], tuple[Dependency, Roots]]  # by layer and side

# How channels pass through an operation, and what Torch-Pruning raises where it infers sizes that are not there, as
# from views with more axes than it knows (a channel shuffle).
MAPPINGS = {
    OPTYPE.CONCAT: index_mapping.update_concat_index_mapping,
    OPTYPE.SPLIT: index_mapping.update_split_index_mapping,
    OPTYPE.RESHAPE: index_mapping.update_reshape_index_mapping,
    OPTYPE.UNBIND: index_mapping.update_unbind_index_mapping,
    OPTYPE.EXPAND: index_mapping.update_expand_index_mapping,
    OPTYPE.SLICE: index_mapping.update_slice_index_mapping,
}
RANKED = (nn.Linear, _ConvNd, _BatchNorm)  # layers whose weights say how important a channel is
NOT_INFERRED = (ArithmeticError, LookupError, TypeError)


class Coupled(NamedTuple):
    """The output channels of a layer, the root, and all that the network couples with them."""

    root: str  # name of the layer
    layers: list[str]  # whose output channels they are, the root's and others'
    places: list[list[int]]  # channels of the root; those of one place can only be removed together
    importance: torch.Tensor  # float32 [places]
    entries: dict[Cut, dict[int, list[int]]]  # of each channel of the root, along the axis of a tensor

    def cuts(self, places: list[int]) -> Cuts:
        """Return what is removed with the places of these numbers."""
        channels = [channel for place in places for channel in self.places[place]]
        cuts = {
            cut: {index for channel in channels for index in entries.get(channel, ())}
            for cut, entries in self.entries.items()
        }
        return {cut: indices for cut, indices in cuts.items() if indices}


class _StaysError(Exception):
    """Why a layer keeps all of its channels."""


class _Traced(NamedTuple):
    """A network and what is known of it."""

    graph: DependencyGraph
    names: dict[nn.Module, list[str]]  # several if modules share a layer
    shared: set[int]  # ids of the parameters that several layers have
    widest: int  # inputs or outputs of a layer


def find_coupled(network: nn.Module, images: torch.Tensor) -> tuple[list[Coupled], dict[str, str]]:
    """Return the channels that can be removed, and the names of layers that keep all of theirs, with the reasons.

    The network is run in evaluation mode, with gradients, for images float32 [n, channels, height, width]. Raises
    RefusedError if Torch-Pruning cannot trace it.
    """
    try:
        traced = _traced(network, images)
        if not traced.widest:
            raise ValueError("no layer has gradients")
    except Exception as error:
        traceback.print_exc()
        raise RefusedError(
            f"Torch-Pruning cannot follow channels through the network ({type(error).__name__}: {error})"
        ) from error
    coupled: list[Coupled] = []
    whole: dict[str, str] = {}
    visited: set[nn.Module] = set()
    for layer in traced.graph.module2node:
        if isinstance(layer, nn.Linear | _ConvNd) and layer not in visited:
            items: Items = {}
            try:
                coupled.append(_coupled(traced, layer, items))
            except _StaysError as error:
                whole |= dict.fromkeys(_layers(traced, items), str(error))
            visited |= {node.module for node, side in items if traced.graph.is_out_channel_pruning_fn(side)}
    losing = {name for each in coupled for name in each.layers}  # of some layers, only a part of the channels stays
    return coupled, {name: reason for name, reason in whole.items() if name not in losing}


def _layers(traced: _Traced, items: Items) -> list[str]:
    """Return the convolutions and linear layers whose output channels are among the items."""
    outputs = [node.module for node, side in items if traced.graph.is_out_channel_pruning_fn(side)]
    return [traced.names[module][0] for module in outputs if isinstance(module, nn.Linear | _ConvNd)]


def _traced(network: nn.Module, images: torch.Tensor) -> _Traced:
    graph = _graph(network, images, lambda network, images: network(images.clone()))
    # Auxiliary heads, which only training calls, have to lose the channels that they are given.
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | _ConvNd)]
    if not graph.module2node.keys() >= set(layers) and len(_tensors(_in_training(network, images))) > 1:
        graph = _graph(network, images, _in_training)
    names = defaultdict(list)
    for name, module in network.named_modules(remove_duplicate=False):
        names[module].append(name)
    owners = Counter(id(tensor) for module in network.modules() for tensor in module.parameters(recurse=False))
    shared = {tensor for tensor, count in owners.items() if count > 1}
    traced = [node for node in graph.module2node.values() if isinstance(node.module, nn.Linear | _ConvNd)]
    widths = (max(graph.get_in_channels(node), graph.get_out_channels(node)) for node in traced)
    return _Traced(graph, names, shared, max(widths, default=0))


def _graph(network: nn.Module, images: torch.Tensor, forward: Callable) -> DependencyGraph:
    graph = DependencyGraph()
    try:
        # Multiplied by 1, the logits are a node of their own, by which the last layers are known.
        graph.build_dependency(
            network,
            images,
            forward_fn=forward,
            output_transform=lambda outputs: [1 * logits for logits in _tensors(outputs)],
            verbose=False,
        )
    except NOT_INFERRED:
        # The last step of build_dependency, which ends for all operations with the first that it misjudges.
        for node in graph.module2node.values():
            with contextlib.suppress(NOT_INFERRED):
                MAPPINGS.get(node.type, lambda graph, node: None)(graph, node)
    for module, node in graph.module2node.items():
        if is_depthwise(module) and module.in_channels != module.out_channels:
            _couple_sides(graph, node)
    return graph


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [output for output in pytree.tree_leaves(outputs) if isinstance(output, torch.Tensor)]


def _in_training(network: nn.Module, images: torch.Tensor) -> Any:
    """Return what the network returns in training mode, its layers in evaluation mode."""
    for module in network.modules():
        module.training = next(module.children(), None) is not None
    outputs = network(images.clone())
    network.eval()
    return outputs


def _couple_sides(graph: DependencyGraph, node: Node) -> None:
    """Let each input channel of a depthwise convolution go with its output channels.

    Torch-Pruning does so only where each has one.
    """
    pruner = graph.get_pruner_of_module(node.module)
    inputs, outputs = pruner.prune_in_channels, pruner.prune_out_channels
    stride = node.module.out_channels // node.module.in_channels
    for trigger, handler, reverse in ((inputs, outputs, False), (outputs, inputs, True)):
        dependency = Dependency(trigger, handler, source=node, target=node)
        dependency.index_mapping[0] = index_mapping._FlattenIndexMapping(stride, reverse)
        node.dependencies.append(dependency)


def _coupled(traced: _Traced, root: nn.Module, items: Items) -> Coupled:
    """Return what goes with the output channels of a layer; the items get all that they reach.

    Raises _StaysError if something on the way cannot lose channels.
    """
    graph = traced.graph
    pruner = graph.get_pruner_of_module(root)
    channels = range(pruner.get_out_channels(root))
    node, side = graph.module2node[root], pruner.prune_out_channels
    items[node, side] = Dependency(side, side, source=node, target=node), dict(zip(channels, channels, strict=True))
    joined = _Joined(channels)
    _follow(traced, items, joined)
    for dependency, roots in items.values():
        firsts: Roots = {}
        for index, first in roots.items():
            joined.join(firsts.setdefault(_removed_with(graph, dependency, index), first), first)
    places = joined.lists()
    if len(places) == 1:
        raise _StaysError("they can only be removed together")
    return Coupled(
        traced.names[root][0],
        _layers(traced, items),
        places,
        _importance(graph, items, places),
        _entries(traced, items),
    )


def _follow(traced: _Traced, items: Items, joined: "_Joined") -> None:
    """Add all that goes with the root, the only item, in the order of Torch-Pruning's get_pruning_group.

    That one visits a channel once for every channel of the root that reaches it, forgets all of these but the first,
    and does not end where shifts and slices form a cycle. Here a channel is visited once, and a second channel of the
    root that reaches it is joined with the first.
    """
    stack = list(items.values())
    while stack:
        dependency, roots = stack.pop()
        _check(traced, dependency, roots)
        for following in dependency.target.dependencies:
            if following.is_triggered_by(dependency.handler):
                reached = _mapped(following, roots)
                if not reached:
                    continue
                known = items.setdefault((following.target, following.handler), (following, {}))[1]
                new = {}
                for index, first in reached:
                    if index in known:
                        joined.join(known[index], first)
                    else:
                        known[index] = new[index] = first
                if new:
                    stack.append((following, new))


class _Joined:
    """Disjoint sets of channels (Tarjan 1975)."""

    def __init__(self, channels: range):
        self.parents = list(channels)

    def _lowest(self, channel: int) -> int:
        while self.parents[channel] != channel:
            self.parents[channel] = channel = self.parents[self.parents[channel]]
        return channel

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self._lowest(one), self._lowest(other)))
        self.parents[high] = low

    def lists(self) -> list[list[int]]:
        lists = defaultdict(list)
        for channel in range(len(self.parents)):
            lists[self._lowest(channel)].append(channel)
        return list(lists.values())


def _mapped(dependency: Dependency, roots: Roots) -> list[tuple[int, int]]:
    """Return the channels of the dependency's target, each with a channel of the root that reaches it."""
    indices = [_HybridIndex(index, root) for index, root in roots.items()]
    try:
        for mapping in filter(None, dependency.index_mapping):
            indices = mapping(indices)
    except NOT_INFERRED:
        raise _StaysError("Torch-Pruning cannot follow them") from None
    if any(index.root_idx is None for index in indices):
        raise _StaysError("Torch-Pruning cannot follow them")
    return [(index.idx, index.root_idx) for index in indices]


def _check(traced: _Traced, dependency: Dependency, roots: Roots) -> None:
    """Raise _StaysError unless the side of a layer or operation can lose these channels."""
    layer, graph = dependency.layer, traced.graph
    if isinstance(layer, nn.Parameter):
        raise _StaysError(f"they meet the parameter {graph._param_to_name[layer]!r}")
    if dependency.target.type == OPTYPE.OUTPUT:
        raise _StaysError("they are the classes")
    if layer in traced.names and not isinstance(layer, SHRINKABLE):
        raise _StaysError(f"they meet {traced.names[layer][0]!r}, a {type(layer).__name__}")
    is_output = graph.is_out_channel_pruning_fn(dependency.handler)
    size = (graph.get_out_channels if is_output else graph.get_in_channels)(dependency.target) or traced.widest
    if not 0 <= min(roots) <= max(roots) < size:
        raise _StaysError("Torch-Pruning cannot follow them")
    if any(id(parameter) in traced.shared for parameter in layer.parameters()):
        raise _StaysError(f"{traced.names[layer][0]!r} shares a parameter with another layer")


def _removed_with(graph: DependencyGraph, dependency: Dependency, index: int) -> int:
    """Return a number that a channel shares with those of its layer that have to go with it.

    A group convolution loses the same places of each of its groups, and group norm whole groups.
    """
    layer = dependency.layer
    if isinstance(layer, nn.GroupNorm):
        return index // (layer.num_channels // layer.num_groups)
    if isinstance(layer, _ConvNd) and not is_depthwise(layer):
        is_output = graph.is_out_channel_pruning_fn(dependency.handler)
        return index % ((layer.out_channels if is_output else layer.in_channels) // layer.groups)
    return index


def _importance(graph: DependencyGraph, items: Items, places: list[list[int]]) -> torch.Tensor:
    """Return the importance of each place, float32 [places], as Torch-Pruning's GroupMagnitudeImportance has it.

    That one fails where the channels of a layer are fewer than those that it is coupled with.
    """
    sums, count = torch.zeros(sum(map(len, places))), 0
    for dependency, roots in items.values():
        for name, axis in _axes(graph, dependency):
            if name == "weight" and isinstance(dependency.layer, RANKED) and not is_depthwise(dependency.layer):
                # Some at a time, because a linear layer can have 400 MB of weights.
                parts = dependency.layer.weight.detach().movedim(axis, 0).split(256)
                norms = torch.cat([part.reshape(len(part), -1).pow(2).sum(1) for part in parts])
                indices = torch.tensor([index % len(norms) for index in roots])
                sums.scatter_add_(0, torch.tensor(list(roots.values())), norms[indices])
                count += 1
    importance = sums / count
    importance = (importance / importance.mean()).nan_to_num()  # 0 / 0 where all weights are zero
    place_of = {channel: number for number, place in enumerate(places) for channel in place}
    numbers = torch.tensor([place_of[channel] for channel in range(len(importance))])
    means = torch.zeros(len(places)).index_add_(0, numbers, importance)
    return means / torch.tensor([len(place) for place in places])


def _entries(traced: _Traced, items: Items) -> dict[Cut, dict[int, list[int]]]:
    entries: dict[Cut, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for dependency, roots in items.values():
        for tensor, axis in _axes(traced.graph, dependency):
            size = getattr(dependency.layer, tensor).shape[axis]
            for name in traced.names[dependency.layer]:
                for index, root in roots.items():
                    # Modulo the size, the place within one of the groups of a group convolution.
                    entries[f"{name}.{tensor}".lstrip("."), axis][root].append(index % size)
    return entries


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
