"""Turn a checkpoint into the ONNX files that are measured and deployed: float32, and int8 in each of the modes."""

import copy
import json
from collections.abc import Mapping

import numpy
import onnx_ir
import onnxruntime
import safetensors

from elagage.data import Dataset, Split
from elagage.files import reading
from elagage.job import job
from elagage.onnx.contents import count_contents
from elagage.onnx.deployed import write_deployed
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.refusals import refusing


def read_numpy(checkpoint: str) -> tuple[dict[str, numpy.ndarray], dict]:
    """Return a checkpoint's tensors and provenance without PyTorch."""
    with reading(checkpoint), safetensors.safe_open(checkpoint, "numpy") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["elagage"])


def quantize_checkpoint(
    dataset: Dataset, graph: str, checkpoint: str, *, calibration: Split | None, outputs: Mapping[str, str]
) -> None:
    """Write an ONNX file for each mode (mode -> path), or why there is none; calibration: images for mode static."""
    state, provenance = read_numpy(checkpoint)
    with reading(graph):
        float32 = with_weights(onnx_ir.load(graph), state)
    for mode, output in outputs.items():
        images = calibration.images if mode == "static" else None
        with refusing(output):
            model = copy.deepcopy(float32) if mode == "float32" else quantize(float32, mode, images)
            print(mode, json.dumps(count_contents(model)))
            record = {"mode": mode, "onnxruntime": onnxruntime.__version__}
            record |= {} if images is None else {"calibration_images": len(images)}
            write_deployed(output, model, dataset, provenance | record)


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        calibration = None
        if "static" in snakemake.params.modes:
            split = Split.read(snakemake.input.train_images, snakemake.input.train_labels)
            calibration = split.first(snakemake.params.calibration_images, "quantization.calibration_images")
        quantize_checkpoint(
            Dataset.read(snakemake.input.dataset, snakemake.params.trained_with),
            snakemake.input.graph,
            snakemake.input.checkpoint,
            calibration=calibration,
            outputs=dict(zip(snakemake.params.modes, snakemake.output, strict=True)),
        )
