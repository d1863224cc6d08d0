"""Which weights of a network pruning may take: all that are multiplied with activations."""

from collections import defaultdict

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from elagage.data import Dataset
from elagage.errors import RefusedError
from elagage.pruning import NOTHING_TO_PRUNE, SCOPES, WeightCounts
from elagage.pytorch.products import Products, products


def prunable(network: nn.Module, dataset: Dataset) -> list[tuple[nn.Module, str]]:
    """Return each prunable weight once, as (module, parameter name), however many modules or calls share it.

    These are the parameters that a forward pass in evaluation mode multiplies, in convolutions, linear layers, matrix
    products, attention and recurrent layers, with what it computes from the image: so neither biases, scales,
    embeddings nor the layers of auxiliary outputs. In the order of the state dict. Raises RefusedError if there is
    none, UserError if the forward pass raises.
    """
    owners = _owners(network, products(network, dataset))
    if not owners:
        raise RefusedError(NOTHING_TO_PRUNE)
    return owners


def _owners(network: nn.Module, seen: Products) -> list[tuple[nn.Module, str]]:
    """Return the owner of each parameter that is multiplied, none where there is no such parameter."""
    owners = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen.parameters:
                owners.setdefault(id(parameter), (module, name))
    return list(owners.values())


def count_weights(network: nn.Module, dataset: Dataset) -> WeightCounts:
    """Count the prunable weights of a network, each shared weight once."""
    return count_tensors(prunable(network, dataset))


def count_tensors(weights: list[tuple[nn.Module, str]]) -> WeightCounts:
    """Count the weights, those of `prunable`."""
    tensors = [getattr(module, name) for module, name in weights]
    zeros = sum(int(torch.count_nonzero(tensor == 0)) for tensor in tensors)
    return WeightCounts(zeros, sum(tensor.numel() for tensor in tensors))


def memory_of(tensor: torch.Tensor) -> tuple:
    """Return what two names of one tensor in the state dict have in common: its memory, and how it lies there."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def weight_record(network: nn.Module, dataset: Dataset) -> dict:
    """Return what a checkpoint says of its weights, so that they can be pruned without the network.

    prunable: the names in the state dict of each prunable weight, several of a shared one. unpruned, if there are any:
    how many weights, by the name of the layer, are multiplied with activations but are no parameters; they are computed
    from parameters, for each image or in a way that cannot be folded, or they are constants. overlapping, if there are
    any: names of prunable weights of which other tensors of the state dict are views.
    """
    seen = products(network, dataset)
    names, views = defaultdict(list), defaultdict(set)
    for name, tensor in network.state_dict().items():
        names[memory_of(tensor)].append(name)
        views[tensor.untyped_storage().data_ptr()].add(memory_of(tensor))
    weights = {memory_of(weight): weight for weight in (getattr(*owner) for owner in _owners(network, seen))}
    record = {
        "prunable": [names[memory] for memory in weights],
        "unpruned": dict.fromkeys(seen.mixed, 0) | seen.others,
        "overlapping": [
            names[memory][0]
            for memory, weight in weights.items()
            if len(views[weight.untyped_storage().data_ptr()]) > 1
        ],
    }
    return {key: value for key, value in record.items() if value or key == "prunable"}


def magnitude_prune(network: nn.Module, dataset: Dataset, scope: str, rate: float) -> WeightCounts:
    """Set the share `rate` (0 to below 1) of the smallest weights to zero; return the weights as counted afterwards.

    Raises errors as prunable does.
    """
    weights = prunable(network, dataset)
    SCOPES[scope]([getattr(module, name).detach().numpy() for module, name in weights], rate)
    return count_tensors(weights)


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
