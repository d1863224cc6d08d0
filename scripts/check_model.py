"""Try a model with each scope, recovery and mode that the study asks for, in seconds, before anything is trained.

It is a study in small: the functions of the real jobs, on a few images, in a temporary folder.
"""

import dataclasses
import functools
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping

import numpy
import onnx
import torch

from elagage.data import NORMALIZATIONS, Dataset, PreparedData, Split
from elagage.errors import RefusedError, UserError
from elagage.files import refusal, write_json
from elagage.job import job, say
from elagage.kept_channels import kept_channels
from elagage.modes import MINMAX
from elagage.onnx.contents import Weight, stored_weights
from elagage.onnx.runtime import load, predictions
from elagage.progress import progress
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.device import compute_reproducibly, default_device, in_precision
from elagage.pytorch.distillation import Distillation
from elagage.pytorch.inspection import (
    better_class_order,
    better_normalization,
    check_accuracy,
    no_better_than_a_guess,
    predicted_classes,
)
from elagage.pytorch.models import ModelSpec, Normalize, build_network, naming
from elagage.pytorch.reconstruction import check_reconstruct
from elagage.pytorch.training_loss import mean_loss
from elagage.pytorch.training_state import TrainingState
from elagage.pytorch.trial_step import check_training
from elagage.schedules import TrainingSettings
from elagage.timing import time_in_turns
from prune import prune
from prune_channels import prune_channels
from quantize import quantize_checkpoint
from quantize_export import quantize_export
from quantize_qat import quantize_qat
from recover import recover
from recover_batchnorm import recover_batchnorm
from train import train

TRAINED_IMAGES = 32  # of two steps
CALIBRATION_IMAGES = 8
ACCURACY_IMAGES = 1000  # test images that the accuracy of given weights is measured on, unless it is known: then all


@dataclasses.dataclass
class Trial:
    """The jobs of one model on a few images, with files in a temporary folder."""

    data: PreparedData
    model: ModelSpec
    settings: TrainingSettings
    folder: pathlib.Path
    # Shares of the loss, of `retraining` and of `qat`.
    distillation: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"retraining": 0.0, "qat": 0.0})

    def dense(self) -> str:
        """Train for an epoch and return the checkpoint."""
        checkpoint = self._path("dense.safetensors")
        history = self._path("history.csv")
        state = self._state("dense")
        train(self.data, self.model, self.settings, state=state, checkpoint=checkpoint, history=history)
        return checkpoint

    def pruned(self, dense: str, scope: str, rate: float) -> str:
        """Prune and return the checkpoint."""
        checkpoint = self._path(f"{scope}.safetensors")
        if scope == "channel":
            prune_channels(self.data.dataset, dense, self.model.architecture, rate=rate, checkpoint=checkpoint)
        else:
            prune(dense, scope=scope, rate=rate, checkpoint=checkpoint)
        return checkpoint

    def exported(self, checkpoint: str) -> str:
        """Export a network that has lost channels and return its graph."""
        graph = self._path("channel.graph.onnx")
        quantize_export(self.data.dataset, self.model.architecture, checkpoint, graph)
        return graph

    def recovered(self, dense: str, pruned: str, recovery: str) -> None:
        """Recover a pruned checkpoint in the way asked for."""
        output = self._path("recovered.safetensors")
        if recovery == "batchnorm":
            recover_batchnorm(self.data, pruned, self.model.architecture, batchnorm_images=None, checkpoint=output)
            return
        if recovery == "reconstruct":
            dataset, architecture = self.data.dataset, self.model.architecture
            target, (network, provenance) = (load_network(path, architecture, dataset) for path in (dense, pruned))
            with naming(architecture):
                kept = kept_channels(provenance)
                check_reconstruct(network.eval(), target[0].eval(), dataset, self.data.train.images, kept)
            return
        retraining = {"epochs": 1} | ({"learning_rate": self.settings.learning_rate} if recovery == "finetune" else {})
        recover(
            self.data,
            self.model,
            self.settings,
            pruned=pruned,
            recovery=recovery,
            retraining=retraining,
            distillation=Distillation(dense, self.distillation["retraining"]),
            state=self._state(recovery),
            checkpoint=output,
        )

    def quantized(self, graph: str, checkpoint: str, modes: list[str], scope: str) -> dict[str, str]:
        """Return the ONNX file, or its refusal, of each mode but qat."""
        outputs = {mode: self.onnx_file(scope, mode) for mode in modes}
        training = self.data.train.first(CALIBRATION_IMAGES, "quantization.calibration_images")
        quantize_checkpoint(
            self.data.dataset, graph, checkpoint, training=training, calibration=MINMAX, mixed=None, outputs=outputs
        )
        return outputs

    def trained_for_int8(self, dense: str, checkpoint: str, scope: str) -> None:
        """Train a checkpoint for int8."""
        quantize_qat(
            self.data,
            checkpoint,
            self.model.architecture,
            self.settings,
            seed=self.model.seed,
            calibration_images=CALIBRATION_IMAGES,
            calibration=MINMAX,
            distillation=Distillation(dense, self.distillation["qat"]),
            state=self._state("qat"),
            output=self.onnx_file(scope, "qat"),
        )

    def onnx_file(self, scope: str, mode: str) -> str:
        """Return the path of a file that is made here; scope: "" for the dense model."""
        return self._path(f"{scope or 'dense'}-{mode}.onnx")

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def _state(self, name: str) -> TrainingState:
        return TrainingState(pathlib.Path(tempfile.mkdtemp(dir=self.folder), f"{name}.training_state.pt"), {})


