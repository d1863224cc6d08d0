"""Recovery without training: layer by layer, the weights left are fitted to what the dense layer returns.

In the order of the forward pass, each fed by what the pruned network computes so far (He et al. 2017, "Channel Pruning
for Accelerating Very Deep Neural Networks", https://arxiv.org/abs/1707.06168, section 3.2).
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy
import torch
from torch import fx, nn

from elagage.data import Dataset
from elagage.errors import RefusedError
from elagage.progress import progress
from elagage.pytorch.export import trace
from elagage.pytorch.fake_quantization import LAYERS
from elagage.pytorch.least_squares import Moments, fit
from elagage.pytorch.pruning import memory_of, prunable
from elagage.pytorch.walk import Walk

BATCHNORMS = (torch.ops.aten.batch_norm.default, torch.ops.aten._native_batch_norm_legit_no_training.default)
# Convolutions with padding in words, beside those that are quantized.
CALLS = (*LAYERS, torch.ops.aten.conv1d.padding, torch.ops.aten.conv2d.padding, torch.ops.aten.conv3d.padding)
CHUNK = 16  # images, at most, that are computed at a time
PARTS = 5  # one of so many chunks is held out
FEWEST_IMAGES = 80  # whatever memory they take
MEMORY = 1.2e9  # bytes of what the networks compute that is kept, where the configuration states no number of images
MOST_INPUTS = 8192  # of a weight's group; the products of so many take 1.6 GB
POSITIONS_PER_INPUT = 10
FEWEST_POSITIONS = 5000
SHOWN = 3  # weights in a message


@dataclasses.dataclass(frozen=True)
class Layer:
    """A weight, by its name in the state dict, and the nodes of the program that multiply it with values of images."""

    name: str
    calls: list[fx.Node]
    intercept: str | None  # the tensor that takes it
    sign: int = 1  # -1 where it is a running mean, which is subtracted


class Reconstruction(NamedTuple):
    """How many images were used, and the prunable weights that cannot be fitted, with the reasons."""

    images: int
    left: dict[str, str]


def reconstruct(
    network: nn.Module,
    dense: nn.Module,
    dataset: Dataset,
    images: numpy.ndarray,
    kept: Mapping[str, list[int]],
    *,
    memory: float | None,
    label: str,
) -> Reconstruction:
    """Fit the weights of a pruned network, in place, to what the dense one computes from training images.

    images: uint8 [n, channels, height, width]; kept: weight -> the output channels of the dense network that are left,
    where some are removed; memory: bytes of what the networks compute that may be kept, which bounds the number of
    images, None for all images. Zeros stay zero. Raises RefusedError if no weight can be fitted, or if the networks
    cannot be walked side by side.
    """
    target_program, program = _programs(network, dense, dataset, kept)
    images = images if memory is None else images[: affordable_images(target_program, dense, images, memory)]
    chunks = list(torch.from_numpy(images).split(max(1, min(CHUNK, len(images) // PARTS))))
    targets, walk = Walk(target_program, dense, chunks), Walk(program, network, chunks)
    layers, left = find_layers(walk, network, dataset)
    with torch.inference_mode(), progress(len(layers), " layers", label) as advance:
        for layer, twins in _side_by_side(walk, targets, layers):
            _fit_layer(layer, walk, targets, twins, kept.get(layer.name))
            advance(1)
    return Reconstruction(len(images), left)


def check_reconstruct(
    network: nn.Module, dense: nn.Module, dataset: Dataset, images: numpy.ndarray, kept: Mapping[str, list[int]]
) -> None:
    """Raise what `reconstruct` would raise, in the time of two forward passes."""
    target_program, program = _programs(network, dense, dataset, kept)
    chunks = [torch.from_numpy(images)]
    targets, walk = Walk(target_program, dense, chunks), Walk(program, network, chunks)
    layers, _ = find_layers(walk, network, dataset)
    with torch.inference_mode():
        for layer, twins in _side_by_side(walk, targets, layers):
            for arguments, target in _calls(layer, walk, targets, twins, 0):
                sample(arguments, target, kept.get(layer.name), 1, torch.Generator())


def _side_by_side(walk: Walk, targets: Walk, layers: list[Layer]) -> Iterator[tuple[Layer, Mapping[fx.Node, fx.Node]]]:
    """Compute both networks node by node, and yield each layer when the dense one, but not the other, has computed it.

    With it the node of the dense network for each of the other one.
    """
    twins = dict(zip(walk.nodes, targets.nodes, strict=True))
    first = {layer.calls[0]: layer for layer in layers}
    for node, twin in twins.items():
        targets.compute(twin)
        if node in first:
            yield first[node], twins
        walk.compute(node)


def _programs(
    network: nn.Module, dense: nn.Module, dataset: Dataset, kept: Mapping[str, list[int]]
) -> tuple[torch.export.ExportedProgram, torch.export.ExportedProgram]:
    """Return the programs of the dense network and of the pruned one, whose nodes correspond to each other."""
    target_program = trace(dense, dataset)
    program = trace(network, dataset) if kept else target_program
    if target_program.graph.find_nodes(op="get_attr"):
        raise RefusedError("reconstruct does not enter blocks of torch.autocast() or torch.cond() in a forward pass")
    if [node.target for node in target_program.graph.nodes] != [node.target for node in program.graph.nodes]:
        raise RefusedError("reconstruct: without some channels the network takes other steps than the dense one")
    return target_program, program


def affordable_images(
    program: torch.export.ExportedProgram, network: nn.Module, images: numpy.ndarray, memory: float
) -> int:
    """Return how many images the bytes are enough for, of what two networks compute, but at least FEWEST_IMAGES."""
    walk = Walk(program, network, [torch.from_numpy(images[:CHUNK])])
    most = 0
    with torch.inference_mode():
        for node in walk.nodes:
            walk.compute(node)
            most = max(most, walk.nbytes)
    return max(FEWEST_IMAGES, round(memory * len(walk.chunks[0]) / (2 * most)))


def find_layers(walk: Walk, network: nn.Module, dataset: Dataset) -> tuple[list[Layer], dict[str, str]]:
    """Return what can be fitted, and the other prunable weights, by name, with the reason.

    Raises RefusedError if nothing can be fitted.
    """
    users, calls = defaultdict(list), defaultdict(list)
    for node, name in walk.names.items():
        users[name] += node.users
    for node in walk.nodes:
        if node.target in CALLS and node.args[1] in walk.names and node.args[0] in walk.varying:
            calls[walk.names[node.args[1]]].append(node)
    state = network.state_dict()
    names = {memory_of(tensor): name for name, tensor in reversed(state.items())}
    memory = defaultdict(set)
    for tensor in state.values():
        memory[tensor.untyped_storage().data_ptr()].add(memory_of(tensor))
    layers, left = [], {}
    for module, parameter in prunable(network, dataset):
        weight = getattr(module, parameter)
        name = names[memory_of(weight)]
        inputs = math.prod(weight.shape[1:])
        if len(memory[weight.untyped_storage().data_ptr()]) > 1:
            left[name] = "other tensors are views of its memory"
        elif not users[name]:
            left[name] = "what it computes is not used"
        elif len({_groups(call) for call in calls[name]}) > 1:
            left[name] = "it is called with several numbers of groups"
        elif not calls[name] or len(calls[name]) < len(users[name]):
            left[name] = "it is multiplied otherwise than by a convolution or a linear layer"
        elif inputs > MOST_INPUTS:
            left[name] = f"it has {inputs} inputs, more than {MOST_INPUTS}"
        else:
            layers.append(Layer(name, calls[name], *_intercept(walk, calls[name], users)))
    if not layers:
        raise RefusedError(f"reconstruct changes nothing: {listed(left)}")
    return layers, left


def _intercept(walk: Walk, calls: list[fx.Node], users: Mapping[str, list[fx.Node]]) -> tuple[str | None, int]:
    """Return the tensor that can take what is added to the outputs of a weight's calls, and its sign."""
    bias = walk.names.get(calls[0].args[2]) if len(calls[0].args) > 2 else None
    if bias is not None:
        return (bias, 1) if set(users[bias]) == set(calls) else (None, 1)
    following = list(calls[0].users)
    if len(calls) > 1 or len(following) > 1 or following[0].target not in BATCHNORMS:
        return None, 1
    if calls[0].target is torch.ops.aten.linear.default and calls[0].meta["val"].dim() > 2:
        return None, 1  # its channels are the last dimension, those of batch norm the second
    mean = walk.names.get(following[0].args[3])
    return (mean, -1) if mean is not None and len(users[mean]) == 1 else (None, 1)


