"""Remove the least important channels of a checkpoint, without any training after it."""

import os

from elagage.data import Dataset
from elagage.job import job
from elagage.kept_channels import with_kept_channels
from elagage.pruning import pruned_provenance
from elagage.pytorch.channels import channel_prune
from elagage.pytorch.checkpoints import load_network, save_checkpoint, weight_record
from elagage.pytorch.device import compute_reproducibly
from elagage.pytorch.models import naming
from elagage.pytorch.pruning import count_weights
from elagage.refusals import refusing


def prune_channels(
    dataset: Dataset, source: str | os.PathLike, architecture: str, *, rate: float, checkpoint: str | os.PathLike
) -> None:
    """Write the checkpoint that is left.

    The rate is a share of the weights before any pruning, even if the source is pruned already.
    """
    network, provenance = load_network(source, architecture, dataset)
    with naming(architecture):
        dense_weights = provenance.get("dense_weights", count_weights(network, dataset).weights)
        counts, channels = channel_prune(network, dataset, rate, dense_weights)
        left = weight_record(network, dataset)
    record = pruned_provenance(with_kept_channels(provenance, channels), "channel", rate, counts, dense_weights)
    save_checkpoint(checkpoint, network.state_dict(), record | left)


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        compute_reproducibly(snakemake.threads)
        prune_channels(
            Dataset.read(snakemake.input.dataset, snakemake.params.trained_with),
            snakemake.input.source,
            snakemake.params.architecture,
            rate=float(snakemake.wildcards.rate),
            checkpoint=snakemake.output.checkpoint,
        )
