"""Batch norm statistics estimated again, a recovery without training."""

import contextlib
from collections.abc import Iterator

import numpy
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from elagage.data import Dataset
from elagage.errors import RefusedError
from elagage.pytorch.device import to_channels_last
from elagage.pytorch.models import Normalize

STATISTICS_BATCH = 250  # images


def estimate_batchnorm(network: nn.Module, dataset: Dataset, images: numpy.ndarray, device: torch.device) -> None:
    """Replace mean and variance of every batch norm by those of `images`, uint8 [n, channels, height, width].

    All else computes as in evaluation, without dropout, and learns nothing; a batch norm that evaluation does not
    reach, as of an auxiliary head, keeps its statistics. They are the means over the batches.

    Pruning shifts what reaches a batch norm; the statistics of the dense network no longer fit (Li et al. 2020,
    "EagleEye", https://arxiv.org/abs/2007.02491). Raises RefusedError if the network has none with statistics.
    """
    norms = {name: module for name, module in network.named_modules() if _has_statistics(module)}
    if not norms:
        raise RefusedError(
            "pruning.recovery: batchnorm changes nothing: the network has no batch norm with running statistics"
        )
    to_channels_last(network.eval(), device)
    normalize = Normalize(dataset).to(device)
    count = max(1, round(len(images) / STATISTICS_BATCH))
    before = {name: {key: value.clone() for key, value in norm.state_dict().items()} for name, norm in norms.items()}
    with _averaging([*norms.values()]), torch.no_grad():
        for batch in torch.from_numpy(images).tensor_split(count):
            network(normalize(batch.to(device)).contiguous(memory_format=torch.channels_last))
    unreached = [name for name, norm in norms.items() if not norm.num_batches_tracked]
    for name in unreached:
        norms[name].load_state_dict(before[name])
    if unreached:
        print(f"not called in evaluation, so that the statistics stay: {', '.join(unreached)}")


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


@contextlib.contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let these norms forget their statistics and take the mean over the batches of the block, frozen ones too."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum, norm.training = momentum, False
