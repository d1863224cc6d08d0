"""Classify the test images with each variant of a checkpoint in OpenVINO, and time it there and in ONNX Runtime."""

import functools

import numpy

from elagage import openvino_runtime
from elagage.data import Dataset, Split, numbers_in, read_predictions
from elagage.files import write_json
from elagage.job import job
from elagage.onnx.runtime import RUNTIME, load, machine, predictions
from elagage.openvino_runtime import OPENVINO
from elagage.refusals import refusing
from elagage.timing import OtherWork, time_in_turns


def evaluate_openvino(
    dataset: Dataset,
    test: Split,
    onnx_file: str,
    *,
    dense: str,
    predicted: str,
    latency_images: numpy.ndarray,
    threads: int,
    output: str,
) -> None:
    """Write what a file answers and takes in OpenVINO (JSON): correct test images, and those that differ, and times.

    predicted: the classes that the file answers in ONNX Runtime, int32 [n], .npy; latency_images: uint8 [n, channels,
    height, width], timed one by one, in turn with the file `dense` in OpenVINO and with this one in ONNX Runtime.
    Times are in ns. Raises RefusedError if OpenVINO cannot run one of the files.
    """
    number = numbers_in(load(onnx_file, threads).classes, dataset.classes)
    classes = number[predictions(openvino_runtime.load(onnx_file, threads), test)]
    others = OtherWork()
    times = time_in_turns(
        {
            "dense": functools.partial(openvino_runtime.load, dense, threads),
            "variant": functools.partial(openvino_runtime.load, onnx_file, threads),
            "onnxruntime": functools.partial(load, onnx_file, threads),
        },
        latency_images,
    )
    setting = {**machine(), "threads": threads, "versions": OPENVINO | RUNTIME, "images": len(latency_images)}
    found = {
        "machine_busy": others.share(),
        "test_images": len(test),
        "correct": int((classes == test.labels).sum()),
        "different": int((classes != read_predictions(predicted)).sum()),
    }
    write_json(output, {**setting, **found, **{name: measured.as_json() for name, measured in times.items()}})
    medians = ", ".join(f"{name} {numpy.median(measured.wall) / 1e6:.3f} ms" for name, measured in times.items())
    print(
        "{}: {correct} of {test_images} correct, {different} not as in ONNX Runtime; ".format(onnx_file, **found)
        + medians
    )


if "snakemake" in globals():
    with job(snakemake.log[0]):
        inputs, params = snakemake.input, snakemake.params
        dataset = Dataset.read(inputs.dataset)
        test = dataset.split(inputs, "test")
        for onnx_file, predicted, output in zip(
            inputs.onnx_files, inputs.predictions, snakemake.output.openvino, strict=True
        ):
            with refusing(output):
                evaluate_openvino(
                    dataset,
                    test,
                    onnx_file,
                    dense=inputs.dense,
                    predicted=predicted,
                    latency_images=test.first(params.latency_images, "evaluation.latency_images").images,
                    threads=params.threads,
                    output=output,
                )
