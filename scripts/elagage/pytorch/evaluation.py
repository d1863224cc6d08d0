"""Loss and accuracy of a network in PyTorch."""

import torch
from torch import nn
from torch.nn import functional

from elagage.data import Split
from elagage.pytorch.models import Normalize

EVALUATION_BATCH = 500  # images; throughput is flat from 250 to 1,000


@torch.inference_mode()
def evaluate_images(
    network: nn.Module, normalize: Normalize, split: Split, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, of every image, the loss, float64 [n], and whether it is classified correctly, bool [n].

    The network is put into evaluation mode.
    """
    network.eval()
    losses, correct = [], []
    for start in range(0, len(split), EVALUATION_BATCH):
        images = torch.from_numpy(split.images[start : start + EVALUATION_BATCH]).to(device)
        labels = torch.from_numpy(split.labels[start : start + EVALUATION_BATCH]).to(device)
        logits = network(normalize(images).contiguous(memory_format=torch.channels_last))
        losses.append(functional.cross_entropy(logits, labels, reduction="none").cpu())
        correct.append((logits.argmax(1) == labels).cpu())
    return torch.cat(losses).double(), torch.cat(correct)


def evaluate(network: nn.Module, normalize: Normalize, split: Split, device: torch.device) -> tuple[float, float]:
    """Return the mean loss and the accuracy of the network, in evaluation mode, on every image of the split."""
    losses, correct = evaluate_images(network, normalize, split, device)
    assert len(correct) == len(split), f"evaluated {len(correct)} of {len(split)} images"
    return losses.mean().item(), correct.sum().item() / len(split)