@dataclasses.dataclass
class Combinations:
    """The scopes, recoveries and modes that a study asks for, and what is refused of them when they are tried.

    refused: a row of scope, rate, recovery and mode, "" for all of them, with the reason in `refused`; `cell` says in
    words which combination it is.
    """

    trial: Trial
    dense: str
    graph: str
    asked: Mapping
    test: Split
    refused: list[dict] = dataclasses.field(default_factory=list)

    def try_all(self, advance: Callable[[int], object]) -> None:
        """Try each scope with each recovery and each mode, and each mode without pruning.

        At the highest rate, or the lowest if the network rules that out.
        """
        self._try_modes(self.dense, self.graph, self.asked["modes"])
        advance(1)
        for scope in self.asked["scopes"]:
            for rate in self.asked["rates"]:
                pruned = self._tried(self.trial.pruned, self.dense, scope, rate, scope=scope, rate=rate)
                if pruned is not None:
                    self._try_pruned(pruned, scope)
                    break
            advance(1)

    def _try_pruned(self, pruned: str, scope: str) -> None:
        """Try a pruned checkpoint with each mode and each recovery."""
        channels = scope == "channel"
        graph = self._tried(self.trial.exported, pruned, scope=scope) if channels else self.graph
        if graph is not None:
            # An int8 graph depends on the shapes, and these only on removed channels.
            ruled_out = {row["mode"] for row in self.refused if not row["scope"]} | (set() if channels else {"qat"})
            self._try_modes(pruned, graph, [mode for mode in self.asked["modes"] if mode not in ruled_out], scope)
        for recovery in self.asked["recoveries"]:
            if recovery != "none":
                self._tried(self.trial.recovered, self.dense, pruned, recovery, scope=scope, recovery=recovery)

    def _try_modes(self, checkpoint: str, graph: str, modes: list[str], scope: str = "") -> None:
        """Quantize a checkpoint in each mode, and run what comes out."""
        float32_too = dict.fromkeys(["float32", *(mode for mode in modes if mode != "qat")])
        quantized = self._tried(self.trial.quantized, graph, checkpoint, list(float32_too), scope, scope=scope)
        for mode, onnx_file in (quantized or {}).items():
            self._tried(lambda path: predictions(load(path, 1), self.test), onnx_file, scope=scope, mode=mode)
        if "qat" in modes:
            self._tried(self.trial.trained_for_int8, self.dense, checkpoint, scope, scope=scope, mode="qat")

    def _tried(
        self,
        function: Callable,
        *arguments,
        scope: str = "",
        rate: float | str = "",
        recovery: str = "",
        mode: str = "",
    ):
        """Return what the function returns, or None where it raises RefusedError, whose reason is taken down."""
        try:
            return function(*arguments)
        except RefusedError as error:
            at = f"{scope} at {rate}" if rate else scope
            cell = " with ".join(filter(None, (at, recovery, mode)))
            named = {"scope": scope, "rate": rate, "recovery": recovery, "mode": mode}
            self.refused.append(named | {"cell": cell, "refused": str(error)})
            return None


