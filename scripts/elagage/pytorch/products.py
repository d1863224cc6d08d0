"""Which tensors of a network are multiplied with what it computes from the image, in one forward pass."""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from elagage.data import Dataset
from elagage.pytorch.models import copied, forward_pass

aten = torch.ops.aten
# Operators that multiply and sum, as PyTorch dispatches them -> the places of the factors among the arguments.
FACTORS = {
    aten.convolution: (0, 1),
    aten.mm: (0, 1),
    aten.addmm: (1, 2),
    aten.bmm: (0, 1),
    aten.baddbmm: (1, 2),
    aten.addbmm: (1, 2),
    aten.mv: (0, 1),
    aten.addmv: (1, 2),
    aten.dot: (0, 1),
    aten._trilinear: (0, 1, 2),  # nn.Bilinear
    "torchvision.deform_conv2d": (0, 1),  # by its name: it is there only where torchvision is imported
    aten.mkldnn_rnn_layer: (0, 1, 2),  # LSTM on a CPU: values, weights for the values, weights for the state
    aten._cudnn_rnn: (0, 1),  # RNN, LSTM and GRU on a GPU: values, and a list of weights and biases
    aten._scaled_dot_product_flash_attention_for_cpu: (0, 1, 2),
    aten._scaled_dot_product_flash_attention: (0, 1, 2),
    aten._scaled_dot_product_efficient_attention: (0, 1, 2),
    aten._scaled_dot_product_cudnn_attention: (0, 1, 2),
}
# Operators whose result has the values of their arguments, and no others.
MOVES = {aten.clone, aten.copy_, aten._to_copy, aten.cat, aten.stack, aten.flip, aten.roll, aten.repeat}
# Functions that layers call with their weight as the second argument.
LAYER_FUNCTIONS = {
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    nn.functional.linear,
}
BATCH = 5  # images; by this number a constant is known that is repeated for each image


class Computed(NamedTuple):
    """A weight that a layer computes anew in each call, whatever the image, from a parameter of the same shape."""

    parameter: str  # name in the layer
    weight: torch.Tensor


class Products(NamedTuple):
    """What is multiplied with values that depend on the image, and does not depend on it itself."""

    parameters: set[int]  # ids of those multiplied as they are
    others: dict[str, int]  # layer -> how many weights it multiplies with that are computed, or are no parameters
    mixed: list[str]  # layers that convolve with a weight that depends on the image
    computed: dict[str, Computed]  # layer -> its weight, where the computed one can take the place of a parameter


