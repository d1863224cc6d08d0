"""Unstructured magnitude pruning (Han et al. 2015) of NumPy arrays, and what pruned checkpoints say of it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy

# Keys of the source's provenance that no longer hold after pruning.
STALE_AFTER_PRUNING = ("validation_accuracy", "retraining", "retraining_epoch")
NOTHING_TO_PRUNE = (
    "the network multiplies no parameter with activations (it has no convolution, no linear layer and no matrix "
    "product of its own), so there is no weight to prune"
)


class WeightCounts(NamedTuple):
    """How many prunable weights are zero, and how many there are."""

    zeros: int
    weights: int


def zero_smallest(weights: list[numpy.ndarray], rate: float) -> None:
    """Set the share `rate` (0 to below 1) of the smallest of all these weights to zero, in place.

    Of weights of equal size the first ones. The others are those that l1_unstructured and global_unstructured of
    torch.nn.utils.prune choose, which among equal ones depends on the version of PyTorch.
    """
    sizes = numpy.concatenate([numpy.abs(weight).ravel() for weight in weights])
    count = round(rate * len(sizes))
    zero = numpy.zeros(len(sizes), bool)
    if count:
        largest = numpy.partition(sizes, count - 1)[count - 1]
        zero = sizes < largest
        zero[numpy.flatnonzero(sizes == largest)[: count - numpy.count_nonzero(zero)]] = True
    ends = numpy.cumsum([weight.size for weight in weights])[:-1]
    for weight, mask in zip(weights, numpy.split(zero, ends), strict=True):
        weight[mask.reshape(weight.shape)] = 0
        weight += 0.0  # -0.0 becomes 0.0: signs of zeros do not compress


def _local(weights: list[numpy.ndarray], rate: float) -> None:
    for weight in weights:
        zero_smallest([weight], rate)


# `local` zeroes the share in each layer, `global` over all layers together.
SCOPES: dict[str, Callable[[list[numpy.ndarray], float], None]] = {"local": _local, "global": zero_smallest}


def count(weights: list[numpy.ndarray]) -> WeightCounts:
    """Count the weights."""
    return WeightCounts(
        sum(weight.size - int(numpy.count_nonzero(weight)) for weight in weights),
        sum(weight.size for weight in weights),
    )


def pruned_provenance(source: Mapping, scope: str, rate: float, counts: WeightCounts, dense_weights: int) -> dict:
    """Return the provenance of what was pruned; it holds scope, rate and the counted zeros and weights.

    source: the provenance of what it was pruned from; dense_weights: the number before any pruning.
    """
    remaining = counts.weights - counts.zeros
    print(f"{counts.zeros} of {counts.weights} weights are zero, and {dense_weights - counts.weights} are removed")
    print(f"together {1 - remaining / dense_weights:.4%} of the dense network's {dense_weights} weights")
    kept = {key: value for key, value in source.items() if key not in STALE_AFTER_PRUNING}
    pruning = {"scope": scope, "rate": rate, "recovery": "none", **counts._asdict(), "dense_weights": dense_weights}
    return kept | pruning
