"""Quantization-aware training: train a checkpoint on as its int8 ONNX file, which is the output."""

import dataclasses
import json
import os
import pathlib

import onnx
import onnxruntime
import torch

from elagage.checkpoints import load_network
from elagage.data import Dataset, Split
from elagage.files import whole_file
from elagage.job import job
from elagage.models import naming
from elagage.onnx_contents import count_contents, describe
from elagage.onnx_strip import strip
from elagage.progress import progress
from elagage.pruning import hold_zeros
from elagage.qat import check_agreement, prepare
from elagage.training import TrainingSettings, default_device, fit, make_deterministic, warmup_and_cosine
from elagage.training_state import TrainingState, identity

COMPARED = 500  # validation images on which PyTorch and ONNX Runtime have to agree


def quantize_qat(
    dataset_path: str,
    train_split: Split,
    validation_split: Split,
    checkpoint: str,
    architecture: str,
    seed: int,
    settings: TrainingSettings,
    calibration_images: int,
    threads: int,
    state: TrainingState,
    output: str,
) -> None:
    """Write the int8 ONNX file of the best epoch by validation accuracy, all that is rounded being rounded.

    Weights that are zero stay zero. A run that is killed goes on from `state`, the file of which is gone at the end.
    """
    torch.set_num_threads(min(threads, os.cpu_count() or 1))
    dataset, device = Dataset.read(dataset_path), default_device()
    make_deterministic()
    network, provenance = load_network(checkpoint, architecture, dataset, seed)
    calibration = train_split.first(calibration_images, "quantization.calibration_images").images
    with naming(architecture):
        trainable = prepare(network, dataset, calibration, device)
        check_agreement(trainable, dataset, validation_split.images[:COMPARED])
    place = [str(provenance[key]) for key in ("model", "scope", "rate", "recovery") if key in provenance]
    label = f"train {' '.join(place)} seed {seed} for int8"
    with progress(settings.epochs * len(train_split), " images", label) as advance:
        best_state, history = fit(
            trainable.fake_quantized,
            dataset,
            train_split,
            validation_split,
            settings,
            dataclasses.replace(warmup_and_cosine(settings), key="quantization.qat_learning_rate"),
            seed,
            device,
            state,
            advance,
            constrain=hold_zeros,
        )
    trainable.fake_quantized.load_state_dict(best_state)
    with naming(architecture):
        model = check_agreement(trainable, dataset, validation_split.images[:COMPARED])
    print("qat", json.dumps(count_contents(model)))
    best = next(row for row in history if row["best"])
    training = {
        "mode": "qat",
        "calibration_images": calibration_images,
        "qat_epochs": settings.epochs,
        "qat_learning_rate": settings.learning_rate,
        "qat_epoch": best["epoch"],
        "qat_validation_accuracy": best["validation_accuracy"],
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
    }
    content = {"classes": dataset.classes, "preprocessing": dataset.preprocessing()}
    strip(model)
    describe(model, content | {"provenance": provenance | training})
    onnx.checker.check_model(model)
    with whole_file(output) as temporary:
        onnx.save(model, temporary)
    state.remove()


if "snakemake" in globals():
    # Has to be set before the first CUDA call for cuBLAS to be deterministic.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    with job(snakemake.log[0]):
        params, seed = snakemake.params, int(snakemake.wildcards.seed)
        depends = [snakemake.input.dataset, snakemake.input.checkpoint, *snakemake.input.user_model]
        quantize_qat(
            snakemake.input.dataset,
            Split.read(snakemake.input.train_images, snakemake.input.train_labels),
            Split.read(snakemake.input.validation_images, snakemake.input.validation_labels),
            snakemake.input.checkpoint,
            params.architecture,
            seed,
            TrainingSettings(**params.settings),
            params.calibration_images,
            snakemake.threads,
            TrainingState(pathlib.Path(params.state), identity({**params, "seed": seed}, depends)),
            snakemake.output.onnx,
        )
