"""Distillation: a network learns from what the dense one answers, beside the labels.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from elagage.data import Dataset
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.device import to_channels_last
from elagage.pytorch.training_loss import TrainingLoss, mean_loss, of_labels

TEMPERATURE = 4.0  # that logits are divided by, so that small probabilities count


class Distillation(NamedTuple):
    """What teaches: the checkpoint of the dense network, and its share of the loss, from 0 to 1."""

    dense: str
    share: float

    def loss(self, architecture: str, dataset: Dataset, seed: int, device: torch.device) -> TrainingLoss:
        """Return the loss of a training on the device: of labels only, if the dense network has no share."""
        if not self.share:
            return of_labels
        teacher, _ = load_network(self.dense, architecture, dataset, seed)
        return DistillationLoss(to_channels_last(teacher.eval(), device), self.share)


LABELS_ONLY = Distillation("", 0.0)


class DistillationLoss(NamedTuple):
    """A TrainingLoss of which the divergence from the teacher's class probabilities is a share."""

    teacher: nn.Module
    share: float

    def __call__(
        self, network: nn.Module, pixels: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Asked first, with pixels of its own: a network may change them in place. In float32, as its file answers.
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            expected = self.teacher(pixels.clone())
        loss, logits = mean_loss(network(pixels), labels)
        found, wanted = ((each.float() / TEMPERATURE).log_softmax(1) for each in (logits, expected))
        divergence = functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
        # Gradients of soft targets are smaller by the square of the temperature: section 2 of the paper.
        return (1 - self.share) * loss + self.share * TEMPERATURE**2 * divergence, logits
