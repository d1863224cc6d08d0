"""Quantization-aware training of a checkpoint, which ends in its int8 ONNX file."""

import json
import pathlib

import onnxruntime
import torch

from elagage.data import PreparedData
from elagage.job import job
from elagage.modes import Calibration, calibration_record, chosen_calibration
from elagage.onnx.contents import check_zeros, count_contents
from elagage.onnx.deployed import write_deployed
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.device import compute_reproducibly, default_device
from elagage.pytorch.distillation import LABELS_ONLY, Distillation
from elagage.pytorch.models import naming
from elagage.pytorch.qat import check_agreement, prepare, train_fake_quantized
from elagage.pytorch.training_state import TrainingState, identity
from elagage.refusals import refusing, ruled_out
from elagage.schedules import TrainingSettings

COMPARED_IMAGES = 500  # of validation, on which PyTorch and ONNX Runtime have to agree


def quantize_qat(
    data: PreparedData,
    checkpoint: str,
    architecture: str,
    settings: TrainingSettings,
    *,
    seed: int,
    calibration_images: int | None,
    calibration: Calibration,
    state: TrainingState,
    output: str,
    distillation: Distillation = LABELS_ONLY,
) -> None:
    """Write the int8 ONNX file of the best epoch, or of epoch 0: the network as calibrated, not trained.

    Weights that are zero stay zero. A run that is killed resumes from `state`, whose file is deleted at the end.
    """
    device = default_device()
    loss = distillation.loss(architecture, data.dataset, seed, device)
    network, provenance = load_network(checkpoint, architecture, data.dataset, seed)
    images = data.train.first(calibration_images, "quantization.calibration_images").images
    compared = data.validation.images[:COMPARED_IMAGES]
    with ruled_out(), naming(architecture):
        trainable = prepare(network, data.dataset, images, device, calibration)
        check_zeros(check_agreement(trainable, data.dataset, compared).model, provenance)
    variant = [str(provenance[key]) for key in ("model", "scope", "rate", "recovery") if key in provenance]
    label = f"train {' '.join(variant)} seed {seed} for int8"
    best = train_fake_quantized(trainable, data, settings, seed=seed, label=label, state=state, loss=loss)
    with naming(architecture):
        trained = check_agreement(trainable, data.dataset, compared)
    print("qat", json.dumps(count_contents(trained.model)))
    record = {
        "mode": "qat",
        **calibration_record(calibration, len(images)),
        "qat_epochs": settings.epochs,
        "qat_learning_rate": settings.learning_rate,
        "qat_distillation": distillation.share,
        "qat_epoch": best["epoch"],
        "qat_validation_accuracy": best["validation_accuracy"],
        # Two digits: the others are those of the machine, and files of two runs should be equal.
        "qat_error": float(f"{trained.error:.2g}"),
        "qat_noise": float(f"{trained.noise:.2g}"),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
    }
    write_deployed(output, trained.model, data.dataset, provenance | record)
    state.remove()


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        compute_reproducibly(snakemake.threads)
        params, seed = snakemake.params, int(snakemake.wildcards.seed)
        inputs = snakemake.input
        depends = [inputs.dataset, inputs.checkpoint, inputs.choice, inputs.dense]
        quantize_qat(
            PreparedData.read(snakemake.input, snakemake.params.trained_with),
            snakemake.input.checkpoint,
            params.architecture,
            TrainingSettings(**params.settings),
            seed=seed,
            calibration_images=params.calibration_images,
            calibration=chosen_calibration(snakemake.input.choice),
            distillation=Distillation(inputs.dense, params.distillation),
            state=TrainingState(pathlib.Path(params.state), identity({**params, "seed": seed}, depends)),
            output=snakemake.output.onnx,
        )
