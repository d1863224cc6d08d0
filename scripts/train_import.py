"""Take a model's weights from the user's file instead of training it."""

import torch

from elagage.checkpoints import load_into, read_weights, save_checkpoint
from elagage.data import Dataset
from elagage.files import sha256
from elagage.job import job
from elagage.models import build_network


def train_import(dataset_path: str, weights: str, name: str, architecture: str, seed: int, checkpoint: str) -> None:
    """Write the weights, checked against the network, as a dense checkpoint."""
    torch.set_num_threads(1)
    dataset = Dataset.read(dataset_path)
    network = build_network(architecture, len(dataset.classes), dataset.channels, seed)
    load_into(network, read_weights(weights), f"models.{name}.weights: {weights!r}")
    save_checkpoint(
        checkpoint,
        network.state_dict(),
        {
            "model": name,
            "architecture": architecture,
            "dataset": dataset.name,
            "seed": seed,
            "weights_sha256": sha256(weights),
            "torch": torch.__version__,
        },
    )


if "snakemake" in globals():
    with job(snakemake.log[0]):
        train_import(
            snakemake.input.dataset,
            snakemake.input.weights,
            snakemake.wildcards.model,
            snakemake.params.architecture,
            int(snakemake.wildcards.seed),
            snakemake.output.checkpoint,
        )
