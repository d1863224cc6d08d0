"""Measure which layers int8 harms: the network with only one layer in int8, and with only that layer in float32."""

import os

import onnx

from elagage.checkpoints import named
from elagage.data import Split
from elagage.files import write_csv
from elagage.job import job
from elagage.modes import Calibration, chosen_calibration
from elagage.onnx.divergence import Answers, first_images
from elagage.onnx.graph import float32_model
from elagage.onnx.quantization import quantize
from elagage.onnx.simulation import Simulation, simulating_session
from elagage.progress import progress
from elagage.refusals import refusing

# Images of validation, at most, of up to 64 x 64 pixels, and fewer of large ones; and how many are classified by all
# models, of which there are two for each layer: 12,000 take a minute in an EfficientNet-B0 for 64x64 pixels.
IMAGES, FEWEST_IMAGES, CLASSIFIED = 250, 32, 20000


def sensitivity_int8(
    graph: str,
    checkpoint: str,
    *,
    training: Split,
    validation: Split,
    calibration: Calibration,
    images: int | None,
    threads: int,
    output: str,
) -> None:
    """Write a row for each layer that is int8 in mode static (CSV).

    training: images that ranges follow from; images: of validation, the first ones, None for as many as usual. Of each
    row, layer: the name of the weight or, of what has none, of the result; kind: what ONNX Runtime has the same kernel
    for; images. With only this layer in int8, alone_divergence: that of the class probabilities from float32, in nats,
    and alone_changed: images that are classified otherwise; with only this layer in float32, without_divergence and
    without_changed; with all in int8, all_divergence and all_changed.
    """
    float32, provenance = float32_model(graph, checkpoint)
    int8 = quantize(float32, "static", training.images, calibration=calibration)
    simulation = Simulation(float32, int8, calibration.operators)
    most = max(FEWEST_IMAGES, min(IMAGES, CLASSIFIED // (2 * len(simulation.layers))))
    usual = first_images(validation.images, most, FEWEST_IMAGES)
    chosen = validation.first(images, "sensitivity.images").images if images else usual
    answers = Answers(float32, chosen, threads, simulating_session)
    whole, rows = _harm("all", answers, simulation.rounding(simulation.layers)), []
    with progress(2 * len(simulation.layers), " models", f"sensitivity to int8 of {named(provenance)}") as advance:
        for name, layer in simulation.layers.items():
            row = {"layer": name, "kind": layer.kind, "images": len(answers.images)}
            row |= _harm("alone", answers, simulation.rounding([name]))
            row |= _harm("without", answers, simulation.rounding(simulation.layers.keys() - {name}))
            rows.append(row | whole)
            advance(2)
    write_csv(output, rows)


def _harm(kind: str, answers: Answers, model: onnx.ModelProto) -> dict[str, float]:
    divergence, classes = answers.compare(model)
    return {f"{kind}_divergence": divergence, f"{kind}_changed": int((classes != answers.classes).sum())}


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        parts = {
            name: Split.read(snakemake.input[f"{name}_images"], snakemake.input[f"{name}_labels"])
            for name in ("train", "validation")
        }
        sensitivity_int8(
            snakemake.input.graph,
            snakemake.input.checkpoint,
            training=parts["train"].first(snakemake.params.calibration_images, "quantization.calibration_images"),
            validation=parts["validation"],
            calibration=chosen_calibration(snakemake.input.choice),
            images=snakemake.params.images,
            threads=min(snakemake.threads, os.cpu_count() or 1),
            output=snakemake.output.csv,
        )
