"""Prune a checkpoint by magnitude, without any training after it."""

from elagage.data import Dataset
from elagage.job import job, say
from elagage.pytorch.channels import channel_prune
from elagage.pytorch.checkpoints import load_network, save_checkpoint
from elagage.pytorch.kept_channels import with_kept_channels
from elagage.pytorch.models import naming
from elagage.pytorch.pruning import count_weights, magnitude_prune, unpruned
from elagage.pytorch.training import compute_reproducibly
from elagage.refusals import refusing

# Keys of the source's provenance that no longer hold after pruning.
STALE_AFTER_PRUNING = ("validation_accuracy", "retraining", "retraining_epoch")


def prune(dataset: Dataset, source: str, architecture: str, *, scope: str, rate: float, checkpoint: str) -> None:
    """Write the pruned checkpoint; its provenance holds scope, rate and the counted zeros and weights.

    `dense_weights` is the number before any pruning. The rate is a share of it, even if the source is pruned already.
    """
    network, provenance = load_network(source, architecture, dataset)
    with naming(architecture):
        dense_weights = provenance.get("dense_weights", count_weights(network, dataset).weights)
        if scope == "channel":
            counts, channels = channel_prune(network, dataset, rate, dense_weights)
        else:
            counts, channels = magnitude_prune(network, dataset, scope, rate), {}
        left = unpruned(network, dataset)
    if left:
        layers = [f"{layer or 'the network itself'} ({size or 'mixed'})" for layer, size in left.items()]
        say(f"{architecture}: not pruned, since they are computed in the forward pass: weights of {', '.join(layers)}")
    remaining = counts.weights - counts.zeros
    print(f"{counts.zeros} of {counts.weights} weights are zero, and {dense_weights - counts.weights} are removed")
    print(f"together {1 - remaining / dense_weights:.4%} of the dense network's {dense_weights} weights")
    kept = {key: value for key, value in provenance.items() if key not in STALE_AFTER_PRUNING}
    pruning = {"scope": scope, "rate": rate, "recovery": "none", **counts._asdict()}
    pruning |= {"unpruned": left} if left else {}
    record = with_kept_channels(kept, channels) | pruning | {"dense_weights": dense_weights}
    save_checkpoint(checkpoint, network.state_dict(), record)


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        compute_reproducibly(snakemake.threads)
        prune(
            Dataset.read(snakemake.input.dataset, snakemake.params.trained_with),
            snakemake.input.source,
            snakemake.params.architecture,
            scope=snakemake.wildcards.scope,
            rate=float(snakemake.wildcards.rate),
            checkpoint=snakemake.output.checkpoint,
        )