def products(network: nn.Module, dataset: Dataset) -> Products:
    """Return what an evaluation-mode forward pass multiplies with what it computes from images.

    The network stays as it is. Layers are named as in named_modules. Raises UserError if the forward pass raises.
    """
    probed = copied(network, share_parameters=True).eval()  # a copy: what a network keeps in a call should not stay
    device = next(iter(network.parameters())).device
    images = torch.zeros(BATCH, dataset.channels, dataset.image_size, dataset.image_size, device=device)
    tracer = _Tracer(probed, images)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole layer, which hides its products
    try:
        with torch.no_grad(), tracer, _LayerCalls(tracer), forward_pass(images):
            probed(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return tracer.products(probed)


class _Tracer(TorchDispatchMode):
    """Follows through all operators which storages depend on the image and which come from which parameters."""

    def __init__(self, network: nn.Module, images: torch.Tensor):
        super().__init__()
        self.dependent = {_storage(images)}
        self.sources: dict[int, set[int]] = defaultdict(set)  # storage -> ids of parameters it is computed from
        self.copies: dict[int, set[int]] = {}  # storage -> ids of parameters whose values it holds
        self.spread: set[int] = set()  # ids of views of constants that are repeated for each image
        self.alive = [images]  # a storage that is freed could be taken for the next at its place
        self.places: dict[int, list[nn.Parameter]] = defaultdict(list)
        for parameter in network.parameters():
            self.places[_storage(parameter)].append(parameter)
            self.sources[_storage(parameter)].add(id(parameter))
        self.used: set[int] = set()
        self.others: dict[tuple[str, int], int] = {}
        self.mixed: dict[str, None] = {}
        self.computed: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.layers = [""]
        for name, module in network.named_modules():
            module.register_forward_pre_hook(functools.partial(self._enter, name))
            module.register_forward_hook(self._leave)

    def _enter(self, name: str, *_) -> None:
        self.layers.append(name)

    def _leave(self, *_) -> None:
        self.layers.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        operator, inputs = func.overloadpacket, list(_tensors([*args, *(kwargs or {}).values()]))
        factors = FACTORS.get(operator) or FACTORS.get(str(operator))
        if factors:
            self._note(operator, [args[place] for place in factors])
        spread = any(id(tensor) in self.spread for tensor in inputs)
        dependent = any(_storage(tensor) in self.dependent for tensor in inputs)
        sources = set().union(*(self.sources[_storage(tensor)] for tensor in inputs))
        shared = {_storage(tensor) for tensor in inputs}
        for tensor in _tensors([result]):
            storage = _storage(tensor)
            self.alive.append(tensor)
            self.sources[storage] |= sources
            of_batch = tensor.dim() > 0 and len(tensor) == BATCH
            if storage in shared and (spread or (operator is aten.expand and of_batch)):
                self.spread.add(id(tensor))
            elif dependent or spread or (of_batch and (not inputs or operator is aten.repeat)):
                self.dependent.add(storage)
            if operator in MOVES:
                values = [self._values(tensor) for tensor in (inputs[1:] if operator is aten.copy_ else inputs)]
                self.copies[storage] = set().union(*values) if all(values) else set()
            elif func._schema.is_mutable:
                self.copies.pop(storage, None)
        return result

    def _values(self, tensor: torch.Tensor) -> set[int]:
        """Return the ids of the parameters whose values the tensor holds."""
        storage, place = _storage(tensor), tensor.data_ptr()
        own = {
            id(parameter)
            for parameter in self.places.get(storage, [])
            if parameter.data_ptr() <= place < parameter.data_ptr() + parameter.nbytes
        }
        return own or self.copies.get(storage, set())

    def _note(self, operator, factors: list) -> None:
        tensors = [tensor for tensor in _tensors(factors) if tensor.dim() > 1 or isinstance(factors[1], torch.Tensor)]
        constant = [_storage(tensor) not in self.dependent for tensor in tensors]
        if operator is aten.convolution and not constant[1]:
            self.mixed[self.layers[-1]] = None
        if all(constant) and not any(id(tensor) in self.spread for tensor in tensors):
            return  # computed once, whatever the image
        for tensor, of_weights in zip(tensors, constant, strict=True):
            values = self._values(tensor)
            self.used |= values
            if of_weights and not values:
                self.others[self.layers[-1], _storage(tensor)] = tensor.untyped_storage().nbytes() // tensor.itemsize

    def note_layer(self, weight: torch.Tensor) -> None:
        """Note the weight that the running layer calls its function with, if it is computed from parameters only."""
        storage = _storage(weight)
        if storage not in self.dependent and self.sources[storage] and not self._values(weight):
            self.computed[self.layers[-1]].append(weight.detach())

    def products(self, network: nn.Module) -> Products:
        """Return what was seen. The weights of a layer that computes several, or shares them, stay computed."""
        others: Counter[str] = Counter()
        for (layer, _), size in self.others.items():
            others[layer] += size
        computed = {}
        owners = Counter(id(p) for module in network.modules() for p in module.parameters(recurse=False))
        for layer, weights in self.computed.items():
            own = dict(network.get_submodule(layer).named_parameters(recurse=False))
            names = [
                name
                for name, parameter in own.items()
                if parameter.shape == weights[0].shape
                and id(parameter) in self.sources[_storage(weights[0])] - self.used
                and owners[id(parameter)] == 1
            ]
            alone = len(own) == len(list(network.get_submodule(layer).parameters()))
            if len(names) == 1 and alone and all(_same(weight, weights[0]) for weight in weights):
                computed[layer] = Computed(names[0], weights[0].clone())
        return Products(self.used, dict(others), list(self.mixed), computed)


class _LayerCalls(TorchFunctionMode):
    """Shows the tracer the weight of each layer as the layer gives it to its function."""

    def __init__(self, tracer: _Tracer):
        self.tracer = tracer

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in LAYER_FUNCTIONS:
            self.tracer.note_layer(layer_weight(args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def layer_weight(args: tuple, kwargs: dict) -> torch.Tensor:
    """Return the weight among the arguments of a function of LAYER_FUNCTIONS."""
    return args[1] if len(args) > 1 else kwargs["weight"]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
