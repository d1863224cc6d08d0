"""Turn a checkpoint into the ONNX files that are measured and deployed: float32, and int8 in each of the modes."""

import copy
import json
from collections.abc import Mapping

import numpy
import onnx
import onnx_ir
import onnxruntime
import safetensors

from elagage.data import Dataset, Split
from elagage.files import reading, whole_file
from elagage.job import job
from elagage.onnx_contents import count_contents, describe
from elagage.onnx_graph import with_weights
from elagage.onnx_strip import strip
from elagage.quantization import quantize


def read_numpy(checkpoint: str) -> tuple[dict[str, numpy.ndarray], dict]:
    """Return a checkpoint's tensors and provenance without PyTorch."""
    with reading(checkpoint), safetensors.safe_open(checkpoint, "numpy") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["elagage"])


def quantize_checkpoint(
    dataset_path: str, graph: str, checkpoint: str, calibration: Split | None, outputs: Mapping[str, str]
) -> None:
    """Write an ONNX file for each mode (mode -> path).

    Its metadata holds the class names, the preprocessing and where it comes from.
    """
    dataset = Dataset.read(dataset_path)
    state, provenance = read_numpy(checkpoint)
    with reading(graph):
        float32 = with_weights(onnx_ir.load(graph), state)
    for mode, output in outputs.items():
        images = calibration.images if mode == "static" else None
        model = copy.deepcopy(float32) if mode == "none" else quantize(float32, mode, images)
        print(mode, json.dumps(count_contents(model)))
        strip(model)
        describe(model, _description(dataset, provenance, mode, images))
        onnx.checker.check_model(model)
        with whole_file(output) as temporary:
            onnx.save(model, temporary)


def _description(dataset: Dataset, provenance: Mapping, mode: str, calibration: numpy.ndarray | None) -> dict:
    return {
        "classes": dataset.classes,
        "preprocessing": dataset.preprocessing(),
        "provenance": dict(provenance)
        | {"mode": mode, "onnxruntime": onnxruntime.__version__}
        | ({} if calibration is None else {"calibration_images": len(calibration)}),
    }


if "snakemake" in globals():
    with job(snakemake.log[0]):
        calibration = None
        if "static" in snakemake.params.modes:
            split = Split.read(snakemake.input.train_images, snakemake.input.train_labels)
            calibration = split.first(snakemake.params.calibration_images, "quantization.calibration_images")
        quantize_checkpoint(
            snakemake.input.dataset,
            snakemake.input.graph,
            snakemake.input.checkpoint,
            calibration,
            dict(zip(snakemake.params.modes, snakemake.output, strict=True)),
        )
