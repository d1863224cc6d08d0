"""Whether, and in which context, a network can be trained: a step of a copy."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import numpy
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from elagage.errors import UserError
from elagage.pytorch.device import in_precision
from elagage.pytorch.models import Normalize, copied, forward_pass
from elagage.pytorch.training_loss import mean_loss
from elagage.pytorch.training_state import random_state, set_random_state

NARROW = 16  # input channels: those of a vector of AVX-512. AVX2 has 8, and with 7 crashed here
CONV2D = (torch.conv2d, torch.ops.aten.conv2d.default)  # the latter in a network prepared for qat
TRIAL_IMAGES = 2  # of a step that only shows whether the network can be trained


def check_trainable(network: nn.Module) -> None:
    """Raise UserError if all parameters of the network are frozen."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(
            "no parameter has requires_grad, so there is nothing to train; give the model its weights, and leave out "
            "mode qat and all of pruning.recovery but none, batchnorm and reconstruct"
        )


def check_training(
    network: nn.Module, normalize: Normalize, images: numpy.ndarray, precision: str | None = None
) -> Callable:
    """Return the context in which the network can be trained, after a trial step of a copy.

    images: uint8 [n, channels, height, width], of which the first are used; precision: of TrainingSettings. The
    context is contextlib.nullcontext, unless the network changes in place what its backward pass needs: then, one in
    which tensors are copied before they change; and, if the network has_narrow_convolution, one without these, or
    without oneDNN. Raises UserError if all parameters are frozen, if the forward or backward pass fails, or if the
    outputs are no logits. Random states stay as they were.
    """
    check_trainable(network)
    pixels = torch.from_numpy(images[:TRIAL_IMAGES]).to(normalize.mean.device)
    labels = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
    random, untouched = random_state(), copied(network)
    contexts = [contextlib.nullcontext, torch.autograd.graph.allow_mutation_on_saved_tensors]
    if not pixels.is_cuda and has_narrow_convolution(network, normalize(pixels)):
        with _SlicedStrides():
            left = has_narrow_convolution(network, normalize(pixels))
        safe = _WITHOUT_ONEDNN if left else _SlicedStrides
        contexts = [functools.partial(_within, safe, context) for context in contexts]
    try:
        for context in contexts:
            trial = copied(untouched).train()
            with context():
                with forward_pass(pixels), in_precision(precision, pixels.device):
                    outputs = trial(normalize(pixels))
                loss, _ = mean_loss(outputs, labels)
                try:
                    loss.backward()
                    return context
                except RuntimeError as error:
                    failure = error
    finally:
        set_random_state(random)
    raise UserError(
        f"the network's backward pass raised {type(failure).__name__}: {failure}; all between the parameters and the "
        f"logits has to have gradients"
    ) from failure


class _NarrowConvolutions(TorchDispatchMode):
    """Notes whether an operator is a 1x1 convolution with a stride, of few channels."""

    found = False

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten.convolution.default:
            weight, stride, groups = arguments[1], arguments[3], arguments[8]
            kernel = weight.shape[2:]
            self.found |= max(kernel) == 1 and max(stride) > 1 and groups == 1 and weight.shape[1] < NARROW
        return function(*arguments, **(keywords or {}))


@torch.no_grad()
def has_narrow_convolution(network: nn.Module, pixels: torch.Tensor) -> bool:
    """Return whether PyTorch 2.14 may write beyond the gradient of a weight while the network trains on a CPU.

    Which kills the process, or worse. oneDNN does so in the backward pass of 1x1 convolutions with a stride and few
    input channels, if tensors lie channels last in memory. RepVGG begins with one, and pruning by channels may leave
    one in a ResNet's shortcut. True also of networks that cannot be watched. pixels: float32 [n, channels, height,
    width].
    """
    random = random_state()
    try:
        with _NarrowConvolutions() as convolutions:
            copied(network).train()(pixels.clone())
    except Exception:  # a trial of the network tells what else there is to tell
        return True
    finally:
        set_random_state(random)
    return convolutions.found


class _SlicedStrides(TorchFunctionMode):
    """Computes 1x1 convolutions with a stride as ones without, of the pixels that they read."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        return (_sliced if function in CONV2D else function)(*arguments, **(keywords or {}))


def _sliced(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> torch.Tensor:
    if weight.shape[2:] == (1, 1) and padding in (0, (0, 0), [0, 0], "valid"):
        rows, columns = (stride, stride) if isinstance(stride, int) else (2 * tuple(stride))[:2]
        input, stride = input[..., ::rows, ::columns], 1
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


# PyTorch's own convolutions: with them a step of a ResNet-20 takes 2 times as long, in bfloat16 20 times.
_WITHOUT_ONEDNN = functools.partial(torch.backends.mkldnn.flags, enabled=False)


@contextlib.contextmanager
def _within(outer: Callable, inner: Callable) -> Iterator[None]:
    with outer(), inner():
        yield
