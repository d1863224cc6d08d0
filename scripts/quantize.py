"""Turn a checkpoint into the ONNX files that are measured and deployed: float32, and int8 in each of the modes."""

import copy
import json
from collections.abc import Mapping

import onnx
import onnxruntime

from elagage.data import Dataset, Split
from elagage.job import job, say
from elagage.modes import CALIBRATED, LARGEST_LEVEL, MINMAX, Calibration, calibration_record, chosen_calibration
from elagage.onnx.contents import check_zeros, count_contents, listed, stored_weights
from elagage.onnx.deployed import write_deployed
from elagage.onnx.graph import float32_model
from elagage.onnx.quantization import quantize
from elagage.refusals import refusing

MENTIONED = 0.1  # share of the weights that stay float32, above which the user is told


def quantize_checkpoint(
    dataset: Dataset,
    graph: str,
    checkpoint: str,
    *,
    training: Split | None,
    calibration: Calibration,
    mixed: str | None,
    outputs: Mapping[str, str],
) -> None:
    """Write an ONNX file for each mode (mode -> path), or why there is none.

    training: images, for CALIBRATED; mixed: the file with the calibration of this mode, None for the usual one.
    """
    float32, provenance = float32_model(graph, checkpoint)
    check_zeros(float32, provenance)
    for mode, output in outputs.items():
        images = training.images if mode in CALIBRATED else None
        with refusing(output):
            chosen = chosen_calibration(mixed) if mode == "mixed" and mixed is not None else calibration
            model = copy.deepcopy(float32) if mode == "float32" else quantize(float32, mode, images, calibration=chosen)
            print(mode, json.dumps(count_contents(model)))
            if mode != "float32":
                _say_what_stays_float32(model, mode)
            record = {"mode": mode, "onnxruntime": onnxruntime.__version__}
            record |= {} if images is None else calibration_record(chosen, len(images))
            record |= {"weight_levels": 2 * LARGEST_LEVEL[mode] + 1} if mode in LARGEST_LEVEL else {}
            write_deployed(output, model, dataset, provenance | record)


def _say_what_stays_float32(model: onnx.ModelProto, mode: str) -> None:
    """Print the weights of an int8 model that are float32, and tell the user if they are a large part."""
    weights = stored_weights(model)
    left = sorted((weight for weight in weights if not weight.int8), key=lambda weight: -weight.size)
    share = sum(weight.size for weight in left) / max(1, sum(weight.size for weight in weights))
    if left:
        note = f"mode {mode}: {share:.1%} of the weights stay float32: {listed(left)}"
        (say if share > MENTIONED and mode != "dynamic" else print)(note)


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        training, calibration = None, MINMAX
        if not {*CALIBRATED}.isdisjoint(snakemake.params.modes):
            split = Split.read(snakemake.input.train_images, snakemake.input.train_labels)
            training = split.first(snakemake.params.calibration_images, "quantization.calibration_images")
            calibration = chosen_calibration(snakemake.input.choice)
        quantize_checkpoint(
            Dataset.read(snakemake.input.dataset, snakemake.params.trained_with),
            snakemake.input.graph,
            snakemake.input.checkpoint,
            training=training,
            calibration=calibration,
            mixed=snakemake.input.get("mixed"),
            outputs=dict(zip(snakemake.params.modes, snakemake.output, strict=True)),
        )
