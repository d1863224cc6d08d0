"""Take a model's weights from the user's file instead of training it."""

import torch

from elagage.data import Dataset
from elagage.files import sha256
from elagage.job import job, say
from elagage.pytorch.checkpoints import save_dense
from elagage.pytorch.device import compute_reproducibly
from elagage.pytorch.folding import fold_checked
from elagage.pytorch.independence import check_independence, probe_images
from elagage.pytorch.models import ModelSpec, build_network, naming
from elagage.pytorch.weights import load_weights


def train_import(
    dataset: Dataset,
    model: ModelSpec,
    weights: str,
    *,
    key: str | None = None,
    checkpoint: str,
) -> None:
    """Write the weights, checked against the network, as a dense checkpoint; key: of the state dict in the file."""
    network = build_network(
        model.architecture, len(dataset.classes), dataset.channels, model.seed, image_size=dataset.image_size
    )
    taken = load_weights(network, weights, key, f"models.{model.name}.weights: {weights!r}")
    with naming(model.architecture):
        check_independence(network, dataset)
    for note in taken.pop("weights_notes"):
        say(note)
    with naming(model.architecture):
        fold_checked(network, dataset, probe_images(dataset))
        record = {
            "model": model.name,
            "architecture": model.architecture,
            "dataset": dataset.name,
            "seed": model.seed,
            "weights_sha256": sha256(weights),
            "torch": torch.__version__,
            **taken,
        }
        save_dense(checkpoint, network, dataset, record)


if "snakemake" in globals():
    with job(snakemake.log[0]):
        compute_reproducibly(snakemake.threads)
        wildcards = snakemake.wildcards
        dataset = Dataset.read(snakemake.input.dataset, snakemake.params.trained_with)
        train_import(
            dataset,
            ModelSpec(wildcards.model, snakemake.params.architecture, int(wildcards.seed)),
            snakemake.input.weights,
            key=snakemake.params.weights_key,
            checkpoint=snakemake.output.checkpoint,
        )
