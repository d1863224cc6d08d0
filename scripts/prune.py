"""Prune a checkpoint by magnitude, without any training after it."""

import torch

from elagage.channels import channel_prune
from elagage.checkpoints import load_network, save_checkpoint
from elagage.data import Dataset
from elagage.job import job
from elagage.models import naming
from elagage.pruning import count_weights, magnitude_prune

# Provenance that is not true any more after pruning.
OF_THE_SOURCE = ("validation_accuracy", "retraining", "retraining_epoch")


def prune(dataset_path: str, source: str, architecture: str, scope: str, rate: float, checkpoint: str) -> None:
    """Write the pruned checkpoint; its provenance holds scope, rate and the counted zeros and weights.

    `dense_weights` are those of the network before any pruning: the rate is a share of them, also where the source is
    pruned already.
    """
    torch.set_num_threads(1)
    dataset = Dataset.read(dataset_path)
    network, provenance = load_network(source, architecture, dataset)
    with naming(architecture):
        dense_weights = provenance.get("dense_weights", count_weights(network)[1])
        if scope == "channel":
            zeros, weights = channel_prune(network, dataset, rate, dense_weights)
        else:
            zeros, weights = magnitude_prune(network, scope, rate)
    print(f"{zeros} of {weights} weights are zero, and {dense_weights - weights} are gone")
    print(f"{1 - (weights - zeros) / dense_weights:.4%} of the dense network's {dense_weights} weights in all")
    kept = {key: value for key, value in provenance.items() if key not in OF_THE_SOURCE}
    pruning = {"scope": scope, "rate": rate, "recovery": "none", "zeros": zeros, "weights": weights}
    save_checkpoint(checkpoint, network.state_dict(), kept | pruning | {"dense_weights": dense_weights})


if "snakemake" in globals():
    with job(snakemake.log[0]):
        prune(
            snakemake.input.dataset,
            snakemake.input.source,
            snakemake.params.architecture,
            snakemake.wildcards.scope,
            float(snakemake.wildcards.rate),
            snakemake.output.checkpoint,
        )
