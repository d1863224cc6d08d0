"""Networks by name, built in or of the user, and the images that reach them, normalized."""

import contextlib
import copy
import os
import pathlib
import random
import traceback
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer
from torch.utils import _pytree as pytree

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.pytorch.architectures import ARCHITECTURES
from elagage.user_code import import_roots, import_user_module, users_first


class ModelSpec(NamedTuple):
    """One model of a study: its name, how it is built, and the seed of its weights and of its training."""

    name: str
    architecture: str
    seed: int


class Normalize(nn.Module):
    """uint8 images [n, channels, height, width] -> float32 with mean 0, deviation 1 and the channels in their order."""

    def __init__(self, dataset: Dataset):
        super().__init__()
        self.bgr = dataset.bgr
        self.register_buffer("mean", 255 * torch.tensor(dataset.mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(dataset.std).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalized = (images.float() - self.mean) / self.std
        return normalized.flip(1) if self.bgr else normalized


def _user_build(architecture: str):
    path, _, function = architecture.rpartition(":")
    if not pathlib.Path(path).is_file():
        raise UserError(f"architecture {architecture!r}: there is no file {path!r} in {pathlib.Path.cwd()}")
    try:
        module = import_user_module(path)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise UserError(
            f"architecture {architecture!r}: {path} cannot be imported: {_described(error, architecture)}"
        ) from error
    build = getattr(module, function, None)
    if not callable(build):
        raise UserError(f"architecture {architecture!r}: {path} defines no function {function!r}")
    return build


def _described(error: BaseException, architecture: str) -> str:
    """Return the error, and where in the user's files; syntax errors say that themselves."""
    return f"{type(error).__name__}: {error}" + ("" if isinstance(error, SyntaxError) else _place(error, architecture))


def _place(error: BaseException | None, architecture: str) -> str:
    """Return the last place that an error, or what caused it, came through in the user's files, or nothing."""
    path = architecture.rpartition(":")[0]
    roots = import_roots(path) if path else ()
    frames: list[traceback.FrameSummary] = []
    while error is not None:
        frames += traceback.extract_tb(error.__traceback__)
        error = error.__cause__
    places = [(pathlib.Path(os.path.abspath(frame.filename)), frame.lineno) for frame in frames]
    named = [
        f" ({file.name}, line {line})"
        for file, line in places
        if "site-packages" not in file.parts and any(file.is_relative_to(root) for root in roots)
    ]
    return named[-1] if named else ""


def build_network(
    architecture: str, num_classes: int, in_channels: int, seed: int = 0, image_size: int | None = None
) -> nn.Module:
    """Return a new network, its weights drawn with `seed`, as is all that it draws later.

    `architecture` is a key of ARCHITECTURES or `file.py:function`, the one place where a user's code runs; the
    function is called as `function(num_classes=..., in_channels=...)`. Lazy layers get their sizes from images of
    `image_size` pixels, if that is stated. Raises UserError if the file or function is missing, raises, or returns no
    torch.nn.Module, or if a layer stays without sizes.
    """
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture](num_classes=num_classes, in_channels=in_channels)
    with users_first(architecture.rpartition(":")[0]):
        build = _user_build(architecture)
        try:
            network = build(num_classes=num_classes, in_channels=in_channels)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise UserError(
                f"architecture {architecture!r}: the call with num_classes={num_classes}, in_channels={in_channels} "
                f"raised {_described(error, architecture)}"
            ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"architecture {architecture!r}: the call returned a {type(network).__name__}, not a torch.nn.Module"
        )
    scripted = [name or "the network itself" for name, part in network.named_modules() if _is_scripted(part)]
    if scripted:
        raise UserError(
            f"architecture {architecture!r}: {scripted[0]} is a TorchScript module, whose layers cannot be followed; "
            f"build it from its Python classes, and give its state dict as weights"
        )
    if foreign := [name for name, value in network.state_dict().items() if not _is_plain(value)]:
        raise UserError(
            f"architecture {architecture!r}: {foreign[0]} in the state dict is no float32 tensor, so that it cannot be "
            f"pruned or trained; if the network is quantized already, build it as it was before"
        )
    if not any(True for _ in network.parameters()):
        raise UserError(f"architecture {architecture!r}: the network has no parameters")
    if image_size is not None:
        with naming(architecture):
            _initialize_lazy_layers(network, torch.zeros(2, in_channels, image_size, image_size))
    return network.float()


def _is_plain(value: object) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_quantized


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _initialize_lazy_layers(network: nn.Module, images: torch.Tensor) -> None:
    """Give lazy layers their sizes and weights; images: float32 [n, channels, height, width].

    A copy runs, in training mode, where auxiliary heads are called too. The layers of the network then see what those
    of the copy saw, each by itself, so that nothing else of the network keeps what it computed with them.
    """
    if not _lazy_layers(network):
        return
    inputs: dict[str, tuple] = {}
    trial = copied(network).train()
    for name in _lazy_layers(trial):
        trial.get_submodule(name).register_forward_pre_hook(
            lambda module, arguments, name=name: inputs.setdefault(name, arguments) and None
        )
    with torch.no_grad():
        with forward_pass(images):
            trial(images.clone())
        for name, arguments in inputs.items():
            layer = network.get_submodule(name)
            mode = layer.training
            layer.eval()(*arguments)
            layer.train(mode)
    if left := _lazy_layers(network):
        raise UserError(f"the forward pass does not call the lazy layers {left}, so their sizes are unknown")


def _lazy_layers(network: nn.Module) -> list[str]:
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()
    ]


