"""Whether the logits of an image depend on the image only: not on its neighbours, randomness or earlier calls."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.logits import SUMS_DIFFER, logits_difference
from elagage.pytorch.models import Normalize, checked_logits, copied, with_other_weights

IMAGES = 8
CHOSEN = 3  # has neighbours on both sides, and another place if the batch is reversed or shifted
SHOWN = 5  # layers in a message
# Untrained networks of many layers amplify what sums in another order change. The graph of an EfficientNet-B0 differs
# by 0.03 of what a grey level of noise makes, that of most networks by 1e-4; a wrong graph by about as much as noise.
SHARE_OF_NOISE = 0.1


def probe_images(dataset: Dataset) -> torch.Tensor:
    """Return random images whose colours and contrasts differ, uint8 [8, channels, size, size]."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(IMAGES, *shape, generator=generator)

    colours, contrasts = random(dataset.channels, 1, 1), random(1, 1, 1)
    noise = random(dataset.channels, dataset.image_size, dataset.image_size)
    return (255 * (colours * (1 - contrasts) + noise * contrasts)).to(torch.uint8)


def with_noise(images: numpy.ndarray) -> numpy.ndarray:
    """Return the images, uint8 of any shape, with -1, 0 or 1 added to each pixel, by chance."""
    change = numpy.random.default_rng(0).integers(-1, 2, images.shape)
    return (images + change).clip(0, 255).astype(numpy.uint8)


def allowed_difference(deployed: nn.Module, images: torch.Tensor, classes: int) -> float:
    """Return how far two correct computations of a network's logits may differ, as logits_difference has it.

    deployed: takes uint8 images [n, channels, height, width].
    """
    noisy = torch.from_numpy(with_noise(images.numpy()))
    logits, moved = (checked_logits(deployed, each, classes).numpy() for each in (images, noisy))
    return max(SUMS_DIFFER, SHARE_OF_NOISE * float(numpy.nan_to_num(logits_difference(moved, logits))))


def check_independence(network: nn.Module, dataset: Dataset) -> None:
    """Raise UserError, naming layers, unless an image has the same logits alone, beside seven others, and once more.

    In evaluation mode, on copies with other weights: a layer that starts with zeros shows nothing of those before it.
    """
    images, classes = probe_images(dataset), len(dataset.classes)
    untouched = nn.Sequential(Normalize(dataset), with_other_weights(network)).eval()
    deployed = copied(untouched)
    first, again = (checked_logits(deployed, images, classes).numpy() for _ in range(2))
    if not logits_difference(again, first) <= SUMS_DIFFER:
        raise UserError(
            "the network gives other logits when it is called again with the same images: in evaluation mode it "
            "depends on randomness (dropout that is always on) or on earlier calls"
        )
    try:
        alone = checked_logits(deployed, images[CHOSEN : CHOSEN + 1], classes).numpy()
    except UserError:
        if not _norms_without_statistics(deployed):
            raise
        alone = None  # one image has no statistics
    allowed = allowed_difference(deployed, images, classes)
    if alone is None or not logits_difference(first[CHOSEN : CHOSEN + 1], alone) <= allowed:
        raise UserError(
            f"an image gets other logits beside seven others than alone: {_culprits(untouched, images)}; deployed, an "
            f"image has no neighbours; use layers that compute with each image by itself"
        )


def _norms_without_statistics(deployed: nn.Module) -> list[str]:
    return [
        f"{name.removeprefix('1.')!r} ({type(module).__name__})"
        for name, module in deployed.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]


def _culprits(deployed: nn.Module, images: torch.Tensor) -> str:
    """Say which layers let images of a batch depend on each other."""
    if norms := _norms_without_statistics(deployed):
        rest = f" and {len(norms) - SHOWN} more" if len(norms) > SHOWN else ""
        return f"batch normalization without running statistics in {', '.join(norms[:SHOWN])}{rest}"
    together, alone = _steps(deployed, images), _steps(deployed, images[CHOSEN : CHOSEN + 1])
    for step, expected in zip(together, alone, strict=False):
        count, ways = len(expected.values), len(step.values) // len(expected.values)
        if ways != IMAGES or step.values.shape[1:] != expected.values.shape[1:]:
            continue  # the batch is not its first dimension
        own = step.values[CHOSEN * count : (CHOSEN + 1) * count]
        if not logits_difference(own.numpy(), expected.values.numpy()) <= SUMS_DIFFER:
            return step.place
    return "somewhere in its forward pass"


