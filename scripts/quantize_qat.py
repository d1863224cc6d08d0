"""Quantization-aware training: train a checkpoint on as its int8 ONNX file, which is the output."""

import copy
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

import onnx
import onnxruntime
import torch

from elagage.checkpoints import load_network
from elagage.data import Dataset, Split
from elagage.files import whole_file
from elagage.job import job
from elagage.models import Normalize, naming
from elagage.onnx_contents import count_contents, describe
from elagage.onnx_strip import strip
from elagage.progress import progress
from elagage.pruning import hold_zeros
from elagage.qat import Trainable, check_agreement, prepare
from elagage.statistics import mean_difference_interval, newly_right_interval
from elagage.training import (
    TrainingSettings,
    default_device,
    evaluate_images,
    fit,
    make_deterministic,
    warmup_and_cosine,
)
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
    """Write the int8 ONNX file of the best epoch, among which is epoch 0: calibrated, not trained.

    Weights that are zero stay zero. A run that is killed goes on from `state`, the file of which is gone at the end.
    """
    torch.set_num_threads(min(threads, os.cpu_count() or 1))
    dataset = Dataset.read(dataset_path)
    make_deterministic()
    network, provenance = load_network(checkpoint, architecture, dataset, seed)
    calibration = train_split.first(calibration_images, "quantization.calibration_images").images
    with naming(architecture):
        trainable = prepare(network, dataset, calibration, default_device())
        check_agreement(trainable, dataset, validation_split.images[:COMPARED])
    place = [str(provenance[key]) for key in ("model", "scope", "rate", "recovery") if key in provenance]
    label = f"train {' '.join(place)} seed {seed} for int8"
    best = train_fake_quantized(trainable, dataset, train_split, validation_split, settings, seed, state, label)
    with naming(architecture):
        model = check_agreement(trainable, dataset, validation_split.images[:COMPARED])
    print("qat", json.dumps(count_contents(model)))
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


def train_fake_quantized(
    trainable: Trainable,
    dataset: Dataset,
    train_split: Split,
    validation_split: Split,
    settings: TrainingSettings,
    seed: int,
    state: TrainingState,
    label: str,
) -> Mapping[str, float]:
    """Train the network, leave it as in its best epoch, and return that one's number, validation loss and accuracy.

    The best is that of the lowest validation loss: where int8 costs a few images, accuracy is no sure sign. Epoch 0,
    the network as calibrated, is kept unless the best one's loss is lower, or its classes are right for more images, by
    more than the 95 % interval: what int8 did not harm, training changes at random. (There are two tests, and the epoch
    is chosen on the same images, so that chance passes for a gain not in 2.5 % of such trainings but in some 10 %.)
    """
    network, device = trainable.fake_quantized, trainable.device
    normalize, calibrated = Normalize(dataset).to(device), copy.deepcopy(network.state_dict())
    losses, found = evaluate_images(network, normalize, validation_split, device)
    start = {"epoch": 0, "validation_loss": losses.mean().item(), "validation_accuracy": found.double().mean().item()}
    print(" ".join(f"{key}={value:.6g}" for key, value in start.items()))
    with progress(settings.epochs * len(train_split), " images", label) as advance:
        best, _ = fit(
            network,
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
            score=lambda row: -row["validation_loss"],
        )
    best_losses, best_found = evaluate_images(network, normalize, validation_split, device)
    gain, low, high = mean_difference_interval(losses.numpy(), best_losses.numpy())
    share, lowest, highest = newly_right_interval(found.numpy(), best_found.numpy())
    print(f"epoch {best['epoch']} changes the validation loss by {-gain:.3g}, 95 % interval {-high:.3g} to {-low:.3g}")
    print(f"{share:.0%} of images that became right or wrong became right, 95 % interval {lowest:.0%} to {highest:.0%}")
    if low > 0 or lowest > 0.5:
        return best
    print("kept as calibrated")
    network.load_state_dict(calibrated)
    return start


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
