"""Retrain a pruned checkpoint with its zeros held."""

import os
import pathlib
from collections.abc import Mapping

import torch

from elagage.checkpoints import load_network, save_checkpoint
from elagage.data import Dataset, Split
from elagage.job import job
from elagage.models import naming
from elagage.progress import progress
from elagage.pruning import count_weights, hold_zeros
from elagage.recovery import SCHEDULES
from elagage.training import TrainingSettings, check_trainable, default_device, fit
from elagage.training_state import TrainingState, identity


def recover(
    dataset_path: str,
    train_split: Split,
    validation_split: Split,
    pruned: str,
    recovery: str,
    name: str,
    architecture: str,
    seed: int,
    settings: TrainingSettings,
    retraining: Mapping,
    threads: int,
    state: TrainingState,
    checkpoint: str,
) -> None:
    """Write the checkpoint of the best epoch by validation accuracy, with the zeros of the pruned one.

    retraining: what SCHEDULES[recovery] takes beside the settings. A run that is killed goes on from `state`, the file
    of which is gone at the end.
    """
    torch.set_num_threads(min(threads, os.cpu_count() or 1))
    dataset = Dataset.read(dataset_path)
    network, provenance = load_network(pruned, architecture, dataset, seed)
    with naming(architecture):
        check_trainable(network)
    before, _ = count_weights(network)
    schedule = SCHEDULES[recovery](settings, **retraining)
    title = f"{recovery} {name} seed {seed} {provenance['scope']} {provenance['rate']}"
    with progress(schedule.epochs * len(train_split), " images", title) as advance:
        best, _ = fit(
            network,
            dataset,
            train_split,
            validation_split,
            settings,
            schedule,
            seed,
            default_device(),
            state,
            advance,
            constrain=hold_zeros,
        )
    zeros, weights = count_weights(network)
    assert zeros >= before, f"{before} of {weights} weights were zero, {zeros} are"
    print(f"validation_accuracy={best['validation_accuracy']:.6g}; {zeros} of {weights} weights are zero")
    record = {
        "recovery": recovery,
        "retraining": dict(retraining),
        "retraining_epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "zeros": zeros,
        "torch": torch.__version__,
    }
    save_checkpoint(checkpoint, network.state_dict(), provenance | record)
    state.remove()


if "snakemake" in globals():
    # Has to be set before the first CUDA call for cuBLAS to be deterministic.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    with job(snakemake.log[0]):
        inputs = [snakemake.input.dataset, snakemake.input.pruned, *snakemake.input.user_model]
        recover(
            snakemake.input.dataset,
            Split.read(snakemake.input.train_images, snakemake.input.train_labels),
            Split.read(snakemake.input.validation_images, snakemake.input.validation_labels),
            snakemake.input.pruned,
            snakemake.wildcards.recovery,
            snakemake.wildcards.model,
            snakemake.params.architecture,
            int(snakemake.wildcards.seed),
            TrainingSettings(**snakemake.params.settings),
            snakemake.params.retraining,
            snakemake.threads,
            TrainingState(
                pathlib.Path(snakemake.params.state),
                identity({**snakemake.params, "seed": snakemake.wildcards.seed}, inputs),
            ),
            snakemake.output.checkpoint,
        )
