"""Prune a checkpoint by magnitude, without any training after it."""

import torch

from elagage.checkpoints import load_network, save_checkpoint
from elagage.data import Dataset
from elagage.job import job
from elagage.models import naming
from elagage.pruning import magnitude_prune


def prune(dataset_path: str, source: str, architecture: str, scope: str, rate: float, checkpoint: str) -> None:
    """Write the pruned checkpoint; its provenance holds scope, rate and the counted zeros and weights."""
    torch.set_num_threads(1)
    dataset = Dataset.read(dataset_path)
    network, provenance = load_network(source, architecture, dataset)
    with naming(architecture):
        zeros, weights = magnitude_prune(network, scope, rate)
    print(f"{zeros} of {weights} weights are zero: {zeros / weights:.4%}")
    pruning = {"scope": scope, "rate": rate, "recovery": "none", "zeros": zeros, "weights": weights}
    save_checkpoint(checkpoint, network.state_dict(), provenance | pruning)


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
