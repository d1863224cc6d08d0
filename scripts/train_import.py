"""Take a model's weights from the user's file instead of training it."""

from collections.abc import Mapping

import torch
from torch import nn

from elagage.data import Dataset, Split
from elagage.files import sha256
from elagage.job import job, say
from elagage.pytorch.checkpoints import save_checkpoint
from elagage.pytorch.folding import fold_checked
from elagage.pytorch.inspection import (
    better_class_order,
    better_normalization,
    check_accuracy,
    predicted_classes,
)
from elagage.pytorch.models import ModelSpec, Normalize, build_network, checked_logits, naming
from elagage.pytorch.training import compute_reproducibly
from elagage.pytorch.weights import load_weights


def train_import(
    dataset: Dataset,
    model: ModelSpec,
    weights: str,
    *,
    train: Split,
    test: Split,
    key: str | None = None,
    normalization: str | Mapping = "dataset",
    accuracy: float | None = None,
    checkpoint: str,
) -> None:
    """Write the weights, checked against the network, as a dense checkpoint; key: of the state dict in the file.

    Training images tell whether another of the usual normalizations, or another order of the classes, fits the weights
    better; this is said. accuracy: on test images, if the user knows it. Raises UserError if it is clearly missed.
    """
    network = build_network(model.architecture, len(dataset.classes), dataset.channels, model.seed)
    taken = load_weights(network, weights, key, f"models.{model.name}.weights: {weights!r}")
    with naming(model.architecture):
        checked_logits(
            nn.Sequential(Normalize(dataset), network).eval(), torch.from_numpy(test.images[:2]), len(dataset.classes)
        )
    hints = [better_normalization(network, dataset, train, normalization), better_class_order(network, dataset, train)]
    hints = [f"models.{model.name}: {hint}" for hint in hints if hint]
    for note in [*taken.pop("weights_notes"), *hints]:
        say(note)
    correct = predicted_classes(network, dataset, test.images) == test.labels
    print(f"accuracy={correct.mean():.6g} on {len(test)} test images")
    if accuracy is not None:
        check_accuracy(correct, accuracy, hints)
    with naming(model.architecture):
        fold_checked(network, dataset, torch.from_numpy(test.images[:2]))
    save_checkpoint(
        checkpoint,
        network.state_dict(),
        {
            "model": model.name,
            "architecture": model.architecture,
            "dataset": dataset.name,
            "seed": model.seed,
            "weights_sha256": sha256(weights),
            "torch": torch.__version__,
            **taken,
        },
    )


if "snakemake" in globals():
    with job(snakemake.log[0]):
        compute_reproducibly(snakemake.threads)
        wildcards = snakemake.wildcards
        train_import(
            Dataset.read(snakemake.input.dataset, snakemake.params.normalization),
            ModelSpec(wildcards.model, snakemake.params.architecture, int(wildcards.seed)),
            snakemake.input.weights,
            key=snakemake.params.weights_key,
            train=Split.read(snakemake.input.train_images, snakemake.input.train_labels),
            test=Split.read(snakemake.input.test_images, snakemake.input.test_labels),
            normalization=snakemake.params.normalization,
            accuracy=snakemake.params.accuracy,
            checkpoint=snakemake.output.checkpoint,
        )
