"""Unstructured magnitude pruning (Han et al. 2015) of the weights of convolutions and linear layers."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.hooks import RemovableHandle

from elagage.errors import UserError

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def prunable(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return each prunable weight once, as (module, parameter name), however many modules or calls share it.

    Raises UserError if there is none, or if one is computed from other tensors.
    """
    owners = {}
    for name, module in network.named_modules():
        if isinstance(module, LAYERS):
            if "weight" not in dict(module.named_parameters(recurse=False)):
                raise UserError(
                    f"the weight of layer {name!r} is computed from other tensors (weight_norm, spectral_norm, ...), "
                    f"so its zeros would not last; remove the parametrization before pruning"
                )
            owners.setdefault(id(module.weight), (module, "weight"))
    if not owners:
        raise UserError("the network has no convolution or linear layer, so there is no weight to prune")
    return list(owners.values())


class WeightCounts(NamedTuple):
    """How many prunable weights are zero, and how many there are."""

    zeros: int
    weights: int


def count_weights(network: nn.Module) -> WeightCounts:
    """Count the prunable weights of a network, each shared weight once."""
    tensors = [getattr(module, name) for module, name in prunable(network)]
    zeros = sum(int(torch.count_nonzero(tensor == 0)) for tensor in tensors)
    return WeightCounts(zeros, sum(tensor.numel() for tensor in tensors))


def _local(weights: list[tuple[nn.Module, str]], rate: float) -> None:
    for module, name in weights:
        prune.l1_unstructured(module, name, round(rate * getattr(module, name).numel()))


def _global(weights: list[tuple[nn.Module, str]], rate: float) -> None:
    total = sum(getattr(module, name).numel() for module, name in weights)
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=round(rate * total))


SCOPES: dict[str, Callable[[list[tuple[nn.Module, str]], float], None]] = {"local": _local, "global": _global}


def magnitude_prune(network: nn.Module, scope: str, rate: float) -> WeightCounts:
    """Set the share `rate` (0 to below 1) of the smallest weights to zero; return the weights as counted afterwards.

    `local` zeroes the share in every layer, `global` over all layers together. Raises UserError as prunable does.
    """
    weights = prunable(network)
    SCOPES[scope](weights, rate)
    for module, name in weights:
        prune.remove(module, name)  # keeps the Parameter object, so whoever shares it sees the zeros
        getattr(module, name).data += 0.0  # -0.0 becomes 0.0: the mask leaves signs, which do not compress
    return count_weights(network)


def hold_zeros(network: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """After each optimizer step, set to zero again what is zero now in the weights of convolutions and linear layers.

    To be called with the pruned weights in place, before a saved state is loaded: weights that reach 0.0 by themselves
    in training should not be held. A weight that several modules or calls share is one tensor, and held once. Returns
    a handle whose `remove()` ends it.
    """
    weights = [parameters["weight"] for parameters in _parameters_of_layers(network) if "weight" in parameters]
    zeros = [(weight, weight.detach() == 0) for weight in dict.fromkeys(weights)]

    @torch.no_grad()
    def hold(*_) -> None:
        for weight, zero in zeros:
            weight.masked_fill_(zero, 0.0)  # a product with the mask would leave -0.0, which does not compress

    return optimizer.register_step_post_hook(hold)


def _parameters_of_layers(network: nn.Module) -> list[dict[str, nn.Parameter]]:
    return [dict(m.named_parameters(recurse=False)) for m in network.modules() if isinstance(m, LAYERS)]