def check_built_anew(network: nn.Module, rebuilt: nn.Module) -> None:
    """Raise UserError if a network and one that the same process has built again share parameters."""
    others = {id(parameter) for parameter in rebuilt.parameters()}
    shared = [name for name, parameter in network.named_parameters() if id(parameter) in others]
    if shared:
        raise UserError(
            f"built twice, the network is the same object, or has parameters of the first one "
            f"({', '.join(shared[:SHOWN])}): make the network and its layers anew in each call, not where a file or a "
            f"default argument is read"
        )


def check_rebuilt(network: nn.Module, rebuilt: nn.Module, dataset: Dataset) -> None:
    """Raise UserError if the network and one that was built with another seed differ when they have the same weights.

    They do if building draws, or computes from weights, what is not in the state dict: no checkpoint would keep that.
    """
    images, classes, other = probe_images(dataset), len(dataset.classes), with_other_weights(network)
    again = copied(rebuilt)
    again.load_state_dict(other.state_dict())
    deployed = nn.Sequential(Normalize(dataset), other).eval()
    expected = checked_logits(deployed, images, classes).numpy()
    logits = checked_logits(nn.Sequential(Normalize(dataset), again).eval(), images, classes).numpy()
    if not logits_difference(logits, expected) <= allowed_difference(deployed, images, classes):
        raise UserError(
            "built twice, the network gives other logits with the same weights: it keeps something that is drawn, or "
            "computed from weights, when it is built, and that is not in its state dict; register it as a buffer, or "
            "compute it in the forward pass"
        )


def check_copies(network: nn.Module, dataset: Dataset) -> None:
    """Raise UserError if a copy computes with tensors of the network that it was copied from.

    All that is tried before there are weights, and the best epoch that a training keeps, is a copy.
    """
    images, classes = probe_images(dataset), len(dataset.classes)
    copy = nn.Sequential(Normalize(dataset), copied(network)).eval()
    first, again = (checked_logits(copy, images, classes).numpy() for _ in range(2))
    if not logits_difference(again, first) <= SUMS_DIFFER:
        return  # which check_independence names
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    _overwrite(network, with_other_weights(network).state_dict())
    logits = checked_logits(copy, images, classes).numpy()
    _overwrite(network, state)
    if not logits_difference(logits, first) <= SUMS_DIFFER:
        raise UserError(
            "a copy of the network (copy.deepcopy) computes with tensors of the network that it was copied from: a "
            "function that is defined in __init__ (a lambda, a hook) or a weak reference keeps them; write it as a "
            "method, or give it what it needs as arguments"
        )


@torch.no_grad()
def _overwrite(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a network the numbers of a state dict of its own, without what load_state_dict would make of them."""
    for name, tensor in network.state_dict().items():
        tensor.copy_(state[name])


class _Step(NamedTuple):
    place: str
    values: torch.Tensor  # what a layer takes or returns, [n, ...]


@torch.inference_mode()
def _steps(deployed: nn.Module, images: torch.Tensor) -> list[_Step]:
    """Return what each module of the network takes and returns, in the order in which it computes."""
    network, steps = copied(deployed), []

    def record(place: str, values: object) -> None:
        tensor = values[0] if isinstance(values, tuple) and values else values
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dim() and len(tensor):
            steps.append(_Step(place, tensor.clone()))

    for name, module in network[1].named_modules():
        place = f"{name!r} ({type(module).__name__})" if name else f"the network ({type(module).__name__})"
        module.register_forward_pre_hook(
            lambda module, inputs, place=place: record(f"in what is computed before {place}", inputs)
        )
        module.register_forward_hook(lambda module, inputs, output, place=place: record(f"in {place}", output))
    network(images)
    return steps
