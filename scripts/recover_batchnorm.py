"""Estimate the batch norm statistics of a pruned checkpoint again, without any training."""

import torch

from elagage.data import PreparedData
from elagage.job import job
from elagage.pytorch.batchnorm import estimate_batchnorm
from elagage.pytorch.checkpoints import load_network, save_checkpoint
from elagage.pytorch.device import compute_reproducibly
from elagage.pytorch.evaluation import evaluate
from elagage.pytorch.models import Normalize, naming
from elagage.pytorch.pruning import count_weights
from elagage.refusals import refusing


def recover_batchnorm(
    data: PreparedData, pruned: str, architecture: str, *, batchnorm_images: int | None, checkpoint: str
) -> None:
    """Write the checkpoint with the statistics of the first `batchnorm_images` training images."""
    cpu = torch.device("cpu")
    network, provenance = load_network(pruned, architecture, data.dataset)
    images = data.train.first(batchnorm_images, "retraining.batchnorm_images")
    with naming(architecture):
        estimate_batchnorm(network, data.dataset, images.images, cpu)
        _, accuracy = evaluate(network, Normalize(data.dataset), data.validation, cpu)
    counts = count_weights(network, data.dataset)
    print(f"validation_accuracy={accuracy:.6g}; {counts.zeros} of {counts.weights} weights are zero")
    record = {"recovery": "batchnorm", "batchnorm_images": len(images), "validation_accuracy": accuracy}
    save_checkpoint(checkpoint, network.state_dict(), provenance | record | {"torch": torch.__version__})


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        compute_reproducibly(snakemake.threads)
        recover_batchnorm(
            PreparedData.read(snakemake.input, snakemake.params.trained_with),
            snakemake.input.pruned,
            snakemake.params.architecture,
            batchnorm_images=snakemake.params.batchnorm_images,
            checkpoint=snakemake.output.checkpoint,
        )