def copied(network: nn.Module, share_parameters: bool = False) -> nn.Module:
    """Return a deep copy of a network, whose parameters are the same ones if they are to be shared.

    Unlike copy.deepcopy, of one too that keeps what it computed with gradients, as nn.utils.weight_norm does, or that
    has buffers of lazy layers. Raises UserError if it keeps something that cannot be copied.
    """
    values = pytree.tree_leaves([vars(module) for module in network.modules()])
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    lazy = {id(tensor): UninitializedBuffer() for tensor in tensors if isinstance(tensor, UninitializedBuffer)}
    computed = {id(tensor): tensor.detach().clone() for tensor in tensors if not tensor.is_leaf}
    shared = {id(parameter): parameter for parameter in network.parameters()} if share_parameters else {}
    try:
        return copy.deepcopy(network, lazy | computed | shared)
    except TypeError as error:  # of a lock, an open file, a generator
        raise UserError(
            f"the network cannot be copied ({error}): leave {_not_copied(network)} out of it, or make it where it is "
            f"used"
        ) from error


def _not_copied(network: nn.Module) -> str:
    """Return the attribute of a network that cannot be copied."""
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            try:
                if key != "_modules":
                    copy.deepcopy(value)
            except (TypeError, RuntimeError):  # the latter of tensors that were computed, which are copied otherwise
                if not isinstance(value, torch.Tensor):
                    return ".".join(filter(None, (name, key)))
    return "what keeps such an object"


def with_other_weights(network: nn.Module, names: Collection[str] | None = None) -> nn.Module:
    """Return a copy in which floating-point tensors of the state dict differ, for checks of how it computes.

    names: of these tensors, None for all. Each number changes by up to 10 %, so that variances stay positive. Tensors
    of zeros, as layers start with that are to change nothing at first, get numbers up to 0.1.
    """
    other, generator = copied(network), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in other.state_dict().items():
            if tensor.is_floating_point() and (names is None or name in names):
                noise = torch.rand(tensor.shape, generator=generator).to(tensor)
                tensor.copy_(tensor * (0.9 + 0.2 * noise) if tensor.any() else 0.1 * noise)
    return other


@contextlib.contextmanager
def naming(architecture: str) -> Iterator[None]:
    """Let the UserErrors of the block start with the network's architecture, and end with the line at fault."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"architecture {architecture!r}: {error}{_place(error.__cause__, architecture)}") from error


@contextlib.contextmanager
def forward_pass(images: torch.Tensor) -> Iterator[None]:
    """Let what the network raises in the block, for the images, become a UserError."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        raise UserError(
            f"the network's forward pass raised {type(error).__name__} for {len(images)} image(s) of shape "
            f"{tuple(images.shape[1:])}: {str(error).strip().partition(chr(10))[0]}"
        ) from error


def checked_logits(network: nn.Module, images: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the network's logits of the images, which it may not change.

    Raises UserError if it raises or returns other than float32 [n, classes].
    """
    with forward_pass(images), torch.inference_mode():
        logits = network(images.clone())
    expected = (len(images), classes)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected or logits.dtype != torch.float32:
        what = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"the network returned {what} for {len(images)} image(s), not float32 logits {expected}")
    return logits
