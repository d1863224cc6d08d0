"""Set the smallest weights of a checkpoint to zero, without any training after it."""

import os

from elagage.checkpoints import named, read_checkpoint, write_checkpoint
from elagage.errors import RefusedError
from elagage.job import job, say
from elagage.pruning import NOTHING_TO_PRUNE, SCOPES, count, pruned_provenance
from elagage.refusals import refusing

LISTED = 5  # weights in a message


def prune(source: str | os.PathLike, *, scope: str, rate: float, checkpoint: str | os.PathLike) -> None:
    """Write the pruned checkpoint.

    The rate is a share of the weights before any pruning, even if the source is pruned already. Tells which weights
    lose everything. Raises RefusedError if there is none to prune.
    """
    state, provenance = read_checkpoint(source)
    if not provenance["prunable"]:
        raise RefusedError(f"architecture {provenance['architecture']!r}: {NOTHING_TO_PRUNE}")
    if overlapping := provenance.get("overlapping"):
        raise RefusedError(
            f"architecture {provenance['architecture']!r}: zeros in {', '.join(overlapping)} would be lost, since "
            "other tensors of the state dict are views of the same memory; register copies of them (clone())"
        )
    weights = [state[name] for name, *_ in provenance["prunable"]]
    there = [weight.any() for weight in weights]
    SCOPES[scope](weights, rate)
    lost = [
        name
        for (name, *_), weight, was in zip(provenance["prunable"], weights, there, strict=True)
        if was > weight.any()
    ]
    if lost:
        say(
            f"{named(provenance)}: {scope} pruning at {rate:.0%} leaves nothing of {', '.join(lost[:LISTED])}"
            f"{f' and {len(lost) - LISTED} more' if len(lost) > LISTED else ''}; `local` leaves each layer its share"
        )
    for name, *others in provenance["prunable"]:
        state |= dict.fromkeys(others, state[name])
    counts = count(weights)
    write_checkpoint(checkpoint, state, pruned_provenance(provenance, scope, rate, counts, counts.weights))


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        prune(
            snakemake.input.source,
            scope=snakemake.wildcards.scope,
            rate=float(snakemake.wildcards.rate),
            checkpoint=snakemake.output.checkpoint,
        )
