"""Weights that a network computes from its parameters in each call: computed once, so that pruning reaches them."""

import functools
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.prune import remove as remove_pruning
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.pytorch.models import Normalize, checked_logits
from elagage.pytorch.products import LAYER_FUNCTIONS, layer_weight, products

# What torch.nn.utils adds to a layer that computes its weight before each call -> what takes it away.
REMOVALS = {WeightNorm: remove_weight_norm, SpectralNorm: remove_spectral_norm, BasePruningMethod: remove_pruning}
# Relative difference of logits. Sums in another order make 1e-6.
TOLERANCE = 1e-4


def fold(network: nn.Module, dataset: Dataset) -> list[str]:
    """Let each layer keep the weight that it computes from its parameters in every call; return the layers' names.

    Parametrizations (weight and spectral norm, ...) are removed. A convolution or linear layer that standardizes or
    scales its weight in `forward` keeps its parameters and does so still, but multiplies with the parameter of that
    shape, which now holds the result. Which layers these are depends on the architecture, not on values, so that
    a checkpoint of a folded network fits a new one that is folded. Raises UserError if the forward pass raises.
    """
    folded = _without_parametrizations(network)
    for name, computed in products(network, dataset).computed.items():
        layer = network.get_submodule(name)
        with torch.no_grad():
            getattr(layer, computed.parameter).copy_(computed.weight)
        layer.__class__ = _given(type(layer), computed.parameter)
        folded.append(name)
    return folded


def fold_checked(network: nn.Module, dataset: Dataset, images: torch.Tensor) -> None:
    """Fold a trained network.

    Raises UserError if its logits of the images, uint8 [n, channels, height, width], are no numbers, or not as before.
    """
    device = next(iter(network.parameters())).device  # training may have left it on a GPU
    deployed, images = nn.Sequential(Normalize(dataset).to(device), network).eval(), images.to(device)
    expected = checked_logits(deployed, images, len(dataset.classes))
    if expected.isnan().any():
        raise UserError("with these weights the logits are NaN: some are wrong, such as a negative running variance")
    folded = fold(network, dataset)
    if not folded:
        return
    logits = checked_logits(deployed, images, len(dataset.classes))
    difference = 0.0 if torch.equal(logits, expected) else float((logits - expected).norm() / expected.norm())
    print(f"folded the weights of {', '.join(folded)}; logits differ by {difference:.2g} (relative)")
    if not difference <= TOLERANCE:
        raise UserError(
            f"the layers {', '.join(folded)} compute their weights in every call, and with the weights computed once "
            f"the logits differ by {difference:.2g} (relative); compute them before, so that they are parameters"
        )


def _without_parametrizations(network: nn.Module) -> list[str]:
    """Remove what torch.nn.utils computes weights with, leaving what it computes; return the names of the layers."""
    folded = []
    for name, module in list(network.named_modules()):
        if parametrize.is_parametrized(module):
            module.parametrizations.eval()  # type: ignore[union-attr]  # no power iteration any more
            tensors = list(module.parametrizations)  # type: ignore[arg-type, union-attr]
            for tensor in tensors:
                parametrize.remove_parametrizations(module, tensor)
        else:
            tensors = list(_without_hooks(module))
        if tensors:  # which became the last parameters, and layers have their weight as the first
            later = {key: module._parameters.pop(key) for key in list(module._parameters) if key not in tensors}
            module._parameters.update(later)
            folded.append(name)
    return folded


def _without_hooks(module: nn.Module) -> Iterator[str]:
    """Remove the hooks that compute weights before each call; yield the names of the weights."""
    for hook in list(module._forward_pre_hooks.values()):
        for kind, remove in REMOVALS.items():
            if isinstance(hook, kind):
                tensor = hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name
                remove(module, tensor)
                yield tensor
    for key, hook in list(module._load_state_dict_pre_hooks.items()):
        if isinstance(hook.hook, SpectralNormLoadStateDictPreHook):  # forgotten by remove_spectral_norm
            del module._load_state_dict_pre_hooks[key]


def _given(kind: type[nn.Module], parameter: str) -> type[nn.Module]:
    """Return the class of layers as one whose calls multiply with the parameter, whatever weight they compute."""

    @functools.wraps(kind.forward)
    def forward(self, *args, **kwargs):
        with _Given(getattr(self, parameter)):
            return kind.forward(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


class _Given(TorchFunctionMode):
    """Gives the functions of layers this weight in place of theirs."""

    def __init__(self, weight: torch.Tensor):
        self.weight = weight

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in LAYER_FUNCTIONS and layer_weight(args, kwargs).shape == self.weight.shape:
            if len(args) > 1:
                args = (args[0], self.weight, *args[2:])
            else:
                kwargs = kwargs | {"weight": self.weight}
        return func(*args, **kwargs)
