"""Fit the weights that pruning left, layer by layer, to what the dense network computes, without any training."""

import torch

from elagage.data import PreparedData
from elagage.job import job, say
from elagage.kept_channels import kept_channels
from elagage.pytorch.checkpoints import load_network, save_checkpoint
from elagage.pytorch.device import compute_reproducibly
from elagage.pytorch.evaluation import evaluate
from elagage.pytorch.models import Normalize, naming
from elagage.pytorch.pruning import count_tensors, prunable
from elagage.pytorch.reconstruction import MEMORY, listed, reconstruct
from elagage.refusals import refusing


def recover_reconstruct(
    data: PreparedData, dense: str, pruned: str, architecture: str, *, reconstruct_images: int | None, checkpoint: str
) -> None:
    """Write the checkpoint whose layers return, for training images, nearly what those of the dense checkpoint do.

    reconstruct_images: the first ones; None for those of USUAL_IMAGES that there is memory for.
    """
    target, _ = load_network(dense, architecture, data.dataset)
    network, provenance = load_network(pruned, architecture, data.dataset)
    images = data.train.first(reconstruct_images, "retraining.reconstruct_images").images
    variant = [str(provenance[key]) for key in ("model", "scope", "rate") if key in provenance]
    with naming(architecture):
        weights = prunable(network, data.dataset)
        before = count_tensors(weights)
        found = reconstruct(
            network.eval(),
            target.eval(),
            data.dataset,
            images,
            kept_channels(provenance),
            memory=MEMORY if reconstruct_images is None else None,
            label=" ".join(["reconstruct", *variant]),
        )
        _, accuracy = evaluate(network, Normalize(data.dataset), data.validation, torch.device("cpu"))
    if found.left:
        say(f"{architecture}: reconstruct leaves weights as they were pruned: {listed(found.left)}")
    after = count_tensors(weights)
    assert after.zeros >= before.zeros, f"{before.zeros} of {before.weights} weights were zero, {after.zeros} are"
    print(f"validation_accuracy={accuracy:.6g}; {after.zeros} of {after.weights} weights are zero")
    record = {
        "recovery": "reconstruct",
        "reconstruct_images": found.images,
        "validation_accuracy": accuracy,
        "zeros": after.zeros,
        "torch": torch.__version__,
    }
    save_checkpoint(checkpoint, network.state_dict(), provenance | record)


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        compute_reproducibly(snakemake.threads)
        recover_reconstruct(
            PreparedData.read(snakemake.input, snakemake.params.trained_with),
            snakemake.input.dense,
            snakemake.input.pruned,
            snakemake.params.architecture,
            reconstruct_images=snakemake.params.reconstruct_images,
            checkpoint=snakemake.output.checkpoint,
        )
