"""Choose which layers stay float32 in mode mixed: those that int8 harms most, and those that it makes slower."""

import csv
import os
from collections.abc import Callable

import numpy

from elagage.data import Dataset, Split
from elagage.errors import RefusedError
from elagage.files import read_json, reading, write_json
from elagage.job import job
from elagage.modes import Calibration, chosen_calibration
from elagage.onnx.divergence import Answers, first_images
from elagage.onnx.graph import float32_model
from elagage.onnx.quantization import quantize
from elagage.onnx.simulation import Simulation, simulating_session
from elagage.refusals import refusing

# Images of validation, at most, of up to 64 x 64 pixels, and fewer of large ones.
IMAGES, FEWEST_IMAGES = 5000, 250
# Of the margin of the answer, what int8 may lose on validation images: the rest is for what test images cannot tell.
SHARE_OF_MARGIN = 0.5


def mix(
    graph: str,
    checkpoint: str,
    *,
    training: Split,
    validation: Split,
    calibration: Calibration,
    sensitivity: str,
    times: str,
    margin: float,
    threads: int,
    output: str,
) -> None:
    """Write the calibration of mode mixed for a model and seed, and how it was chosen (JSON).

    sensitivity: what the rule sensitivity_int8 wrote; times: what time_layers wrote; margin: of the answer, in points.
    Of the layers that time_layers left in int8, the most harmful ones, by the divergence that each causes alone, become
    float32, as few as keep the accuracy on validation images within SHARE_OF_MARGIN of the margin, but for a standard
    error: chance alone should not make a file slower. Raises RefusedError if all would be.
    """
    float32, _ = float32_model(graph, checkpoint)
    answers = Answers(float32, first_images(validation.images, IMAGES, FEWEST_IMAGES), threads, simulating_session)
    labels = validation.labels[: len(answers.images)]
    int8 = quantize(float32, "static", training.images, calibration=calibration)
    simulation = Simulation(float32, int8, calibration.operators)
    with reading(times):
        slow = [name for name in read_json(times)["float32"] if name in simulation.layers]
    harmful = [name for name in most_harmful(sensitivity) if name in simulation.layers and name not in slow]

    def lost(count: int) -> float:
        """Return the points lost, less a standard error, with the first layers of `harmful` in float32."""
        _, classes = answers.compare(simulation.rounding(simulation.layers.keys() - {*slow, *harmful[:count]}))
        return points_lost(answers.classes == labels, classes == labels)

    count, losses = fewest(lost, len(harmful), SHARE_OF_MARGIN * margin)
    kept = [*slow, *harmful[:count]]
    print(f"points lost, less a standard error, with so many of the most harmful layers in float32: {losses}")
    if len(kept) == len(simulation.layers):
        raise RefusedError(
            f"quantization.modes: mixed: whichever layers are int8, more than {SHARE_OF_MARGIN * margin:g} points are "
            f"lost on {len(labels)} validation images, half of answer.maximum_accuracy_loss; use float32 or qat"
        )
    choice = calibration._replace(float32=(*calibration.float32, *kept))
    reasons = {"for_time": slow, "for_accuracy": harmful[:count], "points_lost": losses, "images": len(labels)}
    write_json(output, {**choice._asdict(), **reasons})


def points_lost(before: numpy.ndarray, after: numpy.ndarray) -> float:
    """Return the points of accuracy lost, less a standard error of the paired difference, with two decimals.

    before, after: bool [n], whether each image is classified correctly.
    """
    difference = before.astype(float) - after
    return round(100 * float(difference.mean() - difference.std() / len(difference) ** 0.5), 2)


def most_harmful(sensitivity: str) -> list[str]:
    """Return the layers, first the one that changes the class probabilities most if it alone is int8."""
    with reading(sensitivity), open(sensitivity, newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -float(row["alone_divergence"]))
        return [row["layer"] for row in rows]


def fewest(lost: Callable[[int], float], most: int, allowed: float) -> tuple[int, dict[int, float]]:
    """Return the fewest layers, of at most `most`, with which no more points than allowed are lost, and all losses.

    By bisection: more layers in float32 are taken to lose less.
    """
    losses = {0: lost(0)}
    if losses[0] <= allowed:
        return 0, losses
    enough, too_few = most, 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        losses[middle] = lost(middle)
        if losses[middle] <= allowed:
            enough = middle
        else:
            too_few = middle
    return enough, losses


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        dataset = Dataset.read(snakemake.input.dataset, snakemake.params.trained_with)
        training, validation = (dataset.split(snakemake.input, name) for name in ("train", "validation"))
        mix(
            snakemake.input.graph,
            snakemake.input.checkpoint,
            training=training.first(snakemake.params.calibration_images, "quantization.calibration_images"),
            validation=validation,
            calibration=chosen_calibration(snakemake.input.choice),
            sensitivity=snakemake.input.sensitivity,
            times=snakemake.input.times,
            margin=snakemake.params.margin,
            threads=min(snakemake.threads, os.cpu_count() or 1),
            output=snakemake.output.choice,
        )
