"""Retrain a pruned checkpoint, whose zeros stay zero, or the dense one as its control."""

import pathlib
from collections.abc import Mapping

import torch

from elagage.data import PreparedData
from elagage.job import job
from elagage.pytorch.checkpoints import load_network, save_checkpoint
from elagage.pytorch.device import compute_reproducibly, default_device
from elagage.pytorch.distillation import LABELS_ONLY, Distillation
from elagage.pytorch.models import ModelSpec, Normalize, naming
from elagage.pytorch.pruning import count_tensors, hold_zeros, prunable
from elagage.pytorch.training import fit
from elagage.pytorch.training_state import TrainingState, identity
from elagage.pytorch.trial_step import check_training
from elagage.refusals import refusing, ruled_out
from elagage.schedules import SCHEDULES, TrainingSettings


def recover(
    data: PreparedData,
    model: ModelSpec,
    settings: TrainingSettings,
    *,
    pruned: str,
    recovery: str,
    retraining: Mapping,
    state: TrainingState,
    checkpoint: str,
    distillation: Distillation = LABELS_ONLY,
) -> None:
    """Write the checkpoint of the best epoch by validation accuracy, with the zeros of the pruned one.

    retraining: what SCHEDULES[recovery] takes beside the settings; distillation: what the dense network teaches. A run
    that is killed resumes from `state`, whose file is deleted at the end.
    """
    device = default_device()
    loss = distillation.loss(model.architecture, data.dataset, model.seed, device)
    network, provenance = load_network(pruned, model.architecture, data.dataset, model.seed)
    with ruled_out(), naming(model.architecture):
        check_training(network, Normalize(data.dataset), data.validation.images, settings.precision)
    weights = prunable(network, data.dataset)
    before = count_tensors(weights)
    what = f"{provenance['scope']} {provenance['rate']}" if "scope" in provenance else "control"
    label = f"{recovery} {model.name} seed {model.seed} {what}"
    schedule = SCHEDULES[recovery](settings, **retraining)
    constrain = lambda _, optimizer: hold_zeros(weights, optimizer)  # noqa: E731
    options = {"seed": model.seed, "label": label, "state": state, "device": device}
    best, _ = fit(network, data, settings, schedule, **options, constrain=constrain, loss=loss)
    after = count_tensors(weights)
    assert after.zeros >= before.zeros, f"{before.zeros} of {before.weights} weights were zero, {after.zeros} are"
    print(f"validation_accuracy={best['validation_accuracy']:.6g}; {after.zeros} of {after.weights} weights are zero")
    record = {
        "recovery": recovery,
        "retraining": {**retraining, "distillation": distillation.share},
        "retraining_epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        **({"zeros": after.zeros} if "zeros" in provenance else {}),  # a control is not pruned
        "torch": torch.__version__,
    }
    save_checkpoint(checkpoint, network.state_dict(), provenance | record)
    state.remove()


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        compute_reproducibly(snakemake.threads)
        params, wildcards = snakemake.params, snakemake.wildcards
        depends = [snakemake.input.dataset, snakemake.input.pruned, snakemake.input.dense]
        recover(
            PreparedData.read(snakemake.input, snakemake.params.trained_with),
            ModelSpec(wildcards.model, params.architecture, int(wildcards.seed)),
            TrainingSettings(**params.settings),
            pruned=snakemake.input.pruned,
            recovery=wildcards.recovery,
            retraining=params.retraining,
            distillation=Distillation(snakemake.input.dense, params.distillation),
            state=TrainingState(pathlib.Path(params.state), identity({**params, "seed": wildcards.seed}, depends)),
            checkpoint=snakemake.output.checkpoint,
        )
