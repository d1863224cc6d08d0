"""Batch norm statistics estimated again, a recovery without training."""

import numpy
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from elagage.data import Dataset
from elagage.errors import RefusedError
from elagage.pytorch.models import Normalize

STATISTICS_BATCH = 250  # images; the statistics are means over the batches


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
