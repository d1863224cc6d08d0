"""Train a model and keep its best epoch by validation accuracy."""

import csv
import os
import pathlib

import torch
from torch import nn

from elagage.checkpoints import save_checkpoint
from elagage.data import Dataset, Split
from elagage.files import whole_file
from elagage.job import job
from elagage.models import Normalize, build_network, checked_logits, naming
from elagage.progress import progress
from elagage.training import TrainingSettings, check_trainable, default_device, fit, warmup_and_cosine
from elagage.training_state import TrainingState, identity


def train(
    dataset_path: str,
    train_split: Split,
    validation_split: Split,
    name: str,
    architecture: str,
    seed: int,
    settings: TrainingSettings,
    threads: int,
    state: TrainingState,
    checkpoint: str,
    history_path: str,
) -> None:
    """Write the checkpoint (safetensors) and the history (CSV, one row an epoch).

    A run that is killed goes on from `state`, the file of which is gone at the end.
    """
    torch.set_num_threads(min(threads, os.cpu_count() or 1))
    dataset = Dataset.read(dataset_path)
    network = build_network(architecture, len(dataset.classes), dataset.channels, seed)
    # Hours of training should not end in the error that exporting such a network would give.
    deployed = nn.Sequential(Normalize(dataset), network).eval()
    with naming(architecture):
        checked_logits(deployed, torch.from_numpy(validation_split.images[:2]), len(dataset.classes))
        check_trainable(network)
    with progress(settings.epochs * len(train_split), " images", f"train {name} seed {seed}") as advance:
        best, history = fit(
            network,
            dataset,
            train_split,
            validation_split,
            settings,
            warmup_and_cosine(settings),
            seed,
            default_device(),
            state,
            advance,
        )
    with whole_file(history_path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
    save_checkpoint(
        checkpoint,
        network.state_dict(),
        {
            "model": name,
            "architecture": architecture,
            "dataset": dataset.name,
            "seed": seed,
            "epoch": best["epoch"],
            "validation_accuracy": best["validation_accuracy"],
            "torch": torch.__version__,
        },
    )
    state.remove()


if "snakemake" in globals():
    # Has to be set before the first CUDA call for cuBLAS to be deterministic.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    with job(snakemake.log[0]):
        train(
            snakemake.input.dataset,
            Split.read(snakemake.input.train_images, snakemake.input.train_labels),
            Split.read(snakemake.input.validation_images, snakemake.input.validation_labels),
            snakemake.wildcards.model,
            snakemake.params.architecture,
            int(snakemake.wildcards.seed),
            TrainingSettings(**snakemake.params.settings),
            snakemake.threads,
            TrainingState(
                pathlib.Path(snakemake.params.state),
                identity(
                    {**snakemake.params, "seed": snakemake.wildcards.seed},
                    [snakemake.input.dataset, *snakemake.input.user_model],
                ),
            ),
            snakemake.output.checkpoint,
            snakemake.output.history,
        )