def given_weights(
    dataset: Dataset, model: ModelSpec, checkpoint: str, train: Split, test: Split, stated: Mapping
) -> dict:
    """Return accuracy and number of test images of weights that the user gave, after a check of how they are fed.

    stated: the model's table in the configuration. Training images tell whether another of the usual
    normalizations, or another order of the classes, fits the weights better; this is said. Raises UserError if the
    accuracy stated is clearly missed: a check on test images, not a choice.
    """
    network, _ = load_network(checkpoint, model.architecture, dataset)
    # "none" means pixels of 0 to 1 here, which no model gets that was trained on 0 to 255.
    usual = [name for name in NORMALIZATIONS if name != "none" or stated["preprocessing"]["range"] == 1]
    hints = [better_normalization(network, dataset, train, stated["normalization"], usual)]
    hints = [f"models.{model.name}: {hint}" for hint in [*hints, better_class_order(network, dataset, train)] if hint]
    for hint in hints:
        say(hint)
    known = stated["accuracy"]
    split = test if known is not None else test.first(min(len(test), ACCURACY_IMAGES), "accuracy")
    correct = predicted_classes(network, dataset, split.images) == split.labels
    if known is not None:
        check_accuracy(correct, known, hints)
    elif hint := no_better_than_a_guess(correct, split.labels):
        say(f"models.{model.name}: {hint}")
    return {"accuracy": float(correct.mean()), "images": len(split)}


def training_seconds(dataset: Dataset, model: ModelSpec, train: Split, precision: str | None) -> float:
    """Return the seconds that forward and backward pass take for an image, of the faster of two batches.

    precision: of TrainingSettings.
    """
    device = default_device()
    network = build_network(
        model.architecture, len(dataset.classes), dataset.channels, model.seed, image_size=dataset.image_size
    )
    batch, normalize = few_of(train), Normalize(dataset).to(device)
    network.to(device).train()
    context = check_training(network, normalize, batch.images, precision)
    images, labels = torch.from_numpy(batch.images).to(device), torch.from_numpy(batch.labels).to(device)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        with context():
            with in_precision(precision, device):
                outputs = network(normalize(images))
            loss, _ = mean_loss(outputs, labels)
            loss.backward()
            loss.item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return min(seconds) / len(batch)


def layers(trial: Trial, scopes: list[str], modes: list[str]) -> list[dict]:
    """Return a row for each weight of the dense float32 file: its name and size, and what becomes of it.

    For each scope the share of it that is zero or removed, for each mode whether it is int8; nothing where the scope or
    the mode is refused.
    """
    pruned = {scope: weights_of(trial.onnx_file(scope, "float32")) for scope in scopes}
    int8 = {mode: weights_of(trial.onnx_file("", mode)) for mode in modes if mode != "float32"}
    rows = []
    for name, weight in weights_of(trial.onnx_file("", "float32")).items():
        row = {"layer": name.removesuffix(".weight"), "weights": weight.size}
        for scope, weights in pruned.items():
            left = weights[name].size - weights[name].zeros if name in weights else None
            row[f"{scope}: zero or removed"] = "" if left is None else f"{1 - left / weight.size:.0%}"
        for mode, weights in int8.items():
            is_int8 = any(f"{other}_".startswith(f"{name}_") and weights[other].int8 for other in weights)
            row[mode] = ("int8" if is_int8 else "float32") if weights else ""
        rows.append(row)
    return rows


