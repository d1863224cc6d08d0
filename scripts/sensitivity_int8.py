"""Measure which layers int8 harms: the network with only one layer in int8, and with only that layer in float32."""

import os

import onnx

from elagage.checkpoints import named
from elagage.data import Split
from elagage.files import write_csv
from elagage.int8_harm import SHOWN
from elagage.job import job
from elagage.modes import Calibration, chosen_calibration
from elagage.onnx.divergence import Answers, first_images
from elagage.onnx.graph import float32_model
from elagage.onnx.quantization import quantize
from elagage.onnx.simulation import Simulation, simulating_session
from elagage.progress import progress
from elagage.refusals import refusing

# Images of validation, at most, of up to 64 x 64 pixels, and fewer of large ones; and how many are classified by all
# models. With 42 images instead of 210, mode mixed leaves more layers of an EfficientNet-B0 in float32, and loses more.
IMAGES, FEWEST_IMAGES, CLASSIFIED = 250, 50, 60000
NOT_MEASURED = {"without_divergence": None, "without_changed": None}


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
    and alone_changed: images that are classified otherwise; with all in int8, all_divergence and all_changed; with only
    this layer in float32, without_divergence and without_changed, which are empty but for the SHOWN most harmful.
    """
    float32, provenance = float32_model(graph, checkpoint)
    int8 = quantize(float32, "static", training.images, calibration=calibration)
    simulation = Simulation(float32, int8, calibration.operators)
    models = len(simulation.layers) + min(SHOWN, len(simulation.layers))
    most = max(FEWEST_IMAGES, min(IMAGES, CLASSIFIED // models))
    usual = first_images(validation.images, most, FEWEST_IMAGES)
    chosen = validation.first(images, "sensitivity.images").images if images else usual
    answers = Answers(float32, chosen, threads, simulating_session)
    whole, rows = _harm("all", answers, simulation.rounding(simulation.layers)), []
    with progress(models, " models", f"sensitivity to int8 of {named(provenance)}") as advance:
        for name, layer in simulation.layers.items():
            row = {"layer": name, "kind": layer.kind, "images": len(answers.images)}
            rows.append(row | whole | _harm("alone", answers, simulation.rounding([name])) | NOT_MEASURED)
            advance(1)
        for row in sorted(rows, key=lambda row: -row["alone_divergence"])[:SHOWN]:
            row |= _harm("without", answers, simulation.rounding(simulation.layers.keys() - {row["layer"]}))
            advance(1)
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
