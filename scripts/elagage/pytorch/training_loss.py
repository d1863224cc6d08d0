"""The loss of what a network returns in training mode."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from elagage.errors import UserError

# Loss of each auxiliary head beside that of the logits: Szegedy et al. 2015, "Going Deeper with Convolutions", sec. 5.
AUXILIARY_WEIGHT = 0.3

# (network, normalized pixels, float32 [n, channels, height, width], labels) -> as mean_loss
TrainingLoss = Callable[[nn.Module, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def mean_loss(outputs: object, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss, float32 [], of what a network returns in training mode, and its logits, [n, classes].

    outputs: logits, or a tuple of logits and those of auxiliary heads (None for a head that is switched off), as
    GoogLeNet and Inception return; labels: int64 [n]. The loss of each head counts AUXILIARY_WEIGHT. Raises UserError
    for anything else.
    """
    heads = outputs if isinstance(outputs, tuple | list) else [outputs]
    logits, *auxiliary = [head for head in heads if head is not None] or [None]
    for head in (logits, *auxiliary):
        if not isinstance(head, torch.Tensor) or head.dim() != 2 or head.shape != logits.shape:
            raise UserError(
                f"in training mode the network returned {_named(outputs)}, not logits [batch, classes], alone or first "
                f"in a tuple with those of auxiliary heads"
            )
    loss = functional.cross_entropy(logits.float(), labels)
    for head in auxiliary:
        loss = loss + AUXILIARY_WEIGHT * functional.cross_entropy(head.float(), labels)
    return loss, logits


def of_labels(network: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean_loss of what the network returns."""
    return mean_loss(network(pixels), labels)


def _named(outputs: object) -> str:
    if isinstance(outputs, torch.Tensor):
        return f"a tensor {tuple(outputs.shape)}"
    if isinstance(outputs, tuple | list):
        return f"a {type(outputs).__name__} of {', '.join(map(_named, outputs))}"
    return f"a {type(outputs).__name__}"
