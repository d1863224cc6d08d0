"""Estimate the batch norm statistics of a pruned checkpoint anew, without any training."""

import torch

from elagage.checkpoints import load_network, save_checkpoint
from elagage.data import Dataset, Split
from elagage.job import job
from elagage.models import Normalize, naming
from elagage.pruning import count_weights
from elagage.recovery import estimate_batchnorm
from elagage.training import evaluate, make_deterministic


def recover_batchnorm(
    dataset_path: str,
    train_split: Split,
    validation_split: Split,
    pruned: str,
    architecture: str,
    batchnorm_images: int,
    checkpoint: str,
) -> None:
    """Write the checkpoint with the statistics of the first `batchnorm_images` of the training images."""
    torch.set_num_threads(1)
    make_deterministic()
    dataset, cpu = Dataset.read(dataset_path), torch.device("cpu")
    network, provenance = load_network(pruned, architecture, dataset)
    images = train_split.first(batchnorm_images, "retraining.batchnorm_images")
    with naming(architecture):
        estimate_batchnorm(network, dataset, images.images, cpu)
        _, accuracy = evaluate(network, Normalize(dataset), validation_split, cpu)
    zeros, weights = count_weights(network)
    print(f"validation_accuracy={accuracy:.6g}; {zeros} of {weights} weights are zero")
    record = {"recovery": "batchnorm", "batchnorm_images": len(images), "validation_accuracy": accuracy}
    save_checkpoint(checkpoint, network.state_dict(), provenance | record | {"torch": torch.__version__})


if "snakemake" in globals():
    with job(snakemake.log[0]):
        recover_batchnorm(
            snakemake.input.dataset,
            Split.read(snakemake.input.train_images, snakemake.input.train_labels),
            Split.read(snakemake.input.validation_images, snakemake.input.validation_labels),
            snakemake.input.pruned,
            snakemake.params.architecture,
            snakemake.params.batchnorm_images,
            snakemake.output.checkpoint,
        )
