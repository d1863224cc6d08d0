"""Train a model and keep its best epoch by validation accuracy."""

import pathlib

import torch

from elagage.data import PreparedData
from elagage.files import write_csv
from elagage.job import job
from elagage.pytorch.checkpoints import save_dense
from elagage.pytorch.device import compute_reproducibly
from elagage.pytorch.folding import fold_checked
from elagage.pytorch.independence import check_independence
from elagage.pytorch.models import ModelSpec, Normalize, build_network, naming
from elagage.pytorch.training import fit
from elagage.pytorch.training_state import TrainingState, identity
from elagage.pytorch.trial_step import check_training
from elagage.schedules import TrainingSettings, warmup_and_cosine


def train(
    data: PreparedData,
    model: ModelSpec,
    settings: TrainingSettings,
    *,
    state: TrainingState,
    checkpoint: str,
    history: str,
) -> None:
    """Write the checkpoint (safetensors) and the history (CSV, one row per epoch).

    A run that is killed resumes from `state`, whose file is deleted at the end.
    """
    dataset = data.dataset
    network = build_network(
        model.architecture, len(dataset.classes), dataset.channels, model.seed, image_size=dataset.image_size
    )
    # Hours of training should not end in the error that exporting such a network would give.
    with naming(model.architecture):
        check_independence(network, dataset)
        check_training(network, Normalize(dataset), data.validation.images, settings.precision)
    label = f"train {model.name} seed {model.seed}"
    schedule = warmup_and_cosine(settings)
    best, epochs = fit(network, data, settings, schedule, seed=model.seed, label=label, state=state)
    write_csv(history, epochs)
    with naming(model.architecture):
        fold_checked(network, dataset, torch.from_numpy(data.validation.images[:2]))
        record = {
            "model": model.name,
            "architecture": model.architecture,
            "dataset": dataset.name,
            "seed": model.seed,
            "epoch": best["epoch"],
            "validation_accuracy": best["validation_accuracy"],
            "torch": torch.__version__,
        }
        save_dense(checkpoint, network, dataset, record)
    state.remove()


if "snakemake" in globals():
    with job(snakemake.log[0]):
        compute_reproducibly(snakemake.threads)
        params, wildcards = snakemake.params, snakemake.wildcards
        train(
            PreparedData.read(snakemake.input, snakemake.params.trained_with),
            ModelSpec(wildcards.model, params.architecture, int(wildcards.seed)),
            TrainingSettings(**params.settings),
            state=TrainingState(
                pathlib.Path(params.state), identity({**params, "seed": wildcards.seed}, [snakemake.input.dataset])
            ),
            checkpoint=snakemake.output.checkpoint,
            history=snakemake.output.history,
        )