def _fit_layer(
    layer: Layer, walk: Walk, targets: Walk, twins: Mapping[fx.Node, fx.Node], kept: list[int] | None
) -> None:
    """Fit a weight at its first call, whose twin is computed, to all its calls."""
    weight = walk.state[layer.name]
    groups = _groups(layer.calls[0])
    matrix = weight.reshape(groups, len(weight) // groups, -1)
    _, outputs, inputs = matrix.shape
    training, held_out = (Moments(groups, inputs, outputs) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    wanted = max(FEWEST_POSITIONS, POSITIONS_PER_INPUT * inputs) / (len(walk.chunks) * len(layer.calls))
    for place in range(len(walk.chunks)):
        moments = training if place % PARTS else held_out
        for arguments, target in _calls(layer, walk, targets, twins, place):
            moments.add(*sample(arguments, target, kept, math.ceil(wanted), generator))
    found = fit(training, held_out, matrix, matrix != 0, layer.intercept is not None)
    if found is None:
        print(f"{layer.name}: stays as it is, since no fit is nearer to the dense network on images held out")
        return
    print(f"{layer.name}: error on images held out {found.after / found.before:.3f} times that before")
    weight.copy_(found.weight.reshape(weight.shape))
    if layer.intercept is not None:
        walk.state[layer.intercept].add_(found.shift.flatten(), alpha=layer.sign)


def _calls(
    layer: Layer, walk: Walk, targets: Walk, twins: Mapping[fx.Node, fx.Node], place: int
) -> Iterator[tuple[dict, torch.Tensor]]:
    """Yield the arguments of each call of a layer for the chunk at `place`, and what the dense network returns.

    Later calls of a weight get the inputs of the dense network, since those of the pruned one depend on the fit; where
    channels are removed, whose inputs have other shapes, those that the pruned network has before the fit.
    """
    call, *later = layer.calls
    yield walk.arguments(call, place), targets.values[twins[call]][place]
    if later:
        first = walk.nodes.index(call)
        found = targets.ahead(first + 1, [twins[node] for node in later], place)
        weight = walk.state[layer.name]
        removed = weight.shape != targets.state[layer.name].shape
        own = walk.ahead(first, later, place) if removed else {}
        for node in later:
            arguments, result = found[twins[node]]
            yield own[node][0] if removed else arguments | {"weight": weight}, result


def _groups(call: fx.Node) -> int:
    names = [argument.name for argument in call.target._schema.arguments]
    return (dict(zip(names, call.args, strict=False)) | call.kwargs).get("groups", 1)


def sample(
    arguments: Mapping, target: torch.Tensor, kept: list[int] | None, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs, [positions, groups, inputs], and targets, [positions, groups, outputs], of some positions.

    arguments: of a call of a convolution or linear layer; target: what it should return, bias and all, of which the
    output channels `kept` are wanted; count: how many positions, drawn without replacement, or all there are.
    """
    images, weight = arguments["input"], arguments["weight"]
    if weight.dim() > 2:
        images, target = _patches(arguments), target.movedim(1, -1)
    places = target.shape[:-1]
    drawn = torch.randperm(math.prod(places), generator=generator)[:count]
    at = torch.unravel_index(drawn, places)
    target = target[at]
    target = target if kept is None else target[:, kept]
    target = target if arguments["bias"] is None else target - arguments["bias"]
    groups = arguments.get("groups", 1)
    return images[at].reshape(len(drawn), groups, -1), target.reshape(len(drawn), groups, -1)


def _patches(arguments: Mapping) -> torch.Tensor:
    """Return a view of what a convolution multiplies at each place of its output: [n, *output, channels, *kernel]."""
    images, kernel, padding = arguments["input"], arguments["weight"].shape[2:], arguments["padding"]
    strides, dilations = (
        [*arguments[name]] * (len(kernel) if len(arguments[name]) == 1 else 1) for name in ("stride", "dilation")
    )
    reach = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
    if isinstance(padding, str):
        sides = [(far // 2, far - far // 2) if padding == "same" else (0, 0) for far in reach]
    else:
        sides = [(size, size) for size in [*padding] * (len(kernel) if len(padding) == 1 else 1)]
    padded = nn.functional.pad(images, [side for pair in reversed(sides) for side in pair])
    places = zip(padded.shape[2:], reach, strides, strict=True)
    output = [(size - far - 1) // stride + 1 for size, far, stride in places]
    first, channel, *steps = padded.stride()
    between = [step * stride for step, stride in zip(steps, strides, strict=True)]
    within = [step * dilation for step, dilation in zip(steps, dilations, strict=True)]
    shape = (len(padded), *output, padded.shape[1], *kernel)
    return padded.as_strided(shape, (first, *between, channel, *within))


def listed(left: Mapping[str, str]) -> str:
    """Return some of the weights that cannot be fitted, with the reasons."""
    named = [f"{name!r} ({reason})" for name, reason in left.items()]
    return ", ".join(named[:SHOWN]) + (f" and {len(named) - SHOWN} more" if len(named) > SHOWN else "")