def weights_of(onnx_file: str) -> dict[str, Weight]:
    """Return the weights of an ONNX file by name; none of a file that was refused."""
    if not pathlib.Path(onnx_file).exists() or refusal(onnx_file) is not None:
        return {}
    return {weight.name: weight for weight in stored_weights(onnx.load(onnx_file))}


def file_sizes(trial: Trial, modes: list[str]) -> dict[str, int]:
    """Return the bytes of the dense file in float32 and in each of the modes that is not refused."""
    files = {mode: pathlib.Path(trial.onnx_file("", mode)) for mode in ("float32", *modes)}
    return {mode: file.stat().st_size for mode, file in files.items() if file.exists()}


def inference_seconds(onnx_file: str, images: numpy.ndarray) -> float:
    """Return the seconds that an ONNX file takes for one image, the median of a few."""
    times = time_in_turns({"": functools.partial(load, onnx_file, 1)}, images)
    return float(numpy.median(times[""].wall)) / 1e9


def few_of(split: Split) -> Split:
    """Return the first images of a split, enough for two steps of training."""
    return Split(split.images[:TRAINED_IMAGES], split.labels[:TRAINED_IMAGES])


def check_model(
    data: PreparedData,
    test: Split,
    model: ModelSpec,
    settings: TrainingSettings,
    *,
    graph: str,
    weights: str | None,
    asked: Mapping,
    stated: Mapping,
    trains: bool,
    strict: bool,
    output: str,
) -> None:
    """Write what was found (JSON): refused combinations, accuracy of given weights, layers, bytes, and seconds.

    settings: of Plan.trial_training; graph: as exported for the study; weights: the dense checkpoint of given weights;
    asked: of Plan.asked; stated: the model's table in the configuration; trains: whether the
    study trains it at all. Raises UserError if the model cannot be part of the study at all or, if strict, for a single
    combination.
    """
    gentle = dataclasses.replace(settings, batch_size=min(settings.batch_size, TRAINED_IMAGES // 2))
    few = PreparedData(data.dataset, few_of(data.train), few_of(data.validation))
    found = {}
    bar = progress(3 + len(asked["scopes"]), " steps", f"check {model.name}")
    with tempfile.TemporaryDirectory() as folder, bar as advance:
        trial = Trial(few, model, gentle, pathlib.Path(folder), asked["distillation"])
        if weights is not None:
            found |= given_weights(data.dataset, model, weights, data.train, test, stated)
        advance(1)
        dense = weights or trial.dense()
        advance(1)
        combinations = Combinations(trial, dense, graph, asked, few_of(test))
        combinations.try_all(advance)
        found["layers"] = layers(trial, asked["scopes"], asked["modes"])
        found["inference_seconds"] = inference_seconds(trial.onnx_file("", "float32"), few_of(test).images)
        found["bytes"] = file_sizes(trial, asked["modes"]) | {"checkpoint": pathlib.Path(dense).stat().st_size}
    found["training_seconds"] = 0.0
    if trains:
        with naming(model.architecture):
            found["training_seconds"] = training_seconds(data.dataset, model, data.train, settings.precision)
    refused = combinations.refused
    for row in refused:
        say(f"models.{model.name}: {row['cell']} refused: {row['refused']}")
    if strict and refused:
        raise UserError(
            f"models.{model.name}: strict: true, and {len(refused)} combination(s) asked for are refused; leave them "
            f"out, or say strict: false"
        )
    write_json(output, {"model": model.name, "refused": refused, **found})


if "snakemake" in globals():
    with job(snakemake.log[0]):
        compute_reproducibly(snakemake.threads)
        params, inputs = snakemake.params, snakemake.input
        data = PreparedData.read(inputs, params.trained_with)
        check_model(
            data,
            data.dataset.split(inputs, "test"),
            ModelSpec(snakemake.wildcards.model, params.stated["architecture"], params.seed),
            TrainingSettings(**params.settings),
            graph=inputs.graph,
            weights=next(iter(inputs.weights), None),
            asked=params.asked,
            stated=params.stated,
            trains=params.trains,
            strict=params.strict,
            output=snakemake.output.report,
        )
