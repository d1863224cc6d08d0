"""Let a pruned model recover: estimate its batch norm statistics anew, or retrain it with its zeros held."""

import os
import pathlib
from collections.abc import Mapping

import torch
from torch import nn

from elagage.checkpoints import load_network, save_checkpoint
from elagage.data import Dataset, Split
from elagage.job import job
from elagage.models import Normalize, naming
from elagage.progress import progress
from elagage.pruning import count_weights, hold_zeros
from elagage.recovery import SCHEDULES, estimate_batchnorm
from elagage.training import Schedule, TrainingSettings, default_device, evaluate, fit, make_deterministic
from elagage.training_state import TrainingState, identity


def recover_batchnorm(network: nn.Module, dataset: Dataset, images: Split, validation: Split) -> dict:
    """Estimate the network's statistics on the images; return what the provenance says of it."""
    make_deterministic()
    device = default_device()
    estimate_batchnorm(network, dataset, images.images, device)
    _, accuracy = evaluate(network, Normalize(dataset).to(device), validation, device)
    return {"batchnorm_images": len(images), "validation_accuracy": accuracy}


def retrain(
    network: nn.Module,
    dataset: Dataset,
    train: Split,
    validation: Split,
    title: str,
    settings: TrainingSettings,
    schedule: Schedule,
    seed: int,
    state: TrainingState,
) -> dict:
    """Retrain the network to its best epoch by validation accuracy; return what the provenance says of it.

    A run that is killed goes on from `state`.
    """
    with progress(schedule.epochs * len(train), " images", title) as advance:
        best_state, history = fit(
            network,
            dataset,
            train,
            validation,
            settings,
            schedule,
            seed,
            default_device(),
            state,
            advance,
            hold_zeros,
        )
    network.load_state_dict(best_state)
    best = next(row for row in history if row["best"])
    return {"retraining_epoch": best["epoch"], "validation_accuracy": best["validation_accuracy"]}


def recover(
    dataset_path: str,
    train: Split,
    validation: Split,
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
    """Write the recovered checkpoint, with the zeros of the pruned one.

    retraining: what the recovery takes from the table `retraining` of the configuration.
    """
    torch.set_num_threads(min(threads, os.cpu_count() or 1))
    dataset = Dataset.read(dataset_path)
    network, provenance = load_network(pruned, architecture, dataset, seed)
    before = count_weights(network)
    if recovery == "batchnorm":
        images = train.first(retraining["batchnorm_images"], "retraining.batchnorm_images")
        with naming(architecture):
            record = recover_batchnorm(network, dataset, images, validation)
    else:
        title = f"{recovery} {name} seed {seed} {provenance['scope']} {provenance['rate']}"
        schedule = SCHEDULES[recovery](settings, **retraining)
        record = retrain(network, dataset, train, validation, title, settings, schedule, seed, state)
    zeros, weights = count_weights(network)
    assert zeros >= before[0], f"{before[0]} of {weights} weights were zero, {zeros} are"
    print(f"validation_accuracy={record['validation_accuracy']:.6g}; {zeros} of {weights} weights are zero")
    record |= {"recovery": recovery, "zeros": zeros, "weights": weights, "torch": torch.__version__}
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
