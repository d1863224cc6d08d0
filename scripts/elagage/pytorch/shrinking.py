"""Networks with fewer channels than their architecture has: the shapes are those of a state dict."""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from elagage.errors import UserError


def is_depthwise(module: nn.Module) -> bool:
    """Whether each input channel has filters of its own, so that there are always as many groups as input channels.

    Transposed convolutions have one filter for each.
    """
    if not isinstance(module, _ConvNd) or not 1 < module.groups == module.in_channels:
        return False
    return module.in_channels == module.out_channels or not module.transposed


def _group_norm(module: nn.Module, weight: torch.Size) -> dict[str, int]:
    return {"num_channels": weight[0], "num_groups": weight[0] * module.num_groups // module.num_channels}


def _convolution(module: nn.Module, weight: torch.Size) -> dict[str, int]:
    first, second = weight[:2]
    groups = first * module.in_channels // module.out_channels if is_depthwise(module) else module.groups
    inputs, outputs = (first, second * groups) if module.transposed else (second * groups, first)
    return {"in_channels": inputs, "out_channels": outputs, "groups": groups}


# Layers that store their sizes -> the attributes that follow from the shape of their first tensor.
SIZES: dict[type[nn.Module], Callable[[nn.Module, torch.Size], dict[str, int]]] = {
    _ConvNd: _convolution,
    nn.Linear: lambda module, weight: {"in_features": weight[1], "out_features": weight[0]},
    _BatchNorm: lambda module, weight: {"num_features": weight[0]},
    _InstanceNorm: lambda module, weight: {"num_features": weight[0]},
    nn.GroupNorm: _group_norm,
    nn.PReLU: lambda module, weight: {"num_parameters": weight[0]},
}
SHRINKABLE = tuple(SIZES)


def shrink(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give the layers of a network the shapes of a state dict; their values are left to load_state_dict.

    Tensors that the state dict lacks stay as they are, and parameters that layers share stay shared. Raises UserError
    if another layer than convolutions, linear layers, batch, instance and group norm and PReLU would change its shape.
    """
    shrunk: dict[int, nn.Parameter] = {}
    for place, module in network.named_modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        given = {name: state.get(f"{place}.{name}".lstrip("."), tensor) for name, tensor in tensors}
        changed = [(name, tensor) for name, tensor in tensors if tensor.shape != given[name].shape]
        if not changed:
            continue
        sizes = next((sizes for kind, sizes in SIZES.items() if isinstance(module, kind)), None)
        if sizes is None:
            raise UserError(
                f"layer {place!r}, a {type(module).__name__}, has {changed[0][0]} of another shape than the network, "
                f"and only convolutions, linear layers, batch, instance and group norm and PReLU can lose channels"
            )
        for name, tensor in changed:
            smaller = tensor.detach().new_zeros(given[name].shape)
            if isinstance(tensor, nn.Parameter):
                smaller = shrunk.setdefault(id(tensor), nn.Parameter(smaller, tensor.requires_grad))
            setattr(module, name, smaller)
        for attribute, size in sizes(module, given[tensors[0][0]].shape).items():
            setattr(module, attribute, size)
