"""Unstructured magnitude pruning (Han et al. 2015) of all weights that are multiplied with activations."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from elagage.data import Dataset
from elagage.errors import RefusedError
from elagage.pytorch.products import Products, products


def prunable(network: nn.Module, dataset: Dataset) -> list[tuple[nn.Module, str]]:
    """Return each prunable weight once, as (module, parameter name), however many modules or calls share it.

    These are the parameters that a forward pass in evaluation mode multiplies, in convolutions, linear layers, matrix
    products, attention and recurrent layers, with what it computes from the image: so neither biases, scales,
    embeddings nor the layers of auxiliary outputs. In the order of the state dict. Raises RefusedError if there is
    none, UserError if the forward pass raises.
    """
    return _owners(network, products(network, dataset))


def _owners(network: nn.Module, seen: Products) -> list[tuple[nn.Module, str]]:
    owners = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen.parameters:
                owners.setdefault(id(parameter), (module, name))
    if not owners:
        raise RefusedError(
            "the network multiplies no parameter with activations (it has no convolution, no linear layer and no "
            "matrix product of its own), so there is no weight to prune"
        )
    return list(owners.values())


class WeightCounts(NamedTuple):
    """How many prunable weights are zero, and how many there are."""

    zeros: int
    weights: int


def count_weights(network: nn.Module, dataset: Dataset) -> WeightCounts:
    """Count the prunable weights of a network, each shared weight once."""
    return count(prunable(network, dataset))


def count(weights: list[tuple[nn.Module, str]]) -> WeightCounts:
    """Count the weights, those of `prunable`."""
    tensors = [getattr(module, name) for module, name in weights]
    zeros = sum(int(torch.count_nonzero(tensor == 0)) for tensor in tensors)
    return WeightCounts(zeros, sum(tensor.numel() for tensor in tensors))


def unpruned(network: nn.Module, dataset: Dataset) -> dict[str, int]:
    """Return how many weights, by the name of the layer, are multiplied with activations but are no parameters.

    They are computed from parameters, for each image or in a way that cannot be folded, or they are constants.
    """
    seen = products(network, dataset)
    return dict.fromkeys(seen.mixed, 0) | seen.others


def _local(weights: list[torch.Tensor], rate: float) -> None:
    for weight in weights:
        zero_smallest([weight], rate)


@torch.no_grad()
def zero_smallest(weights: list[torch.Tensor], rate: float) -> None:
    """Set the share `rate` (0 to below 1) of the smallest of all these weights to zero, in place.

    Of equal ones the same as l1_unstructured and global_unstructured of torch.nn.utils.prune choose, in half of the
    memory: seven times that of the weights.
    """
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    zero = torch.zeros_like(sizes, dtype=torch.bool)
    zero[torch.topk(sizes, round(rate * len(sizes)), largest=False, sorted=False).indices] = True
    for weight, mask in zip(weights, zero.split([weight.numel() for weight in weights]), strict=True):
        weight.masked_fill_(mask.view_as(weight), 0.0)
        weight += 0.0  # -0.0 becomes 0.0: signs of zeros do not compress


SCOPES: dict[str, Callable[[list[torch.Tensor], float], None]] = {"local": _local, "global": zero_smallest}


def magnitude_prune(network: nn.Module, dataset: Dataset, scope: str, rate: float) -> WeightCounts:
    """Set the share `rate` (0 to below 1) of the smallest weights to zero; return the weights as counted afterwards.

    `local` zeroes the share in every layer, `global` over all layers together. Raises errors as prunable does.
    """
    weights = prunable(network, dataset)
    SCOPES[scope]([getattr(module, name) for module, name in weights], rate)
    return count(weights)


def hold_zeros(weights: list[tuple[nn.Module, str]], optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """After each optimizer step, set to zero again what is zero now in the weights, those of `prunable`.

    To be called with the pruned weights in place, before a saved state is loaded: weights that reach 0.0 by themselves
    in training should not be held. Returns a handle whose `remove()` ends it.
    """
    tensors = [getattr(module, name) for module, name in weights]
    zeros = [(tensor, tensor.detach() == 0) for tensor in tensors]

    @torch.no_grad()
    def hold(*_) -> None:
        for weight, zero in zeros:
            weight.masked_fill_(zero, 0.0)  # a product with the mask would leave -0.0, which does not compress

    return optimizer.register_step_post_hook(hold)
