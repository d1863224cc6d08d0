"""Recovery after pruning: batch norm statistics estimated again, or a schedule of retraining."""

import dataclasses
from collections.abc import Callable

import numpy
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from elagage.data import Dataset
from elagage.errors import RefusedError
from elagage.pytorch.models import Normalize
from elagage.pytorch.training import Schedule, TrainingSettings, warmup_and_cosine

STATISTICS_BATCH = 250  # images; the statistics are means over the batches


def finetune(settings: TrainingSettings, epochs: int, learning_rate: float) -> Schedule:
    """Return a constant learning rate, a low one (Han et al. 2015; Renda et al. 2020, section 3)."""
    return Schedule(epochs, lambda step, epoch_steps: learning_rate, "retraining.learning_rate")


def rewind(settings: TrainingSettings, epochs: int) -> Schedule:
    """Return the learning rates of the last `epochs` of the training (learning-rate rewinding, Renda et al. 2020).

    "Comparing Rewinding and Fine-tuning in Neural Network Pruning", https://arxiv.org/abs/2003.02389.
    """
    training = warmup_and_cosine(settings)
    skipped = training.epochs - epochs
    return dataclasses.replace(
        training,
        epochs=epochs,
        learning_rate=lambda step, epoch_steps: training.learning_rate(step + skipped * epoch_steps, epoch_steps),
    )


# Each takes the settings of the training and of the recovery, and returns the schedule. A step of `iterative` is a
# rewinding (algorithm 2 of Renda et al. 2020); what differs is the model that it starts from.
SCHEDULES: dict[str, Callable[..., Schedule]] = {"finetune": finetune, "rewind": rewind, "iterative": rewind}


def estimate_batchnorm(network: nn.Module, dataset: Dataset, images: numpy.ndarray, device: torch.device) -> None:
    """Replace mean and variance of every batch norm by those of `images`, uint8 [n, channels, height, width].

    Pruning shifts what reaches a batch norm; the statistics of the dense network no longer fit (Li et al. 2020,
    "EagleEye", https://arxiv.org/abs/2007.02491). Raises RefusedError if the network has none with statistics.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not any(norm.track_running_stats for norm in norms):
        raise RefusedError(
            "pruning.recovery: batchnorm changes nothing: the network has no batch norm with running statistics"
        )
    network.to(device, memory_format=torch.channels_last)
    normalize = Normalize(dataset).to(device)
    count = max(1, round(len(images) / STATISTICS_BATCH))
    batches = torch.from_numpy(images).tensor_split(count)
    update_bn((normalize(batch.to(device)).contiguous(memory_format=torch.channels_last) for batch in batches), network)
    network.eval()
